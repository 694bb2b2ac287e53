/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue on its I/O thread: takes orders from the main loop, runs passes, publishes and signals.
 *
 * Everything but the mailbox is private to the loop's thread. The main loop never waits for a queue: it posts an
 * order and gets it back when it was carried out. Stopping a ring, replacing the memory table and draining wait
 * at the head of the list until the queue is calm: no request is out, or none but those that are parked. While one waits
 * none is taken, so it is reached after at most the time that the slowest request takes.
 *
 * Sleep and wake-up: kicks are disabled while the loop is awake and polls. Before it sleeps, queue_sleep enables
 * them, and vq_enable_kicks looks at the ring once more after its barrier; a request that came in between is
 * either seen there or kicks. With no room for a request kicks stay disabled: the completion that makes room
 * wakes the loop.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "crash.h"
#include "fd.h"
#include "log.h"
#include "server_priv.h"

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

static void set_fd(int *slot, int fd)
{
	if (*slot >= 0)
		close(*slot);
	*slot = fd;
}

static bool may_take(const struct server_queue *q)
{
	return q->ring == RING_SERVING && q->enabled && !q->drained && !q->orders && q->place == PLACE_HERE;
}

void queue_signal(struct server_queue *q)
{
	coalesce_over(q);
	if (q->call < 0)
		return;
	CRASH_POINT("call before");
	fd_event_set(q->call);
	CRASH_POINT("call after");
	stat_add(&q->stats.calls, 1);
}

void server_flush(struct server_queue *q)
{
	unsigned shown = q->staged;

	if (!shown)
		return;
	q->staged = 0;
	stat_add(&q->stats.completed, shown);
	if (!coalesce_hold(q, shown, vq_publish(q->vq)))
		queue_signal(q);
	if (q->recovery.state != RECOVERY_OVER)
		recovery_pass(q, true);
}

/* What a watcher sees of this queue: once in a pass, so that nothing is paid for each request. */
static void show_health(const struct server_queue *q, unsigned held)
{
	struct flight_queue *line = q->flight.queue;

	flight_set(&line->passes, stat_get(&q->stats.passes));
	flight_set(&line->taken, stat_get(&q->stats.requests) - stat_get(&q->stats.returned));
	flight_set(&line->held, held);
	flight_set(&line->done, stat_get(&q->stats.completed));
	flight_set(&line->resting, server_rests(q));
}

/*
 * Polls only while no queue of this thread waits for its device. What a disk takes is long beside a wake-up, and
 * polling through it takes the processor's time from others; a request whose answer is in memory is worth it.
 */
void queue_set_busy(struct server_queue *q, bool busy)
{
	struct io_thread *t = q->thread;

	if (busy == q->busy)
		return;
	q->busy = busy;
	t->busy += busy ? 1U : -1U;
	if (t->busy <= 1)
		loop_set_poll_max(q->loop, t->busy ? 0 : q->server->opts.poll_max_us * NS_PER_US);
}

/* ---- calm: when an order may be carried out ---- */

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

bool server_rests(const struct server_queue *q)
{
	return q->drained || q->orders || q->place != PLACE_HERE;
}

/* One pass; true if anything was done. */
static bool queue_pass(struct server_queue *q)
{
	unsigned held;
	bool did;

	flight_pass(&q->flight);
	did = q->server->device->service(q->state);
	server_flush(q);
	held = q->server->device->held(q->state);
	queue_set_busy(q, held > 0);
	stat_add(&q->stats.passes, 1);
	show_health(q, held);
	if (q->recovery.state != RECOVERY_OVER)
		recovery_pass(q, false);
	if (q->orders && is_calm(q, calm_for(q, q->orders)))
		loop_bh_post(&q->bh);
	return did;
}

/* ---- for the device ---- */

void server_run(struct server_queue *q)
{
	/* Of two rings that move, one may be here before the other. */
	if (q->place != PLACE_AWAY)
		queue_pass(q);
}

