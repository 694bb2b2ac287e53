/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transfers by Linux aio, the only file that knows libaio.
 *
 * The kernel maps its completion ring at the address that io_setup gives as context. Reading it there saves
 * io_getevents: entries between head and tail are complete, and whoever reads moves head on. The layout has been
 * the same since Linux 2.6 and names itself by a magic number; where that is not as expected, io_getevents is
 * used.
 *
 * Where memory answers (tmpfs, the page cache) a transfer is done when io_submit returns, and to announce it by the
 * eventfd is work for nothing. So after QUIET_AFTER of them in a row transfers are submitted without it. Should one of
 * these not be done at once, aio_pending says so and the loop comes back for it without sleeping; from then on all are
 * announced again.
 *
 * What the process leaves to the kernel when it dies is told from the ring as well, without the process: tail moves
 * by one with every completion, so if it stands where it will be after all that was submitted, the kernel has nothing
 * left. That place is noted before each io_submit. A process that dies in the call meant to submit more than it may have
 * come to; then tail does not get there, and it can't be told.
 */
#include <errno.h>
#include <libaio.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "crash.h"
#include "engine.h"
#include "num.h"
#include "syscalls.h"

#define RING_MAGIC 0xa10a10a1U
#define REAP_MAX   64

#define DOUBT_NS 5000000 /* for completions that may never come */

#define QUIET_AFTER 64
#define FLAG_RESFD  1U /* what io_set_eventfd sets; libaio has no name for it */

struct ring {
	uint32_t id;
	uint32_t nr;
	_Atomic uint32_t head;
	_Atomic uint32_t tail;
	uint32_t magic;
	uint32_t compat_features;
	uint32_t incompat_features;
	uint32_t header_length;
	struct io_event events[];
};

struct engine {
	io_context_t context;
	struct ring *ring; /* NULL: its layout is unknown */
	int fd, event;
	unsigned running;          /* submitted and not reaped */
	unsigned silent;           /* those of them that the eventfd does not announce */
	_Atomic uint32_t last;     /* where tail will be when all that was submitted is done */
	_Atomic bool submitting;   /* ... or not, as io_submit may take less */
	unsigned prompt;           /* transfers in a row that were done when io_submit returned */
	unsigned nstaged, nfailed; /* used of the arrays below */
	struct iocb **staged;
	struct engine_io **failed; /* refused by io_submit */
};

_Static_assert(sizeof(struct iocb) <= sizeof(((struct engine_io *)0)->priv), "an iocb fits an engine_io");

static void aio_close(struct engine *e)
{
	if (!e)
		return;
	/* From here until the kernel has finished, nobody can tell from the ring whether it has. */
	e->ring = NULL;
	if (e->context)
		io_destroy(e->context);
	engine_list(e, NULL);
	if (e->event >= 0)
		close(e->event);
	free(e->staged);
	free(e->failed);
	free(e);
}

static int aio_open(const struct engine_files *files, unsigned depth, struct engine **out)
{
	struct engine *e = calloc(1, sizeof(*e));
	struct ring *ring;
	int err = -ENOMEM;

	if (!e)
		return -ENOMEM;
	e->fd = files->fd[0];
	e->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e->staged = calloc(depth, sizeof(struct iocb *));
	e->failed = calloc(depth, sizeof(struct engine_io *));
	if (e->event >= 0 && e->staged && e->failed)
		err = io_setup((int)depth, &e->context);
	if (err) {
		aio_close(e);
		return err;
	}
	ring = (struct ring *)(void *)e->context;
	if (ring->magic == RING_MAGIC && !ring->incompat_features && ring->header_length == sizeof(*ring) &&
	    ring->nr >= depth)
		e->ring = ring;
	if (!engine_list(NULL, e)) {
		aio_close(e);
		return -EMFILE;
	}
	*out = e;
	return 0;
}

static int aio_event_fd(const struct engine *e)
{
	return e->event;
}

static void aio_stage(struct engine *e, struct engine_io *io)
{
	static const short single[] = { [ENGINE_READ] = IO_CMD_PREAD, [ENGINE_WRITE] = IO_CMD_PWRITE };
	static const short vector[] = { [ENGINE_READ] = IO_CMD_PREADV, [ENGINE_WRITE] = IO_CMD_PWRITEV };
	struct iocb *cb = (struct iocb *)(void *)io->priv;

	memset(cb, 0, sizeof(*cb));
	cb->data = io;
	cb->aio_fildes = io->fd < 0 ? e->fd : io->fd;
	if (io->op == ENGINE_FSYNC) {
		cb->aio_lio_opcode = IO_CMD_FDSYNC;
	} else if (io->niov == 1) {
		cb->aio_lio_opcode = single[io->op];
		cb->u.c.buf = io->iov[0].iov_base;
		cb->u.c.nbytes = io->iov[0].iov_len;
	} else {
		cb->aio_lio_opcode = vector[io->op];
		cb->u.c.buf = io->iov;
		cb->u.c.nbytes = io->niov;
	}
	cb->u.c.offset = (long long)io->off;
	if (io->dsync)
		cb->aio_rw_flags = RWF_DSYNC;
	if (e->prompt < QUIET_AFTER || io->op == ENGINE_FSYNC)
		io_set_eventfd(cb, e->event);
	e->staged[e->nstaged++] = cb;
}

static bool is_silent(const struct engine_io *io)
{
	const struct iocb *cb = (const struct iocb *)(const void *)io->priv;

	return !(cb->u.c.flags & FLAG_RESFD);
}

