/* SPDX-License-Identifier: Apache-2.0 */
/* Events: the publisher, and a reader that blocks. */
#include "bus_events.h"

#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <nng/protocol/pubsub0/sub.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bulkhead.pb-c.h"
#include "bus_wire.h"
#include "clock.h"
#include "num.h"

#define EVENT_MAX   1024 /* bytes of an encoded event */
#define READ_BUFFER 128  /* events kept for a reader that is busy */
#define OPEN_MS     5000 /* how long a publisher may take to greet */
#define CHECK_NS    (2 * NS_PER_S)

struct bus_events {
	nng_socket sock;
	nng_listener listener;
	char *path;
	uint64_t seq;
	uint64_t checked_ns; /* when it was last seen that the listener accepts */
	struct bus_wire_ear ear;
};

struct bus_events_reader {
	nng_socket sock;
	nng_aio *aio;
	atomic_bool lost; /* the publisher is gone */
	struct bus_arena arena;
};

/* On a thread of nng's. */
static void admit(nng_pipe pipe, nng_pipe_ev ev, void *arg)
{
	(void)ev;
	(void)arg;
	if (!bus_wire_peer_is_ours(pipe))
		nng_pipe_close(pipe);
}

/* A subscriber has nothing to say: nng ends the connection of one that does. */
static int listen_for_readers(struct bus_events *events)
{
	return bus_wire_listen(events->sock, events->path, 0600, 1, &events->listener);
}

/* Looks after the listener now and then; publishing goes on whatever comes of it. */
static void check_listener(struct bus_events *events, uint64_t now)
{
	if (now - events->checked_ns < CHECK_NS)
		return;
	events->checked_ns = now;
	if (events->listener.id) {
		if (!bus_wire_is_deaf(events->listener, &events->ear))
			return;
		bus_wire_stop_listening(&events->listener);
	}
	events->ear = (struct bus_wire_ear) { 0 };
	listen_for_readers(events);
}

int bus_events_listen(const char *path, struct bus_events **out)
{
	struct bus_events *events = calloc(1, sizeof(*events));
	int err;

	if (!events)
		return -ENOMEM;
	err = nng_pub0_open(&events->sock);
	if (err) {
		free(events);
		return bus_nng_errno(err);
	}
	err = bus_nng_errno(nng_pipe_notify(events->sock, NNG_PIPE_EV_ADD_PRE, admit, NULL));
	if (!err && !(events->path = strdup(path)))
		err = -ENOMEM;
	if (!err)
		err = listen_for_readers(events);
	if (err)
		bus_events_close(events);
	else
		*out = events;
	return err;
}

void bus_events_close(struct bus_events *events)
{
	if (!events)
		return;
	nng_close(events->sock);
	free(events->path);
	free(events);
}

static uint64_t wall_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

int bus_events_publish(struct bus_events *events, const char *source, const char *kind, const char *text)
{
	Bulkhead__Event ev = BULKHEAD__EVENT__INIT;
	char cut[BUS_TEXT_MAX];
	nng_msg *m;
	int err;

	if (!bus_wire_is_name(source, BUS_NAME_MAX) || !bus_wire_is_name(kind, BUS_NAME_MAX))
		return -EINVAL;
	strncpy(cut, text, sizeof(cut) - 1);
	cut[sizeof(cut) - 1] = '\0';
	ev.seq = ++events->seq;
	ev.mono_ns = clock_ns();
	check_listener(events, ev.mono_ns);
	ev.wall_ns = wall_ns();
	ev.source = (char *)(uintptr_t)source;
	ev.kind = (char *)(uintptr_t)kind;
	ev.text = cut;
	err = bus_wire_pack(&ev.base, EVENT_MAX, &m);
	if (err)
		return err;
	err = nng_sendmsg(events->sock, m, NNG_FLAG_NONBLOCK);
	if (err)
		nng_msg_free(m);
	return bus_nng_errno(err);
}

/* ---- the reader ---- */

/* On a thread of nng's. */
static void publisher_gone(nng_pipe pipe, nng_pipe_ev ev, void *arg)
{
	struct bus_events_reader *reader = arg;

	(void)pipe;
	(void)ev;
	atomic_store(&reader->lost, true);
	nng_aio_abort(reader->aio, NNG_ECONNRESET);
}

static int subscribe(struct bus_events_reader *reader, const char *path)
{
	int err = nng_socket_set(reader->sock, NNG_OPT_SUB_SUBSCRIBE, "", 0);

	if (!err)
		err = nng_socket_set_int(reader->sock, NNG_OPT_RECVBUF, READ_BUFFER);
	if (!err)
		err = nng_pipe_notify(reader->sock, NNG_PIPE_EV_REM_POST, publisher_gone, reader);
	return err ? bus_nng_errno(err) : bus_wire_dial(reader->sock, path, EVENT_MAX, OPEN_MS, NULL);
}

int bus_events_open(const char *path, struct bus_events_reader **out)
{
	struct bus_events_reader *reader = calloc(1, sizeof(*reader));
	int err;

	if (!reader)
		return -ENOMEM;
	err = nng_aio_alloc(&reader->aio, NULL, NULL);
	if (err) {
		free(reader);
		return bus_nng_errno(err);
	}
	err = nng_sub0_open(&reader->sock);
	if (err) {
		nng_aio_free(reader->aio);
		free(reader);
		return bus_nng_errno(err);
	}
	err = subscribe(reader, path);
	if (err)
		bus_events_reader_close(reader);
	else
		*out = reader;
	return err;
}

static int take(struct bus_events_reader *reader, nng_msg *m, struct bus_events_item *out)
{
	const Bulkhead__Event *in = (const void *)bus_wire_unpack(
	    &reader->arena, &bulkhead__event__descriptor, nng_msg_body(m), nng_msg_len(m));

	if (!in || !bus_wire_get_name(out->source, sizeof(out->source), in->source) ||
	    !bus_wire_get_name(out->kind, sizeof(out->kind), in->kind) ||
	    !bus_wire_get_text(out->text, sizeof(out->text), in->text))
		return -EBADMSG;
	out->seq = in->seq;
	out->mono_ns = in->mono_ns;
	out->wall_ns = in->wall_ns;
	return 0;
}

int bus_events_read(struct bus_events_reader *reader, uint64_t timeout_ns, struct bus_events_item *out)
{
	nng_msg *m;
	int err;

	/* What has arrived comes first, even from a publisher that is gone. */
	err = nng_recvmsg(reader->sock, &m, NNG_FLAG_NONBLOCK);
	if (err == NNG_EAGAIN && !atomic_load(&reader->lost)) {
		nng_aio_set_timeout(reader->aio, (nng_duration)MIN(timeout_ns / NS_PER_MS + 1, 86400000U));
		nng_recv_aio(reader->sock, reader->aio);
		/* If the end came between the look at lost and the wait, its abort found nothing to end. */
		if (atomic_load(&reader->lost))
			nng_aio_abort(reader->aio, NNG_ECONNRESET);
		nng_aio_wait(reader->aio);
		err = nng_aio_result(reader->aio);
		m = err ? NULL : nng_aio_get_msg(reader->aio);
	}
	if (err)
		return atomic_load(&reader->lost) && err != NNG_ETIMEDOUT ? -EPIPE : bus_nng_errno(err);
	err = take(reader, m, out);
	nng_msg_free(m);
	return err;
}

void bus_events_reader_close(struct bus_events_reader *reader)
{
	if (!reader)
		return;
	nng_close(reader->sock);
	nng_aio_free(reader->aio);
	free(reader);
}
