/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server reads and writes what the driver asks for, over every kind of ring. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "num.h"
#include "rig.h"

TestSuite(blk_io, .timeout = 120);

/* Writes and reads back, through every data alignment a guest may use. */
static void write_and_read(struct rig *rig, unsigned queue)
{
	static const uint32_t lens[] = {
		512, 1024, 4096, 7 * 512, 65536, 65536 + 512, 256 * 1024, 1024 * 1024
	};
	static const uint32_t shifts[] = { 0, 8, 512, 2048 + 4 };
	uint64_t out = rig_alloc(rig, 2 << 20, 4096), in = rig_alloc(rig, 2 << 20, 4096);
	uint64_t off = queue * (3ULL << 20);
	struct rig_done done;

	for (unsigned i = 0; i < ARRAY_SIZE(lens) * ARRAY_SIZE(shifts); i++) {
		uint32_t len = lens[i % ARRAY_SIZE(lens)], shift = shifts[i / ARRAY_SIZE(lens)];
		uint64_t at = off + (i % 5) * 512;

		rig_fill(rig_ptr(rig, out + shift), at, len, i);
		done = rig_request(rig, queue, VIRTIO_BLK_T_OUT, at / 512, out + shift, len);
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK, "write of %u at shift %u", len, shift);
		cr_assert_eq(done.len, 1);
		memset(rig_ptr(rig, in), 0xee, 2 << 20);
		done = rig_request(rig, queue, VIRTIO_BLK_T_IN, at / 512, in + shift, len);
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK, "read of %u at shift %u", len, shift);
		cr_assert_eq(done.len, len + 1);
		cr_assert(rig_check(rig_ptr(rig, in + shift), at, len, i), "%u bytes, shift %u", len, shift);
		cr_assert_eq(*rig_ptr(rig, in + shift + len), 0xee, "one byte too many");
		if (shift)
			cr_assert_eq(*rig_ptr(rig, in + shift - 1), 0xee, "one byte before");
	}
}

static void over(uint64_t ring_features)
{
	struct rig_options options = { .ring_features = ring_features };
	struct rig rig;

	rig_start(&rig, &options);
	write_and_read(&rig, 0);
	rig_stop(&rig);
}

Test(blk_io, split)
{
	over(0);
}

Test(blk_io, split_indirect)
{
	over(RING_F_INDIRECT);
}

Test(blk_io, split_event_idx)
{
	over(RING_F_EVENT_IDX);
}

Test(blk_io, split_indirect_event_idx)
{
	over(RING_F_INDIRECT | RING_F_EVENT_IDX);
}

Test(blk_io, packed)
{
	over(RING_F_PACKED);
}

Test(blk_io, packed_indirect)
{
	over(RING_F_PACKED | RING_F_INDIRECT);
}

Test(blk_io, packed_event_idx)
{
	over(RING_F_PACKED | RING_F_EVENT_IDX);
}

Test(blk_io, packed_indirect_event_idx)
{
	over(RING_F_PACKED | RING_F_INDIRECT | RING_F_EVENT_IDX);
}
