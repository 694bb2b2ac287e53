/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server's queue and its io_uring engine: a kernel that takes less than it is given, rings that allow nothing else, and
 * what tells whether the kernel is through. A test's name begins with the number of the fault. */
#include <criterion/criterion.h>
#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "blk_bench.h"
#include "fd.h"
#include "num.h"

TestSuite(blk_queue_uring, .timeout = 60);

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);

static int refusals[8]; /* what the next calls give; 0: as the kernel likes */
static unsigned limit;  /* entries that a call takes; 0: all */
static unsigned calls;
static void (*spoil)(struct io_uring_sqe *sqe); /* changes each entry on its way */

int __wrap_io_uring_submit(struct io_uring *ring)
{
	int refusal = calls < ARRAY_SIZE(refusals) ? refusals[calls] : 0;
	unsigned from = *ring->sq.khead, end = ring->sq.sqe_tail;

	calls++;
	if (refusal)
		return refusal;
	for (unsigned i = from; spoil && i != end; i++)
		spoil(&ring->sq.sqes[i & ring->sq.ring_mask]);
	if (limit && end - from > limit)
		ring->sq.sqe_tail = from + limit;
	return __real_io_uring_submit(ring);
}

static FILE *make_image(void)
{
	FILE *f = tmpfile();

	cr_assert_not_null(f);
	cr_assert_eq(ftruncate(fileno(f), BLK_BENCH_BYTES), 0);
	return f;
}

/* With this file, where the kernel lets us. */
static void open_with(int fd)
{
	struct io_uring ring;
	int err = io_uring_queue_init(1, &ring, 0);

	if (err)
		cr_skip_test("no io_uring here: %s", strerror(-err));
	io_uring_queue_exit(&ring);
	blk_bench_open(&engine_io_uring, fd);
}

static void write_all(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		blk_bench_add(i, VIRTIO_BLK_T_OUT, i * 4096, 4096);
	blk_bench_run(n);
}

static unsigned failures(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < BLK_BENCH_REQUESTS; i++)
		n += blk_bench.status[i] != VIRTIO_BLK_S_OK;
	return n;
}

Test(blk_queue_uring, f51_a_part_is_taken)
{
	FILE *f = make_image();

	open_with(fileno(f));
	limit = 3;
	write_all(BLK_BENCH_REQUESTS);
	cr_assert_eq(failures(), 0);
	cr_assert_geq(calls, 3);
	blk_bench_close();
	fclose(f);
}

Test(blk_queue_uring, f51_eagain_eintr_and_ebusy)
{
	FILE *f = make_image();

	open_with(fileno(f));
	refusals[0] = -EAGAIN;
	refusals[1] = -EINTR;
	refusals[2] = -EBUSY;
	write_all(BLK_BENCH_REQUESTS);
	cr_assert_eq(failures(), 0);
	blk_bench_close();
	fclose(f);
}

Test(blk_queue_uring, f51_the_first_is_refused)
{
	FILE *f = make_image();

	open_with(fileno(f));
	refusals[0] = -EFAULT;
	write_all(BLK_BENCH_REQUESTS);
	cr_assert_eq(failures(), 1);
	blk_bench_close();
	fclose(f);
}

/* ---- what a ring that was taken over can be used for ---- */

static void no_work(struct io_uring_sqe *sqe)
{
	sqe->opcode = IORING_OP_NOP;
}

static void open_a_file(struct io_uring_sqe *sqe)
{
	sqe->opcode = IORING_OP_OPENAT;
}

static void any_descriptor(struct io_uring_sqe *sqe)
{
	sqe->flags = 0;
	sqe->fd = fileno(stdin);
}

static void linked(struct io_uring_sqe *sqe)
{
	sqe->flags |= IOSQE_IO_LINK;
}

static void beyond(struct io_uring_sqe *sqe)
{
	sqe->fd = ENGINE_FILES_MAX + 1;
}

Test(blk_queue_uring, nothing_but_transfers_of_its_files)
{
	static void (*const how[])(struct io_uring_sqe *) = { no_work, open_a_file, any_descriptor, linked,
							      beyond };
	FILE *f = make_image();

	open_with(fileno(f));
	for (size_t i = 0; i < ARRAY_SIZE(how); i++) {
		spoil = how[i];
		write_all(BLK_BENCH_REQUESTS);
		cr_expect_eq(failures(), BLK_BENCH_REQUESTS, "%zu was done", i);
	}
	spoil = NULL;
	write_all(BLK_BENCH_REQUESTS);
	cr_expect_eq(failures(), 0);
	blk_bench_close();
	fclose(f);
}

/* ---- FAULTS 48: what the anchor of a dead process asks; here the process lives ---- */

Test(blk_queue_uring, f48_nothing_is_left_to_the_kernel)
{
	FILE *f = make_image();

	cr_assert(engine_io_uring.drained(), "no engine is open");
	open_with(fileno(f));
	cr_assert(engine_io_uring.drained());
	for (unsigned i = 0; i < 600; i++) /* the rings wrap */
		write_all(BLK_BENCH_REQUESTS);
	cr_assert(engine_io_uring.drained());
	limit = 3;
	write_all(BLK_BENCH_REQUESTS);
	cr_assert(engine_io_uring.drained(), "what was not taken was never left to it");
	blk_bench_close();
	cr_assert(engine_io_uring.drained());
	fclose(f);
}

/* It is waited for what the kernel holds, a read of a pipe here, and not for ever. */
Test(blk_queue_uring, f48_the_kernel_holds_something)
{
	static char data[4096];
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	open_with(ends[0]);
	blk_bench_add(0, VIRTIO_BLK_T_IN, 0, sizeof(data));
	blk_queue_service(blk_bench.server.queue);
	cr_assert_eq(blk_bench.status[0], 0xff);
	cr_assert_not(engine_io_uring.drained());
	cr_assert_eq(write(ends[1], data, sizeof(data)), sizeof(data));
	blk_bench_run(1);
	cr_assert_eq(blk_bench.status[0], VIRTIO_BLK_S_OK);
	cr_assert(engine_io_uring.drained());
	blk_bench_close();
	close(ends[0]);
	close(ends[1]);
}

/* ---- FAULTS 48: one server after another ---- */

/* A server that said nothing before it died is waited for, as long as anything of it is there; what said that it is
 * through, is not. */
Test(blk_queue_uring, f48_a_fence_between_servers)
{
	int fd = fd_sealed_memfd("state", 4096);
	_Atomic uint64_t word = 0;
	struct fence dead, spare, next;

	cr_assert_eq(fence_open(&dead, fd, &word), 0);
	cr_assert_eq(fence_open(&spare, fd, &word), 0);
	cr_assert_eq(fence_open(&next, fd, &word), 0);
	cr_assert_eq(fence_begin(&dead), 0, "the first waits for nobody");
	fence_end(&spare);
	cr_assert_neq(atomic_load(&word), 0, "a spare has nothing to say");
	for (int i = 0; i < 2; i++)
		cr_assert_eq(fence_begin(&next), -EAGAIN, "it waits for nobody");
	cr_assert(fence_waits(&next));
	fence_end(&next);
	cr_assert_neq(atomic_load(&word), 0, "who waits has nothing to say, either");
	fence_close(&dead);
	cr_assert_eq(fence_begin(&next), 0);
	cr_assert_not(fence_waits(&next));
	fence_end(&next);
	cr_assert_eq(fence_begin(&spare), 0, "it was through, and is still there");
	fence_close(&next);
	fence_close(&spare);
	close(fd);
}
