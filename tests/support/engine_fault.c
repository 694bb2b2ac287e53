/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside a blk-server under test: an engine over another one that has transfers fail, or move less than they should, where
 * the test wants it to (crashes.h). What fails is never given to the engine below.
 */
#include <stdlib.h>

#include "crash.h"
#include "crashes.h"
#include "engine.h"
#include "num.h"

struct engine {
	struct engine *real;
	unsigned depth, nfailed, nshort;
	struct engine_io **failed; /* answered already */
	struct iovec *part;        /* what is left of the vectors of transfers that are cut short */
};

static const struct engine_ops *below;

static void fault_close(struct engine *e)
{
	if (e && e->real)
		below->close(e->real);
	if (e) {
		free(e->failed);
		free(e->part);
	}
	free(e);
}

static int fault_open(const struct engine_files *files, unsigned depth, struct engine **out)
{
	struct engine *e = calloc(1, sizeof(*e));
	int err;

	if (!e)
		return -1;
	e->depth = depth;
	e->failed = calloc(depth, sizeof(struct engine_io *));
	e->part = calloc(depth, sizeof(struct iovec));
	err = e->failed && e->part ? below->open(files, depth, &e->real) : -1;
	if (err)
		fault_close(e);
	else
		*out = e;
	return err;
}

static int fault_event_fd(const struct engine *e)
{
	return below->event_fd(e->real);
}

static uint64_t length(const struct engine_io *io)
{
	uint64_t len = 0;

	if (io->op == ENGINE_FSYNC)
		return 1;
	for (unsigned i = 0; i < io->niov; i++)
		len += io->iov[i].iov_len;
	return len;
}

/* At most that many bytes of the first vector; whole sectors, as direct I/O wants them. */
static void cut(struct engine *e, struct engine_io *io, int64_t bytes)
{
	struct iovec *part = &e->part[e->nshort++ % e->depth];

	*part = (struct iovec) { .iov_base = io->iov[0].iov_base,
				 .iov_len = MIN(io->iov[0].iov_len, (size_t)bytes) };
	io->iov = part;
	io->niov = 1;
}

static void fault_stage(struct engine *e, struct engine_io *io)
{
	static const enum crash_op ops[] = {
		[ENGINE_READ] = CRASH_READ, [ENGINE_WRITE] = CRASH_WRITE, [ENGINE_FSYNC] = CRASH_FSYNC
	};
	enum crash_op op = io->op == ENGINE_WRITE && io->dsync ? CRASH_DSYNC : ops[io->op];
	int64_t result;

	if (CRASH_FAULT(op, io->op == ENGINE_FSYNC ? 0 : io->off, length(io), &result)) {
		if (result == CRASHES_LOST)
			return;
		if (result <= 0) {
			io->res = result;
			e->failed[e->nfailed++] = io;
			return;
		}
		cut(e, io, result);
	}
	below->stage(e->real, io);
}

static unsigned fault_submit(struct engine *e)
{
	return below->submit(e->real);
}

static unsigned fault_reap(struct engine *e, struct engine_io **done, unsigned max)
{
	unsigned n = 0;

	while (n < max && e->nfailed)
		done[n++] = e->failed[--e->nfailed];
	return n + below->reap(e->real, done + n, max - n);
}

static unsigned fault_busy(const struct engine *e)
{
	return below->busy(e->real);
}

static bool fault_drained(void)
{
	return below->drained();
}

static bool fault_pending(const struct engine *e)
{
	return e->nfailed || below->pending(e->real);
}

static const struct engine_ops engine_fault = {
	.name = "fault",
	.open = fault_open,
	.close = fault_close,
	.event_fd = fault_event_fd,
	.stage = fault_stage,
	.submit = fault_submit,
	.reap = fault_reap,
	.busy = fault_busy,
	.drained = fault_drained,
	.pending = fault_pending,
};

const struct engine_ops *engine_tested(const struct engine_ops *real)
{
	below = real;
	return &engine_fault;
}
