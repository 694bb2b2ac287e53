/* SPDX-License-Identifier: Apache-2.0 */
/* What drivers and hosts do wrong to blk-server. A test's name begins with the number of the fault it injects. */
#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "num.h"
#include "rig.h"

TestSuite(blk_faults, .timeout = 60);

#define IMAGE (16ULL << 20)

/* A request's parts in guest memory, to be arranged in a chain as a test likes. */
struct parts {
	uint64_t header, data, status;
};

static struct parts make_parts(struct rig *rig, uint32_t type, uint64_t sector, uint32_t data_len)
{
	struct virtio_blk_outhdr h = { .type = htole32(type), .sector = htole64(sector) };
	struct parts p = { .header = rig_alloc(rig, 32, 16),
			   .data = rig_alloc(rig, data_len + 4096, 4096),
			   .status = rig_alloc(rig, 16, 16) };

	memcpy(rig_ptr(rig, p.header), &h, sizeof(h));
	*rig_ptr(rig, p.status) = 0xff;
	return p;
}

/* The server goes on serving: one ordinary request. */
static void check_alive(struct rig *rig, unsigned queue)
{
	uint64_t gpa = rig_alloc(rig, 4096, 4096);
	struct rig_done done = rig_request(rig, queue, VIRTIO_BLK_T_IN, 0, gpa, 4096);

	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	cr_assert_eq(done.len, 4097);
}

Test(blk_faults, f16_header_split_1_and_15)
{
	struct rig_options options = { 0 };
	struct rig rig;
	struct parts p;

	rig_start(&rig, &options);
	p = make_parts(&rig, VIRTIO_BLK_T_OUT, 8, 4096);
	rig_fill(rig_ptr(&rig, p.data), 4096, 4096, 5);
	{
		struct ring_buf bufs[] = {
			{ .gpa = p.header, .len = 1 },
			{ .gpa = p.header + 1, .len = 15 },
			{ .gpa = p.data, .len = 4096 },
			{ .gpa = p.status, .len = 1, .write = true },
		};
		uint8_t buf[4096];

		cr_assert_eq(rig_raw(&rig, 0, bufs, 4), 1);
		cr_assert_eq(*rig_ptr(&rig, p.status), VIRTIO_BLK_S_OK);
		rig_read_image(&rig, 4096, buf, sizeof(buf));
		cr_assert(rig_check(buf, 4096, sizeof(buf), 5));
	}
	rig_stop(&rig);
}

/* Header and data in one descriptor, data and status in one. */
Test(blk_faults, f16_any_layout)
{
	struct rig_options options = { 0 };
	struct virtio_blk_outhdr h = { .type = htole32(VIRTIO_BLK_T_OUT), .sector = htole64(16) };
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 8192, 4096);
	memcpy(rig_ptr(&rig, gpa), &h, sizeof(h));
	rig_fill(rig_ptr(&rig, gpa + 16), 8192, 4096, 6);
	{
		struct ring_buf out[] = { { .gpa = gpa, .len = 16 + 4096 },
					  { .gpa = gpa + 8000, .len = 1, .write = true } };
		struct ring_buf in[] = { { .gpa = gpa, .len = 16 },
					 { .gpa = gpa + 16, .len = 4097, .write = true } };

		cr_assert_eq(rig_raw(&rig, 0, out, 2), 1);
		h.type = htole32(VIRTIO_BLK_T_IN);
		memcpy(rig_ptr(&rig, gpa), &h, sizeof(h));
		memset(rig_ptr(&rig, gpa + 16), 0xee, 4098);
		cr_assert_eq(rig_raw(&rig, 0, in, 2), 4097);
		cr_assert(rig_check(rig_ptr(&rig, gpa + 16), 8192, 4096, 6));
		cr_assert_eq(*rig_ptr(&rig, gpa + 16 + 4096), VIRTIO_BLK_S_OK);
		cr_assert_eq(*rig_ptr(&rig, gpa + 16 + 4097), 0xee);
	}
	rig_stop(&rig);
}

