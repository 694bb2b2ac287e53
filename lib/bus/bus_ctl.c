/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line's endpoint, the supervisor's side.
 *
 * Each of BUS_CTL_PENDING slots has an nng context of the rep socket: it receives a request, waits for the handler's
 * answer, sends it and receives again. nng remembers which client a context owes its answer, and forgets it if the
 * client is gone. nng's callbacks only post to the loop.
 */
#include "bus_ctl.h"

#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bulkhead.pb-c.h"
#include "bus_wire.h"
#include "clock.h"
#include "num.h"

#define REQUEST_MAX 8192 /* bytes of an encoded request */
#define CHECK_NS    (2 * NS_PER_S)

enum slot_state {
	SLOT_RECEIVING, /* nng has the aio; ends with a request or, in bus_ctl_close, with an error */
	SLOT_HANDLED,   /* the handler owes an answer; bus_ctl_answer or bus_ctl_refuse end it */
	SLOT_SENDING,   /* nng has the aio; then receiving again */
};

struct bus_ctl_request {
	struct bus_ctl *ctl;
	enum slot_state state;
	nng_ctx ctx;
	nng_aio *aio;
	struct loop_bh bh; /* posted when the aio is done */
};

struct bus_ctl {
	nng_socket sock;
	nng_listener listener;
	char *path;
	struct loop_timer *check;
	struct bus_wire_ear ear;
	bus_ctl_fn fn;
	void *arg;
	bool closed;
	unsigned depth; /* handlers in progress; the memory stays while there are any */
	uint64_t malformed;
	_Atomic uint64_t refused_peers;
	struct bus_ctl_request slot[BUS_CTL_PENDING];
	struct bus_arena arena;
};

/* On a thread of nng's. */
static void aio_done(void *arg)
{
	struct bus_ctl_request *req = arg;

	loop_bh_post(&req->bh);
}

/* On a thread of nng's. */
static void admit(nng_pipe pipe, nng_pipe_ev ev, void *arg)
{
	struct bus_ctl *ctl = arg;

	(void)ev;
	if (bus_wire_peer_is_ours(pipe))
		return;
	atomic_fetch_add_explicit(&ctl->refused_peers, 1, memory_order_relaxed);
	nng_pipe_close(pipe);
}

static void receive(struct bus_ctl_request *req)
{
	req->state = SLOT_RECEIVING;
	nng_ctx_recv(req->ctx, req->aio);
}

