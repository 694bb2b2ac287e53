/* SPDX-License-Identifier: Apache-2.0 */
/* The image of fuzz-qcow2: a file in memory, and a sound image of any shape made in it by hand. */
#include "qcow2_image.h"

#include <errno.h>
#include <zlib.h>

#include "qcow2.h"

/* ---- the file ---- */

struct image_file image_top, image_base;
struct world world;

static void visit(struct image_file *f)
{
	MUST(++f->accesses < CALL_MAX);
}

static int64_t file_read(void *arg, void *buf, size_t len, uint64_t off)
{
	struct image_file *f = arg;
	size_t n = off < f->bytes ? (size_t)MIN(len, f->bytes - off) : 0;

	visit(f);
	MUST(!(off % SECTOR) && !(len % SECTOR) && !((uintptr_t)buf % SECTOR));
	if (n)
		memcpy(buf, f->data + off, n);
	return (int64_t)n;
}

static int change(struct image_file *f)
{
	visit(f);
	if (!f->refuse || --f->refuse)
		return 0;
	f->refused = true;
	return f->err;
}

static int file_write(void *arg, const void *buf, size_t len, uint64_t off)
{
	struct image_file *f = arg;
	int err = change(f);

	MUST(f == &image_top && !(off % SECTOR) && !(len % SECTOR) && !((uintptr_t)buf % SECTOR));
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
	struct image_file *f = arg;
	int err = change(f);

	MUST(f == &image_top && !(off % SECTOR) && !(len % SECTOR));
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
	*bytes = ((const struct image_file *)arg)->bytes;
	return 0;
}

const struct qcow2_file_ops image_ops = {
	.read = file_read,
	.write = file_write,
	.sync = file_sync,
	.zero = file_zero,
	.size = file_size,
};

/* ---- a sound image ---- */

static uint16_t base_holds(uint64_t sector)
{
	return sector < image_base.bytes / SECTOR ? image_base.data[sector * SECTOR] : 0;
}

void image_put(uint64_t off, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		image_top.data[off + i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
	image_top.top = MAX(image_top.top, off + bytes);
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
		image_top.data[at + (cluster << s->order) / 8] |=
		    (uint8_t)(value << ((cluster << s->order) % 8));
	else
		image_put(at + ((uint64_t)cluster << s->order >> 3), value, 1U << s->order >> 3);
}

static void put_header(const struct shape *s)
{
	image_put(0, 0x514649fb, 4);
	image_put(4, s->v3 ? 3 : 2, 4);
	if (world.has_base) {
		image_put(8, 300, 8);
		image_put(16, 1, 4);
		image_put(300, 'b', 1);
	}
	image_put(20, s->bits, 4);
	image_put(24, world.sectors * SECTOR, 8);
	image_put(36, s->l1_entries, 4);
	image_put(40, (uint64_t)AT_L1 << s->bits, 8);
	image_put(48, (uint64_t)AT_COUNT_TABLE << s->bits, 8);
	image_put(56, 1, 4);
	image_put(60, s->snapshot, 4);
	image_put(64, s->snapshot ? (uint64_t)AT_SNAPSHOTS << s->bits : 0, 8);
	if (!s->v3)
		return;
	image_put(72, s->extended ? 16 : 0, 8);
	image_put(96, s->order, 4);
	image_put(100, 104, 4);
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

	image_put((uint64_t)AT_L1 << s->bits, at | copied, 8);
	image_put(at, (uint64_t)AT_DATA << s->bits | copied, 8);
	memset(image_top.data + ((uint64_t)AT_DATA << s->bits), 0xda, size);
	packed = pack(s, 0xcc, image_top.data + host, 1U << s->bits);
	image_put(at + entry, 1ULL << 62 | (uint64_t)((packed - 1) / SECTOR) << (62 - (s->bits - 8)) | host,
		  8);
	if (s->v3 && !s->extended)
		image_put(at + 2 * entry, 1, 8);
	if (s->extended) {
		image_put(at + 8, 0xffff, 8); /* half of it; the rest is below */
		image_put(at + 2 * entry + 8, 0xffffffffULL << 32, 8);
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

	image_put(at, l1, 8);
	image_put(at + 8, s->l1_entries, 4);
	image_put(at + 12, 1, 2); /* of the id, and of the name */
	image_put(at + 14, 1, 2);
	image_put(at + 36, 16, 4);
	image_put(at + 48, world.sectors * SECTOR, 8);
	image_put(at + 56, '1', 1);
	image_put(at + 57, 's', 1);
	memcpy(image_top.data + l1, image_top.data + ((uint64_t)AT_L1 << s->bits), s->l1_entries * 8);
}

void image_make(struct input *in)
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
	s.l1_entries = world.sectors * SECTOR / ((1ULL << s.bits) << (s.bits - 3 - s.extended)) + 1;
	memset(image_top.data, 0, image_top.top);
	image_top.top = 0;
	image_base.top = image_base.bytes =
	    world.has_base ? (uint64_t)(in_u16(in) % SECTORS_MAX) * SECTOR : 0;
	image_top.device = how & 128;
	image_top.bytes = image_top.device ? (64U + in_u8(in) * 16U) << s.bits : (uint64_t)CLUSTERS << s.bits;
	image_top.bytes = MIN(image_top.bytes, FILE_MAX);
	image_top.top = image_top.bytes;
	for (uint64_t i = 0; i < world.sectors; i++)
		world.holds[i] = base_holds(i);
	put_header(&s);
	image_put((uint64_t)AT_COUNT_TABLE << s.bits, (uint64_t)AT_COUNTS << s.bits, 8);
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
