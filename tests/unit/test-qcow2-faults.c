/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FAULTS 49, 50 and 55 for lib/qcow2, on a file in memory: each write of a row of operations refused once, with what was asked
 * for tried again; a file that is cut off underneath; and what has to be stable before it is shown.
 *
 * BULKHEAD_LONG=1 refuses every write; else one in some.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fd.h"
#include "num.h"
#include "qcow2_rig.h"

TestSuite(qcow2_faults, .timeout = 600);

#define FILE_MAX (64U << 20)
#define LONGER   (12U << 20)
#define TRIES    3

/* ---- a file in memory ---- */

struct mem_file {
	uint8_t *data;
	uint64_t bytes;
	unsigned reads;
	unsigned changes; /* so far */
	unsigned refused; /* the change that is; 0: none */
	bool done;        /* it was made all the same */
	int err;
	unsigned unsynced;
	struct qcow2 *watched; /* whose offset must not be shown before all is stable */
	uint64_t watched_off;
	bool shown_early;
};

static struct mem_file mem;

#define CHANGES_MAX 4096

static bool is_root
    [CHANGES_MAX]; /* of a run without faults: which changes are of the header, or of a table that it names */

static int64_t mem_read(void *arg, void *buf, size_t len, uint64_t off)
{
	struct mem_file *m = arg;
	size_t n = off < m->bytes ? (size_t)MIN(len, m->bytes - off) : 0;

	m->reads++;
	memcpy(buf, m->data + off, n);
	return (int64_t)n;
}

static void look(struct mem_file *m)
{
	struct qcow2_extent e;

	if (!m->watched || !m->unsynced)
		return;
	qcow2_map(m->watched, m->watched_off, 512, true, &e);
	m->shown_early |= e.kind == QCOW2_DATA;
}

/* True if this change is refused; *err says how it is answered. */
static bool refuse(struct mem_file *m, int *err)
{
	look(m);
	m->unsynced++;
	*err = ++m->changes == m->refused ? m->err : 0;
	return *err && !m->done;
}

static uint64_t field(const struct mem_file *m, unsigned at, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v = v << 8 | m->data[at + i];
	return v;
}

static void note_root(const struct mem_file *m, uint64_t off)
{
	uint64_t l1 = field(m, 40, 8), counts = field(m, 48, 8), cluster = 1ULL << field(m, 20, 4);

	if (m->changes >= CHANGES_MAX)
		return;
	is_root[m->changes] =
	    !off || off - l1 < field(m, 36, 4) * 8 || off - counts < field(m, 56, 4) * cluster;
}

static int mem_write(void *arg, const void *buf, size_t len, uint64_t off)
{
	struct mem_file *m = arg;
	int err;

	cr_assert_leq(off + len, FILE_MAX);
	if (refuse(m, &err))
		return err;
	if (!m->refused)
		note_root(m, off);
	memcpy(m->data + off, buf, len);
	m->bytes = MAX(m->bytes, off + len);
	return err;
}

static int mem_zero(void *arg, uint64_t off, uint64_t len)
{
	struct mem_file *m = arg;
	int err;

	if (!refuse(m, &err) && off < m->bytes)
		memset(m->data + off, 0, MIN(len, m->bytes - off));
	return err;
}

static int mem_sync(void *arg)
{
	((struct mem_file *)arg)->unsynced = 0;
	return 0;
}

static int mem_size(void *arg, uint64_t *bytes)
{
	*bytes = ((const struct mem_file *)arg)->bytes;
	return 0;
}

static const struct qcow2_file_ops mem_ops = {
	.read = mem_read,
	.write = mem_write,
	.sync = mem_sync,
	.zero = mem_zero,
	.size = mem_size,
};

static uint8_t *good; /* the image as it was made */
static uint64_t good_bytes;

static void load_image(void)
{
	int fd = open("disk", O_RDONLY | O_CLOEXEC);
	off_t end = lseek(fd, 0, SEEK_END);

	cr_assert(fd >= 0 && end > 0 && end < FILE_MAX);
	good_bytes = (uint64_t)end;
	if (!good) {
		good = malloc(FILE_MAX);
		mem.data = malloc(FILE_MAX);
	}
	cr_assert_eq(fd_pread_full(fd, good, good_bytes, 0), 0);
	close(fd);
}

static void reset_image(void)
{
	uint8_t *data = mem.data;

	memset(data, 0, FILE_MAX);
	memcpy(data, good, good_bytes);
	mem = (struct mem_file) { .data = data, .bytes = good_bytes };
}

