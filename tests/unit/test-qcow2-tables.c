/* SPDX-License-Identifier: Apache-2.0 */
/* What lib/qcow2 does to whole tables: repair, snapshots, growth; and readers that look while the owner changes them. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fd.h"
#include "num.h"
#include "qcow2_rig.h"

TestSuite(qcow2_tables, .timeout = 300);

static _Alignas(4096) uint8_t ours[RIG_BYTES + 4096], theirs[RIG_BYTES + 4096];

static const struct rig_kind plain = { "plain", "", NULL }, sub = { "subclusters", "extended_l2=on", NULL },
			     small = { "small", "cluster_size=512", NULL };

static void expect_as_qemu_reads(struct rig_image *im)
{
	rig_qemu_reads("disk", theirs, RIG_BYTES);
	rig_read_all(im, ours, RIG_BYTES);
	cr_assert(!memcmp(ours, theirs, RIG_BYTES));
}

/* ---- dirty images ---- */

/* QEMU is killed with counts that it has put off. */
Test(qcow2_tables, dirty_images_are_repaired_when_they_are_opened)
{
	static const char *const options[] = { "lazy_refcounts=on", "lazy_refcounts=on,cluster_size=512",
					       "lazy_refcounts=on,refcount_bits=1",
					       "lazy_refcounts=on,extended_l2=on" };

	rig_begin();
	for (unsigned i = 0; i < ARRAY_SIZE(options); i++) {
		const struct rig_kind kind = { options[i], options[i], NULL };
		struct rig_image im = { .options = { 0 } };
		uint8_t bits[8];

		rig_make(&kind);
		rig_sh(
		    "qemu-io -f qcow2 -c 'write -q -P 8 100k 1M' -c 'write -q -P 9 4M 300k' -c 'abort' disk "
		    ">/dev/null 2>&1 || :");
		rig_open(&im, &kind);
		cr_assert_eq(fd_pread_full(im.fd[0], bits, 8, 72), 0);
		cr_assert_eq(bits[7] & 1, 0, "still dirty");
		expect_as_qemu_reads(&im);
		cr_assert_eq(qcow2_write(im.image, 2U << 20, theirs, 1U << 20), 0);
		rig_close(&im);
		rig_qemu_checks("disk", false);
	}
}

Test(qcow2_tables, a_dirty_image_has_wrong_counts)
{
	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 -o lazy_refcounts=on disk 6M && qemu-io -f qcow2 -c 'write -q 0 "
	       "1M' -c abort "
	       "disk >/dev/null 2>&1 || :");
	cr_assert_neq(rig_sh_status("qemu-img check -U -f qcow2 disk >/dev/null 2>&1"), 0,
		      "nothing to be repaired");
}

/* ---- snapshots ---- */

static void make_snapshots(const struct rig_kind *kind)
{
	rig_make(kind);
	rig_fill(3);
	rig_sh("qemu-img snapshot -c first disk");
	rig_fill(4);
	rig_sh("qemu-img snapshot -c second disk");
	rig_fill(5);
}

Test(qcow2_tables, snapshots_are_listed_and_reverted_to)
{
	const struct rig_kind *const kinds[] = { &plain, &sub, &small };

	rig_begin();
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct rig_image im = { .options = { 0 } };
		struct qcow2_snapshot s;

		make_snapshots(kinds[i]);
		rig_open(&im, kinds[i]);
		cr_assert_eq(qcow2_snapshot_get(im.image, 0, &s), 0);
		cr_assert_str_eq(s.name, "first");
		cr_assert_str_eq(s.id, "1");
		cr_assert_eq(s.bytes, RIG_BYTES);
		cr_assert_eq(qcow2_snapshot_get(im.image, 1, &s), 0);
		cr_assert_str_eq(s.name, "second");
		cr_assert_eq(qcow2_snapshot_get(im.image, 2, &s), -ENOENT);
		cr_assert_eq(qcow2_snapshot_revert(im.image, "third"), -ENOENT);
		/* Written to before and after, with shared tables and clusters both times. */
		memset(ours, 0x33, 1 << 20);
		cr_assert_eq(qcow2_write(im.image, 512 * 77, ours, 1 << 20), 0);
		rig_sh("cp disk copy && qemu-img snapshot -U -a first copy 2>/dev/null || qemu-img snapshot "
		       "-a first copy");
		cr_assert_eq(qcow2_snapshot_revert(im.image, "first"), 0);
		rig_qemu_reads("copy", theirs, RIG_BYTES);
		rig_read_all(&im, ours, RIG_BYTES);
		cr_assert(!memcmp(ours, theirs, RIG_BYTES), "%s: reverted to something else", kinds[i]->name);
		memset(ours, 0x44, 1 << 20);
		cr_assert_eq(qcow2_write(im.image, 3U << 20, ours, 1 << 20), 0);
		rig_close(&im);
		rig_qemu_checks("disk", false);
		rig_sh("qemu-img snapshot -a second disk && qemu-img snapshot -d first disk");
		rig_qemu_checks("disk", false);
		rig_open(&im, kinds[i]);
		expect_as_qemu_reads(&im);
		rig_close(&im);
	}
}

