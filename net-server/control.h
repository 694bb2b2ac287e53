/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control ring: takes one command at a time off it, has the main thread obey it, and answers; later, if the driver has
 * had the host do too much of late. On the thread of its ring, but for opening and closing.
 */
#ifndef CONTROL_H
#define CONTROL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "backend.h"
#include "loop.h"

struct port;
struct server_queue;

#define CONTROL_BYTES 8192 /* of a command; the longest is a table of addresses */

struct control {
	struct port *port;
	struct server_queue *server;
	bool on;
	bool busy; /* a command is with the main thread, which alone touches the next four meanwhile */
	uint8_t command[CONTROL_BYTES];
	uint32_t len; /* 0: too long, or not to be tried again */
	bool obeyed;  /* with this answer, or given back */
	uint8_t answer;
	_Atomic bool asked;    /* the main thread has not done with it */
	_Atomic bool recalled; /* if it has to wait it is to be given back */

	uint16_t head;
	uint8_t *answer_at;
	struct iovec iov[NET_IOV];
	struct loop_bh work, done;
	struct loop_timer *later; /* the main thread obeys when it ends */
};

/* Main thread, as control_close. */
int control_open(struct control *c, struct port *port, struct loop *loop);
void control_close(struct control *c);

void control_ring(struct control *c, struct server_queue *server, bool on);
/* A queue has come to another thread, with no command of it under way: the answers come there, if it is this one. */
void control_attach(struct control *c, struct server_queue *server);
bool control_service(struct control *c);

/* Somebody waits until nothing is taken: a command that may not be obeyed yet goes back to the ring, soon. */
void control_release(struct control *c);
bool control_has_room(const struct control *c);

/* Whether the main thread has a command. */
bool control_held(const struct control *c);

#endif
