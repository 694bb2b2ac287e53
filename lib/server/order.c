/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the main loop tells a queue: lists of orders between threads, and carrying them out on the queue's own.
 *
 * Stopping a ring, replacing the memory table and draining wait at the head of the list until the queue is calm: no
 * request is out, or none but those that are parked. While one waits none is taken, so it is reached after at most the
 * time that the slowest request takes; a drain is given up before if it is taken back.
 */
#include <unistd.h>

#include "clean.h"
#include "crash.h"
#include "fd.h"
#include "log.h"
#include "server_priv.h"

/* ---- lists ---- */

void order_list_init(struct order_list *list)
{
	lock_init(&list->lock);
	lock_take(&list->lock);
	list->head = NULL;
	list->last = NULL;
	lock_drop(&list->lock);
}

static void list_put(struct order_list *list, struct order *order) REQUIRES(list->lock)
{
	order->next = NULL;
	if (list->last)
		list->last->next = order;
	else
		list->head = order;
	list->last = order;
}

void order_list_put(struct order_list *list, struct order *order)
{
	lock_take(&list->lock);
	list_put(list, order);
	lock_drop(&list->lock);
}

struct order *order_list_take_all(struct order_list *list)
{
	struct order *all;

	lock_take(&list->lock);
	all = list->head;
	list->head = NULL;
	list->last = NULL;
	lock_drop(&list->lock);
	return all;
}

/* ---- when an order may be carried out ---- */

enum calm {
	CALM_NOT,   /* at any time */
	CALM_STILL, /* nothing is under way: what is taken is parked */
	CALM_QUIET, /* nothing is taken */
};

static enum calm calm_for(const struct server_queue *q, const struct order *o)
{
	static const enum calm calm[ORDER_COUNT] = {
		[ORDER_STOP] = CALM_QUIET,
		[ORDER_MEM] = CALM_QUIET,
		[ORDER_DRAIN] = CALM_STILL,
		[ORDER_LEAVE] = CALM_STILL,
	};
	bool parks = q->server->device->parked;

	if (calm[o->type] == CALM_STILL)
		return parks ? CALM_STILL : CALM_QUIET;
	return parks && o->hand_over && q->vq && vq_is_tracked(q->vq) ? CALM_STILL : calm[o->type];
}

static bool is_calm(const struct server_queue *q, enum calm calm)
{
	return calm == CALM_NOT || !q->taken ||
	       (calm == CALM_STILL && q->taken == q->server->device->parked(q->state));
}

/* A drain that somebody took back meanwhile is not waited for. */
static bool is_taken_back(const struct order *drain)
{
	const struct order *o = drain->type == ORDER_DRAIN ? drain->next : NULL;

	while (o && o->type != ORDER_RESUME)
		o = o->next;
	return o;
}

static bool is_due(const struct server_queue *q, const struct order *o)
{
	return is_calm(q, calm_for(q, o)) || is_taken_back(o);
}

bool order_is_ready(const struct server_queue *q)
{
	return q->orders && is_due(q, q->orders);
}

/* ---- a ring begins and ends ---- */

static void set_fd(int *slot, int fd)
{
	if (*slot >= 0)
		close(*slot);
	*slot = fd;
}

static void tell_ring(struct server_queue *q, bool on)
{
	if (q->server->device->ring)
		q->server->device->ring(q->state, on);
}

void order_forget_ring(struct server_queue *q)
{
	/* Of one that was disabled, too: something may have been under way then, and is not now. */
	if (q->ring != RING_NONE && q->place != PLACE_AWAY)
		tell_ring(q, false);
	coalesce_over(q);
	recovery_end(q);
	queue_unwatch(q);
	if (q->place != PLACE_AWAY)
		queue_set_busy(q, false);
	set_fd(&q->kick, -1);
	set_fd(&q->call, -1);
	set_fd(&q->err, -1);
	vq_free(q->vq);
	q->vq = NULL;
	mem_put(q->mem);
	q->mem = NULL;
	q->ring = RING_NONE;
}

