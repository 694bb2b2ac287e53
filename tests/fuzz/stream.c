/* SPDX-License-Identifier: Apache-2.0 */
/* A stream of nng's without nng. */
#include "stream.h"

#include "fuzz.h"

struct operation {
	void (*done)(void *arg);
	void *arg;
	nng_iov iov;
	bool busy, stopped;
	int err;
	size_t moved;
};

static struct {
	struct operation *under_way[STREAM_WAYS];
	stream_begun_fn begun;
	unsigned lacking;
	bool there, closed;
	unsigned operations;
} stream;

int __wrap_nng_aio_alloc(nng_aio **aio, void (*done)(void *arg), void *arg);
void __wrap_nng_aio_free(nng_aio *aio);
void __wrap_nng_aio_stop(nng_aio *aio);
int __wrap_nng_aio_result(nng_aio *aio);
size_t __wrap_nng_aio_count(nng_aio *aio);
int __wrap_nng_aio_set_iov(nng_aio *aio, unsigned n, const nng_iov *iov);
void __wrap_nng_stream_recv(nng_stream *s, nng_aio *aio);
void __wrap_nng_stream_send(nng_stream *s, nng_aio *aio);
void __wrap_nng_stream_close(nng_stream *s);
void __wrap_nng_stream_free(nng_stream *s);

/* ---- for the target ---- */

nng_stream *stream_open(stream_begun_fn begun, unsigned lacking)
{
	MUST(!stream_left());
	memset(&stream, 0, sizeof(stream));
	stream.begun = begun;
	stream.lacking = lacking;
	stream.there = true;
	return (nng_stream *)(void *)&stream;
}

uint8_t *stream_waits(enum stream_way way, size_t *len)
{
	struct operation *o = stream.under_way[way];

	*len = o ? o->iov.iov_len : 0;
	return o ? o->iov.iov_buf : NULL;
}

static void end(enum stream_way way, int err, size_t moved)
{
	struct operation *o = stream.under_way[way];

	stream.under_way[way] = NULL;
	o->busy = false;
	o->err = err;
	o->moved = moved;
	o->done(o->arg);
}

void stream_moved(enum stream_way way, size_t n)
{
	end(way, 0, n);
}

void stream_fails(enum stream_way way, int err)
{
	end(way, err, 0);
}

unsigned stream_left(void)
{
	return stream.there + stream.operations;
}

/* ---- operations ---- */

int __wrap_nng_aio_alloc(nng_aio **aio, void (*done)(void *arg), void *arg)
{
	struct operation *o;

	if (stream.lacking && !--stream.lacking)
		return NNG_ENOMEM;
	o = calloc(1, sizeof(*o));
	o->done = done;
	o->arg = arg;
	stream.operations++;
	*aio = (nng_aio *)(void *)o;
	return 0;
}

static struct operation *of(nng_aio *aio)
{
	return (struct operation *)(void *)aio;
}

void __wrap_nng_aio_stop(nng_aio *aio)
{
	if (!aio)
		return;
	of(aio)->stopped = true;
	for (enum stream_way way = 0; way < STREAM_WAYS; way++)
		if (stream.under_way[way] == of(aio))
			end(way, NNG_ECANCELED, 0);
}

void __wrap_nng_aio_free(nng_aio *aio)
{
	if (!aio)
		return;
	MUST(of(aio)->stopped && !of(aio)->busy);
	stream.operations--;
	free(aio);
}

/* Neither means anything while nng has it. */
int __wrap_nng_aio_result(nng_aio *aio)
{
	MUST(!of(aio)->busy);
	return of(aio)->err;
}

size_t __wrap_nng_aio_count(nng_aio *aio)
{
	MUST(!of(aio)->busy);
	return of(aio)->moved;
}

int __wrap_nng_aio_set_iov(nng_aio *aio, unsigned n, const nng_iov *iov)
{
	MUST(n == 1 && !of(aio)->busy);
	of(aio)->iov = *iov;
	return 0;
}

/* ---- the stream ---- */

static void begin(enum stream_way way, nng_aio *aio)
{
	struct operation *o = of(aio);

	MUST(stream.there && !o->busy && !o->stopped && !stream.under_way[way]);
	MUST(o->iov.iov_len);
	o->busy = true;
	stream.under_way[way] = o;
	if (stream.closed)
		end(way, NNG_ECLOSED, 0);
	else
		stream.begun(way);
}

void __wrap_nng_stream_recv(nng_stream *s, nng_aio *aio)
{
	(void)s;
	begin(STREAM_IN, aio);
}

void __wrap_nng_stream_send(nng_stream *s, nng_aio *aio)
{
	(void)s;
	begin(STREAM_OUT, aio);
}

void __wrap_nng_stream_close(nng_stream *s)
{
	(void)s;
	stream.closed = true;
	for (enum stream_way way = 0; way < STREAM_WAYS; way++)
		if (stream.under_way[way])
			end(way, NNG_ECLOSED, 0);
}

void __wrap_nng_stream_free(nng_stream *s)
{
	(void)s;
	MUST(stream.there && !stream.under_way[STREAM_IN] && !stream.under_way[STREAM_OUT]);
	stream.there = false;
}
