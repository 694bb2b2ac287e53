/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process may still do (docs/architecture.md, "Sandbox"): sandbox_spawn starts a child with exactly the
 * descriptors it needs, in namespaces of its own; the child calls sandbox_enter (stage one: empty root, no
 * capabilities, rlimits, Landlock, first seccomp filter) and, once its handshake is done, sandbox_narrow
 * (stage two: the steady filter). Whatever was asked for and can't be had is an error: nothing here degrades
 * silently. A function that takes what sets it on error to a constant string that names the step.
 */
#ifndef SANDBOX_H
#define SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- the parent's side ---- */

#define SANDBOX_FDS_MAX 96

struct sandbox_spawn {
	const char *path;  /* program, absolute; opened by the parent, so the child need not reach it */
	char *const *argv; /* NULL-terminated */
	char *const *envp; /* NULL: an empty environment */
	const int *fds;    /* become descriptors 3, 4, … of the child, in this order */
	size_t nfds;       /* at most SANDBOX_FDS_MAX */
	int stderr_fd;     /* becomes 2 (-1: /dev/null); 0 and 1 are /dev/null */
	bool namespaces;   /* user, mount, pid, net, ipc, uts; without them (--sandbox off) a plain fork and
			       exec under this process's own uid */
	uid_t uid; /* if this process is root: the child's uid, and gid of the same number, outside its
			       namespace; 0 is refused. Otherwise ignored: the child keeps this process's */
	bool die_with_parent; /* SIGKILL when the calling thread (not just the process) ends: call it from a
				 thread that lives as long as the child should */
	bool host_network;    /* of the namespaces all but net: for a process that is the guest's way out */
	const char *cgroup;   /* directory of a cgroup v2 to start in, or NULL */
};

/*
 * Starts the child: clone3 with a pidfd, exec, nothing inherited but what is listed, signal mask and
 * dispositions reset, in a session of its own. Returns when exec has succeeded or failed, so that a missing
 * program is an error here; a child that died before the exec looks like success and is seen on *pidfd
 * (close-on-exec). Any thread; blocks for about a millisecond.
 *
 * In namespaces the child is process 1 of its own: a signal that it has no handler for is ignored, except SIGKILL
 * and SIGSTOP.
 */
int sandbox_spawn(const struct sandbox_spawn *spawn, pid_t *pid, int *pidfd, const char **what);

#define SANDBOX_NOBODY 65534 /* a uid for what root starts by hand */

/*
 * The same without exec, for a server that a person starts: the child, which returns 0 with *pid 0, has this
 * process's memory and descriptors but is process 1 of its own namespaces, in a session of its own, dies with
 * the caller, and goes on to sandbox_enter. The caller stays outside with *pid and *pidfd to forward the end.
 * Only for a process with one thread (-EBUSY). Signal mask and handlers stay as they are. uid and host_network as above.
 */
int sandbox_fork(uid_t uid, bool host_network, pid_t *pid, int *pidfd, const char **what);

/* ---- system-call tables (tables.h has the common ones) ---- */

enum sandbox_op {
	SANDBOX_ANY, /* no condition */
	SANDBOX_EQ,  /* arg == value */
	SANDBOX_NE,  /* arg != value; all 64 bits count, so useless for an int, whose upper half is ignored */
	SANDBOX_LE,  /* arg <= value, unsigned */
	SANDBOX_MASKED, /* (arg & mask) == value */
};

struct sandbox_arg {
	uint8_t index; /* 0..5 */
	uint8_t op;    /* enum sandbox_op */
	uint64_t value;
	uint64_t mask; /* for SANDBOX_MASKED */
};

#define SANDBOX_ARGS_MAX 3

/*
 * One allowed call. Several rules for one call are alternatives: they must look at the same arguments by
 * SANDBOX_EQ, or SANDBOX_MASKED with the same mask, and differ in values only. But a rule that allows no more than
 * another is simply left out, so that tables can be joined. Each argument at most once in a rule.
 */
struct sandbox_rule {
	int nr;     /* __NR_… */
	int refuse; /* not 0: the call fails with this errno, for a caller that copes; void if another rule
			allows all of it. With conditions it is one more alternative, of the same shape */
	struct sandbox_arg args[SANDBOX_ARGS_MAX]; /* all must match */
	const char *why;                           /* the reason; NULL ends the table */
};

struct sandbox_filter;

/* Compiles n tables, joined, into a filter that refuses anything else by SIGSYS, and any architecture but x86-64's
 * native one: the process dies, after the handler of sandbox_set_trap has told of what if there is one. -EINVAL for
 * rules that can't be had, the kernel's error if it has no filters. Allocates; do it before stage one. */
int sandbox_compile(const struct sandbox_rule *const *tables, size_t n, struct sandbox_filter **out);
void sandbox_filter_free(struct sandbox_filter *filter);

/*
 * From here on filters forbid nothing: a call without a rule is carried out, and the kernel writes it to its log (audit type 1326).
 * For finding out what a table lacks (--sandbox log); the other walls stand. There is no way back.
 */
void sandbox_log_only(void);

