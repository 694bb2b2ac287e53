/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The commands of a connection to an NBD server: cut from transfers, sent, answered, and taken back when it breaks.
 *
 * A command is given to libnbd only while that is between two messages, and the next one not before the whole of it was
 * taken by the socket. So at the death of this process no more than one command can have been sent in part, and libnbd
 * has no list of its own whose end nobody knows. What was sent is noted for a successor before the answer can come.
 */
#include <errno.h>
#include <libnbd.h>

#include "log.h"
#include "nbd_priv.h"
#include "num.h"

#define LOSSES_MAX 8

static bool changes(const struct nbd_command *c)
{
	return c->op == ENGINE_WRITE || c->op == ENGINE_DISCARD || c->op == ENGINE_ZERO;
}

static void note(struct nbd_link *l, const struct nbd_command *c, uint64_t cookie) REQUIRES(l->lock)
{
	if (changes(c))
		atomic_store_explicit(&l->nbd->kept->sent[l->index][c - l->commands], cookie,
				      memory_order_release);
}

/* A write whose server has no way to make it stable by itself is followed by a flush. */
static bool needs_flush(const struct nbd_link *l, const struct engine_io *io)
{
	return io->dsync && !(l->nbd->flags & NBD_FUA) && l->nbd->flags & NBD_FLUSH;
}

static void finish_io(struct nbd_link *l, struct engine_io *io) REQUIRES(l->lock)
{
	struct nbd_io *n = nbd_io(io);

	if (n->out || (!n->err && n->cut < n->total))
		return;
	if (!n->err && !n->flushing && io->op != ENGINE_FSYNC && needs_flush(l, io)) {
		n->flushing = true;
		n->next = l->first;
		l->first = io;
		if (!l->last)
			l->last = io;
		return;
	}
	io->res = n->err ? n->err : (int64_t)n->total;
	nbd_engine_done(n->engine, io);
}

static void command_done(struct nbd_link *l, struct nbd_command *c, int err) REQUIRES(l->lock)
{
	struct engine_io *io = c->io;
	struct nbd_io *n = nbd_io(io);

	note(l, c, 0);
	if (l->sending == c)
		l->sending = NULL;
	l->nwaiting -= c->state == NBD_WAITING;
	c->state = NBD_FREE;
	if (err && !n->err)
		n->err = err;
	n->out--;
	/* One that has parts that are not cut yet is still first in line. */
	if (io != l->first)
		finish_io(l, io);
}

/* Called by libnbd, in one of the calls below, so the lock is held. */
static int on_answer(void *arg, int *error) NO_THREAD_SAFETY
{
	struct nbd_command *c = arg;
	struct nbd_link *l = c->link;

	/* The connection is gone, or is about to: it will be sent once more. */
	l->leaving |= *error == ESHUTDOWN;
	if (*error == ENOTCONN || *error == ESHUTDOWN || c->state != NBD_ISSUED)
		return 1;
	l->pause_ns = NBD_PAUSE_MIN_NS;
	if (!*error && c->op == ENGINE_READ && c->got != c->len) {
		log_warn_limited("the NBD server answers a read of %llu bytes with %llu",
				 (unsigned long long)c->len, (unsigned long long)c->got);
		*error = EIO;
	}
	command_done(l, c, -*error);
	return 1;
}

/* Data of a read, or zeroes; libnbd has put it where it belongs, and does not mind if some is never sent. */
static int on_data(void *arg, const void *buf, size_t len, uint64_t off, unsigned status, int *error)
{
	struct nbd_command *c = arg;

	(void)buf;
	(void)off;
	(void)error;
	if (status != LIBNBD_READ_ERROR)
		c->got += len;
	return 0;
}

static uint32_t flags_of(const struct nbd_link *l, const struct nbd_command *c)
{
	uint32_t flags = 0;

	if (changes(c) && c->io->dsync && l->nbd->flags & NBD_FUA)
		flags |= LIBNBD_CMD_FLAG_FUA;
	if (c->op == ENGINE_ZERO && !c->io->unmap)
		flags |= LIBNBD_CMD_FLAG_NO_HOLE;
	return flags;
}

static int64_t send_command(struct nbd_link *l, struct nbd_command *c) REQUIRES(l->lock)
{
	nbd_completion_callback done = { .callback = on_answer, .user_data = c };
	nbd_chunk_callback data = { .callback = on_data, .user_data = c };
	uint32_t flags = flags_of(l, c);

	switch (c->op) {
	case ENGINE_READ:
		c->got = 0;
		return nbd_aio_pread_structured(l->handle, c->buf, c->len, c->off, data, done, 0);
	case ENGINE_WRITE:
		return nbd_aio_pwrite(l->handle, c->buf, c->len, c->off, done, flags);
	case ENGINE_DISCARD:
		return nbd_aio_trim(l->handle, c->len, c->off, done, flags);
	case ENGINE_ZERO:
		return nbd_aio_zero(l->handle, c->len, c->off, done, flags);
	case ENGINE_FSYNC:
		break;
	}
	return nbd_aio_flush(l->handle, done, 0);
}

