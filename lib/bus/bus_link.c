/* SPDX-License-Identifier: Apache-2.0 */
/* The connection of a control bus endpoint: who is let in, when it begins and ends, and making it again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bus_priv.h"
#include "clock.h"
#include "num.h"

/* Whoever reaches the folder may knock: a child has a user of its own, and its pid is what counts. */
#define MODE_OPEN 0666

/* From the end of a connection until the kernel takes the next one: who hangs up all the time is to keep nobody busy. */
#define OPEN_NS (5 * NS_PER_MS)

/* A process that has its connection could keep nng's threads busy with others, none of which would be let in: the kernel
 * refuses them. Should this fail, they are refused later. */
static void set_mode(const struct bus *bus, unsigned mode)
{
	if (bus->listener)
		(void)!chmod(bus->path, mode);
}

static void open_again(void *arg)
{
	const struct bus *bus = arg;

	if (!bus->conn && !bus->fenced)
		set_mode(bus, MODE_OPEN);
}

/* ---- a connection begins and ends ---- */

static void begin(struct bus *bus, struct bus_conn *conn)
{
	bus->conn = conn;
	bus_conn_read(conn, true);
	set_mode(bus, 0);
	if (bus->ops->connected)
		bus->ops->connected(bus->arg, true);
}

void bus_link_drop(struct bus *bus)
{
	if (!bus->conn)
		return;
	bus_conn_free(bus->conn);
	bus->conn = NULL;
	loop_disarm_timer(bus->calm);
	if (bus->listener)
		loop_arm_timer(bus->open, clock_ns() + OPEN_NS);
	bus_request_end_all(bus, -EPIPE);
	if (!bus->closed && bus->ops->connected)
		bus->ops->connected(bus->arg, false);
}

static void on_message(void *arg, struct bus_conn *conn, const uint8_t *data, size_t len)
{
	struct bus *bus = arg;

	(void)conn;
	bus_enter(bus);
	bus_message_take(bus, data, len);
	bus_leave(bus);
}

static void forget_early(struct bus *bus)
{
	for (size_t i = 0; i < BUS_EARLY_MAX; i++) {
		bus_conn_free(bus->early[i].conn);
		bus->early[i].conn = NULL;
	}
}

static void on_ended(void *arg, struct bus_conn *conn)
{
	struct bus *bus = arg;

	bus_enter(bus);
	for (size_t i = 0; i < BUS_EARLY_MAX; i++)
		if (bus->early[i].conn == conn) {
			bus_conn_free(conn);
			bus->early[i].conn = NULL;
		}
	if (bus->conn == conn) {
		bus_link_drop(bus);
		if (!bus->closed && bus->dialer)
			bus_dialer_dial(bus->dialer);
	}
	bus_leave(bus);
}

static const struct bus_conn_ops conn_ops = { on_message, on_ended };

/* ---- the supervisor's side ---- */

static bool is_expected(const struct bus *bus, const struct bus_wire_peer *peer)
{
	if (bus->expected == BUS_NOBODY)
		return false;
	return bus->expected ? peer->pid == (uint64_t)bus->expected : peer->ours;
}

/* Where a connection may wait to be expected; NULL if there is no place, or somebody else has been let in. */
static struct bus_early *find_place(struct bus *bus)
{
	for (size_t i = 0; i < BUS_EARLY_MAX && !bus->conn && !bus->fenced; i++)
		if (!bus->early[i].conn)
			return &bus->early[i];
	return NULL;
}

static void refuse_early(struct bus *bus)
{
	for (size_t i = 0; i < BUS_EARLY_MAX; i++)
		bus->counters.refused_peers += bus->early[i].conn != NULL;
	forget_early(bus);
}

static void let_in(struct bus *bus, struct bus_conn *conn)
{
	refuse_early(bus);
	begin(bus, conn);
}

static void on_knock(void *arg, nng_stream *stream)
{
	struct bus_wire_peer peer = bus_wire_peer(stream);
	struct bus *bus = arg;
	struct bus_early *place = find_place(bus);
	struct bus_conn *conn;
	bool now = !bus->conn && is_expected(bus, &peer);

	if (!now && !place) {
		bus->counters.refused_peers++;
		nng_stream_free(stream);
		return;
	}
	if (bus_conn_new(bus->loop, stream, BUS_MSG_MAX, &conn_ops, bus, &conn))
		return; /* it comes again */
	if (!now) {
		*place = (struct bus_early) { conn, peer };
		return;
	}
	bus_enter(bus);
	let_in(bus, conn);
	bus_leave(bus);
}

/* Lets in who came before he was expected. */
static void admit_early(struct bus *bus)
{
	struct bus_conn *conn = NULL;

	for (size_t i = 0; i < BUS_EARLY_MAX && !conn; i++)
		if (bus->early[i].conn && is_expected(bus, &bus->early[i].peer)) {
			conn = bus->early[i].conn;
			bus->early[i].conn = NULL;
		}
	if (conn)
		let_in(bus, conn);
	else if (bus->expected == BUS_NOBODY)
		refuse_early(bus);
}

void bus_expect(struct bus *bus, pid_t peer_pid)
{
	bus_enter(bus);
	bus->expected = BUS_NOBODY;
	bus_link_drop(bus);
	if (!bus->closed) {
		bus->fenced = false;
		bus->malformed = 0;
		bus->unasked_ns = 0;
		bus->expected = peer_pid;
		open_again(bus);
		admit_early(bus);
	}
	bus_leave(bus);
}

/* ---- the child's side ---- */

static void on_dialled(void *arg, nng_stream *stream)
{
	struct bus *bus = arg;
	struct bus_conn *conn;

	if (bus_conn_new(bus->loop, stream, BUS_MSG_MAX, &conn_ops, bus, &conn)) {
		bus_dialer_dial(bus->dialer);
		return;
	}
	bus_enter(bus);
	begin(bus, conn);
	bus_leave(bus);
}

int bus_link_init(struct bus *bus, const char *path)
{
	int err;

	if (bus->side == BUS_SUPERVISOR) {
		bus->path = strdup(path);
		if (!bus->path)
			return -ENOMEM;
		err = loop_add_timer(bus->loop, open_again, bus, &bus->open);
		return err ? err
			   : bus_listener_new(bus->loop, path, MODE_OPEN, on_knock, bus, &bus->listener);
	}
	err = bus_dialer_new(bus->loop, path, on_dialled, bus, &bus->dialer);
	if (!err)
		bus_dialer_dial(bus->dialer);
	return err;
}

void bus_link_close(struct bus *bus)
{
	bus_listener_free(bus->listener);
	bus->listener = NULL;
	bus_dialer_free(bus->dialer);
	forget_early(bus);
	bus_conn_free(bus->conn);
	bus->conn = NULL;
	free(bus->path);
}
