/* SPDX-License-Identifier: Apache-2.0 */
/* A child's side of the control bus. */
#include "child.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "config.h"
#include "log.h"
#include "reply.h"

#define FLUSH_NS   (200 * NS_PER_MS)
#define PATH_BYTES 4096

static void send_event(struct child *c, enum bus_type type)
{
	struct bus_msg msg = { .type = type };
	int err;

	if (type == BUS_HELLO) {
		msg.hello.protocol = BUS_PROTOCOL;
		snprintf(msg.hello.kind, sizeof(msg.hello.kind), "%s", c->ops->kind);
		snprintf(msg.hello.name, sizeof(msg.hello.name), "%s", c->id);
		snprintf(msg.hello.version, sizeof(msg.hello.version), "%s", PACKAGE_VERSION);
	}
	flight_say(c->log, FLIGHT_SAID, type, bus_type_name(type));
	err = bus_event(c->bus, &msg);
	if (err)
		log_warn_errno(err, "the supervisor can't be told");
}

static void on_get_stats(struct child *c, uint64_t id)
{
	struct bus_msg *msg = calloc(1, sizeof(*msg));
	int err = -ENOMEM;

	if (msg) {
		msg->type = BUS_STATS;
		c->ops->stats(c->arg, reply_add_stat, msg);
		err = bus_reply(c->bus, id, msg);
		free(msg);
	}
	if (err)
		log_warn_errno(err, "the statistics can't be sent");
}

static void on_get_loops(struct child *c, uint64_t id)
{
	struct bus_msg *msg = calloc(1, sizeof(*msg));
	int err = -ENOMEM;

	if (msg) {
		msg->type = BUS_LOOPS;
		c->ops->loops(c->arg, msg);
		err = bus_reply(c->bus, id, msg);
		free(msg);
	}
	if (err)
		log_warn_errno(err, "what the loops do can't be sent");
}

static void on_shutdown(struct child *c, uint64_t id)
{
	c->shutdown_id = id;
	c->ops->shutdown(c->arg);
}

static void on_ping(struct child *c, uint64_t id)
{
	if (!c->ops->ping) {
		reply_ok(c->bus, id);
		return;
	}
	c->ping_id = id;
	c->ops->ping(c->arg);
}

static void (*const requests[BUS_TYPE_COUNT])(struct child *c, uint64_t id) = {
	[BUS_PING] = on_ping,
	[BUS_GET_STATS] = on_get_stats,
	[BUS_GET_LOOPS] = on_get_loops,
	[BUS_SHUTDOWN] = on_shutdown,
};

static void on_message(void *arg, const struct bus_msg *msg)
{
	struct child *c = arg;

	if (msg->type != BUS_PING)
		flight_say(c->log, FLIGHT_BUS, msg->type, bus_type_name(msg->type));
	if (!msg->id)
		return; /* no event is for us */
	if (msg->type < BUS_TYPE_COUNT && requests[msg->type])
		requests[msg->type](c, msg->id);
	else
		bus_reply_error(c->bus, msg->id, -EOPNOTSUPP, "this process does not do that");
}

static void on_connected(void *arg, bool up)
{
	struct child *c = arg;

	flight_say(c->log, FLIGHT_STATE, up, "bus");
	if (!up)
		return;
	send_event(c, BUS_HELLO);
	if (c->ready)
		send_event(c, BUS_READY);
}

static void on_malformed(void *arg, unsigned count, const char *what)
{
	(void)arg;
	log_warn_limited("malformed message %u from the supervisor: %s", count, what);
}

int child_dial(struct child *c, struct loop *loop, const char *dir)
{
	static const struct bus_ops ops = { .message = on_message,
					    .connected = on_connected,
					    .malformed = on_malformed };
	char path[PATH_BYTES];

	if (snprintf(path, sizeof(path), "%s/bus", dir) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	return bus_dial(loop, path, &ops, c, &c->bus);
}

void child_ready(struct child *c)
{
	c->ready = true;
	if (c->bus && bus_is_connected(c->bus))
		send_event(c, BUS_READY);
}

void child_alive(struct child *c)
{
	if (c->ping_id)
		reply_ok(c->bus, c->ping_id);
	c->ping_id = 0;
}

void child_farewell(struct child *c)
{
	if (!c->shutdown_id)
		return;
	reply_ok(c->bus, c->shutdown_id);
	bus_flush(c->bus, FLUSH_NS);
}

void child_close(struct child *c)
{
	bus_close(c->bus);
	c->bus = NULL;
}
