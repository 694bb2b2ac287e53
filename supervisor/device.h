/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device of a machine: its process, or a back end that somebody else runs, is started, linked with the core, and
 * replaced when it is lost, by the device's restart policy. The machine hears of it through the device_ops; all on the
 * loop's thread.
 */
#ifndef SUPERVISOR_DEVICE_H
#define SUPERVISOR_DEVICE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "child.h"

enum device_state {
	DEVICE_IDLE,     /* no process: not started yet, or ended by order */
	DEVICE_STARTING, /* a process starts and is passed to the core; a deadline runs until both are content */
	DEVICE_UP,       /* it serves and the core knows it */
	DEVICE_STOPPING, /* told to end; the death of its process leads to DEVICE_IDLE */
	DEVICE_WAITING,  /* it died and was reaped; a timer leads to DEVICE_STARTING */
	DEVICE_FAILED,   /* it died too often: stays away until the next generation of the machine */
};

/* When each step of a start happened (clock_ns, 0: not yet). */
struct device_times {
	uint64_t sign;    /* first sign of the predecessor's death; of a first start, 0 */
	uint64_t noticed; /* its pidfd woke us */
	uint64_t reaped;
	uint64_t begun; /* the start of the successor, after a back-off if there was one */
	uint64_t spawned;
	uint64_t hello;
	uint64_t ready;
	uint64_t linked; /* the core has finished the handshake */
};

struct device;

struct device_ops {
	/* Passes the core the front end's end of its socket (the caller closes its copy). -errno. */
	int (*hand_over)(void *arg, struct device *d, int fd);
	/* It came to DEVICE_UP. */
	void (*up)(void *arg, struct device *d);
	/* It came to DEVICE_IDLE, as told. */
	void (*ended)(void *arg, struct device *d);
	/* It was given up; before the machine ever ran, wrong says that its status was that of a wrong option. */
	void (*given_up)(void *arg, struct device *d, bool wrong);
};

struct device_policy {
	unsigned restarts, restarts_s; /* more deaths than that in that time: given up */
	uint64_t start_ns;             /* deadline of a start */
};

#define DEVICE_DEATHS_MAX 1001

struct device {
	/* For device_init. */
	struct loop *loop;
	struct keeper *keeper;
	const struct device_ops *ops;
	void *arg;
	struct device_policy policy;
	size_t index;  /* in the keeper's plan */
	bool external; /* somebody else runs its back end */
	const char *process;
	char id[BUS_NAME_MAX];

	enum device_state state;
	struct child child;       /* not of an external one */
	struct loop_timer *timer; /* deadline or back-off, by state */
	unsigned short_lives;     /* deaths in a row without a second of service */
	unsigned absences;        /* of an external one: connects that failed in a row */
	unsigned nrestarts;       /* all of them */
	bool linked;
	bool served;                       /* it was up in this generation */
	bool recovering;                   /* this start follows a death */
	uint64_t death[DEVICE_DEATHS_MAX]; /* ring of the times of the last deaths */
	size_t ndeaths;
	struct device_times now, last; /* of the present start, and of the last finished recovery */
};

/* Sets up; bus_path is where its process's endpoint is to be (not of an external one). Starts nothing. -errno. */
int device_init(struct device *d, const char *bus_path);

/* Starts it for a new generation of the machine; former deaths are forgotten. Errors count as deaths. */
void device_start(struct device *d);

/* Ends its process in order, and kills it after deadline_ns. ops->ended follows, at once if there is none. */
void device_stop(struct device *d, uint64_t deadline_ns);

/* The core says that the device is linked, or no more. */
void device_linked(struct device *d);
void device_unlinked(struct device *d, const char *reason);

/* Its part of the status; a new reference, NULL without memory. */
json_t *device_json(const struct device *d);

void device_fini(struct device *d);

/* What every process's status has: id, program, state, process id, messages. */
json_t *device_child_json(const char *id, const char *process, const char *state, const struct child *child);

#endif
