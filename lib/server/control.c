/* SPDX-License-Identifier: Apache-2.0 */
/* A server's side of the control bus: HELLO, READY, and the supervisor's requests. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "config.h"
#include "log.h"
#include "num.h"
#include "reply.h"
#include "server_priv.h"

#define FLUSH_NS      (200 * NS_PER_MS)
#define QUEUES_LISTED 8 /* queues whose counters are listed one by one */

static void send_msg(struct server *s, const struct bus_msg *msg)
{
	int err = bus_event(s->control.bus, msg);

	flight_say(&s->log, FLIGHT_SAID, msg->type, bus_type_name(msg->type));
	if (err)
		log_warn_errno(err, "the supervisor can't be told");
}

static void send_event(struct server *s, enum bus_type type)
{
	struct bus_msg msg = { .type = type };

	if (type == BUS_HELLO) {
		msg.hello.protocol = BUS_PROTOCOL;
		snprintf(msg.hello.kind, sizeof(msg.hello.kind), "%s", s->device->kind);
		snprintf(msg.hello.name, sizeof(msg.hello.name), "%s", s->opts.id);
		snprintf(msg.hello.version, sizeof(msg.hello.version), "%s", PACKAGE_VERSION);
	}
	send_msg(s, &msg);
}

/* Where there are several devices, a message says of which it speaks. */
static void say_which(const struct export *e, char device[BUS_NAME_MAX])
{
	if (e->server->exports > 1)
		snprintf(device, BUS_NAME_MAX, "%s", e->opts.id);
}

/* Tells of the recovery if it is complete: on every connection, as what one was told of may be lost with it. */
static void send_recovered(struct export *e)
{
	const struct recovery_sum *sum = &e->recovery;
	struct bus_msg msg = {
		.type = BUS_RECOVERED,
		.recovered = { .resubmitted = sum->resubmitted,
			       .poisoned = sum->poisoned,
			       .start_ns = sum->start_ns,
			       .replayed_ns = sum->replayed_ns,
			       .first_ns = sum->first_ns },
	};

	if (!e->recovered || !bus_is_connected(e->server->control.bus))
		return;
	say_which(e, msg.recovered.device);
	send_msg(e->server, &msg);
}

void control_recovered(struct export *e)
{
	e->recovered = e->server->control.bus;
	send_recovered(e);
}

static void send_io_error(struct export *e)
{
	struct bus_msg msg = { .type = BUS_IO_ERROR };
	struct bus *bus = e->server->control.bus;

	if (!*e->io_error || !bus || !bus_is_connected(bus))
		return;
	say_which(e, msg.io_error.device);
	snprintf(msg.io_error.text, sizeof(msg.io_error.text), "%s", e->io_error);
	send_msg(e->server, &msg);
}

void server_io_error(struct server_queue *q, const char *text)
{
	struct export *e = q->export;

	snprintf(e->io_error, sizeof(e->io_error), "%s", text ? text : "");
	send_io_error(e);
}

/* The device that a request names; NULL: there is none, which is answered. */
static struct export *asked_for(struct server *s, const struct bus_msg *request, const char *device)
{
	struct export *e = server_export(s, device);

	if (!e)
		bus_reply_error(s->control.bus, request->id, -ENOENT, "there is no such device here");
	return e;
}

/* ---- statistics ---- */

static const struct {
	const char *name;
	size_t at;
} queue_counters[] = {
	{ "requests", offsetof(struct queue_stats, requests) },
	{ "resubmitted", offsetof(struct queue_stats, resubmitted) },
	{ "poisoned", offsetof(struct queue_stats, poisoned) },
	{ "completed", offsetof(struct queue_stats, completed) },
	{ "returned", offsetof(struct queue_stats, returned) },
	{ "bytes_in", offsetof(struct queue_stats, bytes_in) },
	{ "kicks", offsetof(struct queue_stats, kicks) },
	{ "calls", offsetof(struct queue_stats, calls) },
	{ "passes", offsetof(struct queue_stats, passes) },
	{ "broken", offsetof(struct queue_stats, broken) },
};

static uint64_t queue_counter(const struct server_queue *q, size_t i)
{
	const char *base = (const char *)&q->stats;

	return stat_get((const _Atomic uint64_t *)(const void *)(base + queue_counters[i].at));
}

static void add_loop_stats(struct bus_msg *msg, const struct loop *loop)
{
	struct loop_stats st;
	char name[BUS_NAME_MAX];

	loop_get_stats(loop, &st);
	snprintf(name, sizeof(name), "%s.sleeps", loop_name(loop));
	reply_add_stat(msg, name, st.sleeps);
	snprintf(name, sizeof(name), "%s.poll_hits", loop_name(loop));
	reply_add_stat(msg, name, st.poll_hits);
	snprintf(name, sizeof(name), "%s.poll_misses", loop_name(loop));
	reply_add_stat(msg, name, st.poll_misses);
}

