/* SPDX-License-Identifier: Apache-2.0 */
/* When blk-server has a qcow2 image open, as seen by one queue of it. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blk_bench.h"
#include "clock.h"
#include "owner.h"
#include "qcow2_rig.h"

TestSuite(blk_owner, .timeout = 120);

static int make_image(void)
{
	int fd;

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 disk 64k");
	fd = open("disk", O_RDWR | O_CLOEXEC);
	cr_assert_geq(fd, 0);
	return fd;
}

static bool is_opening(void)
{
	return blk_queue_held(blk_bench.server.queue) > 0;
}

static void wait_until_open(void)
{
	uint64_t end = clock_ns() + 40 * NS_PER_S;

	while (is_opening()) {
		cr_assert(clock_ns() < end, "the image is never open");
		loop_run_once(blk_bench.server.loop, (int64_t)(10 * NS_PER_MS));
	}
}

static bool has_leaks(void)
{
	return rig_sh_status("qemu-img check -U -q -f qcow2 disk >/dev/null 2>&1") == 3;
}

/* Somebody who disables a ring does not wait for what is under way; the image is closed when the ring is stopped. */
Test(blk_owner, an_image_is_closed_after_the_last_request)
{
	int fd = make_image();

	blk_bench_open_qcow2(fd);
	blk_queue_ring(blk_bench.server.queue, true);
	wait_until_open();
	blk_bench_add(0, VIRTIO_BLK_T_OUT, 0, 4096);
	blk_queue_service(blk_bench.server.queue);
	cr_assert_eq(blk_bench.server.completed, 0);
	cr_assert_gt(blk_queue_held(blk_bench.server.queue), 0);
	blk_queue_ring(blk_bench.server.queue, false);
	cr_assert_not_null(owner_image(blk_bench.disk.owner));
	blk_bench_run(1);
	cr_assert_eq(blk_bench.status[0], VIRTIO_BLK_S_OK);
	cr_assert(has_leaks(), "nothing was reserved");
	blk_queue_ring(blk_bench.server.queue, false);
	cr_assert_null(owner_image(blk_bench.disk.owner));
	cr_assert_not(has_leaks(), "what was reserved is not given back");
	/* And once more. */
	blk_queue_ring(blk_bench.server.queue, true);
	wait_until_open();
	cr_assert_not_null(owner_image(blk_bench.disk.owner));
	blk_bench_add(1, VIRTIO_BLK_T_IN, 0, 4096);
	blk_bench_run(1);
	cr_assert_eq(blk_bench.status[1], VIRTIO_BLK_S_OK);
	blk_queue_ring(blk_bench.server.queue, false);
	cr_assert_null(owner_image(blk_bench.disk.owner));
	blk_bench_close();
	close(fd);
}

/* What is asked for while it can't be opened fails; later attempts find it mended. */
Test(blk_owner, an_image_is_opened_when_it_can_be)
{
	uint64_t end = clock_ns() + 40 * NS_PER_S;
	int fd = make_image();

	blk_bench_open_qcow2(fd);
	cr_assert_eq(pwrite(fd, "spoiled", 4, 0), 4);
	blk_queue_ring(blk_bench.server.queue, true);
	wait_until_open();
	cr_assert_null(owner_image(blk_bench.disk.owner));
	blk_bench_add(0, VIRTIO_BLK_T_IN, 0, 4096);
	blk_bench_run(1);
	cr_assert_eq(blk_bench.status[0], VIRTIO_BLK_S_IOERR);
	cr_assert_eq(pwrite(fd, "QFI\xfb", 4, 0), 4);
	do {
		cr_assert(clock_ns() < end, "it is not opened again");
		blk_bench_add(1, VIRTIO_BLK_T_IN, 0, 4096);
		blk_bench_run(1);
	} while (blk_bench.status[1] != VIRTIO_BLK_S_OK);
	blk_queue_ring(blk_bench.server.queue, false);
	blk_bench_close();
	close(fd);
}

/* Another queue's ring that goes off, again and again: each time whoever opens the image is called off. */
static void *go_off(void *user)
{
	for (int i = 0; i < 200; i++)
		owner_ring(blk_bench.disk.owner, *(const unsigned *)user, false);
	return NULL;
}

/* That is nothing that the guest may see. */
Test(blk_owner, a_request_waits_for_an_image_whose_opening_is_called_off)
{
	static const unsigned users[] = { 1, 2, 3 };
	pthread_t thread[3];
	int fd = make_image();

	blk_bench_open_qcow2(fd);
	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < 3; i++)
			cr_assert_eq(pthread_create(&thread[i], NULL, go_off, (void *)(uintptr_t)&users[i]),
				     0);
		blk_queue_ring(blk_bench.server.queue, true);
		wait_until_open();
		blk_bench_add(0, VIRTIO_BLK_T_IN, 0, 4096);
		blk_bench_run(1);
		cr_assert_eq(blk_bench.status[0], VIRTIO_BLK_S_OK, "round %d", round);
		for (int i = 0; i < 3; i++)
			pthread_join(thread[i], NULL);
		blk_queue_ring(blk_bench.server.queue, false);
	}
	blk_bench_close();
	close(fd);
}
