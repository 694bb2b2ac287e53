/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blk-server's queue against an engine that fails on command, and its aio engine against a kernel that does: the
 * faults of a host that no file can be made to show. A test's name begins with the number of the fault.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "num.h"
#include "blk_queue.h"
#include "flight.h"
#include "request.h"

TestSuite(blk_queue, .timeout = 60);

/* ---- what lib/server would be ---- */

#define REQUESTS 8

struct server_queue {
	struct loop *loop;
	struct loop_pool *pool;
	struct blk_queue *queue;
	struct vq_chain waiting[REQUESTS];
	unsigned nwaiting;
	unsigned completed;
	uint32_t written[REQUESTS];
	uint64_t features;
	struct flight *memory;
	struct flight_ring flight;
	unsigned poisoned, failed;
	int hand;
};

int server_pop(struct server_queue *s, struct vq_chain *chain)
{
	struct vq_chain *next;

	if (!s->nwaiting)
		return 0;
	next = &s->waiting[--s->nwaiting];
	memcpy(chain->iov, next->iov, (size_t)(next->out_num + next->in_num) * sizeof(struct iovec));
	next->iov = chain->iov;
	*chain = *next;
	return 1;
}

void server_push(struct server_queue *s, uint16_t head, uint32_t written, uint32_t result)
{
	(void)result;
	s->completed++;
	s->written[head] = written;
}

struct flight_ring *server_flight(struct server_queue *s)
{
	return &s->flight;
}

void server_poisoned(struct server_queue *s, uint16_t head)
{
	(void)head;
	s->poisoned++;
}

void server_take_up(struct server_queue *s, uint16_t head)
{
	s->hand = head;
}

void server_lay_down(struct server_queue *s)
{
	s->hand = -1;
}

void server_fail(struct server_queue *s, uint16_t head)
{
	(void)head;
	s->failed++;
}

void server_break(struct server_queue *s, const char *why)
{
	(void)s;
	cr_assert_fail("%s", why);
}

void server_run(struct server_queue *s)
{
	blk_queue_service(s->queue);
}

void server_flush(struct server_queue *s)
{
	(void)s;
}

uint64_t server_features(const struct server_queue *s)
{
	return s->features;
}

const struct mem *server_mem(const struct server_queue *s)
{
	(void)s;
	return NULL;
}

unsigned server_index(const struct server_queue *s)
{
	(void)s;
	return 0;
}

struct loop *server_loop(const struct server_queue *s)
{
	return s->loop;
}

struct loop_pool *server_pool(const struct server_queue *s)
{
	return s->pool;
}

/* No guest memory, so nothing of it is logged. */
bool mem_logging(const struct mem *mem)
{
	(void)mem;
	return false;
}

void mem_dirty_ptr(const struct mem *mem, const void *ptr, uint64_t len)
{
	(void)mem;
	(void)ptr;
	(void)len;
}

/* ---- an engine that does as it is told ---- */

struct engine {
	struct engine_io *staged[QUEUE_DEPTH];
	unsigned nstaged, nsubmitted;
	int event;
};

static struct {
	int64_t results[32]; /* of the transfers in order; LIKE_THE_REST: all of it */
	unsigned n;
	uint8_t disk[65536];
	unsigned fsyncs;
	bool slow;           /* some transfer is always under way */
	unsigned batches[8]; /* transfers of each submission that had any */
	unsigned nbatches;
} script;

#define WHOLE INT64_MAX

static int fake_open(int fd, unsigned depth, struct engine **out)
{
	(void)fd;
	(void)depth;
	*out = calloc(1, sizeof(**out));
	(*out)->event = eventfd(0, EFD_NONBLOCK);
	return 0;
}

static void fake_close(struct engine *e)
{
	close(e->event);
	free(e);
}

static int fake_event_fd(const struct engine *e)
{
	return e->event;
}

static void fake_stage(struct engine *e, struct engine_io *io)
{
	e->staged[e->nstaged++] = io;
}

