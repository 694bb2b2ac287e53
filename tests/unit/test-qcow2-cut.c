/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FAULTS 61 for qcow2: the power is cut. Everything that lib/qcow2 does to its file goes through a log; a crash image is what
 * the file was at some flush, and any of the writes since, each whole sector of them there or not. Of each such image QEMU's
 * checker must say that it has leaks at most, and what was acknowledged before that flush must be in it.
 *
 * A file that was made longer, and not written to, reads as zeroes.
 *
 * BULKHEAD_LONG=1 makes over a thousand images; else some dozens.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fd.h"
#include "note.h"
#include "num.h"
#include "qcow2_rig.h"

TestSuite(qcow2_cut, .timeout = 3600);

#define FILE_MAX (64U << 20)
#define OPS_MAX  16384
#define BLOCK    512
#define DISK     RIG_BYTES
#define SECTORS  (DISK / BLOCK)

/* ---- the log ---- */

struct op {
	uint64_t off, len;
	uint8_t *data; /* NULL: zeroes */
};

/* How much of what is not sure gets to the disk. */
enum how { NOTHING, ALL, FIRST, LAST, SOME, MOST, FEW, HOWS };

/* The file as everybody sees it is fd; sure is what a power cut leaves at least. */
struct cut {
	int fd;
	uint8_t *sure;
	uint64_t sure_bytes;
	struct op op[OPS_MAX]; /* since the last flush */
	unsigned n;
	uint64_t top;       /* the end of all that was ever written */
	unsigned countdown; /* calls until the power is cut; 0: it is not */
	const struct rig_kind *kind;
	void (*judge)(struct rig_image *crashed, enum how how, bool torn); /* its content */
	unsigned seed, images;
};

static struct cut cut;

static int64_t cut_read(void *arg, void *buf, size_t len, uint64_t off)
{
	return qcow2_fd_ops.read(&((struct cut *)arg)->fd, buf, len, off);
}

static void count_down(struct cut *c);

static void note_write(struct cut *c, uint64_t off, uint64_t len, const void *data)
{
	struct op *op = &c->op[c->n++];

	cr_assert_lt(c->n, OPS_MAX, "too many writes without a flush");
	cr_assert_leq(off + len, FILE_MAX);
	c->top = MAX(c->top, off + len);
	*op = (struct op) { .off = off, .len = len };
	if (data) {
		op->data = malloc(len);
		memcpy(op->data, data, len);
	}
	count_down(c);
}

static int cut_write(void *arg, const void *buf, size_t len, uint64_t off)
{
	note_write(arg, off, len, buf);
	return qcow2_fd_ops.write(&((struct cut *)arg)->fd, buf, len, off);
}

static int cut_zero(void *arg, uint64_t off, uint64_t len)
{
	note_write(arg, off, len, NULL);
	return qcow2_fd_ops.zero(&((struct cut *)arg)->fd, off, len);
}

static int cut_size(void *arg, uint64_t *bytes)
{
	return qcow2_fd_ops.size(&((struct cut *)arg)->fd, bytes);
}

/* Does one block of a write to an image in memory. */
static void apply(const struct op *op, uint64_t at, uint8_t *image)
{
	if (op->data)
		memcpy(image + op->off + at, op->data + at, BLOCK);
	else
		memset(image + op->off + at, 0, BLOCK);
}

static int cut_sync(void *arg)
{
	struct cut *c = arg;

	count_down(c);
	for (unsigned i = 0; i < c->n; i++) {
		for (uint64_t at = 0; at < c->op[i].len; at += BLOCK)
			apply(&c->op[i], at, c->sure);
		if (c->op[i].data) /* holes make no file longer */
			c->sure_bytes = MAX(c->sure_bytes, c->op[i].off + c->op[i].len);
		free(c->op[i].data);
	}
	c->n = 0;
	return 0;
}

static const struct qcow2_file_ops cut_ops = {
	.read = cut_read,
	.write = cut_write,
	.sync = cut_sync,
	.zero = cut_zero,
	.size = cut_size,
};

