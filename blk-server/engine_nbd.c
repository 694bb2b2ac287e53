/* SPDX-License-Identifier: Apache-2.0 */
/* Transfers over the links to an NBD server (nbd.h), as a queue's engine. */
#include <errno.h>
#include <stdlib.h>

#include "nbd_priv.h"
#include "syscalls.h"

struct engine {
	struct nbd_link *link;
	bool drives; /* its thread is the link's */
	struct loop_bh bh;
	void (*run)(void *arg);
	void *arg;
	unsigned running; /* staged and not reaped; the queue's thread's */
	struct engine_io *staged, **staged_end;
	struct lock lock;
	struct loop *loop GUARDED_BY(lock); /* NULL: it is not attached */
	struct engine_io *done GUARDED_BY(lock);
};

static int nbd_engine_open(const struct engine_files *files, unsigned depth, struct engine **out)
{
	struct engine *e = calloc(1, sizeof(*e));
	struct nbd *nbd = files->nbd;

	(void)depth;
	if (!e)
		return -ENOMEM;
	e->drives = nbd->nengines < nbd->nlinks;
	e->link = &nbd->link[nbd->nengines++ % nbd->nlinks];
	e->staged_end = &e->staged;
	lock_init(&e->lock);
	if (e->drives)
		e->link->driver = e;
	*out = e;
	return 0;
}

static uint64_t nbd_engine_since(const struct engine *e)
{
	return atomic_load(&e->link->away);
}

static void nbd_engine_close(struct engine *e)
{
	lock_destroy(&e->lock);
	free(e);
}

static void on_done(void *arg)
{
	struct engine *e = arg;

	e->run(e->arg);
}

static int nbd_engine_attach(struct engine *e, struct loop *loop, void (*run)(void *arg), void *arg)
{
	e->run = run;
	e->arg = arg;
	lock_take(&e->lock);
	e->loop = loop;
	loop_bh_init(&e->bh, loop, on_done, e);
	lock_drop(&e->lock);
	return e->drives ? nbd_link_attach(e->link, loop) : 0;
}

static void nbd_engine_detach(struct engine *e)
{
	if (e->drives)
		nbd_link_detach(e->link);
	lock_take(&e->lock);
	e->loop = NULL;
	loop_bh_cancel(&e->bh);
	lock_drop(&e->lock);
}

/* The link's lock is held, so e's is no leaf; nothing is taken under it. */
void nbd_engine_done(struct engine *e, struct engine_io *io)
{
	lock_take(&e->lock);
	nbd_io(io)->next = e->done;
	e->done = io;
	if (e->loop)
		loop_bh_post(&e->bh);
	lock_drop(&e->lock);
}

void nbd_engine_run(struct engine *e)
{
	lock_take(&e->lock);
	if (e->loop)
		loop_bh_post(&e->bh);
	lock_drop(&e->lock);
}

static void nbd_engine_stage(struct engine *e, struct engine_io *io)
{
	struct nbd_io *n = nbd_io(io);

	*n = (struct nbd_io) { .engine = e };
	if (io->op == ENGINE_DISCARD || io->op == ENGINE_ZERO)
		n->total = io->len;
	for (unsigned i = 0; (io->op == ENGINE_READ || io->op == ENGINE_WRITE) && i < io->niov; i++)
		n->total += io->iov[i].iov_len;
	e->running++;
	*e->staged_end = io;
	e->staged_end = &n->next;
}

static unsigned nbd_engine_submit(struct engine *e)
{
	struct engine_io *io = e->staged, *next;

	e->staged = NULL;
	e->staged_end = &e->staged;
	for (; io; io = next) {
		next = nbd_io(io)->next;
		nbd_link_add(e->link, io);
	}
	return 0;
}

static unsigned nbd_engine_reap(struct engine *e, struct engine_io **done, unsigned max)
{
	unsigned n = 0;

	lock_take(&e->lock);
	while (n < max && e->done) {
		done[n++] = e->done;
		e->done = nbd_io(e->done)->next;
	}
	lock_drop(&e->lock);
	e->running -= n;
	return n;
}

static unsigned nbd_engine_busy(const struct engine *e)
{
	return e->running;
}

/* What was sent is seen to by the successor; the kernel has nothing of it. */
static bool nbd_engine_drained(void)
{
	return true;
}

static bool nbd_engine_pending(const struct engine *e)
{
	(void)e;
	return false; /* the bottom half comes */
}

const struct engine_ops engine_nbd = {
	.name = "nbd",
	.calls = &blk_nbd,
	.ranges = true,
	.open = nbd_engine_open,
	.close = nbd_engine_close,
	.attach = nbd_engine_attach,
	.detach = nbd_engine_detach,
	.since = nbd_engine_since,
	.stage = nbd_engine_stage,
	.submit = nbd_engine_submit,
	.reap = nbd_engine_reap,
	.busy = nbd_engine_busy,
	.drained = nbd_engine_drained,
	.pending = nbd_engine_pending,
};
