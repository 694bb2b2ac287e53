/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether back ends get on with the requests that they were given, seen from the rings alone: requests are outstanding,
 * and the used position does not move. One timer for all of them, on the main loop; nothing here waits, and all of it
 * is for the main loop's thread.
 */
#ifndef CORE_WATCH_H
#define CORE_WATCH_H

#include <stdbool.h>
#include <stdint.h>

struct flight_queue;
struct loop;
struct watch;
struct watch_target;

/* A ring, where the driver laid it, mapped; what stands in it is anybody's. */
struct watch_ring {
	uint16_t size; /* 0: not watched */
	bool packed;
	bool event_idx;
	const void *desc;                  /* packed */
	const void *avail, *used;          /* the driver's and the device's area */
	const void *inflight;              /* the queue's part of the region; packed */
	int kick;                          /* its kick eventfd */
	const struct flight_queue *health; /* NULL: the back end does not say how it gets on */
	const struct flight_queue *before; /* of who may keep its requests back; NULL: nobody does */
	const char *slow; /* what is said of one that waits for what it does not decide; NULL: its storage */
};

/* What was seen. Of a target that was found hung or broken no more is said; its user may remove targets in these two. */
struct watch_ops {
	/* No progress for so long, and it is not the storage's doing. */
	void (*hung)(void *arg, unsigned queue, uint64_t stalled_ns, const char *reason);
	/* The ring holds what a sane back end never writes; its driver was not to blame, or that would have been
	 * signalled. */
	void (*broken)(void *arg, unsigned queue, const char *reason);
	/* No progress, but nothing to be done about it: for the log, once in each stall. */
	void (*stalled)(void *arg, unsigned queue, uint64_t stalled_ns, const char *reason);
};

int watch_new(struct loop *loop, struct watch **out);

/* No target may be left. NULL is ignored. */
void watch_free(struct watch *w);

/*
 * Watches the n rings (copied; what they point to must stay) of a back end that serves them from now on. timeout_ns
 * without progress is a hang; half of it is answered by a kick, in case one was lost. -errno.
 */
int watch_add(struct watch *w, uint64_t timeout_ns, const struct watch_ring *rings, unsigned n,
	      const struct watch_ops *ops, void *arg, struct watch_target **out);

/* NULL is ignored. */
void watch_remove(struct watch_target *t);

struct watch_stats {
	uint64_t looks; /* at all rings */
	uint64_t kicks; /* of our own */
};

void watch_get_stats(const struct watch *w, struct watch_stats *out);

#endif
