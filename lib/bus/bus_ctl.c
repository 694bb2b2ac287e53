/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line's endpoint, the supervisor's side.
 *
 * Each client has a slot: it makes one request, and closes the connection when it has its answer. One that is gone before
 * leaves its slot to the handler, which owes an answer nevertheless. If all slots are taken, the client goes that has been
 * silent longest.
 */
#include "bus_ctl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bulkhead.pb-c.h"
#include "bus_conn.h"
#include "bus_listener.h"
#include "num.h"

#define REQUEST_MAX 8192 /* bytes of an encoded request */

enum slot_state {
	SLOT_FREE,
	SLOT_SILENT,   /* it has not asked yet */
	SLOT_HANDLED,  /* the handler owes an answer; bus_ctl_answer or bus_ctl_refuse end it */
	SLOT_ANSWERED, /* it has not closed its connection yet */
};

struct bus_ctl_request {
	struct bus_ctl *ctl;
	enum slot_state state;
	struct bus_conn *conn; /* NULL: the client is gone */
	uint64_t number;       /* of the connection */
};

struct bus_ctl {
	struct loop *loop;
	struct bus_listener *listener;
	bus_ctl_fn fn;
	void *arg;
	bool closed;
	unsigned depth; /* handlers in progress; the memory stays while there are any */
	uint64_t malformed, refused_peers;
	uint64_t number; /* of the last connection */
	struct bus_ctl_request slot[BUS_CTL_CLIENTS];
	struct bus_arena arena;
};

/* The client is gone, or to go. */
static void part(struct bus_ctl_request *req)
{
	bus_conn_free(req->conn);
	req->conn = NULL;
	if (req->state != SLOT_HANDLED)
		req->state = SLOT_FREE;
}

/* Sends an answer; text and json are within their limits. */
static void answer(struct bus_ctl_request *req, int err, const char *text, const char *json)
{
	Bulkhead__CtlReply reply = BULKHEAD__CTL_REPLY__INIT;
	struct bus_wire_message *m;

	reply.err = err;
	reply.text = (char *)(uintptr_t)text;
	reply.json = (char *)(uintptr_t)json;
	req->state = SLOT_ANSWERED;
	if (!req->conn || bus_wire_pack(&reply.base, BUS_CTL_JSON_MAX + 1024, &m)) {
		part(req);
		return;
	}
	if (bus_conn_send(req->conn, m)) {
		free(m);
		part(req);
	}
}

void bus_ctl_answer(struct bus_ctl_request *req, const char *json)
{
	if (json && strlen(json) >= BUS_CTL_JSON_MAX)
		bus_ctl_refuse(req, -EMSGSIZE, "the answer is too long");
	else
		answer(req, 0, "", json ? json : "{}");
}

void bus_ctl_refuse(struct bus_ctl_request *req, int err, const char *text)
{
	char cut[BUS_CTL_TEXT_MAX];

	strncpy(cut, text, sizeof(cut) - 1);
	cut[sizeof(cut) - 1] = '\0';
	answer(req, err < 0 ? err : -EIO, cut, "");
}

/* True if every word is within its limits and has no control characters. */
static bool is_sound(const Bulkhead__CtlRequest *m)
{
	char word[BUS_CTL_ARG_MAX];

	if (!m || !bus_wire_is_name(m->verb, BUS_CTL_VERB_MAX) || m->n_arg > BUS_CTL_ARGS_MAX)
		return false;
	for (size_t i = 0; i < m->n_arg; i++)
		if (!bus_wire_get_text(word, sizeof(word), m->arg[i]) || strcmp(word, m->arg[i]) != 0)
			return false;
	return true;
}

static void release(struct bus_ctl *ctl)
{
	if (!--ctl->depth && ctl->closed)
		free(ctl);
}

static void handle(struct bus_ctl_request *req, const uint8_t *data, size_t len)
{
	struct bus_ctl *ctl = req->ctl;
	const Bulkhead__CtlRequest *in =
	    (const void *)bus_wire_unpack(&ctl->arena, &bulkhead__ctl_request__descriptor, data, len);

	req->state = SLOT_HANDLED;
	if (!is_sound(in)) {
		ctl->malformed++;
		bus_ctl_refuse(req, -EBADMSG, "malformed request");
		return;
	}
	ctl->fn(ctl->arg, req, in->verb, in->n_arg, (const char *const *)in->arg);
}

static void on_message(void *arg, struct bus_conn *conn, const uint8_t *data, size_t len)
{
	struct bus_ctl_request *req = arg;
	struct bus_ctl *ctl = req->ctl;

	(void)conn;
	if (req->state != SLOT_SILENT) {
		part(req); /* one request is all */
		return;
	}
	ctl->depth++;
	handle(req, data, len);
	release(ctl);
}

static void on_ended(void *arg, struct bus_conn *conn)
{
	(void)conn;
	part(arg);
}

static const struct bus_conn_ops conn_ops = { on_message, on_ended };

/* A free slot, or that of whoever came first of those that the handler owes nothing; NULL if there is none. */
static struct bus_ctl_request *take_slot(struct bus_ctl *ctl)
{
	struct bus_ctl_request *first = NULL;

	for (size_t i = 0; i < BUS_CTL_CLIENTS; i++) {
		struct bus_ctl_request *req = &ctl->slot[i];

		if (req->state == SLOT_FREE)
			return req;
		if (req->state != SLOT_HANDLED && (!first || req->number < first->number))
			first = req;
	}
	if (first)
		part(first);
	return first;
}

static void on_knock(void *arg, nng_stream *stream)
{
	struct bus_ctl *ctl = arg;
	struct bus_ctl_request *req;

	if (!bus_wire_peer(stream).ours) {
		ctl->refused_peers++;
		nng_stream_free(stream);
		return;
	}
	req = take_slot(ctl);
	if (!req) {
		nng_stream_free(stream);
		return;
	}
	if (bus_conn_new(ctl->loop, stream, REQUEST_MAX, &conn_ops, req, &req->conn)) {
		req->conn = NULL;
		return;
	}
	req->state = SLOT_SILENT;
	req->number = ++ctl->number;
	bus_conn_read(req->conn, true);
}

int bus_ctl_listen(struct loop *loop, const char *path, bus_ctl_fn fn, void *arg, struct bus_ctl **out)
{
	struct bus_ctl *ctl = calloc(1, sizeof(*ctl));
	int err;

	if (!ctl)
		return -ENOMEM;
	ctl->loop = loop;
	ctl->fn = fn;
	ctl->arg = arg;
	for (size_t i = 0; i < BUS_CTL_CLIENTS; i++)
		ctl->slot[i].ctl = ctl;
	err = bus_listener_new(loop, path, 0600, on_knock, ctl, &ctl->listener);
	if (err)
		bus_ctl_close(ctl);
	else
		*out = ctl;
	return err;
}

void bus_ctl_close(struct bus_ctl *ctl)
{
	if (!ctl || ctl->closed)
		return;
	ctl->depth++;
	ctl->closed = true;
	bus_listener_free(ctl->listener);
	for (size_t i = 0; i < BUS_CTL_CLIENTS; i++)
		part(&ctl->slot[i]);
	release(ctl);
}

void bus_ctl_get_counters(const struct bus_ctl *ctl, uint64_t *malformed, uint64_t *refused_peers)
{
	*malformed = ctl->malformed;
	*refused_peers = ctl->refused_peers;
}