int server_pop(struct server_queue *q, struct vq_chain *chain)
{
	int n;

	if (!may_take(q))
		return 0;
	CRASH_POINT_IF(vq_resubmits(q->vq), "resubmit before");
	CRASH_POINT("fetch before");
	n = vq_pop(q->vq, chain);
	if (n == 0)
		return 0;
	if (n < 0) {
		q->taken++; /* server_break counts it off again */
		server_break(q, strerrorname_np(-n));
		return 0;
	}
	q->taken++;
	stat_add(&q->stats.requests, 1);
	if (chain->resubmitted) {
		stat_add(&q->stats.resubmitted, 1);
		recovery_took(q, chain);
		CRASH_POINT("resubmit after");
	}
	CRASH_POINT("fetch after");
	return 1;
}

void server_push(struct server_queue *q, uint16_t head, uint32_t written, uint32_t result)
{
	vq_push(q->vq, head, written);
	q->taken--;
	q->staged++;
	stat_add(&q->stats.bytes_in, written);
	flight_note(&q->flight, FLIGHT_DONE, head, written, result);
}

bool server_try_unpop(struct server_queue *q, uint16_t head)
{
	if (vq_unpop(q->vq, head) < 0)
		return false;
	q->taken--;
	stat_add(&q->stats.returned, 1);
	return true;
}

void server_unpop(struct server_queue *q, uint16_t head)
{
	if (!server_try_unpop(q, head))
		server_push(q, head, 0, 0);
}

void server_take_up(struct server_queue *q, uint16_t head)
{
	vq_take_up(q->vq, head);
}

void server_lay_down(struct server_queue *q)
{
	if (q->vq)
		vq_lay_down(q->vq);
}

void server_fail(struct server_queue *q, uint16_t head)
{
	CRASH_POINT("failure before");
	vq_fail(q->vq, head);
	CRASH_POINT("failure after");
}

void server_poisoned(struct server_queue *q, uint16_t head)
{
	stat_add(&q->stats.poisoned, 1);
	if (q->recovery.state != RECOVERY_OVER)
		q->recovery.poisoned++;
	flight_note(&q->flight, FLIGHT_POISON, head, 0, 0);
}

void server_break(struct server_queue *q, const char *why)
{
	q->taken--;
	if (q->ring != RING_SERVING)
		return;
	q->ring = RING_BROKEN;
	loop_del_fd(q->kick_watch);
	q->kick_watch = NULL;
	stat_add(&q->stats.broken, 1);
	flight_say(&q->flight, FLIGHT_STATE, q->index, "broken");
	recovery_end(q);
	log_warn_limited("queue %u: the driver broke the ring (%s); it is not served any more", q->index,
			 why);
	if (q->err >= 0)
		fd_event_set(q->err);
}

void server_config_changed(struct server_queue *q)
{
	front_config_changed(q->server);
}

struct flight_ring *server_flight(struct server_queue *q)
{
	return &q->flight;
}

uint64_t server_features(const struct server_queue *q)
{
	return q->features;
}

const struct mem *server_mem(const struct server_queue *q)
{
	return q->mem;
}

unsigned server_index(const struct server_queue *q)
{
	return q->index;
}

struct loop *server_loop(const struct server_queue *q)
{
	return q->loop;
}

struct loop *server_main_loop(const struct server_queue *q)
{
	return q->server->main;
}

struct loop_pool *server_pool(const struct server_queue *q)
{
	return q->server->pool;
}

/* ---- polling ---- */

static bool queue_poll(void *arg)
{
	return queue_pass(arg);
}

static bool queue_sleep(void *arg)
{
	struct server_queue *q = arg;
	bool more = q->server->device->pending(q->state);

	if (may_take(q) && q->server->device->has_room(q->state))
		more |= vq_enable_kicks(q->vq);
	return more;
}

static void queue_wake(void *arg)
{
	struct server_queue *q = arg;

	if (may_take(q))
		vq_disable_kicks(q->vq);
}

static const struct loop_poll_ops poll_ops = { .poll = queue_poll, .sleep = queue_sleep, .wake = queue_wake };