/* Counts of two bits, and three references at most: what was given up before does not count any more. */
Test(qcow2_tables, small_counts_do_not_run_over_when_reverted)
{
	struct rig_image im = { .options = { 0 } };

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 -o refcount_bits=2,cluster_size=4k disk %u && qemu-io -f qcow2 "
	       "-c 'write -q -P "
	       "77 0 4M' disk && qemu-img snapshot -c one disk",
	       RIG_BYTES);
	rig_qemu_reads("disk", theirs, RIG_BYTES);
	rig_open(&im, &plain);
	for (unsigned i = 0; i < 6; i++) {
		memset(ours, (int)i + 1, 1 << 20);
		cr_assert_eq(qcow2_write(im.image, i << 19, ours, 1 << 20), 0);
		cr_assert_eq(qcow2_snapshot_revert(im.image, "one"), 0, "the time after %u", i);
	}
	rig_read_all(&im, ours, RIG_BYTES);
	cr_assert(!memcmp(ours, theirs, RIG_BYTES));
	rig_close(&im);
	rig_qemu_checks("disk", false);
}

/* ---- growth ---- */

Test(qcow2_tables, disks_grow)
{
	const struct rig_kind *const kinds[] = { &plain, &sub, &small };

	rig_begin();
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct rig_image im = { .options = { 0 } };
		const uint64_t bytes = 600U << 20;
		const char *why;

		rig_make(kinds[i]);
		rig_fill(3);
		rig_qemu_reads("disk", theirs, RIG_BYTES);
		rig_open(&im, kinds[i]);
		cr_assert_eq(qcow2_resize(im.image, RIG_BYTES - 512, &why), -ENOTSUP);
		cr_assert_eq(qcow2_resize(im.image, bytes, &why), 0);
		cr_assert_eq(qcow2_size(im.image), bytes);
		memset(ours, 0x66, 1 << 20);
		cr_assert_eq(qcow2_write(im.image, bytes - (1U << 20), ours, 1 << 20), 0);
		rig_read_all(&im, ours, RIG_BYTES);
		cr_assert(!memcmp(ours, theirs, RIG_BYTES));
		rig_close(&im);
		rig_qemu_checks("disk", false);
		rig_sh("qemu-io -f qcow2 -c 'read -q -P 0x66 599M 1M' -c 'read -q -P 0 300M 1M' disk | grep "
		       "-c failed >bad; "
		       "test \"$(cat bad)\" = 0");
	}
}

#define LONGER (12U << 20) /* than the disk, and than what is below it */

static void grow_over_longer(const struct rig_kind *kind)
{
	static _Alignas(4096) uint8_t now[LONGER], after[LONGER];
	static const uint64_t steps[] = { RIG_BYTES + 1024, 8U << 20, LONGER };
	struct rig_image im = { .options = { 0 } };
	const char *why;

	rig_make(kind);
	rig_fill(3);
	rig_qemu_reads("disk", theirs, RIG_BYTES);
	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
		uint64_t bytes = steps[i];
		int err;

		rig_open(&im, kind);
		err = qcow2_resize(im.image, bytes, &why);
		cr_assert_eq(err, 0, "%s: %s", kind->name, why ? why : strerror(-err));
		memset(after, 0, sizeof(after));
		memcpy(after, theirs, RIG_BYTES);
		rig_read_all(&im, now, bytes);
		cr_assert(!memcmp(now, after, bytes), "%s: something else is read after it grew", kind->name);
		rig_map_all(&im, now, bytes);
		cr_assert(!memcmp(now, after, bytes), "%s: something else is mapped", kind->name);
		rig_close(&im);
		rig_qemu_checks("disk", false);
		rig_qemu_reads("disk", now, bytes);
		cr_assert(!memcmp(now, after, bytes), "%s: QEMU reads something else", kind->name);
	}
}

