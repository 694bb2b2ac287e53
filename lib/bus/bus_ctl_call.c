/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line's endpoint, the client's side: one request, blocking.
 *
 * A connection can be lost with the supervisor alive: it makes its listener anew now and then (bus_wire_is_deaf), which
 * takes along who came in at that moment. So a request has a number, by which whoever asks again is told what became of
 * it. Another supervisor knows nothing of it, and must not be asked: it is told apart by its process id.
 */
#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/supplemental/util/platform.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "bulkhead.pb-c.h"
#include "bus_ctl.h"
#include "bus_wire.h"
#include "clean.h"
#include "clock.h"
#include "num.h"

#define DIAL_NS  (5 * NS_PER_S) /* for one attempt to be greeted */
#define AGAIN_NS (500 * NS_PER_MS)
#define AGAIN_MS 10
#define CALLS    3 /* at most, of which all but the first ask again */

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
	while (!req.id)
		if (getrandom(&req.id, sizeof(req.id), 0) != sizeof(req.id))
			return -EIO;
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
	atomic_bool lost;     /* the connection */
	_Atomic uint64_t pid; /* of who listens, 0 if not known */
};

/* On a thread of nng's. */
static void greeted(nng_pipe pipe, nng_pipe_ev ev, void *arg)
{
	struct exchange *x = arg;
	uint64_t pid;

	(void)ev;
	atomic_store(&x->pid, nng_pipe_get_uint64(pipe, NNG_OPT_IPC_PEER_PID, &pid) == 0 ? pid : 0);
}

/* Ends the wait if the connection is lost: nng must not send the request to whoever listens next. On a thread of nng's. */
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

static bool is_gone(uint64_t pid)
{
	return pid && kill((pid_t)pid, 0) < 0 && errno == ESRCH;
}

/*
 * Who comes while the listener is made anew finds no socket, or waits at one that goes. Nothing was sent yet, so it is
 * tried again whatever the request is. The time for that begins again when a listener goes that was there, for which an
 * attempt may have waited long.
 */
static int connect_to(nng_socket sock, const char *path, uint64_t to, uint64_t end_ns)
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
		    clock_ns() >= (err == -ETIMEDOUT ? end_ns : again_until) || is_gone(to))
			return err;
		nng_msleep(AGAIN_MS);
	}
}

/* One connection: m is sent if it is to the process `to`, or to any if that is 0. *to is then who it was. */
static int converse(nng_socket sock, struct exchange *x, const char *path, uint64_t *to, const nng_msg *m,
		    uint64_t end_ns, nng_msg **reply)
{
	int err = nng_pipe_notify(sock, NNG_PIPE_EV_ADD_PRE, greeted, x);
	uint64_t pid;
	nng_msg *copy;

	if (!err)
		err = nng_pipe_notify(sock, NNG_PIPE_EV_REM_POST, lost, x);
	if (!err)
		err = nng_socket_set_ms(sock, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE);
	err = err ? bus_nng_errno(err) : connect_to(sock, path, *to, end_ns);
	pid = atomic_load(&x->pid);
	if (*to && (err || pid != *to))
		return -ESRCH;
	if (err)
		return err;
	*to = pid;
	err = nng_msg_dup(&copy, m);
	return err ? bus_nng_errno(err) : exchange(sock, x, copy, end_ns, reply);
}

/* One call; -ESRCH if who was asked before is not there any more. */
static int call(const char *path, uint64_t *to, const nng_msg *m, uint64_t end_ns, nng_msg **reply)
{
	struct exchange x = { 0 };
	nng_socket sock;
	int err = nng_aio_alloc(&x.aio, NULL, NULL);

	if (err)
		return bus_nng_errno(err);
	err = nng_req0_open(&sock);
	if (err) {
		nng_aio_free(x.aio);
		return bus_nng_errno(err);
	}
	err = converse(sock, &x, path, to, m, end_ns, reply);
	nng_close(sock);
	nng_aio_free(x.aio);
	return err;
}

int bus_ctl_call(const char *path, const char *verb, size_t argc, const char *const *argv,
		 uint64_t timeout_ns, struct bus_ctl_result *result)
{
	nng_msg *m, *reply = NULL;
	uint64_t end, to = 0;
	int err = make_request(verb, argc, argv, &m), calls = 0;

	if (err)
		return err;
	if (!num_add(clock_ns(), timeout_ns, &end))
		end = UINT64_MAX;
	do
		err = call(path, &to, m, end, &reply);
	while (err == -EPIPE && to && ++calls < CALLS);
	nng_msg_free(m);
	if (err)
		return err == -ESRCH ? -EPIPE : err;
	err = take_reply(reply, result);
	nng_msg_free(reply);
	return err;
}