static void cut_begin(struct cut *c)
{
	off_t end;

	c->fd = open("disk", O_RDWR | O_CLOEXEC);
	cr_assert_geq(c->fd, 0);
	end = lseek(c->fd, 0, SEEK_END);
	if (!c->sure)
		c->sure = malloc(FILE_MAX);
	memset(c->sure, 0, FILE_MAX);
	cr_assert_eq(fd_pread_full(c->fd, c->sure, (size_t)end, 0), 0);
	c->sure_bytes = c->top = (uint64_t)end;
	c->n = 0;
}

static bool gets_there(enum how how, unsigned i, unsigned n, unsigned pivot, unsigned *seed)
{
	unsigned r = (unsigned)rand_r(seed) % 8;

	switch (how) {
	case NOTHING:
	case HOWS:
		return false;
	case ALL:
		return true;
	case FIRST:
		return i < pivot;
	case LAST:
		return i >= pivot && i < n;
	case SOME:
		return r < 4;
	case MOST:
		return r != 0;
	case FEW:
		return r == 0;
	}
	return false;
}

/* Writes a crash image to "crashed". Whole writes, or each sector by itself. */
static void make_crash(const struct cut *c, enum how how, bool torn, unsigned *seed)
{
	static uint8_t *image;
	uint64_t bytes = c->sure_bytes;
	unsigned pivot = c->n ? (unsigned)rand_r(seed) % c->n : 0;
	int fd;

	if (!image)
		image = malloc(FILE_MAX);
	memcpy(image, c->sure, c->top);
	for (unsigned i = 0; i < c->n; i++) {
		bool there = gets_there(how, i, c->n, pivot, seed);

		for (uint64_t at = 0; at < c->op[i].len; at += BLOCK) {
			if (torn)
				there = gets_there(how, i, c->n, pivot, seed);
			if (!there)
				continue;
			apply(&c->op[i], at, image);
			if (c->op[i].data)
				bytes = MAX(bytes, c->op[i].off + at + BLOCK);
		}
	}
	fd = open("crashed", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, (off_t)bytes), 0);
	for (uint64_t at = 0; at < bytes; at += 65536) {
		static const uint8_t none[65536];
		uint64_t len = MIN(bytes - at, 65536);

		if (memcmp(image + at, none, len))
			cr_assert_eq(fd_pwrite_full(fd, image + at, len, (off_t)at), 0);
	}
	close(fd);
}

/* ---- what must be in it ---- */

/* Of each sector: its content at the last flush, and what may have become of it since. */
#define MAYBE_MAX 24

struct sector {
	uint8_t sure;
	uint8_t maybe[MAYBE_MAX];
	uint8_t n; /* MAYBE_MAX: anything */
};

static struct sector sector[SECTORS];

/* All writes fill sectors with one number each. */
static void may_be(uint64_t s, uint8_t value)
{
	if (sector[s].n < MAYBE_MAX)
		sector[s].maybe[sector[s].n++] = value;
}

static void flushed(void)
{
	for (uint64_t s = 0; s < SECTORS; s++) {
		if (sector[s].n && sector[s].n <= MAYBE_MAX)
			sector[s].sure = sector[s].maybe[sector[s].n - 1];
		sector[s].n = 0;
	}
}

static bool is_possible(uint64_t s, const uint8_t *data)
{
	if (memcmp(data, data + 1, BLOCK - 1))
		return false;
	if (*data == sector[s].sure || sector[s].n == MAYBE_MAX)
		return true;
	for (unsigned i = 0; i < sector[s].n; i++)
		if (sector[s].maybe[i] == *data)
			return true;
	return false;
}

static _Alignas(4096) uint8_t buf[DISK + 4096], found_in[DISK + 4096];

static void judge_sectors(struct rig_image *crashed, enum how how, bool torn)
{
	rig_read_all(crashed, found_in, DISK);
	for (uint64_t s = 0; s < SECTORS; s++)
		cr_assert(is_possible(s, found_in + s * BLOCK),
			  "%s: sector %llu holds %u, sure was %u and %u came after (%d, %s)", cut.kind->name,
			  (unsigned long long)s, found_in[s * BLOCK], sector[s].sure, sector[s].n, how,
			  torn ? "torn" : "whole");
}

