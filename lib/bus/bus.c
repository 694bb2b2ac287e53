/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An endpoint of the control bus: its life, and how its parts work together.
 *
 * Theory of operation
 *
 * One connection at a time is let in (bus_link.c); it brings and takes messages (bus_conn.c, bus_message.c), and all is done by
 * the loop's thread. What waits to be sent waits in the connection and goes with it, so nothing that was meant for one process
 * reaches its successor. What a process said before it died is handed over before its end is told.
 */
#include "bus.h"

#include <errno.h>
#include <stdlib.h>

#include "bus_priv.h"

void bus_enter(struct bus *bus)
{
	bus->depth++;
}

void bus_leave(struct bus *bus)
{
	if (--bus->depth || !bus->closed)
		return;
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
	bus->expected = expected;
	err = bus_message_init(bus);
	if (!err)
		err = bus_request_init(bus);
	if (!err)
		err = bus_link_init(bus, path);
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
	bus_link_close(bus);
	bus_request_end_all(bus, -ECANCELED);
	loop_del_timer(bus->timer);
	loop_del_timer(bus->calm);
	loop_del_timer(bus->open);
	bus_leave(bus);
}

bool bus_is_connected(const struct bus *bus)
{
	return bus->conn;
}

bool bus_is_fenced(const struct bus *bus)
{
	return bus->fenced;
}

void bus_get_counters(const struct bus *bus, struct bus_counters *out)
{
	*out = bus->counters;
}
