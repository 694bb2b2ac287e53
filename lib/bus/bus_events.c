/* SPDX-License-Identifier: Apache-2.0 */
/* Events: the publisher, and a reader that blocks. */
#include "bus_events.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bulkhead.pb-c.h"
#include "bus_client.h"
#include "bus_conn.h"
#include "bus_listener.h"
#include "clock.h"
#include "num.h"

#define EVENT_MAX 1024 /* bytes of an encoded event */
#define OPEN_NS   (5 * NS_PER_S)
#define CLOSE_NS  (100 * NS_PER_MS) /* for what waits to be sent, of all readers together */

struct bus_events {
	struct loop *loop;
	struct bus_listener *listener;
	struct bus_conn *reader[BUS_EVENTS_READERS]; /* NULL: none */
	uint64_t seq;
};

struct bus_events_reader {
	struct bus_client *client;
	struct bus_arena arena;
};

static struct bus_conn **find(struct bus_events *events, const struct bus_conn *conn)
{
	for (size_t i = 0; i < BUS_EVENTS_READERS; i++)
		if (events->reader[i] == conn)
			return &events->reader[i];
	return NULL;
}

static void on_ended(void *arg, struct bus_conn *conn)
{
	*find(arg, conn) = NULL;
	bus_conn_free(conn);
}

/* A reader has nothing to say. */
static void on_message(void *arg, struct bus_conn *conn, const uint8_t *data, size_t len)
{
	(void)data;
	(void)len;
	on_ended(arg, conn);
}

static const struct bus_conn_ops conn_ops = { on_message, on_ended };

static void on_knock(void *arg, nng_stream *stream)
{
	struct bus_events *events = arg;
	struct bus_conn **place = find(events, NULL);

	if (!place || !bus_wire_peer(stream).ours)
		nng_stream_free(stream);
	else if (bus_conn_new(events->loop, stream, 0, &conn_ops, events, place))
		*place = NULL;
	else
		bus_conn_read(*place, true);
}

int bus_events_listen(struct loop *loop, const char *path, struct bus_events **out)
{
	struct bus_events *events = calloc(1, sizeof(*events));
	int err;

	if (!events)
		return -ENOMEM;
	events->loop = loop;
	err = bus_listener_new(loop, path, 0600, on_knock, events, &events->listener);
	if (err)
		bus_events_close(events);
	else
		*out = events;
	return err;
}

void bus_events_close(struct bus_events *events)
{
	uint64_t end = clock_ns() + CLOSE_NS;

	if (!events)
		return;
	bus_listener_free(events->listener);
	for (size_t i = 0; i < BUS_EVENTS_READERS; i++) {
		if (events->reader[i])
			bus_conn_flush(events->reader[i], end);
		bus_conn_free(events->reader[i]);
	}
	free(events);
}

static uint64_t wall_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* One that is too slow misses it. */
static int send_to(struct bus_conn *reader, const Bulkhead__Event *ev)
{
	struct bus_wire_message *m;
	int err = bus_wire_pack(&ev->base, EVENT_MAX, &m);

	if (!err && bus_conn_send(reader, m))
		free(m);
	return err;
}

int bus_events_publish(struct bus_events *events, const char *source, const char *kind, const char *text)
{
	Bulkhead__Event ev = BULKHEAD__EVENT__INIT;
	char cut[BUS_TEXT_MAX];
	int err = 0;

	if (!bus_wire_is_name(source, BUS_NAME_MAX) || !bus_wire_is_name(kind, BUS_NAME_MAX))
		return -EINVAL;
	strncpy(cut, text, sizeof(cut) - 1);
	cut[sizeof(cut) - 1] = '\0';
	ev.seq = ++events->seq;
	ev.mono_ns = clock_ns();
	ev.wall_ns = wall_ns();
	ev.source = (char *)(uintptr_t)source;
	ev.kind = (char *)(uintptr_t)kind;
	ev.text = cut;
	for (size_t i = 0; i < BUS_EVENTS_READERS && !err; i++)
		if (events->reader[i])
			err = send_to(events->reader[i], &ev);
	return err;
}

/* ---- the reader ---- */

int bus_events_open(const char *path, struct bus_events_reader **out)
{
	struct bus_events_reader *reader = calloc(1, sizeof(*reader));
	int err;

	if (!reader)
		return -ENOMEM;
	err = bus_client_open(path, EVENT_MAX, clock_ns() + OPEN_NS, &reader->client);
	if (err)
		free(reader);
	else
		*out = reader;
	return err;
}

int bus_events_read(struct bus_events_reader *reader, uint64_t timeout_ns, struct bus_events_item *out)
{
	const Bulkhead__Event *in;
	const uint8_t *data;
	uint64_t end;
	size_t len;
	int err;

	if (!num_add(clock_ns(), timeout_ns, &end))
		end = UINT64_MAX;
	err = bus_client_receive(reader->client, end, &data, &len);
	if (err)
		return err;
	in = (const void *)bus_wire_unpack(&reader->arena, &bulkhead__event__descriptor, data, len);
	if (!in || !bus_wire_get_name(out->source, sizeof(out->source), in->source) ||
	    !bus_wire_get_name(out->kind, sizeof(out->kind), in->kind) ||
	    !bus_wire_get_text(out->text, sizeof(out->text), in->text))
		return -EBADMSG;
	out->seq = in->seq;
	out->mono_ns = in->mono_ns;
	out->wall_ns = in->wall_ns;
	return 0;
}

void bus_events_reader_close(struct bus_events_reader *reader)
{
	if (!reader)
		return;
	bus_client_close(reader->client);
	free(reader);
}
