/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-qcow2: lib/qcow2 with an image in memory. It begins sound, of any shape: with clusters, subclusters, compressed ones, a
 * snapshot, a backing file, on a file or a device. The input then reads, writes, zeroes, discards, grows, reverts, repairs,
 * closes it or is killed, has the file refuse something, and writes what it likes over header and tables.
 *
 * Whatever the image says, each call ends after a bounded number of accesses, within the file. While nobody wrote over it: what
 * was written is read back, by the owner's side and as the fast side maps it; nothing but a refusal of the file makes a call fail,
 * and the next one succeeds; counts and references agree in the end.
 */
#include <endian.h>
#include <errno.h>

#include "qcow2_image.h"

#define PIECE_MAX 300U /* sectors of one request */

static _Alignas(4096) uint8_t buf[PIECE_MAX * SECTOR + 4096];

static bool is_full_of(const uint8_t *p, uint16_t value)
{
	return value == ANY || (*p == value && !memcmp(p, p + 1, SECTOR - 1));
}

/* ---- calls ---- */

static void begin(void)
{
	image_top.accesses = image_base.accesses = 0;
	image_top.refused = false;
}

/* Whether the call did what it should; if not, the file was to blame, or the image is not what it was. */
static bool worked(int err)
{
	MUST(!err || !world.honest || image_top.refused || (image_top.device && err == -ENOSPC));
	world.lost |= err != 0;
	return !err;
}

static void open_image(bool readonly)
{
	struct qcow2_file f = { .ops = &image_ops, .arg = &image_top };
	struct qcow2_backing below = { .file = { .ops = &image_ops, .arg = &image_base },
				       .format = QCOW2_FORMAT_RAW };
	struct qcow2_options options = { .readonly = readonly,
					 .device = image_top.device,
					 .cache_bytes = 1,
					 .backing = &below,
					 .nbacking = world.has_base };
	char why[128];

	for (unsigned i = 0; !world.image && i < 2; i++) {
		begin();
		if (worked(qcow2_open(&f, &options, &world.image, why, sizeof(why))))
			break;
		world.image = NULL;
	}
	MUST(world.image || !world.honest);
	memset(world.token, 0xff, sizeof(world.token));
	if (!world.image)
		return;
	qcow2_write_through(world.image, world.through);
	MUST(!world.honest || qcow2_size(world.image) == world.sectors * SECTOR);
}

static void leave_all(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(world.token); i++) {
		if (world.token[i] != UINT32_MAX)
			qcow2_leave(world.image, i, world.token[i]);
		world.token[i] = UINT32_MAX;
	}
}

static void close_image(bool in_order)
{
	if (!world.image)
		return;
	begin();
	leave_all();
	if (in_order)
		worked(qcow2_close(world.image));
	else
		qcow2_abandon(world.image);
	world.lost |= !in_order;
	world.image = NULL;
}

/* A range of the disk as it is now. */
static bool take_range(struct input *in, uint64_t *at, uint64_t *n)
{
	uint64_t size;

	if (!world.image)
		return false;
	size = qcow2_size(world.image) / SECTOR;
	if (!size)
		return false;
	*at = in_u16(in) % size;
	*n = 1 + in_u16(in) % PIECE_MAX;
	*n = MIN(*n, size - *at);
	return true;
}

static void expect(uint64_t at, uint64_t n)
{
	for (uint64_t i = 0; i < n && world.honest; i++)
		MUST(is_full_of(buf + i * SECTOR, world.holds[at + i]));
}

static void set(uint64_t at, uint64_t n, uint16_t value)
{
	for (uint64_t i = at; i < at + n && i < SECTORS_MAX; i++)
		world.holds[i] = value;
}

static void op_read(struct input *in)
{
	uint64_t at, n;

	if (!take_range(in, &at, &n))
		return;
	begin();
	if (worked(qcow2_read(world.image, at * SECTOR, buf, n * SECTOR)))
		expect(at, n);
}

/* Within what the file was, should it be cut off since. */
static bool is_within(const struct image_file *f, const struct qcow2_extent *e)
{
	uint64_t end = f->top;

	return e->off < end && e->len <= end - e->off && e->len % SECTOR == 0;
}