Test(blk_faults, f16_header_too_short)
{
	struct rig_options options = { 0 };
	struct rig rig;
	struct parts p;

	rig_start(&rig, &options);
	p = make_parts(&rig, VIRTIO_BLK_T_IN, 0, 512);
	{
		struct ring_buf bufs[] = { { .gpa = p.header, .len = 15 },
					   { .gpa = p.status, .len = 1, .write = true } };

		cr_assert_eq(rig_raw(&rig, 0, bufs, 2), 1);
		cr_assert_eq(*rig_ptr(&rig, p.status), VIRTIO_BLK_S_IOERR);
	}
	check_alive(&rig, 0);
	rig_stop(&rig);
}

Test(blk_faults, f16_no_room_for_status_breaks_the_ring_only)
{
	struct rig_options options = { .queues = 2 };
	struct rig rig;
	struct parts p;

	rig_start(&rig, &options);
	p = make_parts(&rig, VIRTIO_BLK_T_OUT, 0, 512);
	{
		struct ring_buf bufs[] = { { .gpa = p.header, .len = 16 }, { .gpa = p.data, .len = 512 } };

		cr_assert_eq(rig_raw(&rig, 0, bufs, 2), -1);
	}
	check_alive(&rig, 1);
	rig_stop(&rig);
}

Test(blk_faults, f18_outside_the_disk)
{
	static const uint64_t sectors[] = { IMAGE / 512, IMAGE / 512 - 7, UINT64_MAX / 512,
					    UINT64_MAX,  1ULL << 55,      (1ULL << 55) - 4 };
	struct rig_options options = { 0 };
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 4096, 4096);
	for (unsigned i = 0; i < ARRAY_SIZE(sectors); i++) {
		struct rig_done done = rig_request(&rig, 0, VIRTIO_BLK_T_IN, sectors[i], gpa, 4096);

		cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
		cr_assert_eq(done.len, 1);
		done = rig_request(&rig, 0, VIRTIO_BLK_T_OUT, sectors[i], gpa, 4096);
		cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
	}
	cr_assert_eq(lseek(rig.image_fd, 0, SEEK_END), (off_t)IMAGE, "the image grew");
	check_alive(&rig, 0);
	rig_stop(&rig);
}

Test(blk_faults, f19_length_not_a_multiple_of_512)
{
	static const uint32_t lens[] = { 1, 511, 513, 4095, 4097 };
	struct rig_options options = { 0 };
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 8192, 4096);
	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
		struct rig_done done = rig_request(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, lens[i]);

		cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
		cr_assert_eq(done.len, 1);
		done = rig_request(&rig, 0, VIRTIO_BLK_T_OUT, 0, gpa, lens[i]);
		cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
	}
	check_alive(&rig, 0);
	rig_stop(&rig);
}

/* The writable part is larger than what a request type fills. */
Test(blk_faults, f20_used_len_is_what_was_written)
{
	struct rig_options options = { 0 };
	struct rig rig;
	struct parts p;

	rig_start(&rig, &options);
	p = make_parts(&rig, VIRTIO_BLK_T_GET_ID, 0, 4096);
	memset(rig_ptr(&rig, p.data), 0xee, 4096);
	{
		struct ring_buf bufs[] = { { .gpa = p.header, .len = 16 },
					   { .gpa = p.data, .len = 4096, .write = true },
					   { .gpa = p.status, .len = 1, .write = true } };

		cr_assert_eq(rig_raw(&rig, 0, bufs, 3), 21);
		cr_assert_eq(*rig_ptr(&rig, p.data + 20), 0xee);
	}
	p = make_parts(&rig, VIRTIO_BLK_T_OUT, 0, 512);
	{
		struct ring_buf bufs[] = { { .gpa = p.header, .len = 16 },
					   { .gpa = p.data, .len = 512 },
					   { .gpa = p.status, .len = 8, .write = true } };

		cr_assert_eq(rig_raw(&rig, 0, bufs, 3), 1);
		cr_assert_eq(*rig_ptr(&rig, p.status), 0xff, "the status is not the last byte");
		cr_assert_eq(*rig_ptr(&rig, p.status + 7), VIRTIO_BLK_S_OK);
	}
	rig_stop(&rig);
}

