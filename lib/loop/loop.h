/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An event loop: descriptor handlers, timers, bottom halves, event notifiers, adaptive polling, and a pool of
 * workers for calls that block. A loop belongs to the thread that runs it; every function here is for that
 * thread alone (or for the creator, before the loop runs), except those marked "any thread".
 */
#ifndef LOOP_H
#define LOOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;
struct loop_fd;
struct loop_timer;
struct loop_poller;
struct loop_pool;

/* Makes a loop; name (copied) is for statistics and thread names. -errno on failure. */
int loop_new(const char *name, struct loop **out);

/* Frees a loop that is not running; handlers, timers and pollers that are still registered go with it. */
void loop_free(struct loop *loop);

const char *loop_name(const struct loop *loop);

/* Runs until loop_stop, dispatching on the calling thread. 0, or -errno if waiting itself failed. */
int loop_run(struct loop *loop);

/* One pass: dispatches what is ready, waiting for at most timeout_ns (-1: for ever; 0: not at all). For tests, and for
 * who has something to do after each pass. */
int loop_run_once(struct loop *loop, int64_t timeout_ns);

/* From now on adds one to *turns (shared memory, say; it outlives the loop) whenever the loop goes to sleep and whenever it
 * wakes, so that others see what it does without waking it: while the number is odd it sleeps. Starts from 0. */
void loop_show(struct loop *loop, _Atomic uint64_t *turns);

/* Makes loop_run return after the handlers of this pass. Any thread. */
void loop_stop(struct loop *loop);

/* ---- descriptors ---- */

/* events: EPOLLIN etc. that are ready. */
typedef void (*loop_fd_fn)(void *arg, uint32_t events);

/* Watches fd (level-triggered; it stays the caller's) for events. -errno on failure. */
int loop_add_fd(struct loop *loop, int fd, uint32_t events, loop_fd_fn fn, void *arg, struct loop_fd **out);

/* Changes the events watched for; 0 keeps the registration but watches none. */
int loop_mod_fd(struct loop_fd *h, uint32_t events);

/* Stops watching, to be called before fd is closed. Safe from any handler of this loop, its own included: a
 * removed handler is not called again even if its event was already fetched. NULL is ignored. */
void loop_del_fd(struct loop_fd *h);

/* ---- timers ---- */

/* Makes a timer, not armed. */
int loop_add_timer(struct loop *loop, void (*fn)(void *arg), void *arg, struct loop_timer **out);

/* Arms for clock_ns() >= at_ns, once; re-arming replaces. Never allocates, never fails. */
void loop_arm_timer(struct loop_timer *t, uint64_t at_ns);

/* Disarms; the handler does not run after this. */
void loop_disarm_timer(struct loop_timer *t);

/* NULL is ignored. Safe from the timer's own handler. */
void loop_del_timer(struct loop_timer *t);

/* ---- bottom halves ---- */

/*
 * A function to be run once by the loop, soon. The structure is the caller's, embedded where it is needed; it
 * must stay valid while it may be queued. Posting one that is already queued does nothing (posts coalesce);
 * one that is posted while its function runs is run again.
 */
struct loop_bh {
	struct loop *loop;
	void (*fn)(void *arg);
	void *arg;
	struct loop_bh *next;    /* private to loop */
	_Atomic uint32_t queued; /* private to loop */
};

void loop_bh_init(struct loop_bh *bh, struct loop *loop, void (*fn)(void *arg), void *arg);

/* Any thread; lock-free, never blocks, async-signal-safe. What the poster wrote before is visible to the
 * function. */
void loop_bh_post(struct loop_bh *bh);

/* Takes a queued bottom half off again, so that its memory may be freed. The loop's thread only. */
void loop_bh_cancel(struct loop_bh *bh);

/* ---- adaptive polling ---- */

/*
 * Something that may be ready without a descriptor saying so: a ring in shared memory. poll looks, cheaply,
 * does the work if there is some, and returns whether there was. Before the loop sleeps it calls sleep, which
 * arms the notification (enable kicks) and returns true if work arrived meanwhile; after it woke, wake
 * disarms it.
 */
struct loop_poll_ops {
	bool (*poll)(void *arg);
	bool (*sleep)(void *arg);
	void (*wake)(void *arg);
};

int loop_add_poller(struct loop *loop, const struct loop_poll_ops *ops, void *arg, struct loop_poller **out);
void loop_del_poller(struct loop_poller *p);

/* The longest time that this loop polls before it sleeps, in ns; it grows and shrinks below that with what
 * polling earned. 0 (the default) does not poll; what was earned before is remembered meanwhile. */
void loop_set_poll_max(struct loop *loop, uint64_t ns);

struct loop_stats {
	uint64_t passes;      /* times round the loop */
	uint64_t sleeps;      /* waits in the kernel */
	uint64_t poll_hits;   /* polling phases that found work */
	uint64_t poll_misses; /* polling phases that ended in sleep */
	uint64_t poll_ns;     /* the present polling window */
};

/* A snapshot; any thread. */
void loop_get_stats(const struct loop *loop, struct loop_stats *out);

/* ---- workers, for calls that block ---- */

/* Starts n threads (all signals blocked). -errno on failure. */
int loop_pool_new(unsigned n, struct loop_pool **out);

/* Waits for the jobs that run, runs no further ones (their done is not called), joins the threads. May block.
 */
void loop_pool_free(struct loop_pool *pool);

/*
 * A job: work runs on a worker, then done on loop's thread. The structure is the caller's and must stay valid
 * until done has been called. Any thread may submit; never blocks.
 */
struct loop_job {
	void (*work)(void *arg);
	void (*done)(void *arg);
	void *arg;
	struct loop_bh bh;     /* private to the pool */
	struct loop_job *next; /* private to the pool */
};

void loop_pool_submit(struct loop_pool *pool, struct loop *loop, struct loop_job *job);

#endif