/* A crash image of this moment. */
static void crash(struct cut *c, enum how how, bool torn)
{
	struct rig_image im = { .options = { .readonly = true } };
	struct qcow2_check found;

	make_crash(c, how, torn, &c->seed);
	rig_qemu_checks("crashed", true);
	cr_assert_eq(rig_try_open(&im, "crashed", c->kind->backing), 0, "%s: %s", c->kind->name, im.why);
	/* Our own checker says what QEMU's says. */
	cr_assert_eq(qcow2_check(im.image, false, &found), 0);
	cr_assert_eq(found.corruptions, 0, "%s: %llu", c->kind->name, (unsigned long long)found.corruptions);
	c->judge(&im, how, torn);
	rig_close(&im);
	c->images++;
}

/* The power is cut before the present call, if it is time, and everything goes on as if it had not been. */
static void count_down(struct cut *c)
{
	enum how how;
	bool torn;

	if (!c->countdown || --c->countdown)
		return;
	how = (enum how)((unsigned)rand_r(&c->seed) % HOWS);
	torn = rand_r(&c->seed) % 2;
	crash(c, how, torn);
}

/* ---- doing things ---- */

static void do_something(struct qcow2 *image, unsigned *seed)
{
	static uint8_t next;
	unsigned how = (unsigned)rand_r(seed) % 12, most = (unsigned)rand_r(seed) % 6 ? 150 : 2500, n;
	uint64_t at = (unsigned)rand_r(seed) % SECTORS;

	n = 1 + (unsigned)rand_r(seed) % most;
	n = (unsigned)MIN(n, SECTORS - at);
	if (how < 7) {
		next = (uint8_t)(next % 250 + 1);
		memset(buf, next, (size_t)n * BLOCK);
		for (unsigned i = 0; i < n; i++)
			may_be(at + i, next);
		cr_assert_eq(qcow2_write(image, at * BLOCK, buf, (size_t)n * BLOCK), 0);
	} else if (how < 9) {
		for (unsigned i = 0; i < n; i++)
			may_be(at + i, 0);
		cr_assert_eq(qcow2_zero(image, at * BLOCK, (uint64_t)n * BLOCK, rand_r(seed) % 2), 0);
	} else if (how < 10) {
		/* The old content may stay, or there are zeroes. */
		for (unsigned i = 0; i < n; i++)
			may_be(at + i, 0);
		cr_assert_eq(qcow2_discard(image, at * BLOCK, (uint64_t)n * BLOCK), 0);
		cr_assert_eq(qcow2_read(image, at * BLOCK, buf, (size_t)n * BLOCK), 0);
		for (unsigned i = 0; i < n; i++)
			may_be(at + i, buf[(size_t)i * BLOCK]);
	} else if (how < 11) {
		cr_assert_eq(qcow2_reclaim(image), 0);
	} else {
		cr_assert_eq(qcow2_sync(image), 0);
		flushed();
	}
}

/* Opens "disk" with all that is done to it logged. */
static void open_logged(struct rig_image *im, const struct rig_kind *kind)
{
	struct qcow2_file file = { .ops = &cut_ops, .arg = &cut };

	cut.kind = kind;
	cut_begin(&cut);
	rig_open(im, kind);
	qcow2_abandon(im->image);
	cr_assert_eq(qcow2_open(&file, &im->options, &im->image, im->why, sizeof(im->why)), 0);
	cr_assert_eq(qcow2_sync(im->image), 0);
}

/* The library flushes of itself as well, and that makes sure more than we count on; what it may be stays the same. */
static void replay(const struct rig_kind *kind, unsigned seed, unsigned images)
{
	struct rig_image im = { .options = { 0 } };

	rig_make(kind);
	rig_fill(seed);
	open_logged(&im, kind);
	rig_read_all(&im, buf, DISK);
	memset(sector, 0, sizeof(sector));
	for (uint64_t s = 0; s < SECTORS; s++)
		sector[s].sure = buf[s * BLOCK];
	cut.judge = judge_sectors;
	cut.seed = seed;
	for (unsigned goal = cut.images + images; cut.images < goal;) {
		cut.countdown = 1 + (unsigned)rand_r(&seed) % 40;
		while (cut.countdown)
			do_something(im.image, &seed);
	}
	cut_sync(&cut);
	rig_close(&im);
	rig_qemu_checks("disk", false);
	close(cut.fd);
}

