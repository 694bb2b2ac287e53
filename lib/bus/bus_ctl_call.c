/* SPDX-License-Identifier: Apache-2.0 */
/* The command line's endpoint, the client's side: one request, blocking. */
#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/supplemental/util/platform.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bulkhead.pb-c.h"
#include "bus_ctl.h"
#include "bus_wire.h"
#include "clean.h"
#include "clock.h"
#include "num.h"

#define DIAL_NS  (5 * NS_PER_S) /* for one attempt to be greeted */
#define AGAIN_NS (500 * NS_PER_MS)
#define AGAIN_MS 10

static int make_request(const char *verb, size_t argc, const char *const *argv, nng_msg **out)
{
	Bulkhead__CtlRequest req = BULKHEAD__CTL_REQUEST__INIT;
	char *args[BUS_CTL_ARGS_MAX];

	if (!bus_wire_is_name(verb, BUS_CTL_VERB_MAX) || argc > BUS_CTL_ARGS_MAX)
		return -EINVAL;
	for (size_t i = 0; i < argc; i++) {
		if (strlen(argv[i]) >= BUS_CTL_ARG_MAX)
			return -EINVAL;
		args[i] = (char *)(uintptr_t)argv[i];
	}
	req.verb = (char *)(uintptr_t)verb;
	req.n_arg = argc;
	req.arg = args;
	return bus_wire_pack(&req.base, 65536, out);
}

static int take_reply(nng_msg *m, struct bus_ctl_result *result)
{
	CLEAN_FREE struct bus_arena *arena = malloc(sizeof(*arena)); /* too large for a stack */
	const Bulkhead__CtlReply *in;

	if (!arena)
		return -ENOMEM;
	in = (const void *)bus_wire_unpack(arena, &bulkhead__ctl_reply__descriptor, nng_msg_body(m),
					   nng_msg_len(m));
	if (!in || in->err > 0 || in->err < -4095 || strlen(in->json) >= sizeof(result->json) ||
	    !bus_wire_get_text(result->text, sizeof(result->text), in->text))
		return -EBADMSG;
	result->err = in->err;
	memcpy(result->json, in->json, strlen(in->json) + 1);
	return 0;
}

struct exchange {
	nng_aio *aio;
	atomic_bool lost; /* the connection */
};

/* Ends the wait if the connection is lost: a request must not go to the next supervisor. On a thread of nng's. */
static void lost(nng_pipe pipe, nng_pipe_ev ev, void *arg)
{
	struct exchange *x = arg;

	(void)pipe;
	(void)ev;
	atomic_store(&x->lost, true);
	nng_aio_abort(x->aio, NNG_ECONNRESET);
}

/* What is left until end_ns, at least a little. */
static int left_ms(uint64_t end_ns)
{
	uint64_t now = clock_ns();

	return now < end_ns ? (int)MIN((end_ns - now) / NS_PER_MS + 1, 86400000U) : 1;
}

/* Sends and waits; m is used up. */
static int exchange(nng_socket sock, struct exchange *x, nng_msg *m, uint64_t end_ns, nng_msg **reply)
{
	nng_aio *aio = x->aio;
	nng_ctx ctx;
	int err = nng_ctx_open(&ctx, sock);

	if (err) {
		nng_msg_free(m);
		return bus_nng_errno(err);
	}
	nng_aio_set_timeout(aio, left_ms(end_ns));
	nng_aio_set_msg(aio, m);
	nng_ctx_send(ctx, aio);
	nng_aio_wait(aio);
	err = nng_aio_result(aio);
	if (err) {
		nng_msg_free(m);
		return bus_nng_errno(err);
	}
	nng_aio_set_timeout(aio, left_ms(end_ns));
	nng_ctx_recv(ctx, aio);
	/* If the end came before there was something to abort. */
	if (atomic_load(&x->lost))
		nng_aio_abort(aio, NNG_ECONNRESET);
	nng_aio_wait(aio);
	err = nng_aio_result(aio);
	if (!err)
		*reply = nng_aio_get_msg(aio);
	return bus_nng_errno(err);
}

/*
 * The other side makes its listener anew now and then (bus_wire_is_deaf): who comes in that moment finds no socket, or
 * waits at one that goes. Nothing was sent yet, so it is tried again whatever the request is. The time for that
 * begins again when a listener goes that was there, for which an attempt may have waited long.
 */
static int connect_to(nng_socket sock, const char *path, uint64_t end_ns)
{
	uint64_t again_until = MIN(end_ns, clock_ns() + AGAIN_NS);
	int err;

	for (;;) {
		err = bus_wire_dial(sock, path, BUS_CTL_JSON_MAX + 1024,
				    left_ms(MIN(end_ns, clock_ns() + DIAL_NS)), NULL);
		if (err == -EPIPE) {
			again_until = MIN(end_ns, clock_ns() + AGAIN_NS);
			err = -ECONNREFUSED;
		}
		if ((err != -ENOENT && err != -ECONNREFUSED && err != -ETIMEDOUT) ||
		    clock_ns() >= (err == -ETIMEDOUT ? end_ns : again_until))
			return err;
		nng_msleep(AGAIN_MS);
	}
}

static int call(nng_socket sock, struct exchange *x, const char *path, nng_msg *m, uint64_t end_ns,
		struct bus_ctl_result *result)
{
	nng_msg *reply = NULL;
	int err = nng_pipe_notify(sock, NNG_PIPE_EV_REM_POST, lost, x);

	if (!err)
		err = nng_socket_set_ms(sock, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE);
	err = err ? bus_nng_errno(err) : connect_to(sock, path, end_ns);
	if (err) {
		nng_msg_free(m);
		return err;
	}
	err = exchange(sock, x, m, end_ns, &reply);
	if (err)
		return err;
	err = take_reply(reply, result);
	nng_msg_free(reply);
	return err;
}

int bus_ctl_call(const char *path, const char *verb, size_t argc, const char *const *argv,
		 uint64_t timeout_ns, struct bus_ctl_result *result)
{
	struct exchange x = { 0 };
	uint64_t end;
	nng_socket sock;
	nng_msg *m;
	int err = make_request(verb, argc, argv, &m);

	if (err)
		return err;
	if (!num_add(clock_ns(), timeout_ns, &end))
		end = UINT64_MAX;
	err = nng_aio_alloc(&x.aio, NULL, NULL);
	if (err) {
		nng_msg_free(m);
		return bus_nng_errno(err);
	}
	err = nng_req0_open(&sock);
	if (err) {
		nng_msg_free(m);
		nng_aio_free(x.aio);
		return bus_nng_errno(err);
	}
	err = call(sock, &x, path, m, end, result);
	nng_close(sock);
	nng_aio_free(x.aio);
	return err;
}
