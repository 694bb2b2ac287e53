/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of all kinds to a server that dies again and again, each request's fate checked: none is lost, none is
 * completed twice, none fails, and what is on the disk is what was acknowledged. The driver sleeps until it is called,
 * as a guest's does, so an interrupt that gets lost is noticed.
 *
 * Every block has at most one request at a time. A write carries the next generation of its data; once it is
 * acknowledged, reads must find exactly that.
 */
#ifndef LOAD_H
#define LOAD_H

#include "rig.h"

#define LOAD_BLOCK  4096
#define LOAD_BLOCKS 256
#define LOAD_DEPTH  32 /* requests of a queue at a time, at most */

struct load_request {
	bool busy, at_death;
	uint32_t type;
	unsigned block;
	uint64_t gpa, generation;
};

struct load {
	struct rig rig;
	struct load_request request[RIG_QUEUES_MAX][RIG_SLOTS];
	uint64_t buffers[RIG_QUEUES_MAX];
	unsigned in_flight[RIG_QUEUES_MAX];
	unsigned calls[RIG_QUEUES_MAX]; /* of rig_queue.calls that were answered */
	unsigned depth;                 /* requests of a queue to be kept in flight */
	unsigned at_death;              /* requests in flight at the last death that are not completed */
	bool block_busy[LOAD_BLOCKS];
	uint64_t generation[LOAD_BLOCKS]; /* acknowledged; 0: zeroes */
	uint64_t next_generation, completed;
	bool flushes_fail; /* they may; else nothing may */
	uint64_t failed_flushes;
	uint64_t seed; /* of the data */
	unsigned random;
};

/* Starts a rig and nothing more; the load is the caller's, of static storage. */
void load_start(struct load *l, const struct rig_options *options);

unsigned load_random(struct load *l, unsigned below);

/* The server is dead: notes what it died with. */
void load_died(struct load *l);

/* Does what can be done without waiting for the server: takes completions of queues that were called, keeps l->depth
 * requests in flight. Also while there is no server. */
void load_step(struct load *l);

/* Goes on until the condition holds or the server is gone; fails if nothing moves any more. */
#define load_until(l, condition)                                                                             \
	do {                                                                                                 \
		struct load_watch watch_ = load_watch(l);                                                    \
		for (;;) {                                                                                   \
			load_step(l);                                                                        \
			if ((l)->rig.lost || (condition))                                                    \
				break;                                                                       \
			load_wait(l, &watch_);                                                               \
		}                                                                                            \
	} while (0)

struct load_watch {
	uint64_t completed;
	unsigned at_death;
	uint64_t end;
};
struct load_watch load_watch(const struct load *l);
/* Sleeps until an interrupt or the server's death. */
void load_wait(struct load *l, struct load_watch *watch);

unsigned load_in_flight(const struct load *l);

/* Finishes all requests and compares the disk with what was acknowledged; and stops the server. */
void load_finish(struct load *l);
void load_stop(struct load *l);

/*
 * All of it, with so many kills at random moments. Every other one may come before the last one is recovered from: three
 * in a row may find the same request in hand, which is poison then. With more than one queue, two threads serve.
 */
void load_storm(struct rig_options options, unsigned kills);

#endif
