/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why streams, and not nng's sockets: nng 1.5.2 loses a receive if it closes a connection, because a send failed or for any
 * other reason, between the head and the body of a message that comes in. Its reaper then waits for that receive for ever: no
 * connection of the process is ever closed again, no socket gets another one, and closing a socket never returns. Here an
 * aio is submitted, stopped and freed by one thread, so none is lost.
 *
 * Each direction has one aio. Its callback, on a thread of nng's, marks it done and posts to the loop. There is always a
 * receive under way: nng's poller spins on a connection that is gone and that no receive has ever had to wait for.
 */
#include "bus_conn.h"

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "num.h"

#define BATCH 16 /* messages handed over at once: others' turn comes in between */

/* One direction. */
struct way {
	struct bus_conn *conn;
	nng_aio *aio;
	bool busy;        /* nng has the aio, or we have not looked at what came of it */
	atomic_bool done; /* nng is through with it */
};

struct bus_conn {
	const struct bus_conn_ops *ops;
	void *arg;
	nng_stream *stream;
	struct loop_bh bh;
	struct way in, out;
	sem_t moved;    /* posted by each send that is done */
	unsigned depth; /* calls from the loop in progress; the memory stays while there are any */
	bool freed;

	bool reads; /* messages are handed over */
	bool over;  /* nothing more will come */
	bool told;  /* ... which was said */

	struct bus_wire_message *queue[BUS_CONN_SEND_MAX];
	unsigned first, count;
	size_t sent; /* bytes of the first */
	bool broken; /* nothing can be sent any more */

	size_t begin, have; /* what is in buf and was not handed over */
	size_t size;        /* of it: one message of the largest size */
	uint8_t buf[];
};

/* On a thread of nng's. */
static void way_done(void *arg)
{
	struct way *way = arg;
	struct bus_conn *c = way->conn;

	atomic_store(&way->done, true);
	if (way == &c->out)
		sem_post(&c->moved);
	loop_bh_post(&c->bh);
}

/* Whether nng is through with it; *n is then how many bytes were moved, or *err why none. */
static bool is_through(struct way *way, int *err, size_t *n)
{
	if (!way->busy || !atomic_exchange(&way->done, false))
		return false;
	way->busy = false;
	*err = nng_aio_result(way->aio);
	*n = nng_aio_count(way->aio);
	return true;
}

static nng_aio *prepare(struct way *way, void *buf, size_t len)
{
	nng_iov iov = { .iov_buf = buf, .iov_len = len };

	way->busy = true;
	nng_aio_set_iov(way->aio, 1, &iov);
	return way->aio;
}

/* ---- what comes in ---- */

/* Nothing more is taken of it, nor what was not handed over. */
static void give_up(struct bus_conn *c)
{
	c->over = true;
	c->begin = c->have;
}

/* The first message that was not handed over, if all of it is there. One that is too long ends the connection. */
static bool next_message(struct bus_conn *c, size_t *len)
{
	size_t n = c->have - c->begin;

	if (!bus_wire_head(c->buf + c->begin, n, len))
		return false;
	if (*len > c->size - BUS_WIRE_HEAD) {
		give_up(c);
		return false;
	}
	return *len <= n - BUS_WIRE_HEAD;
}

static void receive_more(struct bus_conn *c)
{
	if (c->begin)
		memmove(c->buf, c->buf + c->begin, c->have - c->begin);
	c->have -= c->begin;
	c->begin = 0;
	if (c->have < c->size)
		nng_stream_recv(c->stream, prepare(&c->in, c->buf + c->have, c->size - c->have));
	else if (!c->reads)
		give_up(c);
}

static void take_in(struct bus_conn *c)
{
	size_t n, len;
	unsigned batch = 0;
	int err;

	/* A receive may have been under way when it was given up. */
	if (is_through(&c->in, &err, &n) && !c->over) {
		c->over = err != 0;
		c->have += err ? 0 : n;
	}
	while (c->reads && batch++ < BATCH && next_message(c, &len)) {
		c->begin += BUS_WIRE_HEAD + len;
		c->ops->message(c->arg, c, c->buf + c->begin - len, len);
	}
	if (c->freed)
		return;
	if (!c->over && !c->in.busy)
		receive_more(c);
	if (next_message(c, &len)) {
		if (c->reads)
			loop_bh_post(&c->bh);
	} else if (c->over && !c->told) {
		c->told = true;
		c->ops->ended(c->arg, c);
	}
}

