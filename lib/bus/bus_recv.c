/* SPDX-License-Identifier: Apache-2.0 */
/* What comes in at a control bus endpoint, and its loop's following of the connection. */
#include <errno.h>
#include <nng/nng.h>
#include <sys/epoll.h>

#include "bus_priv.h"
#include "num.h"

#define RECV_BATCH  16 /* messages taken in one pass of the loop */
#define RECV_BUFFER 16 /* messages that nng reads ahead */

/* A child may send so many messages that nobody asked for at once, and one more in so long. The next ones wait at its side,
 * with all that it says after them: a flood costs nobody but who makes it. */
#define UNASKED_BURST 256
#define UNASKED_NS    (NS_PER_MS / 2)

static void malformed(struct bus *bus, uint64_t id, const char *what)
{
	unsigned count = ++bus->malformed;

	bus->counters.malformed++;
	if (id)
		bus_reply_error(bus, id, -EBADMSG, what);
	if (count == BUS_FENCE_AFTER) {
		bus->fenced = true;
		bus_pipe_cut(bus, BUS_NOBODY);
	}
	if (bus->ops->malformed)
		bus->ops->malformed(bus->arg, count, what);
}

static void handle(struct bus *bus, const void *data, size_t len)
{
	const struct bus_type_info *info;
	const char *what;
	struct bus_msg msg;
	int err = bus_codec_decode(&bus->arena, data, len, &msg, &what);

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
	if (info->kind != BUS_KIND_REPLY)
		bus->unasked_ns = MAX(bus->unasked_ns, clock_ns()) + UNASKED_NS;
	if (info->kind != BUS_KIND_REPLY)
		bus->ops->message(bus->arg, &msg);
	else if (!bus_request_reply(bus, &msg) && !bus->closed)
		malformed(bus, 0, "a reply that does not answer the request");
}

/* Handles one message if there is one of the connection id. One of a connection that came after it is kept for
 * later; one of any other is dropped. */
static bool receive_one(struct bus *bus, uint32_t id)
{
	nng_msg *m = bus->held;
	uint32_t from;

	bus->held = NULL;
	if (!m && nng_recvmsg(bus->sock, &m, NNG_FLAG_NONBLOCK) != 0)
		return false;
	from = (uint32_t)nng_msg_get_pipe(m).id;
	if (from != id && from == bus_pipe_admitted(bus)) {
		bus->held = m;
		return false;
	}
	if (from == id && !bus->fenced)
		handle(bus, nng_msg_body(m), nng_msg_len(m));
	nng_msg_free(m);
	return true;
}

void bus_recv_sync(struct bus *bus)
{
	uint32_t now = bus_pipe_admitted(bus);

	if (now == bus->pipe)
		return;
	/* What the connection that is gone left behind; nng holds no more than this. */
	for (int i = 0; bus->pipe && i < RECV_BUFFER + 2; i++)
		if (!receive_one(bus, bus->pipe) || bus->closed)
			break;
	if (!bus->closed)
		bus_pipe_went_down(bus);
	now = bus->closed ? 0 : bus_pipe_admitted(bus);
	if (now)
		bus_pipe_went_up(bus, now);
}

static bool is_flooded(const struct bus *bus)
{
	return bus->side == BUS_SUPERVISOR && bus->unasked_ns > clock_ns() + UNASKED_BURST * UNASKED_NS;
}

static void receive(struct bus *bus)
{
	bool flooded = false;

	bus_enter(bus);
	for (int i = 0; i < RECV_BATCH && !bus->closed; i++) {
		bus_recv_sync(bus);
		if (bus->closed)
			break;
		flooded = is_flooded(bus);
		loop_mod_fd(bus->recv_fd, flooded || bus_pipe_is_cut(bus) ? 0 : EPOLLIN);
		if (flooded || bus_pipe_is_cut(bus) || (!receive_one(bus, bus->pipe) && !bus->held))
			break;
	}
	if (flooded)
		loop_arm_timer(bus->calm, bus->unasked_ns - UNASKED_BURST / 2 * UNASKED_NS);
	else if (bus->held) /* nng's descriptor says nothing of the message that we keep */
		loop_bh_post(&bus->pipe_bh);
	bus_leave(bus);
}

static void recv_ready(void *arg, uint32_t events)
{
	(void)events;
	receive(arg);
}

static void calmed(void *arg)
{
	receive(arg);
}

void bus_recv_pipe_changed(void *arg)
{
	receive(arg);
}

int bus_recv_init(struct bus *bus)
{
	int fd, err = nng_socket_set_int(bus->sock, NNG_OPT_RECVBUF, RECV_BUFFER);

	if (!err)
		err = nng_socket_get_int(bus->sock, NNG_OPT_RECVFD, &fd);
	if (err)
		return bus_nng_errno(err);
	err = loop_add_timer(bus->loop, calmed, bus, &bus->calm);
	return err ? err : loop_add_fd(bus->loop, fd, EPOLLIN, recv_ready, bus, &bus->recv_fd);
}