static void do_start(struct server_queue *q, struct order *o)
{
	int err;

	if (q->ring != RING_NONE)
		order_forget_ring(q);
	q->vq = o->vq;
	q->mem = o->mem;
	q->features = o->features;
	q->kick = o->kick;
	q->call = o->call;
	q->err = o->err;
	q->enabled = true;
	q->ring = RING_SERVING;
	if (o->live)
		recovery_begin(q);
	tell_ring(q, true);
	vq_disable_kicks(q->vq);
	err = queue_watch(q);
	if (err) {
		/* Not the driver's fault. Nothing was taken: what the predecessor left stays for the successor. */
		log_error_errno(err, "queue %u can't be watched: ending, so that a successor does it",
				q->index);
		_exit(1);
	}
	/* The predecessor may have died between publishing and signalling. */
	CRASH_POINT("recover-call before");
	queue_signal(q);
	CRASH_POINT("recover-call after");
}

static void do_stop(struct server_queue *q, struct order *o)
{
	o->base = q->vq ? vq_base(q->vq) : 0;
	/* What was shown is for the driver, whoever serves the ring next. */
	if (q->coalesce.due)
		queue_signal(q);
	if (q->taken) {
		vq_hand_over(q->vq);
		q->server->device->forget(q->state);
		q->taken = 0;
	}
	order_forget_ring(q);
}

/* ---- the others ---- */

static void do_call(struct server_queue *q, struct order *o)
{
	set_fd(&q->call, take_fd(&o->fd));
	/* What was published while there was none, or another, is announced now. */
	queue_signal(q);
}

static void do_err(struct server_queue *q, struct order *o)
{
	set_fd(&q->err, take_fd(&o->fd));
}

/* Has the device give back what it holds only to have it, as nothing may be taken until the order is done. */
static void release(struct server_queue *q)
{
	if (!q->taken || !q->server->device->release)
		return;
	flight_pass(&q->flight);
	q->server->device->release(q->state);
	server_flush(q);
}

static void do_enable(struct server_queue *q, struct order *o)
{
	if (o->on == q->enabled)
		return;
	q->enabled = o->on;
	if (!q->enabled)
		release(q);
	if (q->ring != RING_NONE)
		tell_ring(q, q->enabled);
}

static void do_mem(struct server_queue *q, struct order *o)
{
	int err;

	if (!q->vq)
		return;
	err = vq_set_mem(q->vq, o->mem);
	mem_put(q->mem);
	q->mem = mem_get(o->mem);
	if (err) {
		q->taken++;
		server_break(q, "the new memory table leaves it out");
	}
}

static void do_drain(struct server_queue *q, struct order *o)
{
	(void)o;
	q->drained = true;
}

static void do_resume(struct server_queue *q, struct order *o)
{
	(void)o;
	q->drained = false;
}

static const struct {
	const char *name;
	void (*run)(struct server_queue *q, struct order *o);
} order_kinds[] = {
	[ORDER_START] = { "start", do_start },    [ORDER_STOP] = { "stop", do_stop },
	[ORDER_CALL] = { "call", do_call },       [ORDER_ERR] = { "err", do_err },
	[ORDER_ENABLE] = { "enable", do_enable }, [ORDER_MEM] = { "memory", do_mem },
	[ORDER_DRAIN] = { "drain", do_drain },    [ORDER_RESUME] = { "resume", do_resume },
	[ORDER_LEAVE] = { "leave", move_leave },
};
_Static_assert(sizeof(order_kinds) / sizeof(order_kinds[0]) == ORDER_COUNT, "every order has its function");

static void take_mail(struct server_queue *q)
{
	struct order *o = order_list_take_all(&q->mailbox);

	if (!o)
		return;
	if (q->orders)
		q->orders_last->next = o;
	else
		q->orders = o;
	while (o->next)
		o = o->next;
	q->orders_last = o;
}

static void post_done(struct server *s, struct order *o)
{
	order_list_put(&s->done, o);
	loop_bh_post(&s->done_bh);
}

bool order_run_all(struct server_queue *q)
{
	struct order *o;

	take_mail(q);
	while (q->place == PLACE_HERE && (o = q->orders)) {
		bool away;

		if (calm_for(q, o) == CALM_QUIET)
			release(q);
		if (!is_due(q, o))
			break;
		q->orders = o->next;
		flight_say(&q->flight, FLIGHT_ORDER, o->type, order_kinds[o->type].name);
		order_kinds[o->type].run(q, o);
		/* With the last one of its set the queue is the main loop's. */
		away = q->place == PLACE_AWAY;
		post_done(q->server, o);
		if (away)
			return false;
	}
	return true;
}