/* What a process that does so says. */
#define SANDBOX_LOG_ONLY "--sandbox log: no system call is forbidden; the kernel logs those that would be"

/* How many different system calls n tables allow; refused ones do not count. */
size_t sandbox_count(const struct sandbox_rule *const *tables, size_t n);

/*
 * Installs: for every thread of the process, or for the calling thread only (which must have no_new_privs:
 * sandbox_enter sees to that). Filters add up: what an earlier one forbids stays forbidden. Async-signal-safe.
 */
int sandbox_install(const struct sandbox_filter *filter, bool all_threads);

/* ---- a forbidden call ---- */

/* No system call has this number. Every filter answers it by killing the process, handler or not. */
#define SANDBOX_CALL_DIE 1023

struct sandbox_trap {
	const char *prefix; /* what lines on standard error begin with; copied */
	/* Notes the call somewhere that outlives the process. In a signal handler, on any thread; may be NULL. thread is
	 * its name or "". */
	void (*note)(void *arg, int nr, uint32_t arch, const char *thread);
	void *arg;
};

/* Has the process tell of the forbidden call that it dies of. Before the first filter. 0 or -errno. */
int sandbox_set_trap(const struct sandbox_trap *trap);

/* "socket (41, x86_64)": a call's name and number, and what arch (AUDIT_ARCH_*) is called. Both may be anything. */
void sandbox_describe_call(int nr, uint32_t arch, char *out, size_t size);

/* ---- the child's side ---- */

/* Limits are lowered, never raised: one above the hard limit in force becomes that hard limit. */
struct sandbox_limits {
	uint64_t files;     /* RLIMIT_NOFILE: descriptor numbers below this */
	uint64_t processes; /* RLIMIT_NPROC: threads of this uid, in its user namespace; 0: leave */
	uint64_t file_size; /* RLIMIT_FSIZE in bytes; UINT64_MAX: leave */
	uint64_t memlock;   /* RLIMIT_MEMLOCK in bytes; UINT64_MAX: leave */
	uint64_t data;      /* RLIMIT_DATA in bytes: heap and threads' stacks; 0: leave */
};

struct sandbox_enter {
	const char
	    *bus_dir; /* becomes /bus in the empty root, read-only; NULL: nothing. The process's uid must
				be able to search it and to write to the socket inside: root chowns both to
				the child's uid */
	const char
	    *file; /* an absolute path that stays there, read-only, with what it names at this time (later
				changes only if they are written in place); NULL: none. Nothing else remains */
	const char *
	    dir; /* another folder, which becomes /dir in the same way; sockets in it can be connected to, whoever
				makes them when. NULL: none */
	bool
	    host_network; /* as the process was started: Landlock leaves TCP alone, but for abstract sockets */
	struct sandbox_limits limits;
	const struct sandbox_filter *filter; /* stage one */
};

/*
 * Stage one, in a child of sandbox_spawn or sandbox_fork (any other process is refused), before any hostile input is
 * read and before the first thread is started (-EBUSY otherwise): new root, no_new_privs, no capabilities, not dumpable,
 * rlimits, Landlock where the kernel has it, filter. After an error the process is in neither world and must exit.
 */
int sandbox_enter(const struct sandbox_enter *enter, const char **what);

/*
 * Keeps malloc from opening files at moments of its choice, which no filter allows. sandbox_enter does it; a process
 * that installs a filter by itself calls it before its first thread.
 */
void sandbox_tame_malloc(void);

/* ---- an address space that outlives its process ---- */

/* What the anchor says: when its worker is dead, and once more when the kernel does nothing for it any more. */
struct sandbox_death {
	int32_t code, status; /* as in siginfo_t */
	int32_t drained;      /* 0 or 1 */
};

#define SANDBOX_SIGNALLED                                                                                    \
	128 /* the anchor's exit status: the worker's, or this and the signal that it died of */
#define SANDBOX_ANCHOR_FAILED 127 /* ... or the anchor could not do its part */

struct sandbox_anchor {
	int fd;                 /* a SOCK_SEQPACKET socket; the other end has SO_PASSCRED */
	int (*work)(void *arg); /* the worker's life; returns its exit status */
	/*
	 * In the anchor once the worker is dead, with its memory as it left it and the C library in any state: by
	 * system calls alone waits until the kernel has finished what the worker submitted. False if that can't be
	 * told.
	 */
	bool (*drained)(void *arg);
	const struct sandbox_rule *drain; /* the calls that it makes */
	void *arg;
};

/*
 * Splits process 1 of a sandbox_spawn, with a single thread, before stage one: a child goes on with work, under the
 * descriptors and privileges as they are, and ends with its status. It sends one byte on fd, which tells its pid by the
 * credentials, and closes it. The caller does not return: it waits for the child's death, sends struct sandbox_death,
 * sends it again when (and if) all is drained, and exits. -errno if that can't be done, with nothing changed.
 */
int sandbox_anchor(const struct sandbox_anchor *anchor);

/* Stage two: the steady filter, for all threads. The stage-one filter must allow it (sandbox_table_narrow). */
int sandbox_narrow(const struct sandbox_filter *filter, const char **what);

#endif