static void save_image(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_pwrite_full(fd, mem.data, mem.bytes, 0), 0);
	close(fd);
}

static struct qcow2 *open_image(int base, size_t cache)
{
	struct qcow2_file file = { .ops = &mem_ops, .arg = &mem };
	struct qcow2_backing backing = { .file = { .ops = &qcow2_fd_ops, .arg = &base } };
	struct qcow2_options options = { .backing = &backing, .nbacking = base >= 0, .cache_bytes = cache };
	static int kept;
	struct qcow2 *image;
	char why[256];

	kept = base; /* for as long as the image is open */
	backing.file.arg = &kept;
	cr_assert_eq(qcow2_open(&file, &options, &image, why, sizeof(why)), 0, "%s", why);
	return image;
}

/* ---- a row of operations ---- */

static _Alignas(4096) uint8_t buf[LONGER], shadow[LONGER];

struct step {
	enum { WRITE, ZERO, UNMAP, DISCARD, GROW, RECLAIM } what;
	uint64_t off, len;
};

static const struct step steps[] = {
	{ WRITE, 512, 100 << 9 },
	{ WRITE, 5 << 20, 300 << 9 },
	{ ZERO, 20 << 9, 40 << 9 },
	{ DISCARD, 5 << 20, 200 << 9 },
	{ RECLAIM, 0, 0 },
	{ UNMAP, 2 << 20, 700 << 9 },
	{ WRITE, (2 << 20) + 512, 30 << 9 },
	{ GROW, LONGER, 0 },
	{ WRITE, LONGER - (90 << 9), 90 << 9 },
	{ RECLAIM, 0, 0 },
	{ WRITE, 1 << 20, 400 << 9 },
};

static int take_step(struct qcow2 *image, const struct step *s, uint8_t value)
{
	const char *why;

	switch (s->what) {
	case WRITE:
		memset(buf, value, s->len);
		return qcow2_write(image, s->off, buf, s->len);
	case ZERO:
	case UNMAP:
		return qcow2_zero(image, s->off, s->len, s->what == UNMAP);
	case DISCARD:
		return qcow2_discard(image, s->off, s->len);
	case GROW:
		return qcow2_resize(image, s->off, &why);
	case RECLAIM:
		return qcow2_reclaim(image);
	}
	return -EINVAL;
}

/* What it means for the guest. */
static void note_step(struct qcow2 *image, const struct step *s, uint8_t value)
{
	if (s->what == WRITE)
		memset(shadow + s->off, value, s->len);
	else if (s->what == ZERO || s->what == UNMAP)
		memset(shadow + s->off, 0, s->len);
	else if (s->what == DISCARD)
		cr_assert_eq(qcow2_read(image, s->off, shadow + s->off, s->len), 0);
	else if (s->what == GROW)
		memset(shadow + RIG_BYTES, 0, LONGER - RIG_BYTES);
}

static void expect_shadow(struct qcow2 *image, const char *when)
{
	cr_assert_eq(qcow2_read(image, 0, buf, LONGER), 0);
	for (uint64_t s = 0; s < LONGER; s += 512)
		cr_assert(!memcmp(buf + s, shadow + s, 512), "change %u refused (%d): sector %llu differs %s",
			  mem.refused, mem.err, (unsigned long long)s / 512, when);
}

/* All steps, each tried again if it fails, which it may do once; how many changes of the file that took. */
static unsigned run(int base, unsigned refused, bool done, int err)
{
	struct qcow2_check found;
	struct qcow2 *image;
	unsigned changes, failed = 0;

	reset_image();
	image = open_image(base, 1);
	cr_assert_eq(qcow2_read(image, 0, shadow, RIG_BYTES), 0);
	mem.changes = 0;
	memset(is_root, 0, refused ? 0 : sizeof(is_root));
	mem.refused = refused;
	mem.done = done;
	mem.err = err;
	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
		int got = take_step(image, &steps[i], (uint8_t)(i + 1));

		failed += got != 0;
		if (got)
			got = take_step(image, &steps[i], (uint8_t)(i + 1));
		cr_assert_eq(got, 0, "change %u refused (%d): step %u does not get over it: %s", refused, err,
			     i, strerror(-got));
		note_step(image, &steps[i], (uint8_t)(i + 1));
	}
	cr_assert_leq(failed, 1);
	changes = mem.changes;
	expect_shadow(image, "at the end");
	cr_assert_eq(qcow2_check(image, false, &found), 0);
	cr_assert_eq(found.corruptions, 0, "change %u refused (%d): %llu corruptions", refused, err,
		     (unsigned long long)found.corruptions);
	cr_assert_eq(qcow2_close(image), 0);
	image = open_image(base, 0);
	expect_shadow(image, "when it is opened again");
	cr_assert_eq(qcow2_close(image), 0);
	return changes;
}

