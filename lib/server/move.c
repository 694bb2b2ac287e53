/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A set of rings moves from one I/O thread to another, while the driver goes on.
 *
 * A ring, its requests and the device's part of it have one owner, and that changes twice: from the old thread to the main
 * loop, from there to the new thread. Between the two nothing of it is registered with any loop, so nobody can touch it
 * by mistake:
 *
 *	main loop                       old thread                          new thread
 *	ORDER_LEAVE to each ring
 *	                                it is still: nothing is under way
 *	                                all rings of the set are: detach
 *	left: thread, loop, bottom half
 *	are those of the new one
 *	                                                                    attach; look at the ring
 *	arrived: told, and saved
 *
 * "Still" is what a drain of this one queue takes, and all that its driver waits for; no other queue is stopped.
 * Requests keep their order, as one thread has finished what it took, but for what is parked, before the other takes
 * any; that goes along. What the driver adds meanwhile stands in the ring; the new thread looks there without having
 * been kicked.
 *
 * Orders that come after ORDER_LEAVE are carried out by the new thread: the main loop puts them into the queue's mailbox
 * and does not tell the old one, which, should it find them all the same, leaves them in the queue's list.
 */
#include <errno.h>
#include <unistd.h>

#include "crash.h"
#include "log.h"
#include "server_priv.h"

static void on_arrived(void *arg);

static void init_export(struct export *e)
{
	struct server *s = e->server;
	unsigned rings = server_rings_of_set(s);

	for (unsigned i = 0; i < e->opts.queues; i++) {
		struct server_set *set = &e->set[i];

		set->thread = &s->io[s->opts.placing.of[set - s->set]];
		set->first = (unsigned)(e->queue - s->queue) + i * rings;
		set->rings = rings;
	}
	for (unsigned i = 0; i < e->rings; i++) {
		struct server_queue *q = &e->queue[i];

		q->server = s;
		q->export = e;
		q->index = i;
		q->set = i / rings < e->opts.queues ? &e->set[i / rings] : NULL;
	}
}

void move_init(struct server *s)
{
	for (unsigned i = 0; i < s->exports; i++)
		init_export(&s->export[i]);
	for (unsigned i = 0; i < s->rings; i++) {
		struct server_queue *q = &s->queue[i];

		q->thread = q->set ? q->set->thread : &s->io[0];
		q->loop = q->thread->loop;
		loop_bh_init(&q->arrived, s->main, on_arrived, q);
	}
}

/* ---- leaving: the old thread ---- */

/* From here to the end of a move no thread but the main loop's may touch the queue. */
static void let_go(struct server_queue *q)
{
	queue_set_busy(q, false);
	if (q->coalesce.due)
		queue_signal(q);
	coalesce_fini(q);
	queue_unwatch(q);
	if (q->server->device->detach)
		q->server->device->detach(q->state);
	loop_bh_cancel(&q->bh);
	flight_set(&q->flight.queue->resting,
		   q->drained ? FLIGHT_ORDERED : FLIGHT_TAKES); /* nobody may be so for long */
	q->place = PLACE_AWAY;
}

void move_leave(struct server_queue *q, struct order *o)
{
	struct server_set *set = q->set;

	(void)o;
	CRASH_POINT("move quiet");
	q->place = PLACE_LEAVING;
	if (++set->resting < set->rings)
		return;
	set->resting = 0;
	for (unsigned i = 0; i < set->rings; i++)
		let_go(&q->server->queue[set->first + i]);
	CRASH_POINT("move detached");
}

/* ---- arriving: the new thread ---- */

void move_arrive(struct server_queue *q)
{
	const struct server_device *device = q->server->device;
	int err;

	CRASH_POINT("move between");
	err = coalesce_init(q);
	if (!err && device->attach)
		err = device->attach(q->state);
	if (!err)
		err = queue_watch(q);
	if (err) {
		log_error_errno(err, "%squeue %u can't be watched: ending, so that a successor does it",
				q->export->prefix, q->index);
		_exit(1);
	}
	q->place = PLACE_HERE;
	CRASH_POINT("move attached");
	loop_bh_post(&q->arrived);
}

/* ---- the main loop ---- */

/* A ring has left, and with the last one the set belongs to nobody else. */
static void left(struct server *s, struct order *o)
{
	struct server_set *set = o->queue->set;

	if (--set->pending)
		return;
	CRASH_POINT("move left");
	set->state = SET_ARRIVING;
	set->pending = set->rings;
	for (unsigned i = 0; i < set->rings; i++) {
		struct server_queue *q = &s->queue[set->first + i];

		q->thread = set->thread;
		q->loop = set->thread->loop;
		queue_bind(q);
		q->moving = false;
		loop_bh_post(&q->bh);
	}
}

static void on_arrived(void *arg)
{
	const struct server_queue *q = arg;
	struct server_set *set = q->set;
	struct server *s = q->server;
	unsigned index = (unsigned)(set - q->export->set);
	uint64_t id = set->id;

	if (--set->pending)
		return;
	set->state = SET_SERVED;
	set->id = 0;
	CRASH_POINT("move before");
	threads_save(s);
	CRASH_POINT("move after");
	flight_say(&s->log, FLIGHT_STATE, (unsigned)(set - s->set), "moved");
	log_debug("%squeue %u: served by %s", q->export->prefix, index, loop_name(q->loop));
	if (id)
		control_moved(s, id);
}

int move_start(struct server *s, struct server_set *set, struct io_thread *to, uint64_t id)
{
	if (set->state != SET_SERVED)
		return -EBUSY;
	if (set->thread == to)
		return 0;
	set->state = SET_LEAVING;
	set->thread = to;
	set->pending = set->rings;
	set->id = id;
	for (unsigned i = 0; i < set->rings; i++) {
		struct server_queue *q = &s->queue[set->first + i];

		queue_post(q, server_order(q, ORDER_LEAVE, left));
		q->moving = true;
	}
	return 1;
}
