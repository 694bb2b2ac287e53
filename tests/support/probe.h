/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Escape attempts from inside a sandbox. A test program that calls probe_main first thing is, started again by
 * sandbox_spawn, also the process that tries to get out: under exactly the tables, limits and bus directory of
 * the process that it stands in for. Each attempt has a process of its own, since a filter kills.
 */
#ifndef PROBE_H
#define PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "sandbox.h"

enum probe_stage {
	PROBE_LAYERS, /* stage one with a filter that allows everything: what do the other layers hold? */
	PROBE_ONE,    /* stage one */
	PROBE_STEADY, /* stage one, then the steady filter */
	PROBE_THREAD, /* the same, then the thread's own filter */
	PROBE_STAGES
};

/* A process to stand in for; lists of tables end with NULL, as blk-server's and the core's do. */
struct probe_subject {
	const char *name;
	const struct sandbox_rule *const *one;      /* NULL: has no stage one, so all is allowed in it */
	const struct sandbox_rule *const *one_more; /* a second list for the same stage, or NULL */
	const struct sandbox_rule *const *steady;
	const struct sandbox_rule *const *steady_more;
	const struct sandbox_rule *const *thread; /* NULL: no thread has a filter of its own */
	const struct sandbox_rule *const *thread_more;
	const char *const *tasks;   /* names of attempts that are part of what the process is for, or NULL */
	const char *const *refused; /* ... that filters let through and other layers refuse, or NULL */
	bool host_network;
	const char *file; /* of struct sandbox_enter */
	struct sandbox_limits limits;
};

enum probe_outcome {
	PROBE_KILLED,  /* by the filter (SIGSYS) */
	PROBE_REFUSED, /* the call failed, error says how */
	PROBE_ESCAPED, /* the call did what must not be possible */
	PROBE_BROKEN   /* the process did not get as far as trying */
};

struct probe_result {
	const char *name;
	enum probe_outcome outcome;
	int error;     /* errno if refused, wait status if broken */
	bool by_layer; /* must be refused even without a filter */
	bool set_up;   /* need not be refused before the steady stage */
};

/* First thing in main: if this process was started to try, tries and never returns. subjects as for probe_run. */
void probe_main(int argc, char **argv, const struct probe_subject *subjects, size_t n);

size_t probe_count(void);

/*
 * Tries attempt (0 … probe_count() - 1) as subject number which at stage, outer uid uid if this process is root.
 * bus_dir as in sandbox_enter.
 */
struct probe_result probe_run(const struct probe_subject *subjects, size_t which, enum probe_stage stage,
			      size_t attempt, uid_t uid, const char *bus_dir);

/* Starts a process that goes to stage and stays there; returns once it is there. nfds descriptors are passed. */
int probe_hold(const struct probe_subject *subjects, size_t which, enum probe_stage stage, uid_t uid,
	       const char *bus_dir, const int *fds, size_t nfds, pid_t *pid, int *pidfd);

/* Kills and reaps what probe_hold, sandbox_spawn or another started; its wait status. */
int probe_end(int pidfd);

/* ---- what the kernel says of a process ---- */

/* The value of a line of /proc/PID/status ("CapEff"), without the blanks around it; NULL if it is not there. */
const char *probe_status(pid_t pid, const char *key, char *value, size_t size);

/* How many mounts the process sees; 0 if that can't be read. */
unsigned probe_mounts(pid_t pid);

/* Checks the whole state of a process that has entered: ids, capabilities, no_new_privs, filters, namespaces; of these
 * the network's is to be this process's if so said. NULL if all is well, else a description of the first thing that is
 * not (static storage). */
const char *probe_check_state(pid_t pid, uid_t uid, unsigned min_filters, bool host_network);

#endif
