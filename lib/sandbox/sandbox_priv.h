/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of lib/sandbox share. Each step sets *what before it tries, so that an error names it. */
#ifndef SANDBOX_PRIV_H
#define SANDBOX_PRIV_H

#include "sandbox.h"

/* What may go wrong in a child before it can speak for itself; the number crosses the socket to the parent. */
enum birth_step {
	BIRTH_READY, /* not an error: the child waits for its user and group map */
	BIRTH_DUMPABLE,
	BIRTH_WAIT,
	BIRTH_GROUPS,
	BIRTH_IDS,
	BIRTH_SESSION,
	BIRTH_PARENT_DEATH,
	BIRTH_FDS,
	BIRTH_EXEC,
	BIRTH_STEPS
};

struct birth {
	bool namespaces;
	bool host_network;   /* not one of its own */
	bool clear_handlers; /* the child execs: no handler of the parent's may run in it */
	bool die_with_parent;
	uid_t uid;
	int cgroup_fd; /* -1: none */
};

/*
 * Makes the child. In it, calls child(arg, sock) once it has its ids; it either execs, or closes sock and returns, and
 * then birth_run returns 0 with *pid 0. In the parent, returns when the child has execed or closed sock.
 */
int birth_run(const struct birth *birth, void (*child)(void *arg, int sock), void *arg, pid_t *pid,
	      int *pidfd, const char **what);

/* Child: tells the parent which step failed, and ends. */
__attribute__((noreturn)) void birth_fail(int sock, enum birth_step step, int err);

/* Where glibc keeps the id of the calling thread, as it told the kernel; NULL if the kernel won't say. A child that goes
 * on with this glibc has the kernel write its own there. */
void *tid_address(void);

/* Replaces the root by an empty read-only one with bus_dir as /bus, dir as /dir and file where it was (or NULL each), and
 * detaches the old. */
int root_enter(const char *bus_dir, const char *dir, const char *file, const char **what);

/* No capabilities in any set, none to be had from an exec, no_new_privs, not dumpable. */
int caps_drop(const char **what);

int limits_apply(const struct sandbox_limits *limits, const char **what);

/* Denies what Landlock can deny, as far as this kernel knows it, but for reading file (or NULL) and, if so said, TCP. A
 * kernel without Landlock is no error. */
int landlock_apply(const char *file, bool host_network, const char **what);

/* 0 if the calling thread is the process's only one, else -EBUSY. */
int single_thread(void);

#endif