struct made {
	const char *name, *how;
	bool backing;
};

static const struct made images[] = {
	{ "512-byte clusters, 64-bit counts",
	  "qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 disk $bytes && qemu-io -f qcow2 "
	  "-c "
	  "'write -q -P 99 0 700k' disk",
	  false },
	{ "subclusters on a longer file",
	  "yes Bulkhead | head -c 9M >base && qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=16k "
	  "-F "
	  "raw -b base disk $bytes && qemu-io -f qcow2 -c 'write -q -P 98 1M 200k' disk",
	  true },
	{ "with a snapshot",
	  "qemu-img create -q -f qcow2 -o cluster_size=4k disk $bytes && qemu-io -f qcow2 -c 'write -q -P 97 "
	  "0 "
	  "3M' "
	  "disk && qemu-img snapshot -c one disk && qemu-io -f qcow2 -c 'write -q -P 96 1M 64k' disk",
	  false },
};

static bool is_long(void)
{
	const char *all = getenv("BULKHEAD_LONG");

	return all && *all;
}

/* Refuses the changes one after another, or one in some. */
static void refuse_each(bool done, int err)
{
	unsigned count = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(images); i++) {
		int base = -1;
		unsigned all, step, roots = 0;

		rig_sh("rm -f disk base");
		rig_sh("bytes=%u; %s", RIG_BYTES, images[i].how);
		if (images[i].backing)
			base = open("base", O_RDONLY | O_CLOEXEC);
		load_image();
		all = run(base, 0, false, 0);
		cr_assert_lt(all, CHANGES_MAX);
		step = is_long() ? 1 : MAX(all / 16, 1);
		for (unsigned k = 1; k <= all; k++) {
			if (k % step && !(is_root[k] && roots++ % 5 == 0))
				continue;
			run(base, k, done, err);
			count++;
			if (count % 12)
				continue;
			save_image("after");
			rig_qemu_checks("after", true);
		}
		if (base >= 0)
			close(base);
	}
	fprintf(stderr, "# %u changes refused with %s, all got over\n", count, strerrorname_np(-err));
}

Test(qcow2_faults, f49_tables_get_over_a_lack_of_room)
{
	rig_begin();
	refuse_each(false, -ENOSPC);
}

Test(qcow2_faults, f50_tables_get_over_a_write_that_failed)
{
	rig_begin();
	refuse_each(false, -EIO);
	/* One that was made in spite of what was said. */
	refuse_each(true, -EIO);
}

/* Nothing is used up by trying again where there is no room. */
Test(qcow2_faults, f49_trying_in_vain_costs_no_clusters)
{
	struct qcow2_check found;
	struct qcow2 *image;
	uint64_t bytes;

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 disk %u", RIG_BYTES);
	load_image();
	reset_image();
	image = open_image(-1, 0);
	memset(buf, 1, 65536);
	cr_assert_eq(qcow2_write(image, 0, buf, 512), 0);
	bytes = mem.bytes;
	for (unsigned i = 0; i < 500; i++) {
		mem.refused = mem.changes + 1;
		mem.err = -ENOSPC;
		cr_assert_eq(qcow2_write(image, 1 << 20, buf, 65536), -ENOSPC);
		cr_assert_eq(qcow2_reclaim(image), 0);
	}
	cr_assert_eq(mem.bytes, bytes, "the file grew by %llu bytes",
		     (unsigned long long)(mem.bytes - bytes));
	cr_assert_eq(qcow2_write(image, 1 << 20, buf, 65536), 0);
	cr_assert_eq(qcow2_check(image, false, &found), 0);
	cr_assert_eq(found.corruptions + found.leaks, 0);
	cr_assert_eq(qcow2_close(image), 0);
}

/* ---- FAULTS 55 ---- */

