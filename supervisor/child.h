/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process of a machine: started with a deadline, asked for signs of life, killed when it misbehaves, told to end,
 * watched and reaped. What a death leads to is for its owner to decide (device.h, machine.h), who hears of everything
 * through the child_ops; all on the loop's thread.
 */
#ifndef SUPERVISOR_CHILD_H
#define SUPERVISOR_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "bus.h"
#include "flight.h"
#include "report.h"
#include "sandbox.h"
#include "keeper.h"
#include "logs.h"
#include "loop.h"

enum child_state {
	CHILD_IDLE,     /* no process; child_start leads on */
	CHILD_STARTING, /* started; its deadline runs until READY (CHILD_READY), HELLO is a step on the way */
	CHILD_READY,    /* it serves, or waits for a front end; is looked at for signs of life */
	CHILD_STOPPING, /* told to end; a deadline runs, then SIGKILL */
			/* In every state but the first its death leads to CHILD_IDLE. */
};

/* When each step of its life happened (clock_ns, 0: not yet). */
struct child_times {
	uint64_t begun, spawned, hello, ready;
	uint64_t sign; /* we had a reason to kill it */
	uint64_t noticed, reaped;
};

#define CHILD_STATUS_WRONG 2 /* exit status of a process that refuses its options */

/* How it ended. */
struct child_death {
	bool by_order;    /* it was told to end */
	int code, status; /* as in siginfo_t */
};

struct child;

struct child_ops {
	/* It came to CHILD_READY. */
	void (*ready)(void *arg, struct child *child);
	/* It is gone, and the kernel has finished what it had submitted; its times are still there. Unless something remains
	 * (child_remains) it may be started again from here. */
	void (*died)(void *arg, struct child *child, const struct child_death *death);
	/* Nothing remains of it any more, it may be started again. NULL: no matter. */
	void (*vanished)(void *arg, struct child *child);
	/* One that child_adopt took over is heard of again: it is what it was, or ready to end. NULL: no matter. */
	void (*back)(void *arg, struct child *child);
	/* One that had left the bus is on it again; what it was asked may be lost. NULL: no matter. */
	void (*rejoined)(void *arg, struct child *child);
	/* An event other than HELLO and READY. */
	void (*message)(void *arg, struct child *child, const struct bus_msg *msg);
	/* It does not answer, or does again. NULL: one that does not is killed. */
	void (*silent)(void *arg, struct child *child, bool silent);
	/* It may end by itself now, with status 0. NULL: never. */
	bool (*may_end)(void *arg);
	/* It is tried at somebody's request, who is told how it ended: that is no crash of a process in service. */
	bool (*tried)(void *arg, const struct child *child);
	/* It can't become ready before storage answers: the name of that, or NULL. NULL: no matter. */
	const char *(*waits)(void *arg, const struct child *child);
};

struct child {
	/* For child_init. */
	struct loop *loop;
	struct keeper *keeper;
	const struct child_ops *ops;
	void *arg;
	size_t index;        /* in the keeper's plan */
	const char *process; /* name of the program */
	const char *kind;    /* what its HELLO is to say */
	const char *device;  /* whose log lines its are; NULL: the machine's */
	char id[BUS_NAME_MAX];
	uint64_t start_ns;     /* deadline of a start */
	struct flight *flight; /* what it records; emptied before each start; NULL: nothing */

	bool restricted; /* of the next start: with the plan's restricting option */

