/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper: a small process that the supervisor forks before it reads anything hostile. It alone may start
 * processes, and only those that the plan lists, with the options that the plan lists: the supervisor, which
 * then gives up that right for itself, can ask for number 3 to be started, reaped or killed, no more. The keeper
 * outlives a supervisor that dies: it then ends every child, gives the terminal back and removes the run
 * directory, and with its end the locks on images and name are released.
 */
#ifndef SUPERVISOR_KEEPER_H
#define SUPERVISOR_KEEPER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <termios.h>

#include "rundir.h"
#include "vmconf.h"

#define KEEPER_CHILDREN_MAX (VMCONF_DISKS_MAX + 1)
#define KEEPER_FIXED_MAX    4 /* descriptors that a child gets at each start: image, kernel, ... */
#define KEEPER_PASSED_MAX   2 /* ... and that are new at each start: sockets */

struct keeper_child {
	char *program; /* absolute path; NULL for a back end that somebody else runs */
	char **argv;
	char *connect; /* its socket then */
	int fixed[KEEPER_FIXED_MAX];
	size_t nfixed;
	uid_t uid; /* if we are root */
};

struct keeper_plan {
	struct keeper_child child[KEEPER_CHILDREN_MAX];
	size_t nchildren;
	bool sandbox;
	struct rundir *dir;
	int terminal; /* -1, or the terminal whose settings are to be restored */
	struct termios settings;
	int listener; /* -1, or the console's, which the keeper closes: it must not outlive the supervisor */
};

struct keeper;

/* Forks the keeper; the process must have one thread. -errno. */
int keeper_start(const struct keeper_plan *plan, struct keeper **out);

/*
 * Starts child i; fixed descriptors become 3, ..., then the passed ones. On error *what (a constant string) names the
 * step. Blocks for a few milliseconds, at most a minute (-ETIMEDOUT), as do the following.
 */
int keeper_spawn(struct keeper *k, size_t i, int stderr_fd, const int *fds, size_t nfds, pid_t *pid,
		 int *pidfd, char *what, size_t what_size);

/* Reaps child i, whose pidfd is readable: code is CLD_EXITED, CLD_KILLED or CLD_DUMPED, status as in siginfo_t. */
int keeper_reap(struct keeper *k, size_t i, int *code, int *status);

/* Sends child i SIGKILL; fine if it is dead already. */
int keeper_kill(struct keeper *k, size_t i);

/* Connects to the socket of external back end i. The descriptor, or -errno. */
int keeper_connect(struct keeper *k, size_t i);

/* Readable only when the keeper has died. */
int keeper_fd(const struct keeper *k);

/* Has the keeper clean up, and waits for its end. */
void keeper_finish(struct keeper *k);

#endif
