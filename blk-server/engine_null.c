/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transfers that move nothing, for measuring what all the rest costs: each is done when it is staged. What is read is
 * zeroes, so that nobody gets to see what was in a buffer before; what is written is gone.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine.h"
#include "num.h"
#include "syscalls.h"

struct engine {
	int event; /* that nobody signals */
	unsigned ndone;
	struct engine_io **done;
};

static void null_close(struct engine *e)
{
	if (!e)
		return;
	if (e->event >= 0)
		close(e->event);
	free(e->done);
	free(e);
}

static int null_open(const struct engine_files *files, unsigned depth, struct engine **out)
{
	struct engine *e = calloc(1, sizeof(*e));

	(void)files;
	if (!e)
		return -ENOMEM;
	e->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e->done = calloc(depth, sizeof(struct engine_io *));
	if (e->event < 0 || !e->done) {
		null_close(e);
		return -ENOMEM;
	}
	*out = e;
	return 0;
}

static int null_event_fd(const struct engine *e)
{
	return e->event;
}

static void null_stage(struct engine *e, struct engine_io *io)
{
	io->res = 0;
	for (unsigned i = 0; io->op != ENGINE_FSYNC && i < io->niov; i++) {
		if (io->op == ENGINE_READ)
			memset(io->iov[i].iov_base, 0, io->iov[i].iov_len);
		io->res += (int64_t)io->iov[i].iov_len;
	}
	e->done[e->ndone++] = io;
}

static unsigned null_submit(struct engine *e)
{
	(void)e;
	return 0;
}

static unsigned null_reap(struct engine *e, struct engine_io **done, unsigned max)
{
	unsigned n = MIN(e->ndone, max);

	e->ndone -= n;
	memcpy(done, e->done + e->ndone, n * sizeof(struct engine_io *));
	return n;
}

static unsigned null_busy(const struct engine *e)
{
	(void)e;
	return 0;
}

static bool null_drained(void)
{
	return true;
}

static bool null_pending(const struct engine *e)
{
	return e->ndone;
}

const struct engine_ops engine_null = {
	.name = "null",
	.calls = &blk_null,
	.open = null_open,
	.close = null_close,
	.event_fd = null_event_fd,
	.stage = null_stage,
	.submit = null_submit,
	.reap = null_reap,
	.busy = null_busy,
	.drained = null_drained,
	.pending = null_pending,
};
