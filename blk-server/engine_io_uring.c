/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transfers by io_uring, the only file that knows liburing.
 *
 * A ring that was taken over could do whatever io_uring can, past any seccomp filter. So before it is enabled it is
 * restricted to reads, writes and flushes of files that were registered with it, and no more can be.
 *
 * A ring can be used by any thread, as queues move; nothing is bound to the one that submits (IORING_SETUP_SINGLE_ISSUER).
 *
 * What a process leaves to the kernel when it dies goes on after it was reaped, and nobody is told of its end (fence.h). The
 * ring's memory tells as long as it is mapped: each entry that the kernel has taken gives one completion. That needs
 * completions that come without the thread that is dead, so the ring is not one of those that leave them to it
 * (IORING_SETUP_DEFER_TASKRUN).
 */
#include <errno.h>
#include <liburing.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "crash.h"
#include "engine.h"
#include "num.h"
#include "syscalls.h"

#define LOOK_NS    200000      /* from one look at a ring of the dead to the next */
#define SILENCE_NS 1000000000U /* of the storage, after which it is given up */

struct engine {
	struct io_uring ring;
	struct engine_files files;
	int event;
	unsigned nstaged; /* not taken by the kernel */
	unsigned running; /* taken, and not reaped */
	unsigned nfailed;
	struct engine_io **staged; /* those not taken, in order */
	struct engine_io **failed; /* refused */
};

/* ---- opening ---- */

static void uring_close(struct engine *e)
{
	struct io_uring_cqe *cqe;

	if (!e)
		return;
	/* When the ring goes, nobody can tell whether the kernel has finished. */
	while (e->running) {
		int err = io_uring_wait_cqe(&e->ring, &cqe);

		if (err == -EINTR)
			continue;
		if (err)
			break;
		io_uring_cqe_seen(&e->ring, cqe);
		e->running--;
	}
	if (engine_list(e, NULL))
		io_uring_queue_exit(&e->ring);
	if (e->event >= 0)
		close(e->event);
	free(e->staged);
	free(e->failed);
	free(e);
}

/* From the best that a kernel has to the least that is of use. */
static int make_ring(unsigned depth, struct io_uring *ring)
{
	static const unsigned flags[] = {
		IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, /* 5.19 */
		0,
	};
	int err = -EINVAL;

	for (size_t i = 0; i < ARRAY_SIZE(flags) && err == -EINVAL; i++)
		err = io_uring_queue_init(depth, ring, flags[i] | IORING_SETUP_R_DISABLED);
	return err;
}

/* Enables the ring for what it is for, and for nothing else for ever. */
static int enable_ring(struct io_uring *ring)
{
	static const uint8_t ops[] = { IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV,
				       IORING_OP_FSYNC };
	struct io_uring_restriction only[ARRAY_SIZE(ops) + 2] = { 0 };
	unsigned n = 0;
	int err;

	for (; n < ARRAY_SIZE(ops); n++) {
		only[n].opcode = IORING_RESTRICTION_SQE_OP;
		only[n].sqe_op = ops[n];
	}
	only[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	only[n++].sqe_flags = IOSQE_FIXED_FILE;
	only[n].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
	only[n++].sqe_flags = IOSQE_FIXED_FILE;
	/* liburing 2.3 has functions for these two, and does not export them. */
	err = io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_RESTRICTIONS, only, n);
	return err ? err : io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

static int register_files(struct io_uring *ring, const struct engine_files *files)
{
	int fds[ENGINE_FILES_MAX + 1];
	unsigned n = 0;

	for (; n < files->n; n++)
		fds[n] = files->fd[n];
	if (files->fence >= 0)
		fds[n++] = files->fence;
	return io_uring_register_files(ring, fds, n);
}

static int uring_open(const struct engine_files *files, unsigned depth, struct engine **out)
{
	struct engine *e = calloc(1, sizeof(*e));
	int err = -ENOMEM;

	if (!e)
		return -ENOMEM;
	e->files = *files;
	e->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e->staged = calloc(depth, sizeof(struct engine_io *));
	e->failed = calloc(depth, sizeof(struct engine_io *));
	if (e->event >= 0 && e->staged && e->failed)
		err = make_ring(depth, &e->ring);
	if (err) {
		uring_close(e);
		return err;
	}
	if (!engine_list(NULL, e)) {
		io_uring_queue_exit(&e->ring);
		uring_close(e);
		return -EMFILE;
	}
	err = register_files(&e->ring, files);
	if (!err)
		err = io_uring_register_eventfd(&e->ring, e->event);
	if (!err)
		err = enable_ring(&e->ring);
	if (err) {
		uring_close(e);
		return err;
	}
	*out = e;
	return 0;
}

static int uring_event_fd(const struct engine *e)
{
	return e->event;
}

/* ---- submitting ---- */

static void uring_stage(struct engine *e, struct engine_io *io)
{
	e->staged[e->nstaged++] = io;
}

/* Its index among the ring's files; one that is not among them has none. */
static int index_of(const struct engine *e, int fd)
{
	if (fd < 0)
		return 0;
	for (unsigned i = 0; i < e->files.n; i++)
		if (e->files.fd[i] == fd)
			return (int)i;
	return -1;
}

static void prepare(struct engine *e, struct io_uring_sqe *sqe, struct engine_io *io)
{
	int fd = index_of(e, io->fd);

	if (io->op == ENGINE_FSYNC)
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	else if (io->op == ENGINE_READ && io->niov == 1)
		io_uring_prep_read(sqe, fd, io->iov[0].iov_base, (unsigned)io->iov[0].iov_len, io->off);
	else if (io->op == ENGINE_READ)
		io_uring_prep_readv(sqe, fd, io->iov, io->niov, io->off);
	else if (io->niov == 1)
		io_uring_prep_write(sqe, fd, io->iov[0].iov_base, (unsigned)io->iov[0].iov_len, io->off);
	else
		io_uring_prep_writev(sqe, fd, io->iov, io->niov, io->off);
	if (io->dsync)
		sqe->rw_flags = RWF_DSYNC;
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, io);
}

