/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bus as every child of the supervisor has it: HELLO on each connection, READY, and the requests that all answer. For
 * a process that is no vhost-user server; control.c has what those can be asked beyond it.
 */
#ifndef SERVER_CHILD_H
#define SERVER_CHILD_H

#include "bus.h"
#include "flight.h"

struct child_ops {
	const char *kind; /* what HELLO says */
	/* Names and values of the counters. */
	void (*stats)(void *arg, void (*add)(void *to, const char *name, uint64_t value), void *to);
	/* The supervisor wants it to end; child_farewell is the answer. */
	void (*shutdown)(void *arg);
	/* Sees whether all that the process does still turns: child_alive is the answer, soon. NULL: the main loop is all. */
	void (*ping)(void *arg);
	/* Adds its loops to BUS_LOOPS. */
	void (*loops)(void *arg, struct bus_msg *msg);
};

struct child {
	const struct child_ops *ops;
	void *arg;
	const char *id;
	struct flight_ring *log; /* of the main loop */
	struct bus *bus;         /* NULL: none */
	bool ready;
	uint64_t shutdown_id; /* the request that waits for an answer; 0: none */
	uint64_t ping_id;     /* the same */
};

/* Dials the bus in dir: the fields up to log are filled in. 0 or -errno. */
int child_dial(struct child *c, struct loop *loop, const char *dir);

/* Says READY, now and on each new connection. */
void child_ready(struct child *c);

/* Answers the last PING. The main loop's thread. */
void child_alive(struct child *c);

/* The last words before the process exits: answers SHUTDOWN. */
void child_farewell(struct child *c);

void child_close(struct child *c);

#endif
