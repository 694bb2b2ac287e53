/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An endpoint of the control bus: its life, and how its parts work together.
 *
 * Theory of operation
 *
 * The socket is an nng pair0 without a send buffer. All sending and receiving is done by the loop's thread, without
 * waiting, when nng's two event descriptors say so; nng's threads run only pipe_event in bus_pipe.c, which decides
 * under the lock who may connect and posts to the loop.
 *
 * One connection at a time is admitted: pipe_event sets pipe_admitted before nng starts the pipe and clears it when
 * the pipe is gone, and refuses every other meanwhile (a peer that reconnects quickly is refused once and redials).
 * The loop follows in bus_recv_sync. Every message carries the id of its pipe. Those of the pipe that is gone are read
 * before its end is told, so a child's last words arrive; those of a peer that bus_expect replaced are dropped.
 *
 * nng 1.5.2 loses an event now and then: a dialer whose greeting fails with EPIPE gives up for good, and its
 * descriptors have been seen to stay silent. So while something is queued, or there is no connection, a timer tries
 * again; at rest there is none. The supervisor's side looks then whether nng still accepts.
 *
 * What goes out waits in our own queue, not in nng's, and the queue goes with the connection; so nothing that was
 * meant for one process reaches its successor.
 */
#include "bus.h"

#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bus_priv.h"

void bus_enter(struct bus *bus)
{
	bus->depth++;
}

void bus_leave(struct bus *bus)
{
	if (--bus->depth || !bus->closed)
		return;
	lock_destroy(&bus->lock);
	if (bus->flush_fd >= 0)
		close(bus->flush_fd);
	free(bus->path);
	free(bus);
}

static int open_bus(struct loop *loop, const char *path, enum bus_side side, pid_t expected,
		    const struct bus_ops *ops, void *arg, struct bus **out)
{
	struct bus *bus = calloc(1, sizeof(*bus));
	int err;

	if (!bus)
		return -ENOMEM;
	bus->loop = loop;
	bus->side = side;
	bus->ops = ops;
	bus->arg = arg;
	bus->flush_fd = -1;
	lock_init(&bus->lock);
	lock_take(&bus->lock);
	bus->expected = expected;
	lock_drop(&bus->lock);
	loop_bh_init(&bus->pipe_bh, loop, bus_recv_pipe_changed, bus);
	err = nng_pair0_open(&bus->sock);
	if (err) {
		lock_destroy(&bus->lock);
		free(bus);
		return bus_nng_errno(err);
	}
	err = bus_pipe_init(bus);
	if (!err)
		err = bus_recv_init(bus);
	if (!err)
		err = bus_send_init(bus);
	if (!err)
		err = bus_request_init(bus);
	if (!err)
		bus->path = strdup(path);
	if (!err)
		err = bus->path ? bus_pipe_make(bus) : -ENOMEM;
	if (err) {
		bus_close(bus);
		return err;
	}
	*out = bus;
	return 0;
}

int bus_listen(struct loop *loop, const char *path, pid_t peer_pid, const struct bus_ops *ops, void *arg,
	       struct bus **out)
{
	return open_bus(loop, path, BUS_SUPERVISOR, peer_pid, ops, arg, out);
}

int bus_dial(struct loop *loop, const char *path, const struct bus_ops *ops, void *arg, struct bus **out)
{
	return open_bus(loop, path, BUS_CHILD, 0, ops, arg, out);
}

void bus_close(struct bus *bus)
{
	if (!bus || bus->closed)
		return;
	bus_enter(bus);
	bus->closed = true;
	bus->pipe = 0;
	bus_send_drop(bus);
	bus_request_end_all(bus, -ECANCELED);
	loop_del_timer(bus->timer);
	loop_del_timer(bus->retry);
	loop_del_timer(bus->cut_timer);
	loop_del_timer(bus->calm);
	loop_del_fd(bus->recv_fd);
	loop_del_fd(bus->send_fd);
	/* Returns when no thread of nng's is or will be in pipe_event. */
	nng_close(bus->sock);
	loop_bh_cancel(&bus->pipe_bh);
	if (bus->held)
		nng_msg_free(bus->held);
	bus->held = NULL;
	bus_leave(bus);
}

bool bus_is_connected(const struct bus *bus)
{
	return bus->pipe;
}

bool bus_is_fenced(const struct bus *bus)
{
	return bus->fenced;
}

void bus_get_counters(const struct bus *bus, struct bus_counters *out)
{
	*out = bus->counters;
	out->refused_peers = atomic_load_explicit(&bus->refused_peers, memory_order_relaxed);
}