/* ---- what goes out ---- */

static void drop(struct bus_conn *c)
{
	for (; c->count; c->count--)
		free(c->queue[c->first++ % BUS_CONN_SEND_MAX]);
	c->sent = 0;
}

static void send_more(struct bus_conn *c)
{
	struct bus_wire_message *m = c->queue[c->first % BUS_CONN_SEND_MAX];

	if (c->count && !c->out.busy)
		nng_stream_send(c->stream, prepare(&c->out, m->bytes + c->sent, m->len - c->sent));
}

static void give_out(struct bus_conn *c)
{
	size_t n;
	int err;

	if (!is_through(&c->out, &err, &n))
		return;
	sem_trywait(&c->moved);
	if (err) {
		c->broken = true;
		drop(c);
		/* A peer that is gone left what is still to be read. One that is not is to come again. */
		if (err != NNG_ECLOSED && err != NNG_ECONNRESET && err != NNG_ECONNSHUT) {
			give_up(c);
			loop_bh_post(&c->bh);
		}
		return;
	}
	c->sent += n;
	if (c->sent == c->queue[c->first % BUS_CONN_SEND_MAX]->len) {
		free(c->queue[c->first++ % BUS_CONN_SEND_MAX]);
		c->count--;
		c->sent = 0;
	}
	send_more(c);
}

int bus_conn_send(struct bus_conn *c, struct bus_wire_message *m)
{
	give_out(c); /* what left meanwhile makes room */
	if (c->broken)
		return -EPIPE;
	if (c->count == BUS_CONN_SEND_MAX)
		return -EAGAIN;
	c->queue[(c->first + c->count++) % BUS_CONN_SEND_MAX] = m;
	send_more(c);
	return 0;
}

int bus_conn_flush(struct bus_conn *c, uint64_t end_ns)
{
	struct timespec end = { .tv_sec = (time_t)(end_ns / NS_PER_S), .tv_nsec = (long)(end_ns % NS_PER_S) };

	for (;;) {
		give_out(c);
		if (!c->count)
			return c->broken ? -EPIPE : 0;
		if (sem_clockwait(&c->moved, CLOCK_MONOTONIC, &end) < 0 && errno == ETIMEDOUT)
			return -ETIMEDOUT;
	}
}

/* ---- its life ---- */

static void leave(struct bus_conn *c)
{
	if (--c->depth || !c->freed)
		return;
	sem_destroy(&c->moved);
	free(c);
}

static void advance(void *arg)
{
	struct bus_conn *c = arg;

	c->depth++;
	give_out(c);
	take_in(c);
	leave(c);
}

void bus_conn_read(struct bus_conn *c, bool on)
{
	if (on && !c->reads)
		loop_bh_post(&c->bh);
	c->reads = on;
}

void bus_conn_free(struct bus_conn *c)
{
	if (!c || c->freed)
		return;
	c->depth++;
	c->freed = true;
	c->reads = false;
	nng_stream_close(c->stream);
	/* These wait for the callbacks. */
	nng_aio_stop(c->in.aio);
	nng_aio_stop(c->out.aio);
	nng_aio_free(c->in.aio);
	nng_aio_free(c->out.aio);
	nng_stream_free(c->stream);
	loop_bh_cancel(&c->bh);
	drop(c);
	leave(c);
}

static int open_way(struct way *way, struct bus_conn *c)
{
	way->conn = c;
	return nng_aio_alloc(&way->aio, way_done, way);
}

int bus_conn_new(struct loop *loop, nng_stream *stream, size_t recv_max, const struct bus_conn_ops *ops,
		 void *arg, struct bus_conn **out)
{
	size_t size = recv_max + BUS_WIRE_HEAD;
	struct bus_conn *c = calloc(1, sizeof(*c) + size);

	if (!c) {
		nng_stream_free(stream);
		return -ENOMEM;
	}
	c->stream = stream;
	c->ops = ops;
	c->arg = arg;
	c->size = size;
	sem_init(&c->moved, 0, 0);
	loop_bh_init(&c->bh, loop, advance, c);
	if (open_way(&c->in, c) || open_way(&c->out, c)) {
		bus_conn_free(c);
		return -ENOMEM;
	}
	loop_bh_post(&c->bh);
	*out = c;
	return 0;
}
