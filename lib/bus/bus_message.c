/* SPDX-License-Identifier: Apache-2.0 */
/* What comes in and goes out at a control bus endpoint. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bus_priv.h"
#include "clock.h"
#include "num.h"

/* A child may send so many messages that nobody asked for at once, and one more in so long. The next ones wait, with all
 * that it says after them, and if it goes on all the same it is hung up on: a flood costs nobody but who makes it. */
#define UNASKED_BURST 256
#define UNASKED_NS    (NS_PER_MS / 2)

/* ---- in ---- */

static void malformed(struct bus *bus, uint64_t id, const char *what)
{
	unsigned count = ++bus->malformed;

	bus->counters.malformed++;
	if (id)
		bus_reply_error(bus, id, -EBADMSG, what);
	if (count == BUS_FENCE_AFTER) {
		bus->fenced = true;
		bus->expected = BUS_NOBODY;
	}
	if (bus->ops->malformed)
		bus->ops->malformed(bus->arg, count, what);
	if (bus->fenced)
		bus_link_drop(bus);
}

static bool is_flooded(const struct bus *bus)
{
	return bus->side == BUS_SUPERVISOR && bus->unasked_ns > clock_ns() + UNASKED_BURST * UNASKED_NS;
}

static void hold_back(struct bus *bus)
{
	bus_conn_read(bus->conn, false);
	loop_arm_timer(bus->calm, bus->unasked_ns - UNASKED_BURST / 2 * UNASKED_NS);
}

static void calmed(void *arg)
{
	struct bus *bus = arg;

	if (bus->conn)
		bus_conn_read(bus->conn, true);
}

void bus_message_take(struct bus *bus, const uint8_t *data, size_t len)
{
	const struct bus_type_info *info;
	const char *what;
	struct bus_msg msg;
	int err = bus_codec_decode(&bus->arena, data, len, &msg, &what);

	if (bus->dialer)
		bus_dialer_settled(bus->dialer);
	info = &bus_types[msg.type];
	if (!err && !(info->sender & (BUS_BOTH - bus->side))) {
		err = -EBADMSG;
		what = "a message that this side does not take";
	}
	if (err) {
		/* Only what may be a request is answered, or two peers could answer each other for ever. */
		malformed(bus, msg.type && info->kind != BUS_KIND_REQUEST ? 0 : msg.id, what);
		return;
	}
	bus->counters.received++;
	if (info->kind != BUS_KIND_REPLY || !bus_request_waits(bus, msg.id))
		bus->unasked_ns = MAX(bus->unasked_ns, clock_ns()) + UNASKED_NS;
	if (info->kind != BUS_KIND_REPLY)
		bus->ops->message(bus->arg, &msg);
	else if (!bus_request_reply(bus, &msg) && !bus->closed)
		malformed(bus, 0, "a reply that does not answer the request");
	if (bus->conn && is_flooded(bus))
		hold_back(bus);
}

/* ---- out ---- */

int bus_send(struct bus *bus, const struct bus_msg *msg)
{
	struct bus_wire_message *m;
	int err;

	if (!bus->conn || bus->fenced)
		return -EAGAIN;
	if (msg->type > BUS_NONE && msg->type < BUS_TYPE_COUNT && !(bus_types[msg->type].sender & bus->side))
		return -EINVAL;
	err = bus_codec_encode(msg, &m);
	if (err)
		return err;
	if (bus_conn_send(bus->conn, m)) {
		free(m);
		return -EAGAIN; /* a peer that is gone will be told of soon */
	}
	bus->counters.sent++;
	return 0;
}

int bus_event(struct bus *bus, const struct bus_msg *msg)
{
	struct bus_msg plain = *msg;

	if (msg->type <= BUS_NONE || msg->type >= BUS_TYPE_COUNT ||
	    bus_types[msg->type].kind != BUS_KIND_EVENT)
		return -EINVAL;
	plain.id = 0;
	return bus_send(bus, &plain);
}

int bus_reply(struct bus *bus, uint64_t id, const struct bus_msg *body)
{
	struct bus_msg numbered = *body;

	if (!id || body->type <= BUS_NONE || body->type >= BUS_TYPE_COUNT ||
	    bus_types[body->type].kind != BUS_KIND_REPLY)
		return -EINVAL;
	numbered.id = id;
	return bus_send(bus, &numbered);
}

int bus_reply_error(struct bus *bus, uint64_t id, int err, const char *text)
{
	struct bus_msg msg = { .type = BUS_ERROR, .error.err = err };

	strncpy(msg.error.text, text, sizeof(msg.error.text) - 1);
	return bus_reply(bus, id, &msg);
}

int bus_flush(struct bus *bus, uint64_t timeout_ns)
{
	uint64_t end;

	if (!num_add(clock_ns(), timeout_ns, &end))
		end = UINT64_MAX;
	return bus->conn ? bus_conn_flush(bus->conn, end) : -EPIPE;
}

int bus_message_init(struct bus *bus)
{
	return loop_add_timer(bus->loop, calmed, bus, &bus->calm);
}
