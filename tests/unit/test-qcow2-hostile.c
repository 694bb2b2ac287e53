/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FAULTS 56, 57, 59: images whose headers and tables lie. Each is refused with a word that says why, or costs its own
 * content and no more.
 */
#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fd.h"
#include "num.h"
#include "qcow2_rig.h"

TestSuite(qcow2_hostile, .timeout = 120);

static _Alignas(4096) uint8_t buf[1U << 20];

/* Writes a number of n bytes into "disk". */
static void poke(uint64_t off, uint64_t value, unsigned n)
{
	uint8_t bytes[8];
	int fd = open("disk", O_RDWR | O_CLOEXEC);

	for (unsigned i = 0; i < n; i++)
		bytes[i] = (uint8_t)(value >> 8 * (n - 1 - i));
	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_pwrite_full(fd, bytes, n, (off_t)off), 0);
	close(fd);
}

static uint64_t peek(uint64_t off)
{
	uint64_t v;
	int fd = open("disk", O_RDONLY | O_CLOEXEC);

	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_pread_full(fd, &v, 8, (off_t)off), 0);
	close(fd);
	return be64toh(v);
}

struct lie {
	unsigned off, n;
	uint64_t value;
	const char *why; /* a part of the line */
};

static const struct lie lies[] = {
	{ 0, 4, 0x12345678, "not a qcow2" },
	{ 4, 4, 1, "version is 1" },
	{ 4, 4, 4, "version is 4" },
	{ 8, 8, UINT64_MAX, "backing file's name" },
	{ 8, 8, 65533, "backing file's name" },
	{ 16, 4, 4096, "backing file's name" },
	{ 20, 4, 8, "clusters have" },
	{ 20, 4, 22, "clusters have" },
	{ 20, 4, UINT32_MAX, "clusters have" },
	{ 24, 8, UINT64_MAX, "size" },
	{ 24, 8, 1ULL << 62, "L1 table has" },
	{ 32, 4, 1, "encrypted" },
	{ 32, 4, 2, "encrypted" },
	{ 36, 4, UINT32_MAX, "L1 table has" },
	{ 36, 4, 0, "L1 table has" },
	{ 36, 4, 1U << 22, "outside the file" },
	{ 40, 8, 1, "not aligned" },
	{ 40, 8, 0, "L1 table at" },
	{ 40, 8, 1ULL << 40, "outside the file" },
	{ 40, 8, UINT64_MAX - 65535, "outside the file" },
	{ 40, 8, 65536, "overlap" },
	{ 48, 8, 512, "refcount table at" },
	{ 48, 8, 0, "refcount table at" },
	{ 48, 8, 1ULL << 63, "refcount table at" },
	{ 56, 4, 0, "refcount table has" },
	{ 56, 4, UINT32_MAX, "refcount table has" },
	{ 56, 4, 128, "outside the file" },
	{ 60, 4, UINT32_MAX, "snapshots" },
	{ 60, 4, 1, "snapshot table" },
	{ 72, 8, 2, "corrupt" },
	{ 72, 8, 4, "external data file" },
	{ 72, 8, 8, "compression" },
	{ 72, 8, 1ULL << 17, "bit 17" },
	{ 72, 8, 1ULL << 63, "bit 63" },
	{ 96, 4, 7, "reference counts" },
	{ 96, 4, UINT32_MAX, "reference counts" },
	{ 100, 4, 72, "header length" },
	{ 100, 4, 105, "header length" },
	{ 100, 4, UINT32_MAX - 7, "header length" },
	{ 104, 1, 1, "compression" },
	{ 104, 1, 9, "compression" },
};

Test(qcow2_hostile, f56_headers_are_refused_by_name)
{
	const struct rig_kind kind = { "plain", "", "raw" };

	rig_begin();
	rig_make(&kind);
	rig_sh("cp disk good");
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		struct rig_image im = { .options = { 0 } };

		rig_sh("cp good disk");
		poke(lies[i].off, lies[i].value, lies[i].n);
		cr_expect_lt(rig_try_open(&im, "disk", true), 0, "lie %u was believed", i);
		cr_expect(strstr(im.why, lies[i].why), "lie %u: \"%s\", expected \"%s\"", i, im.why,
			  lies[i].why);
		close(im.fd[0]);
		close(im.fd[1]);
	}
	/* What is marked as corrupt can be read. */
	rig_sh("cp good disk");
	poke(72, 2, 8);
	struct rig_image im = { .options = { .readonly = true } };
	cr_assert_eq(rig_try_open(&im, "disk", true), 0);
	cr_assert_eq(qcow2_write(im.image, 0, buf, 512), -EROFS);
	rig_close(&im);
}