static unsigned fake_submit(struct engine *e)
{
	unsigned n = e->nstaged - e->nsubmitted;

	if (n)
		script.batches[script.nbatches++ % ARRAY_SIZE(script.batches)] = n;
	e->nsubmitted = e->nstaged;
	return 0;
}

/* Moves at most max bytes between the disk and the vectors. */
static int64_t move(struct engine_io *io, uint64_t max)
{
	uint64_t done = 0;

	for (unsigned i = 0; i < io->niov && done < max; i++) {
		uint64_t n = MIN(io->iov[i].iov_len, max - done);
		uint8_t *at = script.disk + io->off + done;

		cr_assert(io->off + done + n <= sizeof(script.disk));
		if (io->op == ENGINE_READ)
			memcpy(io->iov[i].iov_base, at, n);
		else
			memcpy(at, io->iov[i].iov_base, n);
		done += n;
	}
	return (int64_t)done;
}

static unsigned fake_reap(struct engine *e, struct engine_io **done, unsigned max)
{
	unsigned n = 0;

	while (e->nstaged && n < max) {
		struct engine_io *io = e->staged[--e->nstaged];
		int64_t result = script.results[script.n++];

		script.fsyncs += io->op == ENGINE_FSYNC;
		if (io->op == ENGINE_FSYNC)
			io->res = result == WHOLE ? 0 : result;
		else
			io->res = result < 0 ? result : move(io, (uint64_t)result);
		done[n++] = io;
	}
	e->nsubmitted = MIN(e->nsubmitted, e->nstaged);
	return n;
}

static bool fake_pending(const struct engine *e)
{
	return e->nstaged > 0;
}

static unsigned fake_busy(const struct engine *e)
{
	(void)e;
	return script.slow;
}

static const struct engine_ops fake_engine = {
	.name = "fake",
	.open = fake_open,
	.close = fake_close,
	.event_fd = fake_event_fd,
	.stage = fake_stage,
	.submit = fake_submit,
	.reap = fake_reap,
	.busy = fake_busy,
	.pending = fake_pending,
};

/* ---- requests ---- */

struct bench {
	struct disk disk;
	struct server_queue server;
	struct virtio_blk_outhdr header[REQUESTS];
	uint8_t status[REQUESTS];
	struct iovec iov[REQUESTS][4];
	_Alignas(4096) uint8_t data[65536];
};

static struct bench bench;

static void set_up(const struct engine_ops *engine, int fd)
{
	bench.disk = (struct disk) { .fd = fd,
				     .name = "test",
				     .bytes = sizeof(script.disk),
				     .mem_align = 512,
				     .io_align = 512,
				     .engine = engine };
	bench.server.features = 1ULL << VIRTIO_BLK_F_FLUSH;
	cr_assert_eq(flight_alloc(1, &bench.server.memory), 0);
	flight_open_queue(bench.server.memory, 0, &bench.server.flight);
	cr_assert_eq(loop_new("test", &bench.server.loop), 0);
	cr_assert_eq(loop_pool_new(1, &bench.server.pool), 0);
	cr_assert_eq(blk_queue_open(&bench.disk, &bench.server, &bench.server.queue), 0);
}

static void tear_down(void)
{
	blk_queue_close(bench.server.queue);
	loop_pool_free(bench.server.pool);
	loop_free(bench.server.loop);
	flight_free(bench.server.memory);
}

/* Puts request i into the ring: len bytes of data at offset off of both disk and buffer. */
static void add(unsigned i, uint32_t type, uint64_t off, uint32_t len)
{
	bool in = type == VIRTIO_BLK_T_IN;
	struct iovec *v = bench.iov[i];
	unsigned n = 0;

	bench.header[i] = (struct virtio_blk_outhdr) { .type = type, .sector = off / 512 };
	bench.status[i] = 0xff;
	v[n++] = (struct iovec) { &bench.header[i], sizeof(bench.header[i]) };
	if (len)
		v[n++] = (struct iovec) { bench.data + off, len };
	v[n++] = (struct iovec) { &bench.status[i], 1 };
	bench.server.waiting[bench.server.nwaiting++] =
	    (struct vq_chain) { .head = (uint16_t)i,
				.out_num = (uint16_t)(in ? 1 : n - 1),
				.in_num = (uint16_t)(in ? n - 1 : 1),
				.out_len = (uint32_t)sizeof(bench.header[i]) + (in ? 0 : len),
				.in_len = 1 + (in ? len : 0),
				.iov = v };
}

