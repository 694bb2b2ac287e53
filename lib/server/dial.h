/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What blk-server and nbd-dial say to each other, and the asking side. nbd-dial has the host's network and makes
 * connections to one NBD server; whoever serves the disk has none, and is given them. Each is kept by nbd-dial, too,
 * under the number of a slot, until that slot gets another: so a connection outlives the process that used it, and its
 * successor can see to it that nothing on it is still to be carried out.
 *
 * Each process asks by a socket of its own, which goes with the question, so that nobody gets an answer that was meant for
 * a predecessor.
 *
 * A nbd-dial that takes the place of one that died keeps nothing. It says that it is there, and whoever serves the disk
 * gives it the connections that it has. Nobody does if that process died in between: so much is lost with both of them.
 */
#ifndef SERVER_DIAL_H
#define SERVER_DIAL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define DIAL_SLOTS       16
#define DIAL_ASIDE       DIAL_SLOTS /* one more, for a connection that is not kept: nothing is changed over it */
#define DIAL_DEADLINE_MS 5000       /* for a connection to come about */

enum dial_what {
	DIAL_OLD,  /* the slot's connection; -ENOENT: it has none */
	DIAL_NEW,  /* a new one in its place */
	DIAL_KEEP, /* takes the one that comes along, if it has none; there is no answer */
};

struct dial_question {
	uint32_t what, slot;
	uint64_t id;
};

/* With a descriptor if err is 0. */
struct dial_answer {
	uint64_t id;
	int32_t err; /* or -errno */
	uint32_t slot;
};

struct dial {
	int fd;      /* to nbd-dial; shared with others who ask */
	int mine;    /* where answers come, non-blocking */
	int its;     /* ... from */
	uint64_t id; /* of the last question */
};

/* 0 or -errno. fd stays the caller's. */
int dial_open(struct dial *d, int fd);
void dial_close(struct dial *d);

/* Asks; d->id is the question's. Never blocks: 0 or -errno. */
int dial_ask(struct dial *d, enum dial_what what, unsigned slot);

/* Has it keep a connection, too, which stays the caller's. Never blocks: 0 or -errno. */
int dial_keep(struct dial *d, unsigned slot, int connection);

/* Whether another nbd-dial said that it is there, since this was asked last; of all who share fd one is told. Never
 * blocks. */
bool dial_is_new(struct dial *d);

/* The answer to the last question: what it says, with *fd the caller's if that is 0; -EAGAIN: there is none yet. */
int dial_take(struct dial *d, int *fd);

/* The same, waiting for at most ms milliseconds: -ETIMEDOUT. */
int dial_await(struct dial *d, int ms, int *fd);

#endif