/* Sends an answer; text and json are within their limits. */
static void answer(struct bus_ctl_request *req, int err, const char *text, const char *json)
{
	Bulkhead__CtlReply reply = BULKHEAD__CTL_REPLY__INIT;
	nng_msg *m;

	reply.err = err;
	reply.text = (char *)(uintptr_t)text;
	reply.json = (char *)(uintptr_t)json;
	if (bus_wire_pack(&reply.base, BUS_CTL_JSON_MAX + 1024, &m) != 0) {
		receive(req); /* no memory: the client meets its deadline */
		return;
	}
	req->state = SLOT_SENDING;
	nng_aio_set_msg(req->aio, m);
	nng_ctx_send(req->ctx, req->aio);
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

static void handle(struct bus_ctl_request *req, nng_msg *m)
{
	struct bus_ctl *ctl = req->ctl;
	const Bulkhead__CtlRequest *in = (const void *)bus_wire_unpack(
	    &ctl->arena, &bulkhead__ctl_request__descriptor, nng_msg_body(m), nng_msg_len(m));

	req->state = SLOT_HANDLED;
	if (!is_sound(in)) {
		ctl->malformed++;
		bus_ctl_refuse(req, -EBADMSG, "malformed request");
		return;
	}
	ctl->fn(ctl->arg, req, in->verb, in->n_arg, (const char *const *)in->arg);
}

static void release(struct bus_ctl *ctl)
{
	if (--ctl->depth || !ctl->closed)
		return;
	free(ctl->path);
	free(ctl);
}

/* The slot's aio is done. */
static void advance(void *arg)
{
	struct bus_ctl_request *req = arg;
	struct bus_ctl *ctl = req->ctl;
	int err = nng_aio_result(req->aio);
	nng_msg *m = nng_aio_get_msg(req->aio);

	if (req->state == SLOT_SENDING) {
		if (err)
			nng_msg_free(m);
		receive(req);
		return;
	}
	if (err) {
		/* Without memory for a message; anything else comes only from closing. */
		receive(req);
		return;
	}
	ctl->depth++;
	handle(req, m);
	nng_msg_free(m);
	release(ctl);
}

static int listen_for_clients(struct bus_ctl *ctl)
{
	return bus_wire_listen(ctl->sock, ctl->path, 0600, REQUEST_MAX, &ctl->listener);
}

/* Looks after the listener: a client that was killed at the wrong moment must not shut out all others. */
static void check_listener(void *arg)
{
	struct bus_ctl *ctl = arg;

	loop_arm_timer(ctl->check, clock_ns() + CHECK_NS);
	if (ctl->listener.id) {
		if (!bus_wire_is_deaf(ctl->listener, &ctl->ear))
			return;
		bus_wire_stop_listening(&ctl->listener);
	}
	ctl->ear = (struct bus_wire_ear) { 0 };
	listen_for_clients(ctl); /* if this fails, it is tried again */
}

static int open_slot(struct bus_ctl *ctl, struct loop *loop, struct bus_ctl_request *req)
{
	int err;

	req->ctl = ctl;
	loop_bh_init(&req->bh, loop, advance, req);
	err = nng_ctx_open(&req->ctx, ctl->sock);
	if (!err)
		err = nng_aio_alloc(&req->aio, aio_done, req);
	return bus_nng_errno(err);
}

static int start(struct bus_ctl *ctl, struct loop *loop, const char *path)
{
	int err = nng_pipe_notify(ctl->sock, NNG_PIPE_EV_ADD_PRE, admit, ctl);

	if (err)
		return bus_nng_errno(err);
	for (size_t i = 0; i < BUS_CTL_PENDING; i++) {
		err = open_slot(ctl, loop, &ctl->slot[i]);
		if (err)
			return err;
	}
	ctl->path = strdup(path);
	if (!ctl->path)
		return -ENOMEM;
	err = loop_add_timer(loop, check_listener, ctl, &ctl->check);
	if (!err)
		err = listen_for_clients(ctl);
	if (err)
		return err;
	loop_arm_timer(ctl->check, clock_ns() + CHECK_NS);
	for (size_t i = 0; i < BUS_CTL_PENDING; i++)
		receive(&ctl->slot[i]);
	return 0;
}

int bus_ctl_listen(struct loop *loop, const char *path, bus_ctl_fn fn, void *arg, struct bus_ctl **out)
{
	struct bus_ctl *ctl = calloc(1, sizeof(*ctl));
	int err;

	if (!ctl)
		return -ENOMEM;
	ctl->fn = fn;
	ctl->arg = arg;
	err = nng_rep0_open(&ctl->sock);
	if (err) {
		free(ctl);
		return bus_nng_errno(err);
	}
	err = start(ctl, loop, path);
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
	loop_del_timer(ctl->check);
	nng_close(ctl->sock); /* ends every aio; no admit after this */
	for (size_t i = 0; i < BUS_CTL_PENDING; i++) {
		struct bus_ctl_request *req = &ctl->slot[i];
		nng_msg *m;

		if (!req->aio)
			continue;
		nng_aio_stop(req->aio); /* waits for the callback */
		loop_bh_cancel(&req->bh);
		m = req->state == SLOT_HANDLED ? NULL : nng_aio_get_msg(req->aio);
		/* A message that was sent is nng's; one received or refused is ours. */
		if (m && (req->state == SLOT_SENDING) == (nng_aio_result(req->aio) != 0))
			nng_msg_free(m);
		nng_aio_free(req->aio);
	}
	release(ctl);
}

void bus_ctl_get_counters(const struct bus_ctl *ctl, uint64_t *malformed, uint64_t *refused_peers)
{
	*malformed = ctl->malformed;
	*refused_peers = atomic_load_explicit(&ctl->refused_peers, memory_order_relaxed);
}