static void fill_stats(const struct export *e, struct bus_msg *msg)
{
	const struct server *s = e->server;

	for (size_t c = 0; c < ARRAY_SIZE(queue_counters); c++) {
		uint64_t sum = 0;

		for (unsigned i = 0; i < e->rings; i++)
			sum += queue_counter(&e->queue[i], c);
		reply_add_stat(msg, queue_counters[c].name, sum);
	}
	s->device->stats(e->dev, reply_add_stat, msg);
	for (unsigned i = 0; i < s->opts.placing.threads; i++)
		add_loop_stats(msg, s->io[i].loop);
	for (unsigned i = 0; e->rings > 1 && i < MIN(e->rings, QUEUES_LISTED); i++) {
		char name[BUS_NAME_MAX];

		snprintf(name, sizeof(name), "queue%u.requests", i);
		reply_add_stat(msg, name, stat_get(&e->queue[i].stats.requests));
		snprintf(name, sizeof(name), "queue%u.completed", i);
		reply_add_stat(msg, name, stat_get(&e->queue[i].stats.completed));
	}
}

static void on_get_stats(struct server *s, const struct bus_msg *request)
{
	const struct export *e = asked_for(s, request, request->get_stats.device);
	struct bus_msg *msg = e ? calloc(1, sizeof(*msg)) : NULL;
	int err = -ENOMEM;

	if (!e)
		return;
	if (msg) {
		msg->type = BUS_STATS;
		fill_stats(e, msg);
		err = bus_reply(s->control.bus, request->id, msg);
		free(msg);
	}
	if (err)
		log_warn_errno(err, "the statistics can't be sent");
}

/* ---- loops ---- */

static uint64_t queues_of(const struct server *s, const struct io_thread *t)
{
	uint64_t queues = 0;

	for (unsigned i = 0; i < s->opts.placing.queues; i++)
		if (s->set[i].thread == t)
			queues |= 1ULL << i;
	return queues;
}

static void on_get_loops(struct server *s, const struct bus_msg *request)
{
	struct bus_msg *msg = calloc(1, sizeof(*msg));
	int err = -ENOMEM;

	if (msg) {
		msg->type = BUS_LOOPS;
		bus_add_loop(msg, &s->meter, 0, 0);
		for (unsigned i = 0; i < s->opts.placing.threads; i++)
			bus_add_loop(msg, &s->io[i].meter, queues_of(s, &s->io[i]),
				     s->opts.poll_max_us * NS_PER_US);
		err = bus_reply(s->control.bus, request->id, msg);
		free(msg);
	}
	if (err)
		log_warn_errno(err, "what the loops do can't be sent");
}

void control_moved(struct server *s, uint64_t id)
{
	reply_ok(s->control.bus, id);
}

static void on_move_queue(struct server *s, const struct bus_msg *msg)
{
	const struct export *e = asked_for(s, msg, msg->move_queue.device);
	struct io_thread *to = threads_find(s, msg->move_queue.thread);
	bool is_there = e && msg->move_queue.queue < e->opts.queues;
	int r = to && is_there ? move_start(s, &e->set[msg->move_queue.queue], to, msg->id) : -ENOENT;

	if (!e)
		return;
	if (!r)
		reply_ok(s->control.bus, msg->id);
	else if (r < 0)
		bus_reply_error(s->control.bus, msg->id, r,
				!is_there ? "there is no such queue"
				: !to     ? "there is no such I/O thread; loops lists all"
					  : "this queue is moving already");
}

static void on_pin(struct server *s, const struct bus_msg *msg)
{
	cpu_set_t cpus;
	int err = cpus_parse(msg->pin.cpus, &cpus);

	if (err) {
		bus_reply_error(s->control.bus, msg->id, -EINVAL, "processors are written as 0-3,8");
		return;
	}
	err = threads_pin(s, msg->pin.thread, &cpus);
	if (!err)
		reply_ok(s->control.bus, msg->id);
	else
		bus_reply_error(s->control.bus, msg->id, err,
				err == -ENOENT ? "there is no such thread; loops lists all"
					       : "it may use none of these processors");
}

/* ---- requests ---- */

static void drained(struct server *s, struct order *o)
{
	struct control *c = &s->control;

	(void)o;
	if (--c->draining == 0 && c->drain_id) {
		reply_ok(s->control.bus, c->drain_id);
		c->drain_id = 0;
	}
}

static void on_ping(struct server *s, const struct bus_msg *msg)
{
	reply_ok(s->control.bus, msg->id);
}