/* What is gone is an error to whoever asks for it, and never taken for nothing. */
Test(qcow2_faults, f55_a_file_that_is_cut_off_underneath)
{
	unsigned failed = 0, cuts = 0;

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 -o cluster_size=4k disk %u && qemu-io -f qcow2 -c 'write -q -P 7 "
	       "0 6M' "
	       "disk",
	       RIG_BYTES);
	load_image();
	for (uint64_t cut = 0; cut < good_bytes; cut += 37 * 4096 + 512, cuts++) {
		struct qcow2 *image;
		unsigned before = failed;

		reset_image();
		image = open_image(-1, 1);
		memset(buf, 0, LONGER);
		mem.bytes = cut;
		memset(mem.data + cut, 0, FILE_MAX - cut);
		for (uint64_t off = 0; off < 6U << 20; off += 4096) {
			struct qcow2_extent e = { .kind = QCOW2_ASK };
			int err = qcow2_load(image, off, 4096);

			if (!err)
				err = qcow2_read(image, off, buf, 4096);
			cr_assert(err || (buf[0] == 7 && !memcmp(buf, buf + 1, 4095)),
				  "cut at %llu: the cluster at %llu reads as something else",
				  (unsigned long long)cut, (unsigned long long)off);
			failed += err != 0;
			if (!err)
				qcow2_map(image, off, 4096, false, &e);
			cr_assert_neq(e.kind, QCOW2_ZERO);
		}
		cr_assert_gt(failed, before, "cut at %llu: nothing is gone", (unsigned long long)cut);
		qcow2_write(image, 0, buf, 4096);
		qcow2_discard(image, 1 << 20, 1 << 20);
		qcow2_close(image);
	}
	fprintf(stderr, "# %u cuts, %u reads failed, none lied\n", cuts, failed);
}

/* ---- write-through ---- */

/* With write-through a queue that finds a cluster writes there and is done, so its entry is stable by then. */
Test(qcow2_faults, nothing_is_shown_before_it_is_stable)
{
	struct qcow2 *image;

	rig_begin();
	for (unsigned through = 0; through < 2; through++) {
		rig_sh("qemu-img create -q -f qcow2 disk %u", RIG_BYTES);
		load_image();
		reset_image();
		image = open_image(-1, 0);
		cr_assert_eq(qcow2_write_through(image, through), 0);
		mem.watched = image;
		memset(buf, 5, 4096);
		for (uint64_t off = 0; off < 6U << 20; off += 65536) {
			mem.watched_off = off;
			cr_assert_eq(qcow2_write(image, off, buf, 4096), 0);
			cr_assert_eq(qcow2_sync(image), 0);
			/* Of what has no data any more a part is written anew. */
			cr_assert_eq(qcow2_discard(image, off, 65536), 0);
			cr_assert_eq(qcow2_sync(image), 0);
			cr_assert_eq(qcow2_write(image, off + 4096, buf, 4096), 0);
			cr_assert_eq(qcow2_sync(image), 0);
		}
		cr_assert_eq(mem.shown_early, !through);
		/* What was shown before it was switched on, is made stable by that. */
		cr_assert_eq(qcow2_write_through(image, false), 0);
		cr_assert_eq(qcow2_discard(image, 0, 65536), 0);
		cr_assert_gt(mem.unsynced, 0);
		cr_assert_eq(qcow2_write_through(image, true), 0);
		cr_assert_eq(mem.unsynced, 0);
		mem.watched = NULL;
		cr_assert_eq(qcow2_close(image), 0);
	}
}

/* ---- FAULTS 56: images that would be read for ever ---- */

static void put(uint64_t off, uint64_t value)
{
	for (unsigned i = 0; i < 8; i++)
		mem.data[off + i] = (uint8_t)(value >> 8 * (7 - i));
}

static int try_open(bool device, struct qcow2 **image)
{
	struct qcow2_file file = { .ops = &mem_ops, .arg = &mem };
	struct qcow2_options options = { .device = device };
	char why[256];

	mem.reads = 0;
	return qcow2_open(&file, &options, image, why, sizeof(why));
}

/* A dirty image of which each entry of a long L1 table refers to the same table: it is read once. */
Test(qcow2_faults, f56_a_repair_reads_no_table_again_and_again)
{
	struct qcow2 *image = NULL;
	uint64_t l1, entries, word;

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 disk 16T && qemu-io -f qcow2 -c 'write -q 0 64k' disk");
	load_image();
	reset_image();
	l1 = field(&mem, 40, 8);
	entries = field(&mem, 36, 4);
	word = field(&mem, (unsigned)l1, 8);
	cr_assert_geq(entries, 32768);
	for (uint64_t i = 0; i < entries; i++)
		put(l1 + 8 * i, word);
	mem.data[79] |= 1;
	cr_assert_eq(try_open(false, &image), 0);
	cr_assert_leq(mem.reads, 100, "%u reads", mem.reads);
	cr_assert_eq(qcow2_snapshot_revert(image, "none"), -ENOENT);
	qcow2_abandon(image);
}