/* What the fast side says, and the file holds there. */
static void op_map(struct input *in)
{
	uint64_t at, n;
	struct qcow2_extent e;

	if (!take_range(in, &at, &n))
		return;
	begin();
	if (!worked(qcow2_load(world.image, at * SECTOR, n * SECTOR)))
		return;
	for (uint64_t off = 0; off < n * SECTOR; off += e.len) {
		const struct image_file *f;

		qcow2_map(world.image, at * SECTOR + off, n * SECTOR - off, in_u8(in) & 1, &e);
		MUST(e.len && e.len <= n * SECTOR - off);
		f = e.layer ? &image_base : &image_top;
		if (e.kind == QCOW2_ASK)
			return;
		MUST(e.kind == QCOW2_ZERO || is_within(f, &e));
		for (uint64_t i = 0; i < e.len / SECTOR && world.honest; i++) {
			uint16_t holds = world.holds[at + off / SECTOR + i];

			MUST(e.kind == QCOW2_DATA ? is_full_of(f->data + e.off + i * SECTOR, holds)
						  : !holds || holds == ANY);
		}
	}
}

static void op_write(struct input *in)
{
	uint64_t at, n;
	uint8_t value = in_u8(in);

	if (!take_range(in, &at, &n))
		return;
	begin();
	memset(buf, value, n * SECTOR);
	set(at, n, worked(qcow2_write(world.image, at * SECTOR, buf, n * SECTOR)) ? value : ANY);
}

/* As a queue writes: what is prepared, is written in place. */
static void op_prepare(struct input *in)
{
	uint64_t at, n, off = 0;
	uint8_t value = in_u8(in);
	struct qcow2_extent e;
	bool ok;

	if (!take_range(in, &at, &n))
		return;
	begin();
	ok = worked(qcow2_prepare(world.image, at * SECTOR, n * SECTOR));
	ok = worked(qcow2_commit(world.image)) && ok;
	for (; ok && off < n * SECTOR; off += e.len) {
		if (!worked(qcow2_load(world.image, at * SECTOR + off, n * SECTOR - off)))
			break;
		qcow2_map(world.image, at * SECTOR + off, n * SECTOR - off, true, &e);
		if (e.kind != QCOW2_DATA)
			break;
		MUST(!e.layer && is_within(&image_top, &e));
		memset(image_top.data + e.off, value, e.len);
	}
	MUST(!ok || off == n * SECTOR || !world.honest);
	set(at, off / SECTOR, value);
}

static void op_zero(struct input *in)
{
	uint64_t at, n;
	bool unmap = in_u8(in) & 1;

	if (!take_range(in, &at, &n))
		return;
	begin();
	set(at, n, worked(qcow2_zero(world.image, at * SECTOR, n * SECTOR, unmap)) ? 0 : ANY);
}

/* What was discarded is as it was, or zeroes. */
static void op_discard(struct input *in)
{
	uint64_t at, n;

	if (!take_range(in, &at, &n))
		return;
	begin();
	worked(qcow2_discard(world.image, at * SECTOR, n * SECTOR));
	begin();
	if (!worked(qcow2_read(world.image, at * SECTOR, buf, n * SECTOR)))
		return;
	for (uint64_t i = 0; i < n && world.honest; i++) {
		MUST(is_full_of(buf + i * SECTOR, world.holds[at + i]) || is_full_of(buf + i * SECTOR, 0));
		if (world.holds[at + i] != ANY)
			world.holds[at + i] = buf[i * SECTOR];
	}
}

static void op_settle(struct input *in)
{
	uint8_t how = in_u8(in);

	if (!world.image)
		return;
	begin();
	if (how % 3 == 0) {
		worked(qcow2_reclaim(world.image));
	} else if (how % 3 == 1) {
		worked(qcow2_sync(world.image));
	} else {
		world.through = how & 128;
		worked(qcow2_write_through(world.image, world.through));
	}
}

static void op_reader(struct input *in)
{
	unsigned i = in_below(in, ARRAY_SIZE(world.token));

	if (!world.image)
		return;
	if (world.token[i] == UINT32_MAX) {
		world.token[i] = qcow2_enter(world.image, i);
		return;
	}
	qcow2_leave(world.image, i, world.token[i]);
	world.token[i] = UINT32_MAX;
}

static void op_grow(struct input *in)
{
	uint64_t more = in_u16(in) % (SECTORS_MAX - world.first_sectors);
	const char *why;
	int err;

	if (!world.image || world.sectors + more > SECTORS_MAX)
		return;
	begin();
	err = qcow2_resize(world.image, (world.sectors + more) * SECTOR, &why);
	if (err == -EOPNOTSUPP && why && world.has_base)
		return;
	if (!worked(err))
		return;
	set(world.sectors, more, 0);
	world.sectors += more;
}

static void op_check(struct input *in)
{
	bool repair = in_u8(in) & 1;
	struct qcow2_check found;

	if (!world.image)
		return;
	begin();
	if (!worked(qcow2_commit(world.image)))
		return;
	if (worked(qcow2_check(world.image, repair, &found)))
		MUST(!found.corruptions || !world.honest);
}

