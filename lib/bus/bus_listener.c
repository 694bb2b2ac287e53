/* SPDX-License-Identifier: Apache-2.0 */
#include "bus_listener.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "bus_wire.h"
#include "clock.h"

#define AGAIN_NS (100 * NS_PER_MS) /* after an error of the process's, as too many descriptors */

struct bus_listener {
	nng_stream_listener *listener;
	nng_aio *aio;
	struct loop_bh bh;
	struct loop_timer *again;
	bus_listener_fn fn;
	void *arg;
};

/* On a thread of nng's. */
static void accept_done(void *arg)
{
	struct bus_listener *l = arg;

	loop_bh_post(&l->bh);
}

static void accept_next(void *arg)
{
	struct bus_listener *l = arg;

	nng_stream_listener_accept(l->listener, l->aio);
}

static void accepted(void *arg)
{
	struct bus_listener *l = arg;
	int err = nng_aio_result(l->aio);
	nng_stream *stream = err ? NULL : nng_aio_get_output(l->aio, 0);

	if (!err)
		accept_next(l);
	else
		loop_arm_timer(l->again, clock_ns() + AGAIN_NS);
	if (stream)
		l->fn(l->arg, stream);
}

static int listen_at(struct bus_listener *l, const char *path, unsigned mode)
{
	struct stat st;
	char url[160];
	int err = bus_wire_url(path, url, sizeof(url));

	if (err)
		return err;
	if (lstat(path, &st) == 0) {
		/* nng would remove whatever is there and does not answer, be it a socket or not. */
		if (!S_ISSOCK(st.st_mode))
			return -EADDRINUSE;
		/* It asks, and must be let in: somebody may have died while it was closed. */
		(void)!chmod(path, mode);
	}
	err = nng_stream_listener_alloc(&l->listener, url);
	/* nng sets the mode between bind and listen, so nobody can connect before. */
	if (!err)
		err = nng_stream_listener_set_int(l->listener, NNG_OPT_IPC_PERMISSIONS, (int)mode);
	if (!err)
		err = nng_stream_listener_listen(l->listener);
	return bus_nng_errno(err);
}

int bus_listener_new(struct loop *loop, const char *path, unsigned mode, bus_listener_fn fn, void *arg,
		     struct bus_listener **out)
{
	struct bus_listener *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return -ENOMEM;
	l->fn = fn;
	l->arg = arg;
	bus_wire_learn_uid();
	loop_bh_init(&l->bh, loop, accepted, l);
	err = bus_nng_errno(nng_aio_alloc(&l->aio, accept_done, l));
	if (!err)
		err = loop_add_timer(loop, accept_next, l, &l->again);
	if (!err)
		err = listen_at(l, path, mode);
	if (err) {
		bus_listener_free(l);
		return err;
	}
	accept_next(l);
	*out = l;
	return 0;
}

void bus_listener_free(struct bus_listener *l)
{
	if (!l)
		return;
	if (l->listener)
		nng_stream_listener_close(l->listener);
	nng_aio_stop(l->aio); /* waits for the callback */
	loop_bh_cancel(&l->bh);
	/* Who came, and was not told of. */
	if (l->aio && nng_aio_result(l->aio) == 0 && nng_aio_get_output(l->aio, 0))
		nng_stream_free(nng_aio_get_output(l->aio, 0));
	nng_aio_free(l->aio);
	if (l->listener)
		nng_stream_listener_free(l->listener);
	loop_del_timer(l->again);
	free(l);
}
