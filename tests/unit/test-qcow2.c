/* SPDX-License-Identifier: Apache-2.0 */
/* lib/qcow2 against QEMU's tools: images of every kind, read by either what the other wrote. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "num.h"
#include "qcow2_rig.h"

TestSuite(qcow2, .timeout = 600);

static _Alignas(4096) uint8_t ours[RIG_BYTES + 4096], theirs[RIG_BYTES + 4096];

static void expect_same(const uint8_t *a, const uint8_t *b, uint64_t bytes, const char *what)
{
	for (uint64_t i = 0; i < bytes; i++)
		if (a[i] != b[i])
			cr_assert_fail("%s: byte %llu is %u, expected %u", what, (unsigned long long)i, a[i],
				       b[i]);
}

Test(qcow2, reads_what_qemu_wrote)
{
	rig_begin();
	for (const struct rig_kind *kind = rig_kinds; kind->name; kind++) {
		struct rig_image im = { .options = { .readonly = true, .cache_bytes = 1 } };

		rig_make(kind);
		rig_fill(5);
		rig_open(&im, kind);
		cr_assert_eq(qcow2_size(im.image), RIG_BYTES, "%s", kind->name);
		rig_qemu_reads("disk", theirs, RIG_BYTES);
		rig_read_all(&im, ours, RIG_BYTES);
		expect_same(ours, theirs, RIG_BYTES, kind->name);
		memset(ours, 0xaa, sizeof(ours));
		rig_map_all(&im, ours, RIG_BYTES);
		expect_same(ours, theirs, RIG_BYTES, kind->name);
		rig_close(&im);
	}
}

/* ---- mixed writes ---- */

/* One random operation, done to the image and to what it should hold. */
static void do_something(struct rig_image *im, uint8_t *shadow, unsigned *seed, uint64_t bytes)
{
	unsigned blocks = (unsigned)(bytes / 512), most = (unsigned)rand_r(seed) % 8 ? 200 : 3000;
	unsigned at = (unsigned)rand_r(seed) % blocks, how = (unsigned)rand_r(seed) % 10;
	unsigned wanted = 1 + (unsigned)rand_r(seed) % most;
	uint64_t off = (uint64_t)at * 512, len = MIN(wanted, blocks - at) * 512ULL;
	uint8_t *buf = ours;
	bool unmap = rand_r(seed) % 2;
	int err;

	if (how < 6) {
		memset(buf, rand_r(seed), len);
		err = qcow2_write(im->image, off, buf, len);
		cr_assert_eq(err, 0, "%llu bytes at %llu: %s", (unsigned long long)len,
			     (unsigned long long)off, strerror(-err));
		memcpy(shadow + off, buf, len);
	} else if (how < 8) {
		cr_assert_eq(qcow2_zero(im->image, off, len, unmap), 0);
		memset(shadow + off, 0, len);
	} else {
		/* What is in discarded clusters is not promised; what it is, is kept. */
		cr_assert_eq(qcow2_discard(im->image, off, len), 0);
		cr_assert_eq(qcow2_read(im->image, off, shadow + off, len), 0);
	}
	if (rand_r(seed) % 4 == 0)
		cr_assert_eq(qcow2_reclaim(im->image), 0);
}

static void mix(const struct rig_kind *kind, unsigned seed, unsigned n)
{
	static uint8_t _Alignas(4096) shadow[RIG_BYTES + 4096];
	struct rig_image im = { .options = { .cache_bytes = seed % 2 } };
	struct qcow2_check found;

	rig_make(kind);
	rig_fill(seed);
	rig_qemu_reads("disk", shadow, RIG_BYTES);
	for (unsigned round = 0; round < 2; round++) {
		rig_open(&im, kind);
		for (unsigned i = 0; i < n; i++)
			do_something(&im, shadow, &seed, RIG_BYTES);
		rig_read_all(&im, ours, RIG_BYTES);
		expect_same(ours, shadow, RIG_BYTES, kind->name);
		rig_map_all(&im, ours, RIG_BYTES);
		expect_same(ours, shadow, RIG_BYTES, kind->name);
		cr_assert_eq(qcow2_check(im.image, false, &found), 0);
		cr_expect_eq(found.corruptions, 0, "%s: %llu corruptions", kind->name,
			     (unsigned long long)found.corruptions);
		cr_expect_eq(found.leaks, 0, "%s: %llu leaks", kind->name, (unsigned long long)found.leaks);
		rig_close(&im);
		rig_qemu_checks("disk", false);
		rig_qemu_reads("disk", theirs, RIG_BYTES);
		expect_same(theirs, shadow, RIG_BYTES, kind->name);
		/* QEMU goes on with it, and we after that. */
		rig_fill(seed + 1);
		rig_qemu_reads("disk", shadow, RIG_BYTES);
	}
}

Test(qcow2, qemu_reads_what_mixed_writes_left)
{
	const char *seed = getenv("BULKHEAD_SEED"), *all = getenv("BULKHEAD_LONG");
	unsigned first = seed ? (unsigned)atoi(seed) : 1, rounds = all && *all ? 10 : 1;

	rig_begin();
	for (unsigned i = first; i < first + rounds; i++)
		for (const struct rig_kind *kind = rig_kinds; kind->name; kind++)
			mix(kind, i, 100);
}