static void on_kick(void *arg, uint32_t events)
{
	struct server_queue *q = arg;

	(void)events;
	stat_add(&q->stats.kicks, 1);
	queue_pass(q);
}

/* ---- orders ---- */

static void tell_ring(struct server_queue *q, bool on)
{
	if (q->server->device->ring)
		q->server->device->ring(q->state, on);
}

int queue_watch(struct server_queue *q)
{
	int err = 0;

	/* Edge-triggered, each kick wakes without a read that would take the count back to zero. */
	if (q->ring == RING_SERVING)
		err = loop_add_fd(q->loop, q->kick, EPOLLIN | EPOLLET, on_kick, q, &q->kick_watch);
	if (!err && q->ring != RING_NONE)
		err = loop_add_poller(q->loop, &poll_ops, q, &q->poller);
	return err;
}

void queue_unwatch(struct server_queue *q)
{
	loop_del_fd(q->kick_watch);
	q->kick_watch = NULL;
	if (q->poller)
		loop_del_poller(q->poller);
	q->poller = NULL;
}

static void forget_ring(struct server_queue *q)
{
	if (q->ring != RING_NONE && q->enabled && q->place != PLACE_AWAY)
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
		forget_ring(q);
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
	forget_ring(q);
}

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

/* Has the device give back what it holds only to have it, as nothing may be taken for now. */
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

static void on_orders(void *arg)
{
	struct server_queue *q = arg;
	struct order *o;

	if (q->place == PLACE_AWAY)
		move_arrive(q);
	take_mail(q);
	while (q->place == PLACE_HERE && (o = q->orders)) {
		enum calm calm = calm_for(q, o);

		if (calm == CALM_QUIET)
			release(q);
		if (!is_calm(q, calm))
			break;
		q->orders = o->next;
		flight_say(&q->flight, FLIGHT_ORDER, o->type, order_kinds[o->type].name);
		order_kinds[o->type].run(q, o);
		if (o->type == ORDER_LEAVE) {
			/* With the last one of its set the queue is the main loop's. */
			bool away = q->place == PLACE_AWAY;

			post_done(q->server, o);
			if (away)
				return;
			break;
		}
		post_done(q->server, o);
	}
	if (atomic_exchange(&q->poked, false) && q->server->device->poked)
		q->server->device->poked(q->state);
	if (q->vq)
		queue_pass(q);
}

void queue_bind(struct server_queue *q)
{
	loop_bh_init(&q->bh, q->loop, on_orders, q);
}

void server_poke(struct server_queue *q)
{
	atomic_store(&q->poked, true);
	if (!q->moving)
		loop_bh_post(&q->bh);
}

static bool is_for_buffers(const struct server *server, unsigned index)
{
	unsigned each = server->device->rings_per_queue;

	return each && index < each * server->opts.queues && server->device->buffer_rings >> index % each & 1;
}

int queue_init(struct server_queue *q, unsigned index)
{
	struct server *server = q->server;
	int err;

	q->index = index;
	q->buffers = is_for_buffers(server, index);
	q->kick = q->call = q->err = -1;
	order_list_init(&q->mailbox);
	queue_bind(q);
	recovery_init(q);
	flight_open_queue(server->flight, index, &q->flight);
	err = coalesce_init(q);
	if (!err)
		err = server->device->queue_open(server->dev, q, &q->state);
	if (!err && server->device->attach)
		err = server->device->attach(q->state);
	q->attached = !err;
	return err;
}

void queue_fini(struct server_queue *q)
{
	if (!q->bh.loop)
		return;
	loop_bh_cancel(&q->bh);
	loop_bh_cancel(&q->arrived);
	forget_ring(q);
	recovery_fini(q);
	coalesce_fini(q);
	if (q->attached && q->place != PLACE_AWAY && q->server->device->detach)
		q->server->device->detach(q->state);
	if (q->state)
		q->server->device->queue_close(q->state);
	lock_destroy(&q->mailbox.lock);
}

void queue_post(struct server_queue *q, struct order *order)
{
	order->queue = q;
	order_list_put(&q->mailbox, order);
	if (!q->moving)
		loop_bh_post(&q->bh);
}
