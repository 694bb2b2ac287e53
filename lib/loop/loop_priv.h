/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a loop, shared by the files of lib/loop. */
#ifndef LOOP_PRIV_H
#define LOOP_PRIV_H

#include <stdatomic.h>
#include <sys/epoll.h>

#include "loop.h"

#define LOOP_NAME_MAX  32 /* bytes of a loop's name, its NUL included; longer ones are cut */
#define LOOP_FETCH_MAX 64 /* descriptors dispatched in one pass */

/* Bottom halves in the order in which they run; for the loop's thread alone. */
struct bh_list {
	struct loop_bh *first, *last;
};

struct loop_fd {
	struct loop *loop;
	loop_fd_fn fn;
	void *arg;
	int fd;
	uint32_t events; /* watched for; 0: not in the epoll set */
	struct loop_fd *prev, *next;
};

enum timer_state {
	TIMER_IDLE,  /* not armed */
	TIMER_ARMED, /* in the heap at pos */
	TIMER_DUE,   /* expired in this pass, in the due list until its handler starts */
};

struct loop_timer {
	struct loop *loop;
	void (*fn)(void *arg);
	void *arg;
	enum timer_state state;
	uint64_t at_ns;
	uint64_t seq;                   /* order of arming, so that equal times run in that order */
	size_t pos;                     /* place in the heap */
	struct loop_timer *prev, *next; /* in the due list */
	struct loop_timer *all_prev, *all_next;
};

struct loop_timers {
	struct loop_timer **heap; /* binary heap by (at_ns, seq), room for every timer of the loop */
	size_t armed;             /* entries of the heap in use */
	size_t room;              /* entries allocated */
	size_t count;             /* timers that exist */
	struct loop_timer *all;   /* each of them */
	uint64_t next_seq;
	struct loop_timer *due_first, *due_last;
};

struct loop_poller {
	struct loop *loop;
	const struct loop_poll_ops *ops;
	void *arg;
	bool armed; /* its sleep was called and its wake not yet */
	struct loop_poller *prev, *next;
};

struct loop_polling {
	struct loop_poller *first;
	struct loop_poller *cursor; /* the next one to visit, so that a hook may remove any poller */
	uint64_t max_ns;            /* the largest window allowed */
	uint64_t window_ns;         /* the present one; other threads see stat_poll_ns */
	unsigned skipped;           /* passes since descriptors were looked at */
};

struct loop {
	char name[LOOP_NAME_MAX];
	int epoll_fd;
	int wake_fd; /* eventfd, watched edge-triggered: it is written but never read */

	/* Written by any thread. */
	_Atomic(struct loop_bh *) posted; /* stack of bottom halves, the newest first */
	atomic_bool asleep;               /* the loop waits or is about to: who posts must wake it */
	atomic_bool stop;

	/* The loop's thread only. */
	struct bh_list ready;   /* taken from posted, for the next pass */
	struct bh_list running; /* what is left of this pass */
	struct loop_fd *fds;
	struct epoll_event fetched[LOOP_FETCH_MAX]; /* data.ptr: the loop_fd, NULL if removed meanwhile */
	int nfetched;
	struct loop_timers timers;
	struct loop_polling polling;
	_Atomic uint64_t *turns; /* loop_show; NULL: nobody looks */
	uint64_t nturns;

	/* Written by the loop's thread, read by any. */
	_Atomic uint64_t stat_passes, stat_sleeps, stat_poll_hits, stat_poll_misses, stat_poll_ns;
};

/* Adds 1 to a counter that only the loop's thread writes. */
static inline void loop_count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

/* bh.c: ends a sleep that is going on or about to begin. Any thread, async-signal-safe. */
void loop_wake(struct loop *loop);
/* True if bottom halves wait to be run. */
bool loop_bh_pending(struct loop *loop);
/* Runs those that were posted before the call, in posting order; later ones are left for the next pass. */
void loop_bh_run(struct loop *loop);

/* timer.c: when the earliest timer expires; UINT64_MAX if none is armed. */
uint64_t loop_timer_next(const struct loop *loop);
/* Runs the timers that have expired by now, each at most once. */
void loop_timer_run(struct loop *loop);

/* poll.c: polls for at most the present window and not past end_ns (UINT64_MAX: no end). True if there was
 * work. */
bool loop_poll_window(struct loop *loop, uint64_t end_ns);
/* Calls every poller once; true if one had work. */
bool loop_poll_once(struct loop *loop);
/* The hooks around a sleep: before returns true if work arrived meanwhile. */
bool loop_poll_before_sleep(struct loop *loop);
void loop_poll_after_sleep(struct loop *loop);
/* Adapts the window after a sleep; waited_ns counts from where polling began, by_event is false if only time
 * ended it. */
void loop_poll_adapt(struct loop *loop, uint64_t waited_ns, bool by_event);

#endif
