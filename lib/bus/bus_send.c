/* SPDX-License-Identifier: Apache-2.0 */
/* What goes out at a control bus endpoint. */
#include <errno.h>
#include <nng/nng.h>
#include <string.h>
#include <sys/epoll.h>

#include "bus_priv.h"
#include "clock.h"
#include "num.h"

#define RETRY_MIN_NS (5 * NS_PER_MS)

void bus_send_drop(struct bus *bus)
{
	for (; bus->queue_count; bus->queue_count--)
		nng_msg_free(bus->queue[bus->queue_first++ % BUS_SEND_MAX]);
	if (bus->send_fd)
		loop_mod_fd(bus->send_fd, 0);
}

/* nng gives a message to whatever connection there is. While we hold the lock pipe_event lets no other one begin, so this
 * goes to that which the loop knows of, or nowhere; nng calls back nothing that it waits for. */
static int give(struct bus *bus, nng_msg *m)
{
	int err = NNG_EAGAIN;

	lock_take(&bus->lock);
	if (bus->pipe_admitted == bus->pipe)
		err = nng_sendmsg(bus->sock, m, NNG_FLAG_NONBLOCK);
	lock_drop(&bus->lock);
	return err;
}

void bus_send_pump(struct bus *bus, uint64_t retry_ns)
{
	unsigned before = bus->queue_count;

	while (bus->queue_count) {
		unsigned at = bus->queue_first % BUS_SEND_MAX;

		if (give(bus, bus->queue[at]) != 0)
			break;
		bus->queue_first++;
		bus->queue_count--;
		bus->counters.sent++;
	}
	loop_mod_fd(bus->send_fd, bus->queue_count ? EPOLLIN : 0);
	if (bus->queue_count)
		bus_pipe_retry(bus, bus->queue_count < before ? RETRY_MIN_NS : retry_ns);
	else if (bus->pipe)
		loop_disarm_timer(bus->retry);
}

static void send_ready(void *arg, uint32_t events)
{
	(void)events;
	bus_send_pump(arg, RETRY_MIN_NS);
}

int bus_send(struct bus *bus, const struct bus_msg *msg)
{
	nng_msg *m;
	int err;

	if (bus->closed || !bus->pipe || bus->fenced || bus->queue_count == BUS_SEND_MAX)
		return -EAGAIN;
	if (msg->type > BUS_NONE && msg->type < BUS_TYPE_COUNT && !(bus_types[msg->type].sender & bus->side))
		return -EINVAL;
	err = bus_codec_encode(msg, &m);
	if (err)
		return err;
	bus->queue[(bus->queue_first + bus->queue_count++) % BUS_SEND_MAX] = m;
	bus_send_pump(bus, RETRY_MIN_NS);
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
	uint64_t now = clock_ns(), end;

	if (!num_add(now, timeout_ns, &end))
		end = UINT64_MAX;
	/* Without a send buffer nng takes a message only once the one before is in the kernel's socket. */
	for (; bus->pipe && bus_pipe_admitted(bus) == bus->pipe; now = clock_ns()) {
		/* Not longer than this at once, so that the end of the connection is seen too. */
		uint64_t wait = now < end ? MIN(end - now, 10 * NS_PER_MS) : 0;
		struct timespec ts = { .tv_nsec = (long)wait };
		struct epoll_event ev;

		if (epoll_pwait2(bus->flush_fd, &ev, 1, &ts, NULL) > 0) {
			if (!bus->queue_count)
				return 0;
			bus_send_pump(bus, RETRY_MIN_NS);
		} else if (now >= end) {
			return -ETIMEDOUT;
		}
	}
	return -EPIPE;
}

int bus_send_init(struct bus *bus)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int fd, err = nng_socket_set_int(bus->sock, NNG_OPT_SENDBUF, 0);

	if (!err)
		err = nng_socket_get_int(bus->sock, NNG_OPT_SENDFD, &fd);
	if (err)
		return bus_nng_errno(err);
	/* An epoll set of its own, so that bus_flush needs no system call that the loop does not. */
	bus->flush_fd = epoll_create1(EPOLL_CLOEXEC);
	if (bus->flush_fd < 0 || epoll_ctl(bus->flush_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	return loop_add_fd(bus->loop, fd, 0, send_ready, bus, &bus->send_fd);
}
