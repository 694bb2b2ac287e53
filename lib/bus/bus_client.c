/* SPDX-License-Identifier: Apache-2.0 */
#include "bus_client.h"

#include <errno.h>
#include <nng/supplemental/util/platform.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "num.h"

#define AGAIN_MS 10

struct bus_client {
	nng_stream *stream;
	nng_aio *aio;
	size_t begin, have; /* what is in buf and was not handed over */
	size_t size;
	uint8_t buf[];
};

/* Has what comes next end by then, or soon if that is past. */
static nng_aio *until(struct bus_client *c, uint64_t end_ns)
{
	uint64_t now = clock_ns();

	nng_aio_set_timeout(c->aio,
			    now < end_ns ? (nng_duration)MIN((end_ns - now) / NS_PER_MS + 1, 86400000U) : 1);
	return c->aio;
}

static int await(struct bus_client *c)
{
	nng_aio_wait(c->aio);
	return bus_nng_errno(nng_aio_result(c->aio));
}

/* As long as more wait to be taken than the kernel lets, it is tried again. */
static int dial(struct bus_client *c, nng_stream_dialer *dialer, uint64_t end_ns)
{
	int err;

	for (;;) {
		nng_stream_dialer_dial(dialer, until(c, end_ns));
		err = await(c);
		if (err != -EAGAIN || clock_ns() >= end_ns)
			break;
		nng_msleep(AGAIN_MS);
	}
	if (!err)
		c->stream = nng_aio_get_output(c->aio, 0);
	return err == -EAGAIN ? -ETIMEDOUT : err;
}

int bus_client_open(const char *path, size_t recv_max, uint64_t end_ns, struct bus_client **out)
{
	size_t size = recv_max + BUS_WIRE_HEAD;
	struct bus_client *c;
	nng_stream_dialer *dialer;
	char url[160];
	int err = bus_wire_url(path, url, sizeof(url));

	if (err)
		return err;
	/* nng calls a missing socket refused. */
	if (access(path, F_OK) < 0)
		return -errno;
	c = calloc(1, sizeof(*c) + size);
	if (!c)
		return -ENOMEM;
	c->size = size;
	err = bus_nng_errno(nng_aio_alloc(&c->aio, NULL, NULL));
	if (!err)
		err = bus_nng_errno(nng_stream_dialer_alloc(&dialer, url));
	if (!err) {
		err = dial(c, dialer, end_ns);
		nng_stream_dialer_free(dialer);
	}
	if (err)
		bus_client_close(c);
	else
		*out = c;
	return err;
}

void bus_client_close(struct bus_client *c)
{
	if (!c)
		return;
	if (c->stream) {
		nng_stream_close(c->stream);
		nng_stream_free(c->stream);
	}
	nng_aio_free(c->aio);
	free(c);
}

int bus_client_send(struct bus_client *c, const struct bus_wire_message *m, uint64_t end_ns)
{
	size_t sent = 0;

	while (sent < m->len) {
		nng_iov iov = { .iov_buf = (void *)(uintptr_t)(m->bytes + sent), .iov_len = m->len - sent };
		int err;

		nng_aio_set_iov(c->aio, 1, &iov);
		nng_stream_send(c->stream, until(c, end_ns));
		err = await(c);
		if (err)
			return err;
		sent += nng_aio_count(c->aio);
	}
	return 0;
}

int bus_client_receive(struct bus_client *c, uint64_t end_ns, const uint8_t **data, size_t *len)
{
	memmove(c->buf, c->buf + c->begin, c->have - c->begin);
	c->have -= c->begin;
	c->begin = 0;
	for (;;) {
		nng_iov iov = { .iov_buf = c->buf + c->have, .iov_len = c->size - c->have };
		int err;

		if (bus_wire_head(c->buf, c->have, len)) {
			if (*len > c->size - BUS_WIRE_HEAD)
				return -EMSGSIZE;
			if (*len <= c->have - BUS_WIRE_HEAD)
				break;
		}
		nng_aio_set_iov(c->aio, 1, &iov);
		nng_stream_recv(c->stream, until(c, end_ns));
		err = await(c);
		if (err)
			return err;
		c->have += nng_aio_count(c->aio);
	}
	*data = c->buf + BUS_WIRE_HEAD;
	c->begin = BUS_WIRE_HEAD + *len;
	return 0;
}