/* Gives the kernel n that are staged: how many it took, or -errno. The others are not left in the ring. */
static int give(struct engine *e, struct engine_io *const *io, unsigned n)
{
	struct io_uring_sq *sq = &e->ring.sq;
	unsigned before = sq->sqe_tail, taken;
	int64_t fault;
	int err;

	if (CRASH_FAULT(CRASH_SUBMIT, 0, 1, &fault)) {
		if (fault <= 0)
			return (int)fault;
		n = (unsigned)MIN(n, fault);
	}
	for (unsigned i = 0; i < n; i++)
		prepare(e, io_uring_get_sqe(&e->ring), io[i]);
	err = io_uring_submit(&e->ring);
	taken = io_uring_smp_load_acquire(sq->khead) - before;
	if (taken < n) {
		sq->sqe_head = sq->sqe_tail = before + taken;
		io_uring_smp_store_release(sq->ktail, before + taken);
	}
	return taken ? (int)taken : err;
}

static void count_submitted(struct engine *e, struct engine_io *const *io, unsigned n)
{
	e->running += n;
	for (unsigned i = 0; i < n; i++)
		CRASH_POINT_AT("submitted", io[i]->off / 512);
	(void)io;
}

static unsigned uring_submit(struct engine *e)
{
	unsigned done = 0;

	while (done < e->nstaged) {
		int n;

		CRASH_POINT("submit before");
		n = give(e, e->staged + done, e->nstaged - done);
		CRASH_POINT("submit after");

		if (n > 0) {
			count_submitted(e, e->staged + done, (unsigned)n);
			done += (unsigned)n;
		} else if (n == -EAGAIN || n == -EBUSY || n == 0) {
			break;
		} else if (n != -EINTR) {
			/* The first is at fault; those behind it are tried without it. */
			e->staged[done]->res = n;
			e->failed[e->nfailed++] = e->staged[done++];
		}
	}
	e->nstaged -= done;
	if (done && e->nstaged)
		memmove(e->staged, e->staged + done, e->nstaged * sizeof(e->staged[0]));
	return e->nstaged;
}

/* ---- completions ---- */

/*
 * The eventfd is wanted only by a thread that is about to sleep: between its last look and its sleep anything that takes it
 * into the kernel can bring completions, of which it would not be told in another way. Awake it looks by itself.
 */
static void announce(const struct engine *e, bool on)
{
	unsigned flags = on ? 0 : IORING_CQ_EVENTFD_DISABLED;

	if (*e->ring.cq.kflags == flags)
		return;
	IO_URING_WRITE_ONCE(*e->ring.cq.kflags, flags);
	if (on)
		atomic_thread_fence(memory_order_seq_cst); /* before it looks once more */
}

/* The kernel has some that it makes known when this thread comes to it. */
static bool holds_back(const struct engine *e)
{
	return IO_URING_READ_ONCE(*e->ring.sq.kflags) & IORING_SQ_TASKRUN;
}

static unsigned reap_ring(struct engine *e, struct engine_io **done, unsigned max)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	if (holds_back(e) && !io_uring_cq_ready(&e->ring))
		io_uring_get_events(&e->ring);
	io_uring_for_each_cqe(&e->ring, head, cqe)
	{
		if (n == max)
			break;
		done[n] = io_uring_cqe_get_data(cqe);
		done[n++]->res = cqe->res;
	}
	if (n) {
		CRASH_POINT("completion before");
		io_uring_cq_advance(&e->ring, n);
		CRASH_POINT("completion after");
	}
	return n;
}

static unsigned uring_reap(struct engine *e, struct engine_io **done, unsigned max)
{
	unsigned n = 0;

	announce(e, false);
	while (n < max && e->nfailed)
		done[n++] = e->failed[--e->nfailed];
	if (e->running && n < max) {
		unsigned got = reap_ring(e, done + n, max - n);

		e->running -= got;
		n += got;
	}
	return n;
}

static bool uring_pending(const struct engine *e)
{
	if (e->nfailed || (e->nstaged && !e->running))
		return true;
	if (!e->running)
		return false;
	announce(e, true);
	return io_uring_cq_ready(&e->ring) || holds_back(e);
}

static unsigned uring_busy(const struct engine *e)
{
	return e->running;
}

/* Whether the kernel has done all that it took out of e's ring, now or when the storage is through with it. */
static bool is_drained(const struct engine *e)
{
	const struct timespec pause = { .tv_nsec = LOOK_NS };
	unsigned taken = io_uring_smp_load_acquire(e->ring.sq.khead), seen = taken, looks = 0;

	for (;;) {
		unsigned done = io_uring_smp_load_acquire(e->ring.cq.ktail);

		if (done == taken)
			return true;
		looks = done == seen ? looks + 1 : 0;
		seen = done;
		if (looks > SILENCE_NS / LOOK_NS)
			return false;
		syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &pause, NULL);
	}
}

static bool uring_drained(void)
{
	return engine_all(is_drained);
}

const struct engine_ops engine_io_uring = {
	.name = "io_uring",
	.calls = &blk_uring,
	.lingers = true,
	.open = uring_open,
	.close = uring_close,
	.event_fd = uring_event_fd,
	.stage = uring_stage,
	.submit = uring_submit,
	.reap = uring_reap,
	.busy = uring_busy,
	.drained = uring_drained,
	.pending = uring_pending,
};
