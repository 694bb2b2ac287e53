/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process may still do (ARCHITECTURE.md, "Sandbox"): sandbox_spawn starts a child with exactly the
 * descriptors it needs, in namespaces of its own; the child calls sandbox_enter (stage one: empty root, no
 * capabilities, rlimits, Landlock, first seccomp filter) and, once its handshake is done, sandbox_narrow
 * (stage two: the steady filter). Whatever was asked for and can't be had is an error: nothing here degrades
 * silently.
 */
#ifndef SANDBOX_H
#define SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- the parent's side ---- */

#define SANDBOX_FDS_MAX 32

struct sandbox_spawn {
	const char *path;  /* program, absolute */
	char *const *argv; /* NULL-terminated */
	const int *fds;    /* become descriptors 3, 4, … of the child, in this order */
	size_t nfds;
	int stderr_fd;   /* becomes 2; 0 and 1 are /dev/null */
	bool namespaces; /* user, mount, pid, net, ipc, uts; without them (--sandbox off) a plain fork and
			    exec */
	uid_t uid;       /* outer uid and gid of the child, if this process may choose (root); else its own */
	bool die_with_parent; /* PR_SET_PDEATHSIG SIGKILL */
	const char *cgroup;   /* directory of a cgroup v2 to start in, or NULL */
};

/*
 * Starts the child: clone3 with a pidfd, exec, nothing inherited but what is listed, signal mask and handlers
 * reset. Returns when exec has succeeded or failed, so that a missing program is an error here. *pidfd is
 * close-on-exec.
 */
int sandbox_spawn(const struct sandbox_spawn *spawn, pid_t *pid, int *pidfd);

/* ---- system-call tables ---- */

struct sandbox_arg {
	uint8_t index; /* 0..5 */
	uint8_t op;    /* enum sandbox_op */
	uint64_t value;
	uint64_t mask; /* for SANDBOX_MASKED: (arg & mask) == value */
};

enum sandbox_op { SANDBOX_ANY, SANDBOX_EQ, SANDBOX_NE, SANDBOX_LE, SANDBOX_MASKED };

/* One allowed call; several rules for one call are alternatives. */
struct sandbox_rule {
	int nr;                     /* __NR_… */
	struct sandbox_arg args[3]; /* all must match; op SANDBOX_ANY entries are ignored */
	const char *why;
};

struct sandbox_filter;

/* Compiles tables (each ended by an entry with why NULL; several are joined) into a filter that kills the
 * process on anything else, and on any architecture but x86-64's native one. Allocates; do it before stage
 * one. */
int sandbox_compile(const struct sandbox_rule *const *tables, size_t n, struct sandbox_filter **out);
void sandbox_filter_free(struct sandbox_filter *filter);

/* Installs: for every thread of the process (TSYNC), or for the calling thread only. Async-signal-safe. */
int sandbox_install(const struct sandbox_filter *filter, bool all_threads);

/* ---- the child's side ---- */

struct sandbox_limits {
	uint64_t files;     /* RLIMIT_NOFILE */
	uint64_t processes; /* RLIMIT_NPROC, threads of this uid; 0: leave */
	uint64_t file_size; /* RLIMIT_FSIZE; UINT64_MAX: leave */
	uint64_t memlock;   /* RLIMIT_MEMLOCK */
};

struct sandbox_enter {
	const char *bus_dir; /* becomes /bus in the empty root, read-only; NULL: nothing */
	bool own_namespaces; /* started by hand: unshare them here; else the parent's sandbox_spawn made them
			      */
	struct sandbox_limits limits;
	const struct sandbox_filter *filter; /* stage one */
};

/*
 * Stage one, before any hostile input is read: new root, uid, no_new_privs, no capabilities, not dumpable,
 * rlimits, Landlock where the kernel has it, filter for all threads. On error *what names the step that
 * failed.
 */
int sandbox_enter(const struct sandbox_enter *enter, const char **what);

/* Stage two: the steady filter, for all threads. */
int sandbox_narrow(const struct sandbox_filter *filter, const char **what);

#endif