Test(qcow2_cut, f61_power_cuts_leave_leaks_at_most)
{
	const char *all = getenv("BULKHEAD_LONG"), *env = getenv("BULKHEAD_SEED");
	bool is_long = all && *all;
	unsigned images = is_long ? 80 : 8, seed = env ? (unsigned)atoi(env) : 1;

	rig_begin();
	for (const struct rig_kind *kind = rig_kinds; kind->name; kind++) {
		/* Sectors of the text that backing files hold are not one number each. */
		if (kind->backing && strcmp(kind->backing, "flat"))
			continue;
		for (unsigned round = 0; round < (is_long ? 2 : 1); round++)
			replay(kind, seed + round, images);
	}
	note("%u crash images, 0 corruptions, 0 bytes of flushed data lost", cut.images);
}

/* ---- reverting ---- */

static uint8_t before[DISK], after[DISK];

/* All of the one state, or all of the other. */
static void judge_states(struct rig_image *crashed, enum how how, bool torn)
{
	rig_read_all(crashed, found_in, DISK);
	cr_assert(!memcmp(found_in, before, DISK) || !memcmp(found_in, after, DISK),
		  "%s: neither as it was nor as it was to be (%d, %s)", cut.kind->name, how,
		  torn ? "torn" : "whole");
}

static void judge_after(struct rig_image *crashed, enum how how, bool torn)
{
	rig_read_all(crashed, found_in, DISK);
	cr_assert(!memcmp(found_in, after, DISK), "%s: said to be reverted, and is not (%d, %s)",
		  cut.kind->name, how, torn ? "torn" : "whole");
}

/* "made" is reverted, with the power cut before so many changes and flushes (0: never); how many there are. */
static unsigned revert(const struct rig_kind *kind, unsigned cut_at)
{
	struct rig_image im = { .options = { 0 } };
	unsigned left;
	int err;

	rig_sh("cp --sparse=always made disk");
	open_logged(&im, kind);
	cut.judge = judge_states;
	cut.countdown = cut_at ? cut_at : UINT32_MAX;
	err = qcow2_snapshot_revert(im.image, "one");
	cr_assert_eq(err, 0, "%s: %s", kind->name, strerror(-err));
	left = cut.countdown;
	cut.countdown = 0;
	cut.judge = judge_after;
	if (!cut_at)
		crash(&cut, NOTHING, false);
	cut_sync(&cut);
	rig_close(&im);
	close(cut.fd);
	return UINT32_MAX - left;
}

/* Many compressed clusters stand in one of the file, which a snapshot refers to twice, and reverting three times. */
static bool has_room_for_snapshots(const struct rig_kind *kind)
{
	const char *bits = strstr(kind->options, "refcount_bits=");

	return !bits || atoi(strchr(bits, '=') + 1) >= 16;
}

/* Whether that kind's turn comes in the short form: tables of all widths, with and without files below. */
static bool is_typical(const struct rig_kind *kind)
{
	static const char *const names[] = { "version 2, backing", "512-byte clusters", "32-bit counts",
					     "512-byte subclusters, backing", "lazy counts" };

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(kind->name, names[i]))
			return true;
	return false;
}

Test(qcow2_cut, f61_a_power_cut_leaves_a_disk_reverted_or_not)
{
	const char *all = getenv("BULKHEAD_LONG");
	bool is_long = all && *all;
	unsigned most = is_long ? 100 : 8;

	rig_begin();
	for (const struct rig_kind *kind = rig_kinds; kind->name; kind++) {
		unsigned calls;

		if (!has_room_for_snapshots(kind) || (!is_long && !is_typical(kind)))
			continue;

		rig_make(kind);
		rig_fill(1);
		rig_sh("qemu-img snapshot -c one disk");
		rig_qemu_reads("disk", after, DISK);
		rig_fill(2);
		rig_qemu_reads("disk", before, DISK);
		cr_assert(memcmp(before, after, DISK));
		rig_sh("mv disk made");
		cut.seed = 1;
		calls = revert(kind, 0);
		rig_qemu_checks("disk", false);
		for (unsigned k = 1; k <= calls; k += MAX(calls / most, 1))
			revert(kind, k);
	}
	cr_assert_geq(cut.images, is_long ? 200 : 30, "%u", cut.images);
	note("%u crash images while reverting, 0 corruptions, each of one state", cut.images);
}
