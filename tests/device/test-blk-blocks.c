/* SPDX-License-Identifier: Apache-2.0 */
/* A disk with blocks of 4096 bytes under a guest that writes sectors of 512: blocks of which a part is written. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "loop_device.h"
#include "num.h"
#include "rig.h"

TestSuite(blk_blocks, .timeout = 120);

#define IMAGE_BYTES (16 << 20)
#define SECTORS     256 /* written concurrently, in pieces that end anywhere */
#define ROUNDS      60
#define BLOCKS      8 /* of which a sector each is written too */

/* Starts the server on such a device. */
static void start_on_blocks(struct rig *rig, struct rig_options *options)
{
	static char device[64]; /* for as long as the rig may start it again */
	int fd = loop_device(device, sizeof(device), 4096, IMAGE_BYTES);

	options->device = device;
	rig_start(rig, options);
	close(fd);
}

/* Cuts the sectors into pieces and writes them all at once over two queues. */
static void write_pieces(struct rig *rig, uint64_t gpa, unsigned round, unsigned *seed)
{
	unsigned sector = 0, pending[2] = { 0, 0 };

	rig_fill(rig_ptr(rig, gpa), 0, SECTORS * 512, round);
	while (sector < SECTORS) {
		unsigned any = 1 + (unsigned)rand_r(seed) % 20, n = MIN(any, SECTORS - sector);
		unsigned q = (unsigned)rand_r(seed) % 2;

		rig_add(rig, q, VIRTIO_BLK_T_OUT, sector, gpa + sector * 512, n * 512);
		pending[q]++;
		sector += n;
		if (pending[q] == 30) {
			cr_assert_eq(rig_wait(rig, q).status, VIRTIO_BLK_S_OK);
			pending[q]--;
		}
	}
	for (unsigned q = 0; q < 2; q++)
		while (pending[q]--)
			cr_assert_eq(rig_wait(rig, q).status, VIRTIO_BLK_S_OK);
}

Test(blk_blocks, parts_of_blocks_undo_no_others)
{
	struct rig_options options = { .queues = 2, .io_threads = 2, .ring_features = RING_F_EVENT_IDX };
	unsigned seed = (unsigned)clock_ns();
	struct rig rig;
	uint64_t out, in;

	start_on_blocks(&rig, &options);
	cr_assert_eq(rig.config.physical_block_exp, 3);
	cr_assert_eq(rig.config.capacity, IMAGE_BYTES / 512);
	out = rig_alloc(&rig, SECTORS * 512, 4096);
	in = rig_alloc(&rig, SECTORS * 512, 4096);
	for (unsigned round = 1; round <= ROUNDS; round++) {
		struct rig_done done;

		write_pieces(&rig, out, round, &seed);
		memset(rig_ptr(&rig, in), 0xee, SECTORS * 512);
		/* Two reads that begin and end within blocks. */
		done = rig_request(&rig, 0, VIRTIO_BLK_T_IN, 0, in, 99 * 512);
		cr_assert_eq(done.len, 99 * 512 + 1);
		done = rig_request(&rig, 1, VIRTIO_BLK_T_IN, 99, in + 99 * 512, (SECTORS - 99) * 512);
		cr_assert_eq(done.len, (SECTORS - 99) * 512 + 1);
		cr_assert(rig_check(rig_ptr(&rig, in), 0, SECTORS * 512, round), "round %u, seed %u", round,
			  seed);
	}
	rig_stop(&rig);
}

/* A sector and the whole block around it at once: the sector may be either's, the rest is the block's. */
Test(blk_blocks, a_whole_block_is_not_undone_by_a_part)
{
	struct rig_options options = { .queues = 2, .io_threads = 2, .ring_features = RING_F_EVENT_IDX };
	struct rig rig;
	uint64_t whole, part;

	start_on_blocks(&rig, &options);
	whole = rig_alloc(&rig, BLOCKS * 4096, 4096);
	part = rig_alloc(&rig, BLOCKS * 512, 4096);
	for (unsigned round = 1; round <= 10 * ROUNDS; round++) {
		uint8_t got[4096];

		rig_fill(rig_ptr(&rig, whole), 0, BLOCKS * 4096, round);
		for (unsigned b = 0; b < BLOCKS; b++) {
			rig_stage(&rig, 1, VIRTIO_BLK_T_OUT, b * 8 + 3, part + b * 512, 512);
			rig_stage(&rig, 0, VIRTIO_BLK_T_OUT, b * 8, whole + b * 4096, 4096);
		}
		rig_publish(&rig, round % 2);
		rig_publish(&rig, !(round % 2));
		for (unsigned i = 0; i < 2 * BLOCKS; i++)
			cr_assert_eq(rig_wait(&rig, i % 2).status, VIRTIO_BLK_S_OK);
		for (unsigned b = 0; b < BLOCKS; b++) {
			rig_read_image(&rig, b * 4096, got, sizeof(got));
			cr_assert(rig_check(got, b * 4096, 3 * 512, round));
			cr_assert(rig_check(got + 4 * 512, b * 4096 + 4 * 512, 4 * 512, round));
		}
	}
	rig_stop(&rig);
}

static uint8_t range(struct rig *rig, uint64_t gpa, uint32_t type, uint64_t sector, uint32_t n)
{
	struct virtio_blk_discard_write_zeroes range = { .sector = sector, .num_sectors = n };

	memcpy(rig_ptr(rig, gpa), &range, sizeof(range));
	return rig_request(rig, 0, type, 0, gpa, sizeof(range)).status;
}

/* Zeroes that begin and end within blocks, also within one; a discard of such a range is no I/O error. */
Test(blk_blocks, zeroes_end_where_they_are_told_to)
{
	static const struct {
		uint64_t sector;
		uint32_t n;
	} ranges[] = { { 3, 2 }, { 11, 5 }, { 21, 30 }, { 64, 9 }, { 79, 17 } };
	struct rig_options options = { .queues = 1 };
	uint8_t expected[128 * 512], got[128 * 512];
	struct rig rig;
	uint64_t gpa;

	start_on_blocks(&rig, &options);
	gpa = rig_alloc(&rig, sizeof(expected), 4096);
	memset(expected, 0xa5, sizeof(expected));
	memcpy(rig_ptr(&rig, gpa), expected, sizeof(expected));
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_OUT, 0, gpa, sizeof(expected)).status,
		     VIRTIO_BLK_S_OK);
	for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
		cr_assert_eq(range(&rig, gpa, VIRTIO_BLK_T_WRITE_ZEROES, ranges[i].sector, ranges[i].n),
			     VIRTIO_BLK_S_OK, "range %u", i);
		memset(expected + ranges[i].sector * 512, 0, ranges[i].n * 512);
	}
	rig_read_image(&rig, 0, got, sizeof(got));
	cr_assert_arr_eq(got, expected, sizeof(got));
	cr_assert_neq(range(&rig, gpa, VIRTIO_BLK_T_DISCARD, 3, 2), VIRTIO_BLK_S_IOERR);
	rig_stop(&rig);
}