static void on_drain(struct server *s, const struct bus_msg *msg)
{
	struct control *c = &s->control;

	if (c->drain_id) {
		bus_reply_error(c->bus, msg->id, -EBUSY, "already draining");
		return;
	}
	/* If what a supervisor before wanted is not done yet, nor what it took back, all of that comes first. */
	c->drain_id = msg->id;
	for (unsigned i = 0; i < s->rings; i++) {
		c->draining++;
		queue_post(&s->queue[i], server_order(&s->queue[i], ORDER_DRAIN, drained));
	}
}

static void on_resume(struct server *s, const struct bus_msg *msg)
{
	struct control *c = &s->control;

	if (c->drain_id)
		bus_reply_error(c->bus, c->drain_id, -ECANCELED, "resumed before it was drained");
	c->drain_id = 0;
	for (unsigned i = 0; i < s->rings; i++)
		queue_post(&s->queue[i], server_order(&s->queue[i], ORDER_RESUME, NULL));
	reply_ok(c->bus, msg->id);
}

/* id 0: nobody waits for it any more. */
static void answer_set(struct export *e, uint64_t id, int result, const char *why)
{
	struct bus *bus = e->server->control.bus;

	if (result > 0)
		front_config_changed(e);
	if (id && result < 0)
		bus_reply_error(bus, id, result, why);
	else if (id)
		reply_ok(bus, id);
}

void server_set_done(struct server_queue *q, int result, const char *why)
{
	struct export *e = q->export;

	answer_set(e, e->set_id, result, why);
	e->set_id = 0;
}

static void on_set(struct server *s, const struct bus_msg *msg)
{
	struct export *e = asked_for(s, msg, msg->set.device);
	char why[BUS_TEXT_MAX] = "this kind of device has no properties to set";
	int r = -EOPNOTSUPP;

	if (!e)
		return;
	if (s->device->set)
		r = s->device->set(e->dev, msg->set.key, msg->set.value, why, sizeof(why));
	if (r == -EINPROGRESS) {
		e->set_id = msg->id;
		return;
	}
	if (r >= 0)
		log_debug("%s%s is set to %s", e->prefix, msg->set.key, msg->set.value);
	answer_set(e, msg->id, r, why);
}

static void on_shutdown(struct server *s, const struct bus_msg *msg)
{
	s->control.shutdown_id = msg->id;
	server_end(s);
}

static void (*const requests[BUS_TYPE_COUNT])(struct server *s, const struct bus_msg *msg) = {
	[BUS_PING] = on_ping,     [BUS_GET_STATS] = on_get_stats, [BUS_DRAIN] = on_drain,
	[BUS_RESUME] = on_resume, [BUS_SHUTDOWN] = on_shutdown,   [BUS_SET] = on_set,
	[BUS_PIN] = on_pin,       [BUS_GET_LOOPS] = on_get_loops, [BUS_MOVE_QUEUE] = on_move_queue,
};

static void on_message(void *arg, const struct bus_msg *msg)
{
	struct server *s = arg;

	/* Signs of life would soon be all there is. */
	if (msg->type != BUS_PING)
		flight_say(&s->log, FLIGHT_BUS, msg->type, bus_type_name(msg->type));
	if (!msg->id)
		return; /* no event is for us */
	if (msg->type < BUS_TYPE_COUNT && requests[msg->type])
		requests[msg->type](s, msg);
	else
		bus_reply_error(s->control.bus, msg->id, -EOPNOTSUPP, "a server does not do that");
}

static void on_connected(void *arg, bool up)
{
	struct server *s = arg;

	flight_say(&s->log, FLIGHT_STATE, up, "bus");
	if (!up) {
		s->control.drain_id = 0; /* nobody waits for it any more */
		for (unsigned i = 0; i < s->exports; i++)
			s->export[i].set_id = 0;
		return;
	}
	send_event(s, BUS_HELLO);
	if (s->control.ready)
		send_event(s, BUS_READY);
	for (unsigned i = 0; i < s->exports; i++) {
		send_recovered(&s->export[i]);
		send_io_error(&s->export[i]);
	}
}

static void on_malformed(void *arg, unsigned count, const char *what)
{
	(void)arg;
	log_warn_limited("malformed message %u from the supervisor: %s", count, what);
}

int control_init(struct server *s, const char *socket)
{
	static const struct bus_ops ops = { .message = on_message,
					    .connected = on_connected,
					    .malformed = on_malformed };

	return bus_dial(s->main, socket, &ops, s, &s->control.bus);
}

void control_ready(struct server *s)
{
	s->control.ready = true;
	if (s->control.bus && bus_is_connected(s->control.bus))
		send_event(s, BUS_READY);
}

void control_farewell(struct server *s)
{
	if (!s->control.shutdown_id)
		return;
	reply_ok(s->control.bus, s->control.shutdown_id);
	bus_flush(s->control.bus, FLUSH_NS);
}

void control_fini(struct server *s)
{
	bus_close(s->control.bus);
}