/* Passes until n requests are complete. */
static void run(unsigned n)
{
	uint64_t end = clock_ns() + 10 * NS_PER_S;

	bench.server.completed = 0;
	blk_queue_service(bench.server.queue);
	while (bench.server.completed < n) {
		cr_assert(clock_ns() < end, "stuck");
		loop_run_once(bench.server.loop,
			      blk_queue_pending(bench.server.queue) ? 0 : 10 * (int64_t)NS_PER_MS);
		blk_queue_service(bench.server.queue);
	}
}

static void expect(const int64_t *results, unsigned n)
{
	script.n = 0;
	memcpy(script.results, results, n * sizeof(*results));
}

Test(blk_queue, f50_errors_of_reads_and_writes)
{
	const int64_t errors[] = { -EIO, -EIO, -ENOSPC, -EDQUOT, WHOLE };

	set_up(&fake_engine, -1);
	expect(errors, 5);
	for (unsigned i = 0; i < 5; i++) {
		add(i, i ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 0, 4096);
		run(1);
		cr_assert_eq(bench.status[i], i < 4 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
		cr_assert_eq(bench.server.written[i], 1);
	}
	tear_down();
}

Test(blk_queue, f50_failed_fsync_is_never_success_again)
{
	const int64_t results[] = { WHOLE, -EIO, WHOLE, WHOLE, WHOLE };

	set_up(&fake_engine, -1);
	expect(results, 5);
	for (unsigned i = 0; i < 4; i++) {
		add(i, VIRTIO_BLK_T_FLUSH, 0, 0);
		run(1);
		cr_assert_eq(bench.status[i], i ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
	}
	cr_assert_geq(script.fsyncs, 2);
	tear_down();
}

/* The engine can't flush: a worker does, on a real file. */
Test(blk_queue, f50_flush_by_a_worker)
{
	const int64_t results[] = { -EINVAL };
	FILE *f = tmpfile();

	set_up(&fake_engine, fileno(f));
	expect(results, 1);
	add(0, VIRTIO_BLK_T_FLUSH, 0, 0);
	run(1);
	cr_assert_eq(bench.status[0], VIRTIO_BLK_S_OK);
	tear_down();
	fclose(f);
}

/* Memory gets all at once; a disk, once it was seen to be one, begins with the first ones. */
Test(blk_queue, a_disk_gets_its_requests_early)
{
	const int64_t results[] = { WHOLE, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE };

	set_up(&fake_engine, -1);
	for (unsigned round = 0; round < 3; round++) {
		expect(results, REQUESTS);
		script.nbatches = 0;
		script.slow = round > 0;
		for (unsigned i = 0; i < REQUESTS; i++)
			add(i, VIRTIO_BLK_T_IN, 4096ULL * i, 4096);
		run(REQUESTS);
		cr_assert_eq(script.nbatches, round == 2 ? 2 : 1);
		cr_assert_eq(script.batches[0], round == 2 ? REQUESTS / 2 : REQUESTS);
	}
	tear_down();
}

Test(blk_queue, f51_short_transfers_go_on)
{
	const int64_t shorts[] = { 512, 1024, -EINTR, 4096, WHOLE };

	set_up(&fake_engine, -1);
	for (unsigned i = 0; i < sizeof(bench.data); i++)
		bench.data[i] = (uint8_t)(i * 7 + i / 512);
	expect(shorts, 5);
	add(0, VIRTIO_BLK_T_OUT, 4096, 32768);
	run(1);
	cr_assert_eq(bench.status[0], VIRTIO_BLK_S_OK);
	cr_assert_eq(script.n, 5);
	cr_assert_arr_eq(script.disk + 4096, bench.data + 4096, 32768);
	memset(bench.data, 0, sizeof(bench.data));
	expect(shorts, 5);
	add(1, VIRTIO_BLK_T_IN, 4096, 32768);
	run(1);
	cr_assert_eq(bench.server.written[1], 32769);
	cr_assert_arr_eq(script.disk + 4096, bench.data + 4096, 32768);
	tear_down();
}

Test(blk_queue, f51_read_that_ends_early)
{
	const int64_t results[] = { 1024, 0 };

	set_up(&fake_engine, -1);
	expect(results, 2);
	add(0, VIRTIO_BLK_T_IN, 0, 4096);
	run(1);
	cr_assert_eq(bench.status[0], VIRTIO_BLK_S_IOERR);
	cr_assert_eq(bench.server.written[0], 1025);
	tear_down();
}

/* A device that can't discard is asked all the same, since only asking tells; files in /proc are as unable. */
Test(blk_queue, discard_that_the_device_cannot_do_is_unsupported)
{
	struct virtio_blk_discard_write_zeroes range = { .num_sectors = 8 };
	int fd = open("/proc/self/comm", O_RDWR | O_CLOEXEC);

	cr_assert_geq(fd, 0);
	set_up(&fake_engine, fd);
	bench.disk.can_discard = true;
	memcpy(bench.data, &range, sizeof(range));
	add(0, VIRTIO_BLK_T_DISCARD, 0, sizeof(range));
	run(1);
	cr_assert_eq(bench.status[0], VIRTIO_BLK_S_UNSUPP);
	tear_down();
	close(fd);
}

/* ---- the aio engine ---- */

int __real_io_submit(io_context_t ctx, long nr, struct iocb *ios[]);
int __wrap_io_submit(io_context_t ctx, long nr, struct iocb *ios[]);

static int refusals[8]; /* what the next calls of io_submit give; 0: as the kernel likes */
static long limit;      /* iocbs that a call takes; 0: all */
static unsigned calls;
static bool hold; /* the next call takes its first iocb and does nothing with it */
static io_context_t held_ctx;
static struct iocb *held;
static bool ask; /* the next call asks whether all is drained before it does anything */
static int answer;
static unsigned announced; /* transfers whose end an eventfd tells */

int __wrap_io_submit(io_context_t ctx, long nr, struct iocb *ios[])
{
	int refusal = calls < ARRAY_SIZE(refusals) ? refusals[calls] : 0;

	calls++;
	for (long i = 0; i < nr; i++)
		announced += ios[i]->u.c.flags & 1; /* IOCB_FLAG_RESFD */
	if (ask) {
		ask = false;
		answer = engine_aio.drained();
	}
	if (hold) {
		held_ctx = ctx;
		held = ios[0];
		hold = false;
		return 1;
	}
	return refusal ? refusal : __real_io_submit(ctx, limit ? MIN(limit, nr) : nr, ios);
}

static FILE *make_image(void)
{
	FILE *f = tmpfile();

	cr_assert_not_null(f);
	cr_assert_eq(ftruncate(fileno(f), sizeof(script.disk)), 0);
	return f;
}

static void write_all(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		add(i, VIRTIO_BLK_T_OUT, i * 4096, 4096);
	run(n);
}

Test(blk_queue, f51_io_submit_takes_a_part)
{
	FILE *f = make_image();

	set_up(&engine_aio, fileno(f));
	limit = 3;
	write_all(REQUESTS);
	for (unsigned i = 0; i < REQUESTS; i++)
		cr_assert_eq(bench.status[i], VIRTIO_BLK_S_OK);
	cr_assert_geq(calls, 3);
	tear_down();
	fclose(f);
}

Test(blk_queue, f51_io_submit_says_eagain_and_eintr)
{
	FILE *f = make_image();

	set_up(&engine_aio, fileno(f));
	refusals[0] = -EAGAIN;
	refusals[1] = -EINTR;
	refusals[2] = -EAGAIN;
	write_all(REQUESTS);
	for (unsigned i = 0; i < REQUESTS; i++)
		cr_assert_eq(bench.status[i], VIRTIO_BLK_S_OK);
	tear_down();
	fclose(f);
}

/* The kernel refuses the first of a batch; the others are carried out. */
Test(blk_queue, f51_io_submit_refuses_one)
{
	FILE *f = make_image();
	unsigned failed = 0;

	set_up(&engine_aio, fileno(f));
	refusals[0] = -EINVAL;
	write_all(REQUESTS);
	for (unsigned i = 0; i < REQUESTS; i++)
		failed += bench.status[i] == VIRTIO_BLK_S_IOERR;
	cr_assert_eq(failed, 1);
	tear_down();
	fclose(f);
}

/* How many of n whole rounds of transfers are announced. */
static unsigned rounds(unsigned n)
{
	announced = 0;
	for (unsigned i = 0; i < n; i++)
		write_all(REQUESTS);
	return announced;
}

/* A write to the page cache is done when it is submitted; a flush, which a worker of the kernel does, is not. */
Test(blk_queue, what_is_done_at_once_is_not_announced)
{
	FILE *f = make_image();

	set_up(&engine_aio, fileno(f));
	cr_assert_eq(rounds(64 / REQUESTS), 64);
	cr_assert_eq(rounds(10), 0);
	add(0, VIRTIO_BLK_T_FLUSH, 0, 0);
	run(1);
	cr_assert_eq(announced, 1);
	tear_down();
	fclose(f);
}

/* Memory that answered turns out to be a disk: nothing is announced, and nothing forgotten. */
Test(blk_queue, what_is_not_announced_is_polled_for)
{
	FILE *f = make_image();

	set_up(&engine_aio, fileno(f));
	rounds(64 / REQUESTS);
	hold = true;
	add(0, VIRTIO_BLK_T_OUT, 0, 4096);
	blk_queue_service(bench.server.queue);
	cr_assert_eq(bench.status[0], 0xff);
	cr_assert(blk_queue_pending(bench.server.queue), "the loop would sleep for ever");
	cr_assert_eq(__real_io_submit(held_ctx, 1, &held), 1);
	blk_queue_service(bench.server.queue);
	cr_assert_eq(bench.status[0], VIRTIO_BLK_S_OK);
	cr_assert_not(blk_queue_pending(bench.server.queue));
	cr_assert_eq(rounds(1), REQUESTS, "announced again");
	tear_down();
	fclose(f);
}

/* FAULTS 48: what the anchor of a dead process asks; here the process lives, and is as it may be found. */
Test(blk_queue, f48_nothing_is_left_to_the_kernel)
{
	FILE *f = make_image();

	cr_assert(engine_aio.drained(), "no engine is open");
	set_up(&engine_aio, fileno(f));
	cr_assert(engine_aio.drained());
	for (unsigned i = 0; i < 600; i++) /* the ring wraps */
		write_all(REQUESTS);
	cr_assert(engine_aio.drained());
	limit = 3;
	write_all(REQUESTS);
	cr_assert(engine_aio.drained(), "what io_submit did not take was never left to it");
	tear_down();
	fclose(f);
}

/* It is waited for what the kernel holds, and not for ever. */
Test(blk_queue, f48_the_kernel_holds_something)
{
	FILE *f = make_image();

	set_up(&engine_aio, fileno(f));
	hold = true;
	add(0, VIRTIO_BLK_T_OUT, 0, 4096);
	blk_queue_service(bench.server.queue);
	cr_assert_not(engine_aio.drained());
	cr_assert_eq(__real_io_submit(held_ctx, 1, &held), 1);
	cr_assert(engine_aio.drained());
	blk_queue_service(bench.server.queue);
	tear_down();
	fclose(f);
}

/* Died on the way into io_submit: what it meant to submit does not come. */
Test(blk_queue, f48_nobody_knows_what_was_submitted)
{
	FILE *f = make_image();

	set_up(&engine_aio, fileno(f));
	ask = true;
	write_all(1);
	cr_assert_not(answer);
	ask = true;
	refusals[calls] = -EAGAIN;
	write_all(1);
	cr_assert_not(answer);
	cr_assert(engine_aio.drained(), "a refused call leaves nothing");
	tear_down();
	fclose(f);
}