/* What a longer backing file holds behind the disk's end was never the guest's. */
Test(qcow2_tables, a_disk_does_not_grow_into_its_backing_file)
{
	static const char *const options[] = { "", "extended_l2=on", "cluster_size=512", "cluster_size=2M" };
	const struct rig_kind old = { "version 2", "compat=0.10", "long" };
	struct rig_image im = { .options = { 0 } };
	const char *why;

	rig_begin();
	for (unsigned i = 0; i < ARRAY_SIZE(options); i++)
		grow_over_longer(&(const struct rig_kind) { options[i], options[i], "long" });
	/* It has no way to say so. */
	rig_make(&old);
	rig_open(&im, &old);
	cr_assert_eq(qcow2_resize(im.image, LONGER, &why), -EOPNOTSUPP);
	cr_assert_not_null(why);
	cr_assert_eq(qcow2_size(im.image), RIG_BYTES);
	rig_close(&im);
	rig_qemu_checks("disk", false);
}

/* A cluster in which the disk ends holds the guest's and nothing else, whoever wrote it. */
Test(qcow2_tables, a_disk_that_was_longer_grows_with_zeroes)
{
	struct rig_image im = { .options = { 0 } };
	const char *why;

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 disk %u && qemu-io -f qcow2 -c 'write -q -P 9 0 6M' disk && "
	       "qemu-img resize -q --shrink -f qcow2 disk 5001k",
	       RIG_BYTES);
	rig_open(&im, &plain);
	cr_assert_eq(qcow2_resize(im.image, RIG_BYTES, &why), 0);
	rig_read_all(&im, ours, RIG_BYTES);
	cr_assert(ours[(5001U << 10) - 1] == 9);
	for (uint64_t i = 5001U << 10; i < RIG_BYTES; i++)
		cr_assert_eq(ours[i], 0, "byte %llu", (unsigned long long)i);
	rig_close(&im);
	rig_qemu_checks("disk", false);
}

/* What is behind its end reads as zeroes, also when the file grows; what is before stays. */
Test(qcow2_tables, a_file_may_end_within_a_block)
{
	struct rig_image im = { .options = { 0 } };

	rig_begin();
	rig_sh("qemu-img create -q -f qcow2 disk %u && qemu-io -f qcow2 -c 'write -q -P 9 0 64k' disk && "
	       "truncate -s -100 disk",
	       RIG_BYTES);
	rig_qemu_reads("disk", theirs, RIG_BYTES);
	cr_assert(theirs[65535 - 100] == 9 && theirs[65535] == 0);
	rig_open(&im, &plain);
	memset(theirs + (1 << 20), 7, 4096);
	cr_assert_eq(qcow2_write(im.image, 1 << 20, theirs + (1 << 20), 4096), 0);
	rig_close(&im);
	rig_qemu_reads("disk", ours, RIG_BYTES);
	cr_assert(!memcmp(ours, theirs, RIG_BYTES));
}

/* Counts that outgrow their table, with the smallest one there is. */
Test(qcow2_tables, counts_grow)
{
	const struct rig_kind kind = { "tiny", "cluster_size=512,refcount_bits=64", NULL };
	struct rig_image im = { .options = { 0 } };
	const char *why;

	rig_begin();
	rig_make(&kind);
	rig_open(&im, &kind);
	cr_assert_eq(qcow2_resize(im.image, 80U << 20, &why), 0);
	for (uint64_t off = 0; off < 13U << 20; off += RIG_BYTES) {
		memset(ours, (int)(off >> 20) + 1, RIG_BYTES);
		cr_assert_eq(qcow2_write(im.image, off, ours, RIG_BYTES), 0);
	}
	rig_close(&im);
	rig_qemu_checks("disk", false);
	rig_open(&im, &kind);
	for (uint64_t off = 0; off < 13U << 20; off += RIG_BYTES) {
		cr_assert_eq(qcow2_read(im.image, off, ours, RIG_BYTES), 0);
		cr_assert(ours[0] == (off >> 20) + 1 && !memcmp(ours, ours + 1, RIG_BYTES - 1));
	}
	rig_close(&im);
}

