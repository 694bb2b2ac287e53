/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-blk: what blk-server makes of requests, with a disk in memory whose engine checks what it is handed and is done
 * when the input says so, well or not.
 *
 * While the driver behaves, each request comes back once, with a status, whatever stops or dies meanwhile.
 */
#include <errno.h>
#include <linux/virtio_blk.h>

#include "clock.h"
#include "memdisk.h"
#include "request.h"
#include "rig.h"

#define DEATHS 5
#define PIECES 6

static struct rig rig;
static unsigned deaths;

static void go_on(void)
{
	memdisk_raise();
	still_run(rig.loop, RIG_PASSES);
}

static void die(void)
{
	uint64_t features = rig.features;
	bool was[RIG_RINGS];

	still_run(rig.loop, RIG_PASSES);
	memcpy(was, rig.up, sizeof(was));
	memdisk_die();
	rig_die(&rig);
	rig_boot(&rig, MEMDISK_QUEUES, MEMDISK_QUEUES, features);
	rig_start_again(&rig, was);
}

/* ---- what the driver does ---- */

static uint64_t some_address(struct input *in, uint32_t len)
{
	uint16_t at = in_u16(in);
	uint32_t room = 2 * RIG_BYTES - len; /* two regions adjoin */

	return RIG_DATA + (at & 1 ? (at * 16U) % room & ~511U : at * 3U % room);
}

static uint64_t some_sector(struct input *in)
{
	uint8_t how = in_u8(in);

	if (how < 8)
		return in_u64(in);
	if (how < 32) /* about the end */
		return MEMDISK_BYTES / SECTOR - 8 + how % 16;
	return how % 64;
}

static uint32_t some_length(struct input *in)
{
	uint8_t how = in_u8(in);

	if (how < 128)
		return how % 16 * SECTOR;
	if (how < 192)
		return how % 64 * 1024;
	return in_u16(in);
}

/* Where the next status byte is to be: apart from all data. */
static struct ring_buf status(struct input *in)
{
	uint64_t gpa = RIG_APART + in_u8(in) * 8U;
	uint8_t none = 0xff;

	rig_put(&rig, gpa, &none, 1);
	return (struct ring_buf) { .gpa = gpa, .len = 1, .write = true };
}

static unsigned data(struct input *in, struct ring_buf *bufs, uint32_t len, bool write)
{
	unsigned n = 0, pieces = 1 + in_below(in, PIECES);

	while (len && n < PIECES) {
		uint32_t part = n + 1 < pieces ? 1 + in_below(in, 4096) : RIG_BYTES;

		if (part > len || n + 1 == PIECES)
			part = len;
		bufs[n++] = (struct ring_buf) { .gpa = some_address(in, part), .len = part, .write = write };
		len -= part;
	}
	return n;
}

static void op_request(struct input *in)
{
	static const uint32_t types[] = {
		VIRTIO_BLK_T_IN,     VIRTIO_BLK_T_OUT,     VIRTIO_BLK_T_FLUSH,
		VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES
	};
	uint8_t what = in_u8(in);
	struct virtio_blk_outhdr header = { .type = types[what % 6], .sector = some_sector(in) };
	struct ring_buf bufs[PIECES + 3];
	uint64_t at = RIG_APART + 0x8000U + in_u8(in) * 16U;
	uint32_t len = some_length(in), cut = what & 64 ? 1 + in_below(in, 15) : 0;
	bool write = header.type == VIRTIO_BLK_T_IN || header.type == VIRTIO_BLK_T_GET_ID;
	unsigned n = 0;

	if (what & 128)
		header.type = in_u32(in);
	rig_put(&rig, at, &header, sizeof(header));
	/* A header may lie in pieces. */
	if (cut)
		bufs[n++] = (struct ring_buf) { .gpa = at, .len = cut };
	bufs[n++] = (struct ring_buf) { .gpa = at + cut, .len = 16 - cut };
	n += data(in, bufs + n, len, write);
	bufs[n++] = status(in);
	ring_add(&rig.ring[in_below(in, MEMDISK_QUEUES)], bufs, n,
		 what & 32 && rig.features & RING_F_INDIRECT);
}

/* Without a whole header: all of them report to one place, and none may say that it did well. */
#define SHORT_STATUS (RIG_APART + 0x4000U)

static void op_short(struct input *in)
{
	struct ring_buf bufs[] = { { .gpa = RIG_APART + 0x8000U, .len = 1 + in_below(in, 15) },
				   { .gpa = SHORT_STATUS, .len = 1, .write = true } };

	ring_add(&rig.ring[in_below(in, MEMDISK_QUEUES)], bufs, 2,
		 in_u8(in) & 1 && rig.features & RING_F_INDIRECT);
}

