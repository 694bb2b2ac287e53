/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue on its I/O thread: takes orders from the main loop, runs passes, publishes and signals.
 *
 * Everything but the mailbox is private to the loop's thread. The main loop never waits for a queue: it posts an
 * order and gets it back when it was carried out (order.c).
 *
 * Sleep and wake-up: kicks are disabled while the loop is awake and polls. Before it sleeps, queue_sleep enables
 * them, and vq_enable_kicks looks at the ring once more after its barrier; a request that came in between is
 * either seen there or kicks. With no room for a request kicks stay disabled: the completion that makes room
 * wakes the loop.
 */
#include <string.h>
#include <sys/epoll.h>

#include "clock.h"
#include "crash.h"
#include "fd.h"
#include "log.h"
#include "server_priv.h"

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

/* While an order waits, what was taken goes on, and is to be judged by that. */
static enum flight_rest rest_of(const struct server_queue *q)
{
	if (q->drained || q->place == PLACE_LEAVING)
		return FLIGHT_ORDERED;
	return q->vq && vq_is_kept_back(q->vq) ? FLIGHT_KEPT_BACK : FLIGHT_TAKES;
}

/* What a watcher sees of this queue: once in a pass, so that nothing is paid for each request. */
static void show_health(const struct server_queue *q, unsigned held)
{
	struct flight_queue *line = q->flight.queue;

	flight_set(&line->passes, stat_get(&q->stats.passes));
	flight_set(&line->taken, stat_get(&q->stats.requests) - stat_get(&q->stats.returned));
	flight_set(&line->held, held);
	flight_set(&line->done, stat_get(&q->stats.completed));
	flight_set(&line->since, q->server->device->since ? q->server->device->since(q->state) : 0);
	flight_set(&line->resting, rest_of(q));
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
	if (order_is_ready(q))
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
	vq_break(q->vq);
	loop_del_fd(q->kick_watch);
	q->kick_watch = NULL;
	stat_add(&q->stats.broken, 1);
	flight_say(&q->flight, FLIGHT_STATE, (unsigned)(q - q->server->queue), "broken");
	recovery_end(q);
	log_warn_limited("%squeue %u: the driver broke the ring (%s); it is not served any more",
			 q->export->prefix, q->index, why);
	if (q->err >= 0)
		fd_event_set(q->err);
}

void server_config_changed(struct server_queue *q)
{
	front_config_changed(q->export);
}

void server_config_ready(struct server_queue *q)
{
	front_config_ready(q->export);
}

struct flight_ring *server_flight(struct server_queue *q)
{
	return &q->flight;
}

uint64_t server_features(const struct server_queue *q)
{
	return q->features;
}

uint16_t server_size(const struct server_queue *q)
{
	return vq_size(q->vq);
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
	if (q->server->device->kicked)
		q->server->device->kicked(q->state);
	queue_pass(q);
}

/* ---- orders ---- */

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

static void on_orders(void *arg)
{
	struct server_queue *q = arg;

	if (q->place == PLACE_AWAY)
		move_arrive(q);
	if (!order_run_all(q))
		return;
	if (atomic_exchange(&q->poked, false) && q->server->device->poked)
		q->server->device->poked(q->state);
	if (q->vq)
		queue_pass(q);
}

void queue_bind(struct server_queue *q)
{
	loop_bh_init(&q->bh, q->loop, on_orders, q);
}

void queue_look_again(struct server_queue *q)
{
	if (!q->moving)
		loop_bh_post(&q->bh);
}

void server_poke(struct server_queue *q)
{
	atomic_store(&q->poked, true);
	queue_look_again(q);
}

static bool is_for_buffers(const struct server_queue *q)
{
	const struct server_device *device = q->server->device;
	unsigned each = device->rings_per_queue;

	return each && q->set && device->buffer_rings >> q->index % each & 1;
}

int queue_init(struct server_queue *q)
{
	struct server *server = q->server;
	int err;

	q->buffers = is_for_buffers(q);
	q->kick = q->call = q->err = -1;
	order_list_init(&q->mailbox);
	queue_bind(q);
	recovery_init(q);
	flight_open_queue(server->flight, (unsigned)(q - server->queue), &q->flight);
	err = coalesce_init(q);
	if (!err)
		err = server->device->queue_open(q->export->dev, q, &q->state);
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
	order_forget_ring(q);
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
	queue_look_again(q);
}