/* A device with counts of far more clusters than it has, all 0. */
Test(qcow2_faults, f56_the_end_of_a_device_is_not_looked_for_behind_it)
{
	struct qcow2 *image = NULL;
	uint64_t counts, block;

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 disk 6M && qemu-io -f qcow2 -c 'write -q 0 64k' disk");
	load_image();
	reset_image();
	mem.bytes = 16U << 20;
	counts = field(&mem, 48, 8);
	block = mem.bytes - 65536; /* nothing but zeroes */
	for (uint64_t i = 1; i < 8192; i++)
		put(counts + 8 * i, block);
	cr_assert_eq(try_open(true, &image), 0);
	cr_assert_leq(mem.reads, 100, "%u reads", mem.reads);
	memset(buf, 3, 4096);
	cr_assert_eq(qcow2_write(image, 1 << 20, buf, 4096), 0);
	qcow2_abandon(image);
}

/* A device of 50 MiB with a disk of 60 MiB and many small clusters. */
static struct qcow2 *open_device(void)
{
	struct qcow2 *image = NULL;

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 -o cluster_size=512 disk 60M");
	load_image();
	reset_image();
	mem.bytes = 50U << 20;
	cr_assert_eq(try_open(true, &image), 0);
	return image;
}

/* All of a device is used, but for what lies behind a long row of used clusters. */
Test(qcow2_faults, a_full_device_is_searched_to_its_end)
{
	struct qcow2_check found;
	struct qcow2 *image = NULL;

	image = open_device();
	memset(buf, 4, 1 << 20);
	for (uint64_t off = 0; off < 40U << 20; off += 1 << 20)
		cr_assert_eq(qcow2_write(image, off, buf, 1 << 20), 0, "at %llu", (unsigned long long)off);
	/* Reserved by somebody who is gone, up to the end. */
	qcow2_abandon(image);
	cr_assert_eq(try_open(true, &image), 0);
	for (uint64_t off = 40U << 20; off < 60U << 20; off += 1 << 20)
		if (qcow2_write(image, off, buf, 1 << 20))
			break;
	cr_assert_eq(qcow2_discard(image, 39U << 20, 1 << 20), 0);
	cr_assert_eq(qcow2_sync(image), 0);
	for (unsigned i = 0; i < 4; i++)
		cr_assert_eq(qcow2_reclaim(image), 0);
	cr_assert_eq(qcow2_close(image), 0);
	cr_assert_eq(try_open(true, &image), 0);
	cr_assert_eq(qcow2_write(image, 39U << 20, buf, 512 << 10), 0);
	cr_assert_eq(qcow2_check(image, false, &found), 0);
	cr_assert_eq(found.corruptions, 0);
	qcow2_abandon(image);
}

/* A device whose counts have been lost in part: those that are made anew do not come to stand where something is. */
Test(qcow2_faults, f56_lost_counts_are_made_behind_all_that_is_used)
{
	struct qcow2_check found;
	struct qcow2 *image = NULL;
	uint64_t counts;
	unsigned n = 0;

	image = open_device();
	memset(buf, 5, 1 << 20);
	cr_assert_eq(qcow2_write(image, 0, buf, 1 << 20), 0);
	cr_assert_eq(qcow2_close(image), 0);
	counts = field(&mem, 48, 8);
	while (field(&mem, (unsigned)counts + 8 * n, 8))
		n++;
	cr_assert_geq(n, 8, "%u", n);
	for (unsigned i = n - 3; i < n; i++)
		put(counts + 8 * i, 0);
	mem.data[79] |= 1;
	cr_assert_eq(try_open(true, &image), 0);
	memset(buf, 0, 1 << 20);
	cr_assert_eq(qcow2_read(image, 0, buf, 1 << 20), 0);
	for (unsigned i = 0; i < 1 << 20; i++)
		cr_assert_eq(buf[i], 5, "at %u", i);
	cr_assert_eq(qcow2_check(image, false, &found), 0);
	cr_assert_eq(found.corruptions, 0);
	qcow2_abandon(image);
}