static void op_ranges(struct input *in)
{
	struct virtio_blk_discard_write_zeroes ranges[DISK_RANGES + 2];
	uint8_t what = in_u8(in);
	struct virtio_blk_outhdr header = { .type =
						what & 1 ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES };
	uint64_t at = RIG_APART + 0x8000U;
	struct ring_buf bufs[4];
	uint32_t len, n = in_below(in, ARRAY_SIZE(ranges) + 1);

	memset(ranges, 0, sizeof(ranges));
	for (unsigned i = 0; i < n && in->left; i++) {
		ranges[i].sector = some_sector(in);
		ranges[i].num_sectors = what & 2 ? in_u32(in) : in_u8(in);
		ranges[i].flags = what & 4 ? in_u32(in) : what & 8 ? in_u8(in) & 1 : 0;
	}
	len = n * (uint32_t)sizeof(*ranges) + (what & 16 ? in_below(in, 16) : 0);
	rig_put(&rig, at, &header, sizeof(header));
	rig_put(&rig, at + sizeof(header), ranges, MIN(len, (uint32_t)sizeof(ranges)));
	bufs[0] = (struct ring_buf) { .gpa = at, .len = 16 };
	bufs[1] = (struct ring_buf) { .gpa = at + 16, .len = MAX(len, 1U) };
	bufs[2] = status(in);
	ring_add(&rig.ring[in_below(in, MEMDISK_QUEUES)], bufs, 3,
		 what & 32 && rig.features & RING_F_INDIRECT);
}

static void op_any_chain(struct input *in)
{
	rig_any_chain(&rig, MEMDISK_QUEUES, in);
}

static void op_write_over(struct input *in)
{
	rig_write_over(&rig, MEMDISK_QUEUES, in);
}

static void op_kick(struct input *in)
{
	uint8_t which = in_u8(in);

	rig_kick(&rig, which);
	still_run(rig.loop, which & 128 ? 1 : RIG_PASSES);
}

static void collect(void)
{
	rig_collect(&rig, 1);
	MUST(*rig_ptr(&rig, SHORT_STATUS, 1) != VIRTIO_BLK_S_OK || !rig.honest);
}

static void op_collect(struct input *in)
{
	(void)in;
	collect();
}

/* ---- what the others do ---- */

static void op_disk(struct input *in)
{
	uint8_t how = in_u8(in);

	memdisk.hold = how & 1;
	memdisk.refuse = how & 2;
	if (how & 4)
		memdisk.answer = how & 8 ? -EIO : (how >> 4) + 1;
	go_on();
}

static void op_work(struct input *in)
{
	(void)in;
	memdisk_work();
	go_on();
}

static void op_order(struct input *in)
{
	uint8_t what = in_u8(in);
	unsigned i = what % rig.rings;

	if (!rig.up[i]) {
		MUST(rig_start(&rig, i, false) || !rig.honest);
	} else if ((what >> 1) % 5 == 0) {
		rig_stop(&rig, i, what & 64);
	} else if ((what >> 1) % 5 < 3) {
		rig_enable(&rig, i, what & 64);
	} else if ((what >> 1) % 5 == 3) {
		rig_drain(&rig, i, what & 64);
	} else {
		rig_set_mem(&rig, i, what >> 6 & 1);
	}
	if (what >= 250)
		rig_move(&rig, i);
	still_run(rig.loop, RIG_PASSES);
}

static void op_config(struct input *in)
{
	uint32_t off = in_u8(in);

	memdisk_read_config(off, in_u8(in));
}

static void op_die(struct input *in)
{
	(void)in;
	if (rig.tracked && deaths++ < DEATHS)
		die();
}

static void (*const ops[])(struct input *in) = {
	op_request, op_request, op_request, op_kick, op_kick, op_ranges, op_disk,      op_work,
	op_collect, op_order,   op_short,   op_die,  op_disk, op_config, op_any_chain, op_write_over,
};

/* ---- an input ---- */

/* With nothing in the way any more, all that was asked is answered. */
static void settle(void)
{
	memdisk.hold = memdisk.refuse = false;
	memdisk.answer = 0;
	for (unsigned round = 0; round < 4; round++) {
		memdisk_retry();
		still_advance(1000 * NS_PER_S);
		rig_let_go(&rig);
		still_run(rig.loop, RIG_PASSES);
		for (unsigned k = 0; k < 8 * RIG_SIZE && (memdisk_has_jobs() || !memdisk_is_idle()); k++) {
			memdisk_work();
			go_on();
		}
		collect();
	}
	for (unsigned i = 0; i < rig.rings; i++)
		MUST(rig.ring[i].n_free == RIG_SIZE);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct input in = { bytes, len };
	uint64_t features;
	uint8_t how;

	if (len > 4096)
		return 0;
	rig_reset(&rig, &memdisk_device, NULL);
	deaths = 0;
	how = in_u8(&in);
	features = rig_features(how);
	if (how & 8)
		features &= ~(1ULL << VIRTIO_BLK_F_FLUSH);
	rig.tracked = !(how & 16);
	memdisk_make(in_u8(&in));
	rig_boot(&rig, MEMDISK_QUEUES, MEMDISK_QUEUES, features);
	rig_lay_out(&rig);
	rig_put(&rig, SHORT_STATUS, "\xff", 1);
	rig_start_all(&rig);
	while (in.left)
		ops[in_below(&in, ARRAY_SIZE(ops))](&in);
	if (rig.honest)
		settle();
	rig_end(&rig);
	return 0;
}
