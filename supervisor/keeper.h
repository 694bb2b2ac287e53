/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper: a small process that the supervisor forks before it reads anything hostile. It alone may start
 * processes, and only those that the plan lists, with the options that the plan lists: the supervisor, which
 * then gives up that right for itself, can ask for number 3 to be started, reaped or killed, no more. The keeper
 * outlives a supervisor that dies: it gives the terminal back, and then either ends every child, removes the run
 * directory and with its end the locks on images and name are released; or, if the machine is to be kept, it holds all
 * that another supervisor will need, until one comes (keeper_join).
 */
#ifndef SUPERVISOR_KEEPER_H
#define SUPERVISOR_KEEPER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <termios.h>

#include "cgroup.h"
#include "files_tap.h"
#include "rundir.h"
#include "vmconf.h"

#define KEEPER_SLOTS  2 /* servers that a device can have at a time: one serves, one waits or is new */
#define KEEPER_HELPER KEEPER_SLOTS        /* the place of what a device needs besides its server */
#define KEEPER_BEFORE (KEEPER_HELPER + 1) /* no process: keeps the helper's program while another is tried */
#define KEEPER_WINDOW                                                                                        \
	(KEEPER_BEFORE + 1) /* the places of what stands between each slot's server and the core */
#define KEEPER_PLACES       (KEEPER_WINDOW + KEEPER_SLOTS)
#define KEEPER_CHILDREN_MAX (KEEPER_PLACES * VMCONF_DEVICES_MAX + 1)
#define KEEPER_PATH_MAX     256 /* bytes of a program's path, its NUL included */
/* Descriptors that a child gets at each start: images, taps, ... */
#define KEEPER_FIXED_MAX   (VMCONF_SHARED_MAX * (VMCONF_BACKING_MAX + 3) + 1)
#define KEEPER_PASSED_MAX  VMCONF_SHARED_MAX       /* ... and that are new at each start: sockets */
#define KEEPER_HELD_MAX    (VMCONF_SHARED_MAX + 2) /* ... and that the keeper holds for the next supervisor */
#define KEEPER_CONSOLE_MAX 3                       /* of the console: see console_keep */

/* What is held of a child: the reading end of its log, and the supervisor's ends of its sockets: those of the core, or
 * those of the devices' front ends until the core has them, and that of its anchor. */
enum {
	KEEPER_HELD_LOG,
	KEEPER_HELD_DESC,
	KEEPER_HELD_CONSOLE,
	KEEPER_HELD_ANCHOR = KEEPER_HELD_MAX - 1,
	KEEPER_HELD_FRONT = KEEPER_HELD_DESC /* the first one; the others follow */
};

/* The place of slot s, of the helper, or of a window of device i in the plan; 0 is the core's. An external back end has slot 0 alone. */
#define KEEPER_INDEX(i, s) (1 + KEEPER_PLACES * (i) + (s))

struct keeper_child {
	const char *id;      /* the device's, or "core" */
	const char *program; /* absolute path; NULL for a back end that somebody else runs, and for nothing */
	char **argv;         /* argv[0] is replaced where the program is */
	size_t argc;
	const char *restricted; /* one more option, if that is asked for at the start; NULL: there is none */
	char *connect;          /* the socket of a back end that somebody else runs, or of its stream */
	bool host_network;      /* it has the host's network instead of none */
	int fixed[KEEPER_FIXED_MAX];
	size_t nfixed;
	bool
	    anchored; /* at each start it gets one more socket, the last one: what its anchor tells (sandbox.h) */
	int recorder[2]; /* its flight recorder: the memory, and what reads it; -1 if it has none */
	uid_t uid;       /* if we are root */
	char *cgroup;    /* where it runs; NULL: where the keeper does */
};

struct keeper_plan {
	struct keeper_child child[KEEPER_CHILDREN_MAX];
	size_t nchildren;
	struct files_tap *tap[VMCONF_DEVICES_MAX];  /* which of them may have a place in a bridge to leave */
	const char *listens_at[VMCONF_DEVICES_MAX]; /* sockets to be removed; NULL */
	int state[VMCONF_DEVICES_MAX];              /* memory that a device's processes share; -1 */
	size_t ndevices;
	bool sandbox;
	const char *crash_dir; /* where reports go */
	struct rundir *dir;
	struct cgroup *cgroup; /* of the machine, or NULL */
	int terminal;          /* -1, or the terminal whose settings are to be restored */
	struct termios settings;
	int listener; /* -1, or the console's, which must not outlive a supervisor with which all ends */
	bool keep;    /* the machine outlives its supervisor */
	int saved_fd; /* the memory of its state then (saved.h) */
	int console[KEEPER_CONSOLE_MAX]; /* -1, or what the next supervisor needs to go on with the console */
};