Test(qcow2_hostile, f56_truncated_headers)
{
	rig_begin();
	for (unsigned bytes = 0; bytes < 600; bytes += 8) {
		const struct rig_kind kind = { "plain", "", NULL };
		struct rig_image im = { .options = { 0 } };

		rig_make(&kind);
		rig_sh("truncate -s %u disk", bytes);
		cr_expect_lt(rig_try_open(&im, "disk", false), 0, "%u bytes were enough", bytes);
		close(im.fd[0]);
		if (bytes > 104)
			bytes += 100;
	}
}

Test(qcow2_hostile, f57_only_backing_files_that_were_allowed)
{
	const struct rig_kind with = { "with", "", "raw" }, without = { "without", "", NULL };
	struct rig_image im = { .options = { 0 } };

	rig_begin();
	rig_make(&with);
	cr_assert_eq(rig_try_open(&im, "disk", false), -EACCES);
	cr_assert(strstr(im.why, "none was allowed"), "%s", im.why);
	close(im.fd[0]);
	rig_sh("printf '\\033[2J' | dd of=disk bs=1 conv=notrunc status=none seek=$(od -An -tu8 --endian=big "
	       "-j 8 -N 8 disk | tr -d ' ')");
	cr_assert_eq(rig_try_open(&im, "disk", false), -EACCES);
	cr_assert(strstr(im.why, "file \"?[2J\""), "%s", im.why);
	close(im.fd[0]);
	rig_make(&without);
	rig_sh("touch base");
	cr_assert_eq(rig_try_open(&im, "disk", true), -EINVAL);
	cr_assert(strstr(im.why, "has no backing file"), "%s", im.why);
	close(im.fd[0]);
	close(im.fd[1]);
	/* A raw file is one whatever it begins with (FAULTS 58). */
	rig_make(&with);
	rig_sh("qemu-img create -q -f qcow2 evil 1M && cp evil base && truncate -s %u base", RIG_BYTES);
	cr_assert_eq(rig_try_open(&im, "disk", true), 0, "%s", im.why);
	cr_assert_eq(qcow2_read(im.image, 0, buf, 512), 0);
	cr_assert(!memcmp(buf, "QFI\xfb", 4));
	rig_close(&im);
	/* One whose format nobody names is not looked into. */
	rig_sh("rm disk; qemu-img create -q -f qcow2 -F raw -b base disk %u", RIG_BYTES);
	poke(104 + 8, 0x12345678, 4);
	im = (struct rig_image) { .options = { 0 } };
	cr_assert_eq(rig_try_open(&im, "disk", true), -EINVAL);
	cr_assert(strstr(im.why, "raw or qcow2"), "%s", im.why);
	close(im.fd[0]);
	close(im.fd[1]);
}

/* ---- tables ---- */

/* An image with one table and a cluster of data, then a word of it replaced. */
static void make_with_data(uint64_t *l1, uint64_t *l2, uint64_t *refblock)
{
	const struct rig_kind kind = { "plain", "", NULL };

	rig_make(&kind);
	rig_sh("qemu-io -f qcow2 -c 'write -q -P 9 0 1M' disk >/dev/null");
	*l1 = peek(40);
	*l2 = peek(*l1) & 0x00fffffffffffe00ULL;
	*refblock = peek(peek(48));
}

/* Whatever happens, it comes back, and says no or does something within the file. */
static void use_all_of_it(void)
{
	struct rig_image im = { .options = { 0 } };
	struct qcow2_extent e;
	struct qcow2_check found;
	const char *why;

	if (rig_try_open(&im, "disk", false)) {
		close(im.fd[0]);
		return;
	}
	for (uint64_t off = 0; off < RIG_BYTES; off += 100 * 512) {
		uint64_t n = MIN(RIG_BYTES - off, 100 * 512);

		qcow2_load(im.image, off, n);
		qcow2_map(im.image, off, n, true, &e);
		cr_expect(e.kind != QCOW2_DATA || e.off + e.len <= 100U << 20);
		qcow2_read(im.image, off, buf, n);
		qcow2_write(im.image, off, buf, n);
		qcow2_discard(im.image, off, n);
		qcow2_zero(im.image, off, n, off & 512);
		qcow2_reclaim(im.image);
	}
	qcow2_check(im.image, false, &found);
	qcow2_check(im.image, true, &found);
	qcow2_snapshot_revert(im.image, "x");
	qcow2_resize(im.image, 100U << 20, &why);
	qcow2_close(im.image);
	close(im.fd[0]);
}