/* The second of three data descriptors lies outside guest memory. */
Test(blk_faults, f21_error_in_the_middle_of_a_chain)
{
	struct rig_options options = { .queues = 2 };
	struct rig rig;
	struct parts p;

	rig_start(&rig, &options);
	p = make_parts(&rig, VIRTIO_BLK_T_IN, 0, 8192);
	{
		struct ring_buf bufs[] = { { .gpa = p.header, .len = 16 },
					   { .gpa = p.data, .len = 512, .write = true },
					   { .gpa = 1ULL << 40, .len = 512, .write = true },
					   { .gpa = p.data + 4096, .len = 512, .write = true },
					   { .gpa = p.status, .len = 1, .write = true } };

		memset(rig_ptr(&rig, p.data), 0xee, 512);
		cr_assert_eq(rig_raw(&rig, 0, bufs, 5), -1);
		cr_assert_eq(*rig_ptr(&rig, p.data), 0xee, "nothing of a bad chain is carried out");
	}
	check_alive(&rig, 1);
	rig_stop(&rig);
}

/* More ranges, and more bytes of ranges, than any buffer of the server holds. */
Test(blk_faults, f22_lengths_over_buffers)
{
	static const uint32_t lens[] = { 0, 15, 17, 33 * 16, 65536, 1 << 20 };
	struct rig_options options = { 0 };
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 1 << 20, 4096);
	for (unsigned i = 0; i < ARRAY_SIZE(lens); i++)
		cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, gpa, lens[i]).status,
			     VIRTIO_BLK_S_IOERR, "%u bytes of ranges", lens[i]);
	check_alive(&rig, 0);
	rig_stop(&rig);
}

/* The host refuses to let the file grow beyond a limit, as a full disk or a quota does. */
Test(blk_faults, f49_no_space)
{
	struct rig_options options = { .file_limit = 8ULL << 20 };
	struct rig_done done;
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 65536, 4096);
	done = rig_request(&rig, 0, VIRTIO_BLK_T_OUT, (9 << 20) / 512, gpa, 65536);
	cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
	cr_assert_eq(done.len, 1);
	/* Across the limit: the first part is written, the request fails all the same. */
	done = rig_request(&rig, 0, VIRTIO_BLK_T_OUT, ((8 << 20) - 4096) / 512, gpa, 65536);
	cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
	done = rig_request(&rig, 0, VIRTIO_BLK_T_OUT, 0, gpa, 65536);
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	check_alive(&rig, 0);
	rig_stop(&rig);
}

Test(blk_faults, f55_image_truncated_underneath)
{
	struct rig_options options = { 0 };
	struct rig_done done;
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 65536, 4096);
	cr_assert_eq(ftruncate(rig.image_fd, 8 << 20), 0);
	done = rig_request(&rig, 0, VIRTIO_BLK_T_IN, (9 << 20) / 512, gpa, 65536);
	cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
	cr_assert_eq(done.len, 1);
	/* Half of it is still there, and used.len says so. */
	done = rig_request(&rig, 0, VIRTIO_BLK_T_IN, ((8 << 20) - 32768) / 512, gpa, 65536);
	cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
	cr_assert_eq(done.len, 32769);
	done = rig_request(&rig, 0, VIRTIO_BLK_T_IN, ((8 << 20) - 32768) / 512, gpa + 4, 32768 + 512);
	cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
	check_alive(&rig, 0);
	rig_stop(&rig);
}
