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
#include <zlib.h>

#include "fuzz.h"
#include "qcow2.h"

#define FILE_MAX    (6U << 20)
#define SECTOR      512U
#define SECTORS_MAX 4096U /* of the disk */
#define CALL_MAX    200000U
#define ANY         256  /* a sector that may hold anything */
#define PIECE_MAX   300U /* sectors of one request */

/* ---- the file ---- */

static struct file {
	uint8_t *data;
	uint64_t bytes;
	uint64_t top; /* all behind it is zeroes */
	bool device;
	unsigned accesses; /* of the call that is under way */
	unsigned refuse;   /* the change, counted down, that is refused; 0: none */
	int err;
	bool refused;
} file, base;

static void visit(struct file *f)
{
	MUST(++f->accesses < CALL_MAX);
}

static int64_t file_read(void *arg, void *buf, size_t len, uint64_t off)
{
	struct file *f = arg;
	size_t n = off < f->bytes ? (size_t)MIN(len, f->bytes - off) : 0;

	visit(f);
	MUST(!(off % SECTOR) && !(len % SECTOR) && !((uintptr_t)buf % SECTOR));
	if (n)
		memcpy(buf, f->data + off, n);
	return (int64_t)n;
}

static int change(struct file *f)
{
	visit(f);
	if (!f->refuse || --f->refuse)
		return 0;
	f->refused = true;
	return f->err;
}

static int file_write(void *arg, const void *buf, size_t len, uint64_t off)
{
	struct file *f = arg;
	int err = change(f);

	MUST(f == &file && !(off % SECTOR) && !(len % SECTOR) && !((uintptr_t)buf % SECTOR));
	if (err)
		return err;
	if (off > FILE_MAX || len > FILE_MAX - off || (f->device && off + len > f->bytes)) {
		f->refused = true;
		return -ENOSPC;
	}
	memcpy(f->data + off, buf, len);
	f->bytes = MAX(f->bytes, off + len);
	f->top = MAX(f->top, f->bytes);
	return 0;
}

static int file_zero(void *arg, uint64_t off, uint64_t len)
{
	struct file *f = arg;
	int err = change(f);

	MUST(f == &file && !(off % SECTOR) && !(len % SECTOR));
	if (!err && off < f->bytes)
		memset(f->data + off, 0, MIN(len, f->bytes - off));
	return err;
}

static int file_sync(void *arg)
{
	visit(arg);
	return 0;
}

static int file_size(void *arg, uint64_t *bytes)
{
	*bytes = ((const struct file *)arg)->bytes;
	return 0;
}

static const struct qcow2_file_ops ops = {
	.read = file_read,
	.write = file_write,
	.sync = file_sync,
	.zero = file_zero,
	.size = file_size,
};

/* ---- what it should hold ---- */

static struct world {
	struct qcow2 *image;
	bool honest;             /* nobody wrote over the image */
	bool lost;               /* something may have leaked */
	bool has_base, snapshot; /* a file below, and a snapshot of the beginning */
	bool through;
	unsigned cluster_bits, held; /* what readers have under way */
	unsigned token[4];
	uint64_t sectors, first_sectors;
	uint16_t holds[SECTORS_MAX], at_first[SECTORS_MAX]; /* the byte that a sector is full of, or ANY */
} world;

static _Alignas(4096) uint8_t buf[PIECE_MAX * SECTOR + 4096];

static uint16_t base_holds(uint64_t sector)
{
	return sector < base.bytes / SECTOR ? base.data[sector * SECTOR] : 0;
}

static bool is_full_of(const uint8_t *p, uint16_t value)
{
	return value == ANY || (*p == value && !memcmp(p, p + 1, SECTOR - 1));
}

/* ---- a sound image ---- */