/* Counts n transfers that the kernel took, and sees whether all that run are done already. */
static void count_submitted(struct engine *e, struct iocb *const *cb, unsigned n)
{
	struct ring *ring = e->ring;
	uint32_t done;

	e->running += n;
	for (unsigned i = 0; i < n; i++) {
		CRASH_POINT_AT("submitted", (uint64_t)cb[i]->u.c.offset / 512);
		e->silent += is_silent(cb[i]->data);
	}
	if (!ring)
		return;
	done = atomic_load_explicit(&ring->tail, memory_order_acquire) + ring->nr -
	       atomic_load_explicit(&ring->head, memory_order_relaxed);
	e->prompt = done % ring->nr == e->running ? MIN(e->prompt + n, QUIET_AFTER) : 0;
}

/* io_submit, with a note of what it comes to that is right whenever the process dies. */
static int submit(struct engine *e, unsigned n, struct iocb **cb)
{
	uint32_t nr = e->ring ? e->ring->nr : 1, last = atomic_load_explicit(&e->last, memory_order_relaxed);
	int64_t fault;
	int taken;

	atomic_store_explicit(&e->submitting, true, memory_order_relaxed);
	atomic_store_explicit(&e->last, (last + n) % nr, memory_order_release);
	if (!CRASH_FAULT(CRASH_SUBMIT, 0, 1, &fault))
		taken = io_submit(e->context, (long)n, cb);
	else
		taken = fault > 0 ? io_submit(e->context, (long)MIN(n, fault), cb) : (int)fault;
	atomic_store_explicit(&e->last, (last + (uint32_t)MAX(taken, 0)) % nr, memory_order_release);
	atomic_store_explicit(&e->submitting, false, memory_order_release);
	return taken;
}

static unsigned aio_submit(struct engine *e)
{
	unsigned done = 0;

	while (done < e->nstaged) {
		int n;

		CRASH_POINT("submit before");
		n = submit(e, e->nstaged - done, e->staged + done);
		CRASH_POINT("submit after");

		if (n > 0) {
			count_submitted(e, e->staged + done, (unsigned)n);
			done += (unsigned)n;
		} else if (n == -EAGAIN || n == 0) {
			break;
		} else if (n != -EINTR) {
			/* The first is at fault; those behind it are tried without it. */
			struct engine_io *io = e->staged[done++]->data;

			io->res = n;
			e->failed[e->nfailed++] = io;
		}
	}
	e->nstaged -= done;
	if (done && e->nstaged)
		memmove(e->staged, e->staged + done, e->nstaged * sizeof(e->staged[0]));
	return e->nstaged;
}

static unsigned reap_ring(struct engine *e, struct engine_io **done, unsigned max)
{
	struct ring *ring = e->ring;
	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	unsigned n = 0;

	while (head != tail && n < max) {
		const struct io_event *ev = &ring->events[head];
		struct engine_io *io = ev->data;

		io->res = (int64_t)ev->res;
		e->silent -= is_silent(io);
		done[n++] = io;
		head = head + 1 == ring->nr ? 0 : head + 1;
	}
	if (n) {
		CRASH_POINT("completion before");
		atomic_store_explicit(&ring->head, head, memory_order_release);
		CRASH_POINT("completion after");
	}
	return n;
}

static unsigned reap_call(struct engine *e, struct engine_io **done, unsigned max)
{
	struct io_event events[REAP_MAX];
	struct timespec none = { 0 };
	int n = io_getevents(e->context, 0, (long)MIN(max, REAP_MAX), events, &none);

	for (int i = 0; i < n; i++) {
		done[i] = events[i].data;
		done[i]->res = (int64_t)events[i].res;
	}
	return n < 0 ? 0 : (unsigned)n;
}

static unsigned aio_reap(struct engine *e, struct engine_io **done, unsigned max)
{
	unsigned n = 0;

	while (n < max && e->nfailed)
		done[n++] = e->failed[--e->nfailed];
	if (e->running && n < max) {
		unsigned got = e->ring ? reap_ring(e, done + n, max - n) : reap_call(e, done + n, max - n);

		e->running -= got;
		n += got;
	}
	return n;
}

static bool aio_pending(const struct engine *e)
{
	if (e->nfailed || e->silent || (e->nstaged && !e->running))
		return true;
	/* Without the ring to look at, the eventfd tells. */
	return e->running && e->ring &&
	       atomic_load_explicit(&e->ring->head, memory_order_relaxed) !=
		   atomic_load_explicit(&e->ring->tail, memory_order_acquire);
}

static unsigned aio_busy(const struct engine *e)
{
	return e->running;
}

/* Whether e's transfers are done, now or when the storage is through with them. */
static bool is_drained(const struct engine *e)
{
	bool sure = !atomic_load_explicit(&e->submitting, memory_order_acquire);
	struct timespec wait = { .tv_sec = sure, .tv_nsec = sure ? 0 : DOUBT_NS };
	struct io_event events[REAP_MAX];

	if (!e->ring)
		return false;
	while (atomic_load_explicit(&e->ring->tail, memory_order_acquire) !=
	       atomic_load_explicit(&e->last, memory_order_relaxed))
		if (syscall(SYS_io_getevents, e->context, 1, REAP_MAX, events, &wait) <= 0)
			return false;
	return true;
}

static bool aio_drained(void)
{
	return engine_all(is_drained);
}

const struct engine_ops engine_aio = {
	.name = "aio",
	.calls = &blk_aio,
	.open = aio_open,
	.close = aio_close,
	.event_fd = aio_event_fd,
	.stage = aio_stage,
	.submit = aio_submit,
	.reap = aio_reap,
	.busy = aio_busy,
	.drained = aio_drained,
	.pending = aio_pending,
};
