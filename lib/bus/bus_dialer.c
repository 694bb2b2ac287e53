/* SPDX-License-Identifier: Apache-2.0 */
#include "bus_dialer.h"

#include <errno.h>
#include <stdlib.h>

#include "bus_wire.h"
#include "clock.h"
#include "num.h"

#define PAUSE_MIN_NS (5 * NS_PER_MS)
#define PAUSE_MAX_NS NS_PER_S

struct bus_dialer {
	nng_stream_dialer *dialer;
	nng_aio *aio;
	struct loop_bh bh;
	struct loop_timer *timer;
	uint64_t pause_ns; /* before it is dialled next */
	bool dialling;     /* nng has the aio, or we have not looked at what came of it */
	bus_dialer_fn fn;
	void *arg;
};

/* On a thread of nng's. */
static void dial_done(void *arg)
{
	struct bus_dialer *d = arg;

	loop_bh_post(&d->bh);
}

static void dial_now(void *arg)
{
	struct bus_dialer *d = arg;

	d->dialling = true;
	nng_stream_dialer_dial(d->dialer, d->aio);
}

void bus_dialer_dial(struct bus_dialer *d)
{
	uint64_t pause = d->pause_ns;

	d->pause_ns = MAX(MIN(2 * pause, PAUSE_MAX_NS), PAUSE_MIN_NS);
	if (pause)
		loop_arm_timer(d->timer, clock_ns() + pause);
	else
		dial_now(d);
}

void bus_dialer_settled(struct bus_dialer *d)
{
	d->pause_ns = PAUSE_MIN_NS;
}

static void dialled(void *arg)
{
	struct bus_dialer *d = arg;

	d->dialling = false;
	if (nng_aio_result(d->aio) == 0)
		d->fn(d->arg, nng_aio_get_output(d->aio, 0));
	else
		bus_dialer_dial(d);
}

int bus_dialer_new(struct loop *loop, const char *path, bus_dialer_fn fn, void *arg, struct bus_dialer **out)
{
	struct bus_dialer *d;
	char url[160];
	int err = bus_wire_url(path, url, sizeof(url));

	if (err)
		return err;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->fn = fn;
	d->arg = arg;
	loop_bh_init(&d->bh, loop, dialled, d);
	err = bus_nng_errno(nng_aio_alloc(&d->aio, dial_done, d));
	if (!err)
		err = bus_nng_errno(nng_stream_dialer_alloc(&d->dialer, url));
	if (!err)
		err = loop_add_timer(loop, dial_now, d, &d->timer);
	if (err) {
		bus_dialer_free(d);
		return err;
	}
	*out = d;
	return 0;
}

void bus_dialer_free(struct bus_dialer *d)
{
	if (!d)
		return;
	if (d->dialer)
		nng_stream_dialer_close(d->dialer);
	nng_aio_stop(d->aio); /* waits for the callback */
	loop_bh_cancel(&d->bh);
	/* What came of it, and was not told of. */
	if (d->dialling && nng_aio_result(d->aio) == 0)
		nng_stream_free(nng_aio_get_output(d->aio, 0));
	nng_aio_free(d->aio);
	if (d->dialer)
		nng_stream_dialer_free(d->dialer);
	loop_del_timer(d->timer);
	free(d);
}
