/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blk-server's queue against an engine that fails on command: the faults of a host that no file can be made to show. A
 * test's name begins with the number of the fault.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "blk_bench.h"
#include "num.h"

TestSuite(blk_queue, .timeout = 60);

/* ---- an engine that does as it is told ---- */

struct engine {
	struct engine_io *staged[QUEUE_DEPTH];
	unsigned nstaged, nsubmitted;
	int event;
};

static struct {
	int64_t results[32]; /* of the transfers in order; LIKE_THE_REST: all of it */
	unsigned n;
	uint8_t disk[BLK_BENCH_BYTES];
	unsigned fsyncs;
	bool slow;           /* some transfer is always under way */
	unsigned batches[8]; /* transfers of each submission that had any */
	unsigned nbatches;
} script;

#define WHOLE INT64_MAX

static int fake_open(const struct engine_files *files, unsigned depth, struct engine **out)
{
	(void)files;
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

static void expect(const int64_t *results, unsigned n)
{
	script.n = 0;
	memcpy(script.results, results, n * sizeof(*results));
}

Test(blk_queue, f50_errors_of_reads_and_writes)
{
	const int64_t errors[] = { -EIO, -EIO, -ENOSPC, -EDQUOT, WHOLE };

	blk_bench_open(&fake_engine, -1);
	expect(errors, 5);
	for (unsigned i = 0; i < 5; i++) {
		blk_bench_add(i, i ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 0, 4096);
		blk_bench_run(1);
		cr_assert_eq(blk_bench.status[i], i < 4 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
		cr_assert_eq(blk_bench.server.written[i], 1);
	}
	blk_bench_close();
}

Test(blk_queue, f50_failed_fsync_is_never_success_again)
{
	const int64_t results[] = { WHOLE, -EIO, WHOLE, WHOLE, WHOLE };

	blk_bench_open(&fake_engine, -1);
	expect(results, 5);
	for (unsigned i = 0; i < 4; i++) {
		blk_bench_add(i, VIRTIO_BLK_T_FLUSH, 0, 0);
		blk_bench_run(1);
		cr_assert_eq(blk_bench.status[i], i ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
	}
	cr_assert_geq(script.fsyncs, 2);
	blk_bench_close();
}

/* The engine can't flush: a worker does, on a real file. */
Test(blk_queue, f50_flush_by_a_worker)
{
	const int64_t results[] = { -EINVAL };
	FILE *f = tmpfile();

	blk_bench_open(&fake_engine, fileno(f));
	expect(results, 1);
	blk_bench_add(0, VIRTIO_BLK_T_FLUSH, 0, 0);
	blk_bench_run(1);
	cr_assert_eq(blk_bench.status[0], VIRTIO_BLK_S_OK);
	blk_bench_close();
	fclose(f);
}

/* Where memory answers, the driver is told of some before the others are taken; a disk begins with the first ones. */
Test(blk_queue, neither_driver_nor_disk_waits_for_all_of_a_ring)
{
	int64_t results[BLK_BENCH_REQUESTS];

	for (unsigned i = 0; i < BLK_BENCH_REQUESTS; i++)
		results[i] = WHOLE;
	blk_bench_open(&fake_engine, -1);
	for (unsigned round = 0; round < 3; round++) {
		expect(results, BLK_BENCH_REQUESTS);
		script.nbatches = 0;
		/* It is seen to be a disk in the second round, from when on it is given all at once, in parts. */
		script.slow = round > 0;
		for (unsigned i = 0; i < BLK_BENCH_REQUESTS; i++)
			blk_bench_add(i, VIRTIO_BLK_T_IN, 4096ULL * i, 4096);
		blk_queue_service(blk_bench.server.queue);
		cr_assert_eq(blk_bench.server.nwaiting, round == 2 ? 0 : BLK_BENCH_REQUESTS / 2);
		cr_assert_eq(script.batches[0], round == 2 ? 4 : BLK_BENCH_REQUESTS / 2);
		blk_bench_run(blk_bench.server.nwaiting);
		cr_assert_eq(script.nbatches, round == 0 ? 2 : round == 1 ? 3 : 4);
	}
	blk_bench_close();
}

Test(blk_queue, f51_short_transfers_go_on)
{
	const int64_t shorts[] = { 512, 1024, -EINTR, 4096, WHOLE };

	blk_bench_open(&fake_engine, -1);
	for (unsigned i = 0; i < sizeof(blk_bench.data); i++)
		blk_bench.data[i] = (uint8_t)(i * 7 + i / 512);
	expect(shorts, 5);
	blk_bench_add(0, VIRTIO_BLK_T_OUT, 4096, 32768);
	blk_bench_run(1);
	cr_assert_eq(blk_bench.status[0], VIRTIO_BLK_S_OK);
	cr_assert_eq(script.n, 5);
	cr_assert_arr_eq(script.disk + 4096, blk_bench.data + 4096, 32768);
	memset(blk_bench.data, 0, sizeof(blk_bench.data));
	expect(shorts, 5);
	blk_bench_add(1, VIRTIO_BLK_T_IN, 4096, 32768);
	blk_bench_run(1);
	cr_assert_eq(blk_bench.server.written[1], 32769);
	cr_assert_arr_eq(script.disk + 4096, blk_bench.data + 4096, 32768);
	blk_bench_close();
}

Test(blk_queue, f51_read_that_ends_early)
{
	const int64_t results[] = { 1024, 0 };

	blk_bench_open(&fake_engine, -1);
	expect(results, 2);
	blk_bench_add(0, VIRTIO_BLK_T_IN, 0, 4096);
	blk_bench_run(1);
	cr_assert_eq(blk_bench.status[0], VIRTIO_BLK_S_IOERR);
	cr_assert_eq(blk_bench.server.written[0], 1025);
	blk_bench_close();
}

/* A device that can't discard is asked all the same, since only asking tells; files in /proc are as unable. */
Test(blk_queue, discard_that_the_device_cannot_do_is_unsupported)
{
	struct virtio_blk_discard_write_zeroes range = { .num_sectors = 8 };
	int fd = open("/proc/self/comm", O_RDWR | O_CLOEXEC);

	cr_assert_geq(fd, 0);
	blk_bench_open(&fake_engine, fd);
	blk_bench.disk.can_discard = true;
	memcpy(blk_bench.data, &range, sizeof(range));
	blk_bench_add(0, VIRTIO_BLK_T_DISCARD, 0, sizeof(range));
	blk_bench_run(1);
	cr_assert_eq(blk_bench.status[0], VIRTIO_BLK_S_UNSUPP);
	blk_bench_close();
	close(fd);
}