	enum child_state state;
	pid_t pid;
	unsigned serial; /* of its start, as the keeper counts */
	int pidfd; /* of the process that the keeper started: this one, or its anchor, with which it ends */
	pid_t started_pid; /* ... and its number */
	struct loop_fd *watch;
	int anchor; /* what its anchor tells (sandbox.h); -1: none */
	struct loop_fd *anchor_watch;
	int remains; /* the same as pidfd, of one that is dead as its anchor said, until it is reaped; -1: none */
	struct loop_fd *remains_watch;
	bool
	    stray; /* ... and a predecessor's: it was killed, but may write until its end, and nobody knows for whom */
	struct loop_timer *timer;      /* deadline, by state */
	struct loop_timer *life_timer; /* looks for a sign of life */
	struct bus *bus;
	struct logs_pipe *log;
	unsigned missed;  /* signs of life that did not come when it was asked, in a row */
	bool silent;      /* ... and nothing was done about it but to say so */
	unsigned sleeps;  /* looks in a row that found it asleep */
	uint64_t turns;   /* of its main loop at the last look (lib/flight) */
	uint64_t look_ns; /* until the next look */
	bool adopted;     /* it is to say HELLO and READY again before anything is asked of it */
	bool killed;      /* SIGKILL was sent, for reason */
	bool dead; /* of the death below, as its anchor said: it is over when the kernel is through with it */
	struct sandbox_death death;
	bool waits;   /* for storage, when its deadline was looked at last */
	bool doubted; /* it is killed for reason, unless it dies of its own first */
	char reason[BUS_TEXT_MAX];
	char version[BUS_NAME_MAX]; /* as its HELLO says */
	struct child_times times;
	struct loop_timer *report_timer; /* until the report of its last death is written */
	char report[REPORT_TEXT_MAX];    /* the words of it; empty: there is none to be written */
};

/* Signs of life, child_life.c: looks for them from now on, while it is CHILD_READY; the timer's handler. */
void child_life_watch(struct child *c);
void child_life_look(void *child);

/* Sets up; bus_path is where its endpoint is to be. Starts nothing. -errno. */
int child_init(struct child *c, const char *bus_path);

/*
 * Starts it, of which nothing may remain, with the sockets fds (the caller closes its copies), and has the keeper hold
 * what the next supervisor needs (KEEPER_HELD_DESC and so on). -errno if it can't be started, which is logged; then nothing of it is left and ops->died
 * is not called.
 */
int child_start(struct child *c, const int *fds, size_t nfds, const int *held, size_t nheld);

/*
 * Takes over a process that a predecessor started, with the plain fields as that one left them (saved.h): it is watched,
 * and has as long as for a start to come back to the bus. found's pidfd, anchor and log are the child's from then on, even on
 * error. -errno.
 */
int child_adopt(struct child *c, struct keeper_found *found);

/*
 * The same for whatever the keeper has in its place, without waiting for anybody's end. Another process than the fields
 * know is killed, and its death will be that of the one which they know. It is killed and a stray where they know none, or
 * where it may just have been given to the core although it was not to be (unless_given). If there is nothing, *lost tells
 * that the one which the fields know died unseen, and child_lost is to follow once all children are claimed. *found has
 * what else was held. -errno.
 */
int child_claim(struct child *c, bool unless_given, struct keeper_found *found, bool *lost);
void child_lost(struct child *c, bool by_order);

/* Whether something remains of the process before, so that there can't be another one. */
static inline bool child_remains(const struct child *c)
{
	return c->remains >= 0;
}

/* Watches what remains of it, of which pidfd is its own from then on; ops->vanished follows. */
void child_keep_remains(struct child *c, int pidfd);

/* Has what remains of it reaped, and waits for that. */
void child_bury(struct child *c);

/* Asks it to end in order, and kills it after deadline_ns; ops->died follows. False if there is no process. */
bool child_stop(struct child *c, uint64_t deadline_ns);

/* Kills it, for a reason that is logged; ops->died follows. */
void child_kill(struct child *c, const char *reason);

/*
 * There is a sign that it is dying, or else broken: it has a moment to die by itself, so that it is told how, before it is
 * killed for this reason.
 */
void child_doubt(struct child *c, const char *reason);

/* In a few words, for a person: how it ended. */
void child_describe(const struct child *c, const struct child_death *death, char *text, size_t size);

/* Takes in its last log lines; the process must be gone or left to the keeper. */
void child_fini(struct child *c);

#endif
