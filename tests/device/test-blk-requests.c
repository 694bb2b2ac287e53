/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server's request types and its configuration space, as virtio 1.2 §5.2 has them. */
#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "num.h"
#include "rig.h"

TestSuite(blk_requests, .timeout = 60);

#define DATA 65536

/* Has a range of the disk discarded or zeroed; the status. */
static uint8_t range(struct rig *rig, uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	uint64_t gpa = rig_alloc(rig, 16, 16);
	struct virtio_blk_discard_write_zeroes r = { .sector = htole64(sector),
						     .num_sectors = htole32(sectors),
						     .flags = htole32(flags) };

	memcpy(rig_ptr(rig, gpa), &r, sizeof(r));
	return rig_request(rig, 0, type, 0, gpa, sizeof(r)).status;
}

/* Fills DATA bytes of the disk from 0 on with a pattern. */
static void fill(struct rig *rig, uint64_t gpa)
{
	rig_fill(rig_ptr(rig, gpa), 0, DATA, 1);
	cr_assert_eq(rig_request(rig, 0, VIRTIO_BLK_T_OUT, 0, gpa, DATA).status, VIRTIO_BLK_S_OK);
}

static bool all_zero(const uint8_t *buf, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		if (buf[i])
			return false;
	return true;
}

/* After sectors 8 to 16 were zeroed, by what the driver reads. */
static void check_zeroed(struct rig *rig, uint64_t gpa)
{
	uint8_t *p = rig_ptr(rig, gpa);

	memset(p, 0xee, DATA);
	cr_assert_eq(rig_request(rig, 0, VIRTIO_BLK_T_IN, 0, gpa, DATA).status, VIRTIO_BLK_S_OK);
	cr_assert(rig_check(p, 0, 4096, 1));
	cr_assert(all_zero(p + 4096, 4096));
	cr_assert(rig_check(p + 8192, 8192, DATA - 8192, 1));
}

static void zero_in(const char *directory)
{
	struct rig_options options = { .directory = directory };
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, DATA, 4096);
	for (uint32_t unmap = 0; unmap <= 1; unmap++) {
		fill(&rig, gpa);
		cr_assert_eq(range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, unmap), VIRTIO_BLK_S_OK);
		check_zeroed(&rig, gpa);
	}
	if (rig.info.features & 1ULL << VIRTIO_BLK_F_DISCARD) {
		fill(&rig, gpa);
		cr_assert_eq(range(&rig, VIRTIO_BLK_T_DISCARD, 8, 8, 0), VIRTIO_BLK_S_OK);
		check_zeroed(&rig, gpa);
	}
	rig_stop(&rig);
}

Test(blk_requests, discard_and_write_zeroes_read_back_zero)
{
	zero_in(NULL);
}

/* tmpfs can't zero a range in place, so zeroes are written. */
Test(blk_requests, write_zeroes_without_fallocate)
{
	zero_in("/dev/shm");
}

/* A disk that the driver knows as writable and that takes no writes any more, nor loses what it has. */
Test(blk_requests, refuse_writes_offers_writes_and_fails_them)
{
	static const char *const args[] = { "--refuse-writes", NULL };
	struct rig_options options = { 0 };
	struct rig rig;
	uint64_t features, gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, DATA, 4096);
	fill(&rig, gpa);
	features = rig.info.features;
	rig_kill(&rig);
	rig.options.args = args;
	rig_respawn(&rig);
	cr_assert_eq(rig.info.features, features);
	memset(rig_ptr(&rig, gpa), 0x55, DATA);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_OUT, 0, gpa, DATA).status, VIRTIO_BLK_S_IOERR);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0).status, VIRTIO_BLK_S_OK);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, DATA).status, VIRTIO_BLK_S_OK);
	cr_assert(rig_check(rig_ptr(&rig, gpa), 0, DATA, 1));
	rig_stop(&rig);
}

Test(blk_requests, range_flags_and_bounds)
{
	struct rig_options options = { 0 };
	uint64_t end = (16ULL << 20) / 512;
	struct rig rig;

	rig_start(&rig, &options);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_DISCARD, 0, 8, 1), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, end - 4, 8, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, UINT64_MAX / 512, 8, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, UINT64_MAX, 1, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
	rig_stop(&rig);
}

Test(blk_requests, flush)
{
	struct rig_options options = { 0 };
	struct rig_done done;
	struct rig rig;

	rig_start(&rig, &options);
	done = rig_request(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	cr_assert_eq(done.len, 1);
	rig_stop(&rig);
}

Test(blk_requests, get_id)
{
	static const char *const args[] = { "--id", "disk-seven", NULL };
	struct rig_options options = { .args = args };
	struct rig_done done;
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 64, 16);
	memset(rig_ptr(&rig, gpa), 0xee, 64);
	done = rig_request(&rig, 0, VIRTIO_BLK_T_GET_ID, 0, gpa, VIRTIO_BLK_ID_BYTES);
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	cr_assert_eq(done.len, VIRTIO_BLK_ID_BYTES + 1);
	cr_assert_str_eq((const char *)rig_ptr(&rig, gpa), "disk-seven");
	cr_assert_eq(*rig_ptr(&rig, gpa + VIRTIO_BLK_ID_BYTES), 0xee);
	rig_stop(&rig);
}

Test(blk_requests, unknown_types_are_unsupported)
{
	static const uint32_t types[] = { 2, 3, 9, 14, 1000, 0x80000000 };
	struct rig_options options = { 0 };
	struct rig rig;

	rig_start(&rig, &options);
	for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
		cr_assert_eq(rig_request(&rig, 0, types[i], 0, 0, 0).status, VIRTIO_BLK_S_UNSUPP);
	rig_stop(&rig);
}