static void put(uint64_t off, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		file.data[off + i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
	file.top = MAX(file.top, off + bytes);
}

struct shape {
	bool v3, extended, table, snapshot;
	unsigned bits, order;
	uint64_t l1_entries;
};

/* Its clusters by number. The last four are there only if there is a table, or a snapshot. */
enum {
	AT_HEADER,
	AT_COUNT_TABLE,
	AT_COUNTS,
	AT_L1,
	AT_TABLE,
	AT_DATA,
	AT_PACKED,
	AT_SNAPSHOTS,
	AT_SNAPSHOT_L1,
	CLUSTERS
};

static void put_count(const struct shape *s, unsigned cluster, unsigned value)
{
	uint64_t at = (uint64_t)AT_COUNTS << s->bits;

	if (s->order < 3)
		file.data[at + (cluster << s->order) / 8] |= (uint8_t)(value << ((cluster << s->order) % 8));
	else
		put(at + ((uint64_t)cluster << s->order >> 3), value, 1U << s->order >> 3);
}

static void put_header(const struct shape *s)
{
	put(0, 0x514649fb, 4);
	put(4, s->v3 ? 3 : 2, 4);
	if (world.has_base) {
		put(8, 300, 8);
		put(16, 1, 4);
		put(300, 'b', 1);
	}
	put(20, s->bits, 4);
	put(24, world.sectors * SECTOR, 8);
	put(36, s->l1_entries, 4);
	put(40, (uint64_t)AT_L1 << s->bits, 8);
	put(48, (uint64_t)AT_COUNT_TABLE << s->bits, 8);
	put(56, 1, 4);
	put(60, s->snapshot, 4);
	put(64, s->snapshot ? (uint64_t)AT_SNAPSHOTS << s->bits : 0, 8);
	if (!s->v3)
		return;
	put(72, s->extended ? 16 : 0, 8);
	put(96, s->order, 4);
	put(100, 104, 4);
}

/* A cluster full of one byte, compressed; how many bytes. */
static unsigned pack(const struct shape *s, uint8_t value, uint8_t *out, unsigned size)
{
	static uint8_t plain[1 << 14];
	z_stream z = { .next_in = plain, .avail_in = 1U << s->bits, .next_out = out, .avail_out = size };

	memset(plain, value, sizeof(plain));
	MUST(deflateInit2(&z, 9, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) == Z_OK);
	MUST(deflate(&z, Z_FINISH) == Z_STREAM_END);
	deflateEnd(&z);
	return size - z.avail_out;
}

static void hold(uint64_t cluster, const struct shape *s, uint16_t value)
{
	uint64_t per = (1U << s->bits) / SECTOR;

	for (uint64_t i = cluster * per; i < (cluster + 1) * per && i < world.sectors; i++)
		world.holds[i] = value;
}

/* A table with a cluster of data, a compressed one and one of zeroes. */
static void put_table(const struct shape *s)
{
	uint64_t at = (uint64_t)AT_TABLE << s->bits, copied = s->snapshot ? 0 : 1ULL << 63,
		 size = 1ULL << s->bits;
	unsigned entry = s->extended ? 16 : 8, packed;
	uint64_t host = (uint64_t)AT_PACKED << s->bits;

	put((uint64_t)AT_L1 << s->bits, at | copied, 8);
	put(at, (uint64_t)AT_DATA << s->bits | copied, 8);
	memset(file.data + ((uint64_t)AT_DATA << s->bits), 0xda, size);
	packed = pack(s, 0xcc, file.data + host, 1U << s->bits);
	put(at + entry, 1ULL << 62 | (uint64_t)((packed - 1) / SECTOR) << (62 - (s->bits - 8)) | host, 8);
	if (s->v3 && !s->extended)
		put(at + 2 * entry, 1, 8);
	if (s->extended) {
		put(at + 8, 0xffff, 8); /* half of it; the rest is below */
		put(at + 2 * entry + 8, 0xffffffffULL << 32, 8);
	}
	for (uint64_t i = 0; i < size / SECTOR / (s->extended ? 2 : 1) && i < world.sectors; i++)
		world.holds[i] = 0xda;
	hold(1, s, 0xcc);
	if (s->v3)
		hold(2, s, 0);
}

static void put_snapshot(const struct shape *s)
{
	uint64_t at = (uint64_t)AT_SNAPSHOTS << s->bits, l1 = (uint64_t)AT_SNAPSHOT_L1 << s->bits;

	put(at, l1, 8);
	put(at + 8, s->l1_entries, 4);
	put(at + 12, 1, 2); /* of the id, and of the name */
	put(at + 14, 1, 2);
	put(at + 36, 16, 4);
	put(at + 48, world.sectors * SECTOR, 8);
	put(at + 56, '1', 1);
	put(at + 57, 's', 1);
	memcpy(file.data + l1, file.data + ((uint64_t)AT_L1 << s->bits), s->l1_entries * 8);
}

static void make_image(struct input *in)
{
	uint8_t how = in_u8(in), more = in_u8(in);
	struct shape s = { .v3 = how & 1, .extended = how % 16 == 15, .order = 4, .table = how & 16 };
	unsigned shared;

	s.bits = s.extended ? 14 : 9 + more % 5;
	if (s.v3)
		s.order = (more >> 5) % 7;
	s.snapshot = s.table && how & 32 && s.order;
	world.snapshot = s.snapshot;
	world.has_base = how & 64;
	world.sectors = world.first_sectors = 1 + in_u16(in) % (SECTORS_MAX / 2);
	world.cluster_bits = s.bits;
	s.l1_entries = world.sectors * SECTOR / ((1ULL << s.bits) << (s.bits - 3 - s.extended)) + 1;
	memset(file.data, 0, file.top);
	file.top = 0;
	base.top = base.bytes = world.has_base ? (uint64_t)(in_u16(in) % SECTORS_MAX) * SECTOR : 0;
	file.device = how & 128;
	file.bytes = file.device ? (64U + in_u8(in) * 16U) << s.bits : (uint64_t)CLUSTERS << s.bits;
	file.bytes = MIN(file.bytes, FILE_MAX);
	file.top = file.bytes;
	for (uint64_t i = 0; i < world.sectors; i++)
		world.holds[i] = base_holds(i);
	put_header(&s);
	put((uint64_t)AT_COUNT_TABLE << s.bits, (uint64_t)AT_COUNTS << s.bits, 8);
	if (s.table)
		put_table(&s);
	if (s.snapshot)
		put_snapshot(&s);
	shared = s.snapshot ? 2 : 1;
	for (unsigned i = 0; i < CLUSTERS; i++)
		if (i <= AT_L1 || (i < AT_SNAPSHOTS && s.table) || (i >= AT_SNAPSHOTS && s.snapshot))
			put_count(&s, i, i >= AT_TABLE && i < AT_SNAPSHOTS ? shared : 1);
	memcpy(world.at_first, world.holds, sizeof(world.holds));
}

/* ---- calls ---- */

static void begin(void)
{
	file.accesses = base.accesses = 0;
	file.refused = false;
}

/* Whether the call did what it should; if not, the file was to blame, or the image is not what it was. */
static bool worked(int err)
{
	MUST(!err || !world.honest || file.refused || (file.device && err == -ENOSPC));
	world.lost |= err != 0;
	return !err;
}

static void open_image(bool readonly)
{
	struct qcow2_file f = { .ops = &ops, .arg = &file };
	struct qcow2_backing below = { .file = { .ops = &ops, .arg = &base }, .format = QCOW2_FORMAT_RAW };
	struct qcow2_options options = { .readonly = readonly,
					 .device = file.device,
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
static bool is_within(const struct file *f, const struct qcow2_extent *e)
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
		const struct file *f;

		qcow2_map(world.image, at * SECTOR + off, n * SECTOR - off, in_u8(in) & 1, &e);
		MUST(e.len && e.len <= n * SECTOR - off);
		f = e.layer ? &base : &file;
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
		MUST(!e.layer && is_within(&file, &e));
		memset(file.data + e.off, value, e.len);
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

	file.refuse = 1 + how % 64;
	file.err = how & 64 ? -ENOSPC : -EIO;
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
		memcpy(&word, file.data + (which % 4 == 1 ? 40 : which & 4 ? 48 : 64), 8);
		word = be64toh(word);
	}
	if (which & 8 && word < FILE_MAX - 8) {
		memcpy(&word, file.data + word, 8); /* what its first entry refers to */
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
		put(at, value, bytes);
	if (how & 4)
		op_open(in);
}

static void op_cut(struct input *in)
{
	uint64_t to;

	world.honest = false;
	to = (uint64_t)in_u16(in) * SECTOR;
	file.bytes = MIN(file.bytes, to);
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

	file.refuse = 0;
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
	if (!file.data) {
		file.data = aligned_alloc(4096, FILE_MAX);
		base.data = aligned_alloc(4096, SECTORS_MAX * SECTOR);
		MUST(file.data && base.data);
		memset(file.data, 0, FILE_MAX);
		for (unsigned i = 0; i < SECTORS_MAX; i++)
			memset(base.data + i * SECTOR, i % 7 ? 0x50 + (int)(i % 16) : 0, SECTOR);
	}
	world = (struct world) { .honest = true };
	file.refuse = 0;
	make_image(&in);
	open_image(false);
	while (in.left)
		operations[in_below(&in, ARRAY_SIZE(operations))](&in);
	if (world.honest)
		judge();
	close_image(false);
	return 0;
}
