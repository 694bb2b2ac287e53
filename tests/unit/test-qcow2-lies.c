/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FAULTS 55 and 56 for lib/qcow2, on a file in memory: one that is cut off underneath, images that would be read for ever or
 * have lost their counts, a device that is full; and what has to be stable before it is shown.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "note.h"
#include "num.h"
#include "qcow2_mem.h"
#include "qcow2_rig.h"

TestSuite(qcow2_lies, .timeout = 600);

#define BYTES (1U << 20) /* of the longest request */

static _Alignas(4096) uint8_t buf[BYTES];

/* ---- FAULTS 55 ---- */

/* What is gone is an error to whoever asks for it, and never taken for nothing. */
Test(qcow2_lies, f55_a_file_that_is_cut_off_underneath)
{
	unsigned failed = 0, cuts = 0;
	uint64_t whole;

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 -o cluster_size=4k disk %u && qemu-io -f qcow2 -c 'write -q -P 7 "
	       "0 6M' "
	       "disk",
	       RIG_BYTES);
	mem_load();
	mem_reset();
	whole = mem.bytes;
	for (uint64_t cut = 0; cut < whole; cut += 37 * 4096 + 512, cuts++) {
		struct qcow2 *image;
		unsigned before = failed;

		mem_reset();
		image = mem_open(-1, 1);
		memset(buf, 0, 4096);
		mem.bytes = cut;
		memset(mem.data + cut, 0, whole - cut);
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
	note("%u cuts, %u reads failed, none lied", cuts, failed);
}

/* ---- write-through ---- */

/* With write-through a queue that finds a cluster writes there and is done, so its entry is stable by then. */
Test(qcow2_lies, nothing_is_shown_before_it_is_stable)
{
	struct qcow2 *image;

	rig_begin();
	for (unsigned through = 0; through < 2; through++) {
		rig_sh("qemu-img create -q -f qcow2 disk %u", RIG_BYTES);
		mem_load();
		mem_reset();
		image = mem_open(-1, 0);
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

/* The same when a change is made all the same and reported as failed: who looks into the file finds the entry there. */
Test(qcow2_lies, f50_nothing_that_failed_is_shown_before_it_is_stable)
{
	const uint64_t off = 1 << 20;

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 disk %u", RIG_BYTES);
	mem_load();
	for (unsigned through = 0; through < 2; through++) {
		unsigned shown = 0, early = 0;
		int err = -EIO;

		for (unsigned k = 1; err; k++) {
			struct qcow2_extent e;
			struct qcow2 *image;

			mem_reset();
			image = mem_open(-1, 0);
			cr_assert_eq(qcow2_write_through(image, through), 0);
			mem.changes = 0;
			mem.refused = k;
			mem.done = true;
			mem.err = -EIO;
			err = qcow2_prepare(image, off, 4096);
			if (!err)
				err = qcow2_commit(image);
			mem.refused = 0;
			cr_assert_eq(qcow2_load(image, off, 4096), 0);
			qcow2_map(image, off, 4096, true, &e);
			shown += err && e.kind == QCOW2_DATA;
			early += err && e.kind == QCOW2_DATA && mem.unsynced;
			cr_assert_eq(qcow2_close(image), 0);
		}
		cr_assert_gt(shown, 0, "no entry is found that failed");
		cr_assert_eq(early, through ? 0 : shown);
	}
}

/* ---- FAULTS 56: images that would be read for ever ---- */

static int try_open(bool device, struct qcow2 **image)
{
	struct qcow2_file file = { .ops = &mem_ops, .arg = &mem };
	struct qcow2_options options = { .device = device };
	char why[256];

	mem.reads = 0;
	return qcow2_open(&file, &options, image, why, sizeof(why));
}

/* A dirty image of which each entry of a long L1 table refers to the same table: it is read once. */
Test(qcow2_lies, f56_a_repair_reads_no_table_again_and_again)
{
	struct qcow2 *image = NULL;
	uint64_t l1, entries, word;

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 disk 16T && qemu-io -f qcow2 -c 'write -q 0 64k' disk");
	mem_load();
	mem_reset();
	l1 = mem_field(40, 8);
	entries = mem_field(36, 4);
	word = mem_field((unsigned)l1, 8);
	cr_assert_geq(entries, 32768);
	for (uint64_t i = 0; i < entries; i++)
		mem_put(l1 + 8 * i, word);
	mem.data[79] |= 1;
	cr_assert_eq(try_open(false, &image), 0);
	cr_assert_leq(mem.reads, 100, "%u reads", mem.reads);
	cr_assert_eq(qcow2_snapshot_revert(image, "none"), -ENOENT);
	qcow2_abandon(image);
}

/* A device with counts of far more clusters than it has, all 0. */
Test(qcow2_lies, f56_the_end_of_a_device_is_not_looked_for_behind_it)
{
	struct qcow2 *image = NULL;
	uint64_t counts, block;

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 disk 6M && qemu-io -f qcow2 -c 'write -q 0 64k' disk");
	mem_load();
	mem_reset();
	mem.bytes = 16U << 20;
	counts = mem_field(48, 8);
	block = mem.bytes - 65536; /* nothing but zeroes */
	for (uint64_t i = 1; i < 8192; i++)
		mem_put(counts + 8 * i, block);
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
	mem_load();
	mem_reset();
	mem.bytes = 50U << 20;
	cr_assert_eq(try_open(true, &image), 0);
	return image;
}

/* All of a device is used, but for what lies behind a long row of used clusters. */
Test(qcow2_lies, a_full_device_is_searched_to_its_end)
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
Test(qcow2_lies, f56_lost_counts_are_made_behind_all_that_is_used)
{
	struct qcow2_check found;
	struct qcow2 *image = NULL;
	uint64_t counts;
	unsigned n = 0;

	image = open_device();
	memset(buf, 5, 1 << 20);
	cr_assert_eq(qcow2_write(image, 0, buf, 1 << 20), 0);
	cr_assert_eq(qcow2_close(image), 0);
	counts = mem_field(48, 8);
	while (mem_field((unsigned)counts + 8 * n, 8))
		n++;
	cr_assert_geq(n, 8, "%u", n);
	for (unsigned i = n - 3; i < n; i++)
		mem_put(counts + 8 * i, 0);
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
