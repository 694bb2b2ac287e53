/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server's queue and its aio engine against a kernel that fails on command. A test's name begins with the number of the
 * fault. */
#include <criterion/criterion.h>
#include <errno.h>
#include <libaio.h>
#include <stdio.h>
#include <unistd.h>

#include "blk_bench.h"
#include "num.h"

TestSuite(blk_queue_aio, .timeout = 60);

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
	cr_assert_eq(ftruncate(fileno(f), BLK_BENCH_BYTES), 0);
	return f;
}

static void write_all(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		blk_bench_add(i, VIRTIO_BLK_T_OUT, i * 4096, 4096);
	blk_bench_run(n);
}

Test(blk_queue_aio, f51_io_submit_takes_a_part)
{
	FILE *f = make_image();

	blk_bench_open(&engine_aio, fileno(f));
	limit = 3;
	write_all(BLK_BENCH_REQUESTS);
	for (unsigned i = 0; i < BLK_BENCH_REQUESTS; i++)
		cr_assert_eq(blk_bench.status[i], VIRTIO_BLK_S_OK);
	cr_assert_geq(calls, 3);
	blk_bench_close();
	fclose(f);
}

Test(blk_queue_aio, f51_io_submit_says_eagain_and_eintr)
{
	FILE *f = make_image();

	blk_bench_open(&engine_aio, fileno(f));
	refusals[0] = -EAGAIN;
	refusals[1] = -EINTR;
	refusals[2] = -EAGAIN;
	write_all(BLK_BENCH_REQUESTS);
	for (unsigned i = 0; i < BLK_BENCH_REQUESTS; i++)
		cr_assert_eq(blk_bench.status[i], VIRTIO_BLK_S_OK);
	blk_bench_close();
	fclose(f);
}

/* The kernel refuses the first of a batch; the others are carried out. */
Test(blk_queue_aio, f51_io_submit_refuses_one)
{
	FILE *f = make_image();
	unsigned failed = 0;

	blk_bench_open(&engine_aio, fileno(f));
	refusals[0] = -EINVAL;
	write_all(BLK_BENCH_REQUESTS);
	for (unsigned i = 0; i < BLK_BENCH_REQUESTS; i++)
		failed += blk_bench.status[i] == VIRTIO_BLK_S_IOERR;
	cr_assert_eq(failed, 1);
	blk_bench_close();
	fclose(f);
}

/* How many of n whole rounds of transfers are announced. */
static unsigned rounds(unsigned n)
{
	announced = 0;
	for (unsigned i = 0; i < n; i++)
		write_all(BLK_BENCH_REQUESTS);
	return announced;
}

/* A write to the page cache is done when it is submitted; a flush, which a worker of the kernel does, is not. */
Test(blk_queue_aio, what_is_done_at_once_is_not_announced)
{
	FILE *f = make_image();

	blk_bench_open(&engine_aio, fileno(f));
	cr_assert_eq(rounds(64 / BLK_BENCH_REQUESTS), 64);
	cr_assert_eq(rounds(10), 0);
	blk_bench_add(0, VIRTIO_BLK_T_FLUSH, 0, 0);
	blk_bench_run(1);
	cr_assert_eq(announced, 1);
	blk_bench_close();
	fclose(f);
}

/* Memory that answered turns out to be a disk: nothing is announced, and nothing forgotten. */
Test(blk_queue_aio, what_is_not_announced_is_polled_for)
{
	FILE *f = make_image();

	blk_bench_open(&engine_aio, fileno(f));
	rounds(64 / BLK_BENCH_REQUESTS);
	hold = true;
	blk_bench_add(0, VIRTIO_BLK_T_OUT, 0, 4096);
	blk_queue_service(blk_bench.server.queue);
	cr_assert_eq(blk_bench.status[0], 0xff);
	cr_assert(blk_queue_pending(blk_bench.server.queue), "the loop would sleep for ever");
	cr_assert_eq(__real_io_submit(held_ctx, 1, &held), 1);
	blk_queue_service(blk_bench.server.queue);
	cr_assert_eq(blk_bench.status[0], VIRTIO_BLK_S_OK);
	cr_assert_not(blk_queue_pending(blk_bench.server.queue));
	cr_assert_eq(rounds(1), BLK_BENCH_REQUESTS, "announced again");
	blk_bench_close();
	fclose(f);
}

/* FAULTS 48: what the anchor of a dead process asks; here the process lives, and is as it may be found. */
Test(blk_queue_aio, f48_nothing_is_left_to_the_kernel)
{
	FILE *f = make_image();

	cr_assert(engine_aio.drained(), "no engine is open");
	blk_bench_open(&engine_aio, fileno(f));
	cr_assert(engine_aio.drained());
	for (unsigned i = 0; i < 600; i++) /* the ring wraps */
		write_all(BLK_BENCH_REQUESTS);
	cr_assert(engine_aio.drained());
	limit = 3;
	write_all(BLK_BENCH_REQUESTS);
	cr_assert(engine_aio.drained(), "what io_submit did not take was never left to it");
	blk_bench_close();
	fclose(f);
}

/* It is waited for what the kernel holds, and not for ever. */
Test(blk_queue_aio, f48_the_kernel_holds_something)
{
	FILE *f = make_image();

	blk_bench_open(&engine_aio, fileno(f));
	hold = true;
	blk_bench_add(0, VIRTIO_BLK_T_OUT, 0, 4096);
	blk_queue_service(blk_bench.server.queue);
	cr_assert_not(engine_aio.drained());
	cr_assert_eq(__real_io_submit(held_ctx, 1, &held), 1);
	cr_assert(engine_aio.drained());
	blk_queue_service(blk_bench.server.queue);
	blk_bench_close();
	fclose(f);
}

/* Died on the way into io_submit: what it meant to submit does not come. */
Test(blk_queue_aio, f48_nobody_knows_what_was_submitted)
{
	FILE *f = make_image();

	blk_bench_open(&engine_aio, fileno(f));
	ask = true;
	write_all(1);
	cr_assert_not(answer);
	ask = true;
	refusals[calls] = -EAGAIN;
	write_all(1);
	cr_assert_not(answer);
	cr_assert(engine_aio.drained(), "a refused call leaves nothing");
	blk_bench_close();
	fclose(f);
}
