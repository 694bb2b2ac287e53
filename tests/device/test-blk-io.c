/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server reads and writes what the driver asks for, over every kind of ring. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
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

ParameterizedTestParameters(blk_io, every_ring)
{
	static uint64_t kinds[8];

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		kinds[i] = (i & 1 ? RING_F_PACKED : 0) | (i & 2 ? RING_F_INDIRECT : 0) |
			   (i & 4 ? RING_F_EVENT_IDX : 0);
	return cr_make_param_array(uint64_t, kinds, ARRAY_SIZE(kinds));
}

ParameterizedTest(uint64_t *features, blk_io, every_ring)
{
	struct rig_options options = { .ring_features = *features };
	struct rig rig;

	rig_start(&rig, &options);
	write_and_read(&rig, 0);
	rig_stop(&rig);
}