/* ---- readers and the owner at once ---- */

#define READERS 3
#define AREA    (1U << 20) /* what a reader looks at by itself, written once */

struct look {
	struct rig_image *im;
	unsigned reader;
	_Atomic bool *stop;
	_Atomic uint64_t *mapped;
	uint64_t data;
	bool wrong;
};

/* Bytes hold the number of their megabyte, or 0. Not all of a sector the same one: a read of the page cache may come in the
 * middle of a write. */
static bool is_elsewhere(const uint8_t *buf, size_t len, uint64_t off)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i] && buf[i] != (off >> 20) + 1)
			return true;
	return false;
}

/* Maps at random, and reads. No lock is taken anywhere. */
static void *look(void *arg)
{
	struct look *l = arg;
	unsigned seed = l->reader + 1;
	uint8_t buf[512];

	while (!atomic_load(l->stop)) {
		uint64_t off = (uint64_t)((unsigned)rand_r(&seed) % (RIG_BYTES / 512)) * 512;
		unsigned token = qcow2_enter(l->im->image, l->reader);
		struct qcow2_extent e;

		qcow2_map(l->im->image, off, 512, false, &e);
		/* Long enough for the owner to do a lot meanwhile, but to use no cluster for something else. */
		for (unsigned i = 0; i < 8 && e.kind == QCOW2_DATA; i++)
			if (pread(l->im->fd[0], buf, 512, (off_t)e.off) == 512) {
				l->data++;
				l->wrong |= is_elsewhere(buf, sizeof(buf), off);
			}
		qcow2_leave(l->im->image, l->reader, token);
		atomic_fetch_add(l->mapped, 1);
	}
	return NULL;
}

static void look_while_it_changes(const struct rig_kind *kind, size_t cache)
{
	struct rig_image im = { .options = { .cache_bytes = cache } };
	struct look l[READERS];
	pthread_t thread[READERS];
	_Atomic bool stop = false;
	_Atomic uint64_t mapped = 0;
	unsigned seed = 4;

	rig_sh("qemu-img create -q -f qcow2 %s%s disk %u", *kind->options ? "-o " : "", kind->options,
	       RIG_BYTES);
	rig_open(&im, kind);
	for (unsigned i = 0; i < READERS; i++) {
		l[i] = (struct look) { .im = &im, .reader = i, .stop = &stop, .mapped = &mapped };
		cr_assert_eq(pthread_create(&thread[i], NULL, look, &l[i]), 0);
	}
	for (unsigned i = 0; i < 400 || atomic_load(&mapped) < 20000; i++) {
		uint64_t off = (uint64_t)((unsigned)rand_r(&seed) % (RIG_BYTES / 512 - 256)) * 512;
		uint64_t len = MIN(256 * 512, (1U << 20) - off % (1U << 20));

		memset(ours, (int)(off >> 20) + 1, len);
		if (i % 3)
			cr_assert_eq(qcow2_write(im.image, off, ours, len), 0);
		else
			cr_assert_eq(qcow2_discard(im.image, off & ~0xfffffULL, 1 << 20), 0);
		cr_assert_eq(qcow2_load(im.image, off, len), 0);
		cr_assert_eq(qcow2_reclaim(im.image), 0);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < READERS; i++) {
		pthread_join(thread[i], NULL);
		cr_expect_not(l[i].wrong, "%s: reader %u found what is elsewhere on the disk", kind->name, i);
		cr_expect_gt(l[i].data, 0);
	}
	rig_close(&im);
	rig_qemu_checks("disk", false);
}

Test(qcow2_tables, readers_look_while_the_owner_changes_tables)
{
	rig_begin();
	look_while_it_changes(&plain, 0);
	look_while_it_changes(&sub, 0);
	look_while_it_changes(&small, 1);
}