bool nbd_is_over(struct nbd_handle *h)
{
	return nbd_aio_is_dead(h) || nbd_aio_is_closed(h);
}

void nbd_see_sent(struct nbd_link *l)
{
	if (!l->sending || !nbd_aio_is_ready(l->handle))
		return;
	note(l, l->sending, l->sending->cookie);
	l->sending = NULL;
}

static void issue(struct nbd_link *l, struct nbd_command *c) REQUIRES(l->lock)
{
	int64_t cookie;

	note(l, c, NBD_SENDING);
	c->state = NBD_ISSUED;
	l->nwaiting--;
	l->sending = c;
	cookie = send_command(l, c);
	if (cookie < 0 && !nbd_is_over(l->handle)) {
		int err = nbd_get_errno();

		command_done(l, c, err ? -err : -EIO);
		return;
	}
	c->cookie = (uint64_t)cookie;
	nbd_see_sent(l);
}

/* Cuts the next command off the first transfer in line. */
static void cut(struct nbd_link *l, struct nbd_command *c) REQUIRES(l->lock)
{
	struct engine_io *io = l->first;
	struct nbd_io *n = nbd_io(io);

	*c = (struct nbd_command) { .link = l, .io = io, .op = io->op, .state = NBD_WAITING };
	l->nwaiting++;
	n->out++;
	if (n->flushing) {
		c->op = ENGINE_FSYNC;
	} else if (io->op == ENGINE_READ || io->op == ENGINE_WRITE) {
		const struct iovec *v = &io->iov[n->iov_at];

		c->buf = (uint8_t *)v->iov_base + n->iov_off;
		c->len = MIN(v->iov_len - n->iov_off, l->nbd->block_max);
		c->off = io->off + n->cut;
		n->cut += c->len;
		n->iov_off += (uint32_t)c->len;
		if (n->iov_off == v->iov_len) {
			n->iov_at++;
			n->iov_off = 0;
		}
	} else {
		c->len = io->len;
		c->off = io->off;
		n->cut = n->total;
	}
	if (n->cut < n->total)
		return;
	l->first = n->next;
	if (!l->first)
		l->last = NULL;
}

static struct nbd_command *find(struct nbd_link *l, enum nbd_command_state state) REQUIRES(l->lock)
{
	for (unsigned i = 0; i < NBD_COMMANDS; i++)
		if (l->commands[i].state == state)
			return &l->commands[i];
	return NULL;
}

bool nbd_is_waiting(struct nbd_link *l)
{
	return find(l, NBD_ISSUED);
}

void nbd_send(struct nbd_link *l)
{
	while (l->state == NBD_READY && !l->renew && nbd_aio_is_ready(l->handle)) {
		struct nbd_command *c = l->nwaiting ? find(l, NBD_WAITING) : NULL;

		nbd_see_sent(l);
		if (!c && l->first && nbd_io(l->first)->err) {
			/* A part of it failed: the rest is not tried. */
			struct engine_io *io = l->first;

			l->first = nbd_io(io)->next;
			if (!l->first)
				l->last = NULL;
			finish_io(l, io);
			continue;
		}
		if (!c && l->first) {
			c = find(l, NBD_FREE);
			if (c)
				cut(l, c);
		}
		if (!c)
			return;
		issue(l, c);
	}
}

void nbd_take_back(struct nbd_link *l)
{
	l->sending = NULL;
	for (unsigned i = 0; i < NBD_COMMANDS; i++) {
		struct nbd_command *c = &l->commands[i];

		if (c->state != NBD_ISSUED)
			continue;
		note(l, c, 0);
		c->state = NBD_WAITING;
		l->nwaiting++;
		if (++c->losses == LOSSES_MAX) {
			log_warn_limited("a command that %u connections broke with is answered with an error",
					 LOSSES_MAX);
			command_done(l, c, -EIO);
		}
	}
}

void nbd_fail_all(struct nbd_link *l)
{
	struct engine_io *io = l->first, *next;

	l->first = l->last = NULL;
	for (; io; io = next) {
		next = nbd_io(io)->next;
		nbd_io(io)->err = -ENOTCONN;
		finish_io(l, io); /* unless commands of it are still there */
	}
	for (unsigned i = 0; i < NBD_COMMANDS; i++)
		if (l->commands[i].state == NBD_WAITING)
			command_done(l, &l->commands[i], -ENOTCONN);
}
