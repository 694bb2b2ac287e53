/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process of a machine, or one back end that somebody else runs: started, watched, reaped, and started again
 * by its restart policy. The machine hears of it through the child_ops; all on the loop's thread.
 */
#ifndef SUPERVISOR_CHILD_H
#define SUPERVISOR_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "bus.h"
#include "keeper.h"
#include "logs.h"
#include "loop.h"

enum child_kind { CHILD_CORE, CHILD_SERVER, CHILD_EXTERNAL };

enum child_state {
	CHILD_IDLE,        /* no process: not started yet, or ended by order */
	CHILD_STARTING,    /* started; its deadline runs until READY (CHILD_UP), HELLO is a step on the way */
	CHILD_UP,          /* ready; for a server also known to the core */
	CHILD_STOPPING,    /* told to end; a deadline runs, then SIGKILL; its death leads to CHILD_IDLE */
	CHILD_BACKOFF,     /* died and was reaped; a timer leads to CHILD_STARTING */
	CHILD_QUARANTINED, /* died too often: stays away until the next generation of the machine */
};

/* When each step of a start happened (clock_ns, 0: not yet). */
struct child_times {
	uint64_t sign;    /* first sign of the predecessor's death; of a first start, its beginning */
	uint64_t noticed; /* its pidfd woke us */
	uint64_t reaped;
	uint64_t begun; /* the start of the successor, after a back-off if there was one */
	uint64_t spawned;
	uint64_t hello;
	uint64_t linked; /* the core has finished the handshake */
	uint64_t ready;
};

struct child;

struct child_ops {
	/* Passes the core the front end's end of a device's socket (the caller closes its copy). -errno. */
	int (*hand_over)(void *arg, struct child *child, int fd);
	/* Makes the sockets that the core gets at its start; *nfds of at most KEEPER_PASSED_MAX. -errno. */
	int (*core_sockets)(void *arg, int *fds, size_t *nfds);
	/* It came to CHILD_UP. */
	void (*up)(void *arg, struct child *child);
	/* It ended: as it was told to, or (core only) by itself; code and status as in siginfo_t. */
	void (*ended)(void *arg, struct child *child, bool by_order, int code, int status);
	/* It was given up; before the machine ever ran, wrong says that its status was that of a wrong option. */
	void (*given_up)(void *arg, struct child *child, bool wrong);
	/* A message of the core that concerns the machine. */
	void (*message)(void *arg, struct child *child, const struct bus_msg *msg);
};

struct child_policy {
	unsigned restarts, restarts_s; /* more deaths than that in that time: quarantine */
	uint64_t start_ns;             /* deadline of a start */
};

#define CHILD_DEATHS_MAX 1001

struct child {
	struct loop *loop;
	struct keeper *keeper;
	const struct child_ops *ops;
	void *arg;
	struct child_policy policy;
	size_t index; /* in the keeper's plan */
	enum child_kind kind;
	enum child_state state;
	char id[BUS_NAME_MAX];
	const char *process; /* name of the program */
	pid_t pid;
	int pidfd;
	struct loop_fd *watch;
	struct loop_timer *timer;      /* deadline or back-off, by state */
	struct loop_timer *ping_timer; /* asks for a sign of life */
	struct bus *bus;
	struct logs_pipe *log;
	unsigned missed;      /* signs of life that did not come, in a row */
	unsigned short_lives; /* deaths in a row without a second of service */
	unsigned nrestarts;   /* all of them */
	bool linked, said_ready;
	bool recovering; /* this start follows a death */
	bool killed;     /* SIGKILL was sent for reason */
	char reason[BUS_TEXT_MAX];
	uint64_t death[CHILD_DEATHS_MAX]; /* ring of the times of the last deaths */
	size_t ndeaths;
	struct child_times now, last; /* of the present start, and of the last finished recovery */
};

/* Sets up; bus_path is where its endpoint is to be (not for CHILD_EXTERNAL). Starts nothing. -errno. */
int child_init(struct child *c, const char *bus_path);

/* Starts; errors count as deaths. */
void child_start(struct child *c);

/* Asks it to end in order, and kills it after deadline_ns. ops->ended follows, at once if there is no process. */
void child_stop(struct child *c, uint64_t deadline_ns);

/* Kills it, for a reason that is logged; its restart follows. */
void child_kill(struct child *c, const char *reason);

/* The core says that the device is linked, or no more. */
void child_linked(struct child *c);
void child_unlinked(struct child *c, const char *reason);

/* Forgets its deaths, for a new generation of the machine. */
void child_forget(struct child *c);

/* Takes in its last log lines; the process must be gone or left to the keeper. */
void child_fini(struct child *c);

const char *child_state_name(const struct child *c);

#endif