Test(blk_requests, readonly_refuses_to_write)
{
	struct rig_options options = { .readonly = true };
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 4096, 4096);
	cr_assert(rig.info.features & 1ULL << VIRTIO_BLK_F_RO);
	cr_assert_not(rig.info.features & 1ULL << VIRTIO_BLK_F_DISCARD);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_OUT, 0, gpa, 4096).status, VIRTIO_BLK_S_IOERR);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_DISCARD, 0, 8, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096).status, VIRTIO_BLK_S_OK);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0).status, VIRTIO_BLK_S_OK);
	rig_stop(&rig);
}

Test(blk_requests, config_space)
{
	struct rig_options options = { .queues = 2, .image_bytes = 5 << 20 };
	struct rig rig;

	rig_start(&rig, &options);
	cr_assert_eq(le64toh(rig.config.capacity), (5 << 20) / 512);
	cr_assert_eq(le32toh(rig.config.seg_max), 126);
	cr_assert_eq(le32toh(rig.config.blk_size), 512);
	cr_assert_eq(le16toh(rig.config.num_queues), 2);
	cr_assert(rig.info.features & 1ULL << VIRTIO_BLK_F_MQ);
	cr_assert(rig.info.features & 1ULL << VIRTIO_BLK_F_FLUSH);
	cr_assert_gt(le32toh(rig.config.max_write_zeroes_sectors), 0);
	cr_assert_gt(le32toh(rig.config.max_write_zeroes_seg), 0);
	rig_stop(&rig);
}

/* A driver that does not flush gets writes that are stable when they are completed. What can be seen from here is
 * that they work. */
Test(blk_requests, writes_without_flush_negotiated)
{
	struct rig_options options = { .refuse = 1ULL << VIRTIO_BLK_F_FLUSH };
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, DATA, 4096);
	fill(&rig, gpa);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 0), VIRTIO_BLK_S_OK);
	check_zeroed(&rig, gpa);
	rig_stop(&rig);
}

Test(blk_requests, buffered)
{
	static const char *const args[] = { "--cache", "buffered", NULL };
	struct rig_options options = { .args = args };
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, DATA, 4096);
	fill(&rig, gpa);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 0), VIRTIO_BLK_S_OK);
	check_zeroed(&rig, gpa);
	rig_stop(&rig);
}

/* The engine for measuring: whatever way a request takes, the image is neither read nor written. */
Test(blk_requests, null_moves_nothing)
{
	static const char *const args[] = { "--engine", "null", NULL };
	static uint8_t image[DATA];
	struct rig_options options = { .args = args, .ring_features = RING_F_EVENT_IDX };
	struct rig_done done;
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	rig_fill(image, 0, DATA, 1);
	cr_assert_eq(pwrite(rig.image_fd, image, DATA, 0), DATA);
	gpa = rig_alloc(&rig, DATA + 8, 4096);
	for (unsigned skew = 0; skew <= 8; skew += 8) {
		memset(rig_ptr(&rig, gpa + skew), 0x55, DATA);
		cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_OUT, 0, gpa + skew, DATA).status,
			     VIRTIO_BLK_S_OK);
		done = rig_request(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa + skew, DATA);
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
		cr_assert_eq(done.len, DATA + 1);
		cr_assert(all_zero(rig_ptr(&rig, gpa + skew), DATA));
	}
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_WRITE_ZEROES, 1, 9, 0), VIRTIO_BLK_S_OK);
	cr_assert_eq(range(&rig, VIRTIO_BLK_T_DISCARD, 0, 16, 0), VIRTIO_BLK_S_OK);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0).status, VIRTIO_BLK_S_OK);
	rig_read_image(&rig, 0, image, DATA);
	cr_assert(rig_check(image, 0, DATA, 1), "the image was written to");
	rig_stop(&rig);
}

/* What the server keeps of such a ring is so large that the queue's thread gives it back to the kernel. */
static void largest_ring(uint64_t ring_features)
{
	struct rig_options options = { .ring_size = RIG_SIZE_MAX, .ring_features = ring_features };
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, DATA, 4096);
	fill(&rig, gpa);
	rig_reset_driver(&rig);
	fill(&rig, gpa);
	rig_stop(&rig);
}

Test(blk_requests, largest_ring_split)
{
	largest_ring(0);
}

Test(blk_requests, largest_ring_packed)
{
	largest_ring(RING_F_PACKED);
}

/* All queues at once, on fewer threads, each on its own part of the disk. */
Test(blk_requests, many_queues_on_two_threads)
{
	struct rig_options options = { .queues = 4, .io_threads = 2, .ring_features = RING_F_EVENT_IDX };
	struct rig_done done;
	struct rig rig;
	uint64_t gpa[4];

	rig_start(&rig, &options);
	for (unsigned q = 0; q < 4; q++)
		gpa[q] = rig_alloc(&rig, 32 * 4096, 4096);
	for (unsigned round = 0; round < 50; round++) {
		for (unsigned i = 0; i < 4 * 32; i++) {
			unsigned q = i % 4;
			uint64_t at = (uint64_t)i * 4096;

			rig_fill(rig_ptr(&rig, gpa[q] + i / 4 * 4096), at, 4096, round);
			rig_add(&rig, q, VIRTIO_BLK_T_OUT, at / 512, gpa[q] + i / 4 * 4096, 4096);
		}
		for (unsigned i = 0; i < 4 * 32; i++) {
			done = rig_wait(&rig, i % 4);
			cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
		}
	}
	for (unsigned i = 0; i < 4 * 32; i++) {
		uint8_t buf[4096];

		rig_read_image(&rig, (uint64_t)i * 4096, buf, sizeof(buf));
		cr_assert(rig_check(buf, (uint64_t)i * 4096, sizeof(buf), 49));
	}
	rig_stop(&rig);
}