static void op_snapshots(struct input *in)
{
	struct qcow2_snapshot s;
	uint8_t how = in_u8(in);
	int err;

	if (!world.image)
		return;
	begin();
	err = qcow2_snapshot_get(world.image, how % 4, &s);
	MUST(!world.honest || err == (how % 4 < world.snapshot ? 0 : -ENOENT));
	if (how < 128)
		return;
	leave_all();
	begin();
	err = qcow2_snapshot_revert(world.image, "s");
	if (err == -ENOENT && !world.snapshot)
		return;
	if (worked(err)) {
		memcpy(world.holds, world.at_first, sizeof(world.holds));
		world.sectors = world.first_sectors;
	} else {
		/* Which of the two it is now, is not known. */
		world.honest = false;
	}
}

static void op_open(struct input *in)
{
	uint8_t how = in_u8(in);

	close_image(how & 1);
	open_image(how % 8 == 7);
	if (how % 8 == 7) { /* to be looked at only */
		op_read(in);
		op_map(in);
		op_check(&(struct input) { NULL, 0 });
		close_image(true);
		open_image(false);
	}
}

static void op_refuse(struct input *in)
{
	uint8_t how = in_u8(in);

	image_top.refuse = 1 + how % 64;
	image_top.err = how & 64 ? -ENOSPC : -EIO;
}

/* ---- what nobody sane does ---- */

/* Where header, tables and counts are by the header, if that still says so. */
static uint64_t place_of(struct input *in)
{
	uint8_t which = in_u8(in);
	uint64_t word = 0, at = in_u8(in);

	if (which % 4 == 0)
		return at;
	if (which % 4 < 3) {
		memcpy(&word, image_top.data + (which % 4 == 1 ? 40 : which & 4 ? 48 : 64), 8);
		word = be64toh(word);
	}
	if (which & 8 && word < FILE_MAX - 8) {
		memcpy(&word, image_top.data + word, 8); /* what its first entry refers to */
		word = be64toh(word) & 0x00fffffffffffe00ULL;
	}
	return word + at * (which & 16 ? 1 : 8);
}

static void op_spoil(struct input *in)
{
	uint64_t at = place_of(in);
	uint8_t how = in_u8(in);
	unsigned bytes = how & 1 ? 1 : how & 2 ? 4 : 8;
	uint64_t value = how & 4 ? in_u64(in) : (uint64_t)in_u16(in) << (how >> 4 << 2);

	world.honest = false;
	if (how & 8)
		value |= 1ULL << (in_u8(in) % 64);
	if (at < FILE_MAX - 8)
		image_put(at, value, bytes);
	if (how & 4)
		op_open(in);
}

static void op_cut(struct input *in)
{
	uint64_t to;

	world.honest = false;
	to = (uint64_t)in_u16(in) * SECTOR;
	image_top.bytes = MIN(image_top.bytes, to);
	if (in_u8(in) & 1)
		op_open(in);
}

static void (*const operations[])(struct input *in) = {
	op_read,   op_map,  op_write, op_write, op_prepare, op_zero,  op_discard,   op_settle,
	op_reader, op_grow, op_check, op_open,  op_refuse,  op_spoil, op_snapshots, op_cut,
};

/* ---- an input ---- */

/* With nothing in the way any more all of it is there, and nothing is too much. */
static void judge(void)
{
	struct qcow2_check found;

	image_top.refuse = 0;
	close_image(true);
	open_image(true);
	for (uint64_t at = 0; at < world.sectors; at += PIECE_MAX) {
		uint64_t n = MIN(PIECE_MAX, world.sectors - at);

		begin();
		MUST(qcow2_read(world.image, at * SECTOR, buf, n * SECTOR) == 0);
		expect(at, n);
	}
	begin();
	MUST(qcow2_check(world.image, false, &found) == 0);
	MUST(!found.corruptions && (!found.leaks || world.lost));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct input in = { bytes, len };

	if (len > 4096)
		return 0;
	if (!image_top.data) {
		image_top.data = aligned_alloc(4096, FILE_MAX);
		image_base.data = aligned_alloc(4096, SECTORS_MAX * SECTOR);
		MUST(image_top.data && image_base.data);
		memset(image_top.data, 0, FILE_MAX);
		for (unsigned i = 0; i < SECTORS_MAX; i++)
			memset(image_base.data + i * SECTOR, i % 7 ? 0x50 + (int)(i % 16) : 0, SECTOR);
	}
	world = (struct world) { .honest = true };
	image_top.refuse = 0;
	image_make(&in);
	open_image(false);
	while (in.left)
		operations[in_below(&in, ARRAY_SIZE(operations))](&in);
	if (world.honest)
		judge();
	close_image(false);
	return 0;
}
