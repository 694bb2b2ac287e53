/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FAULTS 49 and 50 for lib/qcow2: each write of a row of operations on a file in memory refused once, with what was asked for
 * tried again.
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

#include "note.h"
#include "num.h"
#include "qcow2_mem.h"
#include "qcow2_rig.h"

TestSuite(qcow2_faults, .timeout = 600);

#define LONGER (12U << 20)

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

	mem_reset();
	image = mem_open(base, 1);
	cr_assert_eq(qcow2_read(image, 0, shadow, RIG_BYTES), 0);
	mem.changes = 0;
	memset(mem_is_root, 0, refused ? 0 : sizeof(mem_is_root));
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
	image = mem_open(base, 0);
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
		mem_load();
		all = run(base, 0, false, 0);
		cr_assert_lt(all, MEM_CHANGES);
		step = is_long() ? 1 : MAX(all / 16, 1);
		for (unsigned k = 1; k <= all; k++) {
			if (k % step && !(mem_is_root[k] && roots++ % 5 == 0))
				continue;
			run(base, k, done, err);
			count++;
			if (count % 12)
				continue;
			mem_save("after");
			rig_qemu_checks("after", true);
		}
		if (base >= 0)
			close(base);
	}
	note("%u changes refused with %s, all got over", count, strerrorname_np(-err));
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
	mem_load();
	mem_reset();
	image = mem_open(-1, 0);
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