/* A start: of a child with its plan's restricting option or without; fixed descriptors become 3, ..., then these. */
struct keeper_launch {
	bool restricted;
	int stderr_fd;
	const int *fds;
	size_t nfds;
	const int *held; /* to be held, by KEEPER_HELD_LOG etc. */
	size_t nheld;
};

/* What there is of a child; all descriptors are the caller's, -1 if absent. */
struct keeper_found {
	pid_t pid;
	unsigned serial; /* of its start, among all of the machine's: unlike a pid it never comes again */
	int pidfd;       /* -1: there is no such child */
	int anchor;      /* the other end of its anchor's socket; -1: it has none */
	int held[KEEPER_HELD_MAX];
};

/* What there is of a machine that is taken over. */
struct keeper_estate {
	pid_t before; /* the supervisor before, or the one that lives */
	int saved_fd;
	int console[KEEPER_CONSOLE_MAX];
};

struct keeper;

/* Forks the keeper; the process must have one thread. -errno. */
int keeper_start(const struct keeper_plan *plan, struct keeper **out);

/*
 * Becomes the supervisor of the machine whose keeper listens at path. -EBUSY: it has one, estate->before. -EACCES: this
 * user may not. -EPROTONOSUPPORT: the keeper is of another version. -ECONNREFUSED, -ENOENT and the like: there is none.
 */
int keeper_join(const char *path, struct keeper **out, struct keeper_estate *estate);

/*
 * Starts child i; found holds nothing. On error *what (a constant string) names the step. Blocks for a few milliseconds,
 * at most a minute (-ETIMEDOUT), as do the following; what is started later than that is ended.
 */
int keeper_spawn(struct keeper *k, size_t i, const struct keeper_launch *launch, struct keeper_found *found,
		 char *what, size_t what_size);

/* The front ends' ends of child i's sockets are held no longer. -errno: they may still be. */
int keeper_forget(struct keeper *k, size_t i);

/* What there is of child i, for a supervisor that did not start it. */
int keeper_fetch(struct keeper *k, size_t i, struct keeper_found *found);

/* The flight recorder of child i into fds, which are the caller's; -1 if it has none. */
int keeper_recorder(struct keeper *k, size_t i, int fds[2]);

/* Whether the kernel is through with all that dead processes of the plan's device left to it: 0, -EAGAIN if not yet. */
int keeper_is_quiet(struct keeper *k, size_t device);

/* From now on the keeper logs where we do and, should we die, gives back our terminal (-1: none). */
int keeper_settle(struct keeper *k, int terminal, const struct termios *settings);

/* Reaps child i, whose pidfd is readable: code is CLD_EXITED, CLD_KILLED or CLD_DUMPED, status as in siginfo_t;
 * untouched on error. */
int keeper_reap(struct keeper *k, size_t i, int *code, int *status);

/* Has a report written of the process of child i that was last reaped; text says how it ended. Waits for nothing; -errno
 * if the keeper has too much else to do. */
int keeper_report(struct keeper *k, size_t i, const char *text);

/* Sends child i SIGKILL; fine if it is dead already. */
int keeper_kill(struct keeper *k, size_t i);

/*
 * Child i runs the program at path (NULL: the plan's path, opened anew) from its next start on. Refused are what is
 * not an absolute path, not a regular file, not executable, writable by group or others, or the file of a user other
 * than root and this one; what then says why. The file opened here is the one started, whatever becomes of the path:
 * the same holds for the plan's own, which are opened at their first start.
 */
int keeper_program(struct keeper *k, size_t i, const char *path, char *what, size_t what_size);

/* Child i runs the program of child j from its next start on. */
int keeper_same_program(struct keeper *k, size_t i, size_t j);

/* Connects to the socket of external back end i. The descriptor, or -errno. */
int keeper_connect(struct keeper *k, size_t i);

/* Readable only when the keeper has died. */
int keeper_fd(const struct keeper *k);

/* Has the keeper clean up, and waits for its end. */
void keeper_finish(struct keeper *k);

#endif