Test(qcow2_hostile, f56_wild_entries)
{
	uint64_t l1, l2, refs;
	static const uint64_t words[] = {
		1ULL << 63,
		1ULL << 63 | 512,
		1ULL << 63 | 1ULL << 50,
		1ULL << 63 | 0x00ffffffffff0000ULL,
		UINT64_MAX,
		0x7fULL << 56,
		1ULL << 62,
		1ULL << 62 | 65536,
		1ULL << 62 | 0x3fffffffffffffffULL,
		0x1fe,
	};

	rig_begin();
	make_with_data(&l1, &l2, &refs);
	rig_sh("cp disk good");
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
		const uint64_t places[] = { l1, l2, l2 + 8, peek(48) };

		for (unsigned p = 0; p < ARRAY_SIZE(places); p++) {
			struct rig_image im = { .options = { .readonly = true } };

			rig_sh("cp good disk");
			poke(places[p], words[i], 8);
			if (p == 1) {
				cr_assert_eq(rig_try_open(&im, "disk", false), 0);
				cr_expect_neq(qcow2_read(im.image, 0, buf, 512), 0, "word %u was believed",
					      i);
				rig_close(&im);
			}
			use_all_of_it();
		}
	}
}

/* Tables that are each other: L1 as L2, L2 as data, counts as tables. */
Test(qcow2_hostile, f56_loops)
{
	uint64_t l1, l2, refs, copied = 1ULL << 63;

	rig_begin();
	make_with_data(&l1, &l2, &refs);
	rig_sh("cp disk good");
	const uint64_t targets[] = { l1, l2, refs, peek(48), 65536, 0 };

	for (unsigned i = 0; i < ARRAY_SIZE(targets); i++) {
		const uint64_t places[] = { l1, l2, peek(48) };

		for (unsigned p = 0; p < ARRAY_SIZE(places); p++) {
			rig_sh("cp good disk");
			poke(places[p], targets[i] | (p < 2 ? copied : 0), 8);
			use_all_of_it();
		}
	}
	/* Counts of 0 for what is used. */
	rig_sh("cp good disk");
	for (unsigned i = 0; i < 32; i++)
		poke(refs + 8 * i, 0, 8);
	use_all_of_it();
}

Test(qcow2_hostile, random_bytes_in_tables)
{
	const char *all = getenv("BULKHEAD_LONG");
	unsigned seed = 7, rounds = all && *all ? 2000 : 60;
	uint64_t l1, l2, refs;

	rig_begin();
	make_with_data(&l1, &l2, &refs);
	rig_sh("qemu-img snapshot -c x disk; qemu-io -f qcow2 -c 'write -q -P 7 100k 1M' disk >/dev/null; cp "
	       "disk good");
	const uint64_t places[] = { 0, l1, l2, refs, peek(48), peek(64) };

	for (unsigned i = 0; i < rounds; i++) {
		rig_sh("cp good disk");
		for (unsigned n = 0; n < 4; n++)
			poke(places[(unsigned)rand_r(&seed) % ARRAY_SIZE(places)] +
				 (unsigned)rand_r(&seed) % 128,
			     (uint64_t)rand_r(&seed), 1 + (unsigned)rand_r(&seed) % 4);
		use_all_of_it();
	}
}

/* ---- FAULTS 59 ---- */

/* Compressed data that would unpack to far more than a cluster, to less, or to nothing at all. */
Test(qcow2_hostile, f59_decompression_bomb)
{
	const struct rig_kind kind = { "plain", "", NULL };
	struct rig_image im = { .options = { .readonly = true } };
	uint64_t l2, at, word;

	rig_begin();
	rig_make(&kind);
	l2 = peek(peek(40)) & 0x00fffffffffffe00ULL;
	word = peek(l2 + 8 * (2U << 20 >> 16));
	cr_assert(word & 1ULL << 62, "no compressed cluster there");
	at = word & ((1ULL << 54) - 1);
	/* A gigabyte of zeroes, whose first 64 KiB are what is read. */
	rig_sh("truncate -s 1G zeroes && gzip -c zeroes | tail -c +18 | head -c 400 | "
	       "dd of=disk bs=1 seek=%llu conv=notrunc status=none && rm zeroes",
	       (unsigned long long)at);
	cr_assert_eq(rig_try_open(&im, "disk", false), 0, "%s", im.why);
	cr_assert_eq(qcow2_read(im.image, 2U << 20, buf, 65536), 0);
	cr_assert(!buf[0] && !memcmp(buf, buf + 1, 65535));
	rig_close(&im);
	poke(at, 0xffffffffffffffffULL, 8);
	cr_assert_eq(rig_try_open(&im, "disk", false), 0, "%s", im.why);
	cr_assert_eq(qcow2_read(im.image, 2U << 20, buf, 512), -EUCLEAN);
	rig_close(&im);
	poke(at, 0x0300000000000000ULL, 8); /* an empty stream */
	cr_assert_eq(rig_try_open(&im, "disk", false), 0, "%s", im.why);
	cr_assert_eq(qcow2_read(im.image, 2U << 20, buf, 512), -EUCLEAN);
	rig_close(&im);
}
