/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What blk-server and nbd-dial say to each other, and the asking side. nbd-dial has the host's network and makes
 * connections to one NBD server; whoever serves the disk has none, and is given them. Each is kept by nbd-dial, too,
 * under the number of a slot, until that slot gets another: so a connection outlives the process that used it, and its
 * successor can see to it that nothing on it is still to be carried out.
 *
 * Each process asks by a socket of its own, which goes with the question, so that nobody gets an answer that was meant for
 * a predecessor.
 */
#ifndef SERVER_DIAL_H
#define SERVER_DIAL_H

#include <stdint.h>
#include <sys/types.h>

#define DIAL_SLOTS       16
#define DIAL_MEMORY_MAX  32768 /* bytes of the memory that is kept with the connections */
#define DIAL_DEADLINE_MS 5000  /* for a connection to come about */

enum dial_what {
	DIAL_MEMORY, /* memory that outlives those who ask, zeroes at first */
	DIAL_OLD,    /* the slot's connection; -ENOENT: it has none */
	DIAL_NEW,    /* a new one in its place */
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

/* The answer to the last question: what it says, with *fd the caller's if that is 0; -EAGAIN: there is none yet. */
int dial_take(struct dial *d, int *fd);

/* The same, waiting for at most ms milliseconds: -ETIMEDOUT. */
int dial_await(struct dial *d, int ms, int *fd);

#endif
