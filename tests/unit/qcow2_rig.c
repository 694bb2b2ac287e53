/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 images for tests. */
#include "qcow2_rig.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fd.h"
#include "num.h"
#include "temp_dir.h"

const struct rig_kind rig_kinds[] = {
	{ "plain", "compat=1.1", NULL },
	{ "version 2", "compat=0.10", NULL },
	{ "version 2, backing", "compat=0.10", "raw" },
	{ "512-byte clusters", "cluster_size=512", NULL },
	{ "512-byte clusters, backing", "cluster_size=512", "raw" },
	{ "4 KiB clusters, 64-bit counts", "cluster_size=4096,refcount_bits=64", NULL },
	{ "2 MiB clusters, backing", "cluster_size=2M", "raw" },
	{ "1-bit counts", "refcount_bits=1", NULL },
	{ "2-bit counts", "refcount_bits=2,cluster_size=4096", NULL },
	{ "4-bit counts", "refcount_bits=4", "qcow2" },
	{ "8-bit counts", "refcount_bits=8,cluster_size=1024", NULL },
	{ "32-bit counts", "refcount_bits=32", "raw" },
	{ "subclusters", "extended_l2=on", NULL },
	{ "subclusters, backing", "extended_l2=on", "raw" },
	{ "512-byte subclusters, backing", "extended_l2=on,cluster_size=16K", "qcow2" },
	{ "lazy counts", "lazy_refcounts=on", NULL },
	{ "metadata preallocated", "preallocation=metadata", NULL },
	{ "all preallocated", "preallocation=falloc,cluster_size=32K", NULL },
	{ "qcow2 backing", "cluster_size=8K", "qcow2" },
	{ "short backing", "cluster_size=4K", "short" },
	{ "long backing", "", "long" },
	{ "flat backing", "", "flat" },
	{ "flat backing, subclusters", "extended_l2=on", "flat" },
	{ "flat backing, 4 KiB clusters", "cluster_size=4K", "flat" },
	{ NULL, NULL, NULL },
};

void rig_begin(void)
{
	char dir[256];

	if (system("command -v qemu-img >/dev/null && command -v qemu-io >/dev/null"))
		cr_skip_test("qemu-img and qemu-io (qemu-utils) are not installed");
	cr_assert(temp_dir_make(dir, sizeof(dir)));
	cr_assert_eq(chdir(dir), 0);
}

__attribute__((format(printf, 1, 0))) static int run(const char *fmt, va_list args)
{
	char line[8192];

	cr_assert_lt(vsnprintf(line, sizeof(line), fmt, args), (int)sizeof(line));
	return system(line);
}

int rig_sh_status(const char *fmt, ...)
{
	va_list args;
	int status;

	va_start(args, fmt);
	status = run(fmt, args);
	va_end(args);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void rig_sh(const char *fmt, ...)
{
	va_list args;
	int status;

	va_start(args, fmt);
	status = run(fmt, args);
	va_end(args);
	cr_assert_eq(status, 0, "%s: status %#x", fmt, (unsigned)status);
}

static uint64_t base_bytes(const char *backing)
{
	return !strcmp(backing, "short") ? (2U << 20) + 700 : !strcmp(backing, "long") ? 9U << 20 : RIG_BYTES;
}

/* A file with something in it: stretches of data and of nothing. */
static void make_base(const char *file, uint64_t bytes)
{
	rig_sh("truncate -s %llu %s", (unsigned long long)bytes, file);
	for (uint64_t at = 0; at + 4096 < bytes; at += 300000)
		rig_sh("yes '%llu' | dd of=%s bs=1 seek=%llu count=%u conv=notrunc iflag=fullblock "
		       "oflag=seek_bytes status=none bs=%u count=1",
		       (unsigned long long)at, file, (unsigned long long)at, 100000,
		       (unsigned)MIN(bytes - at, 150000));
}

void rig_make(const struct rig_kind *kind)
{
	bool qcow2 = kind->backing && !strcmp(kind->backing, "qcow2");

	rig_sh("rm -f disk base bottom");
	if (kind->backing && !strcmp(kind->backing, "flat"))
		rig_sh("yes UUUUUUU | tr '\\n' U | head -c %u >base", RIG_BYTES - 781 * 512);
	else if (kind->backing)
		make_base(qcow2 ? "bottom" : "base", base_bytes(kind->backing));
	if (qcow2) {
		rig_sh("qemu-img create -q -f qcow2 -F raw -b bottom base %u", RIG_BYTES);
		rig_sh("qemu-io -f qcow2 -c 'write -q -P 99 100k 200k' -c 'write -q -z 800k 1M' base "
		       ">/dev/null");
	}
	rig_sh("qemu-img create -q -f qcow2 %s%s %s %s disk %u", *kind->options ? "-o " : "", kind->options,
	       kind->backing ? "-b base -F" : "",
	       !kind->backing ? ""
	       : qcow2        ? "qcow2"
			      : "raw",
	       RIG_BYTES);
	/* Compressed clusters are written whole, where there was nothing. */
	if (!strstr(kind->options, "prealloc"))
		rig_sh("qemu-io -f qcow2 -c 'write -q -c -P 3 2M 2M' disk >/dev/null");
}

void rig_fill(unsigned seed)
{
	char line[6000];
	size_t n = 0;
	unsigned blocks = RIG_BYTES / 512;

	for (unsigned i = 0; i < 40; i++) {
		unsigned at = (unsigned)rand_r(&seed) % (blocks - 200),
			 len = 1 + (unsigned)rand_r(&seed) % 190;
		static const char *const how[] = { "write -q -P 1", "write -q -P 77", "write -q -z",
						   "write -q -z -u", "discard -q" };

		n += (size_t)snprintf(line + n, sizeof(line) - n, "-c '%s %u %u' ",
				      how[(unsigned)rand_r(&seed) % 5], at * 512, len * 512);
	}
	rig_sh("qemu-io -f qcow2 %s disk >/dev/null", line);
}

static int open_file(struct rig_image *im, unsigned i, const char *name, bool write)
{
	im->fd[i] = open(name, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	cr_assert_geq(im->fd[i], 0, "%s", name);
	return im->fd[i];
}

int rig_try_open(struct rig_image *im, const char *file, bool backing)
{
	struct qcow2_file f = { .ops = &qcow2_fd_ops, .arg = &im->fd[0] };
	unsigned n = 0;

	open_file(im, 0, file, !im->options.readonly);
	if (backing) {
		open_file(im, ++n, "base", false);
		if (!access("bottom", R_OK))
			open_file(im, ++n, "bottom", false);
	}
	for (unsigned i = 0; i < n; i++)
		im->backing[i].file = (struct qcow2_file) { .ops = &qcow2_fd_ops, .arg = &im->fd[i + 1] };
	im->options.backing = im->backing;
	im->options.nbacking = n;
	return qcow2_open(&f, &im->options, &im->image, im->why, sizeof(im->why));
}

void rig_open(struct rig_image *im, const struct rig_kind *kind)
{
	int err = rig_try_open(im, "disk", kind->backing);

	cr_assert_eq(err, 0, "%s: %s (%s)", kind->name, im->why, strerror(-err));
}

void rig_close(struct rig_image *im)
{
	unsigned n = im->options.nbacking;

	cr_assert_eq(qcow2_close(im->image), 0);
	im->image = NULL;
	for (unsigned i = 0; i <= n; i++)
		close(im->fd[i]);
}

void rig_read_all(struct rig_image *im, uint8_t *buf, uint64_t bytes)
{
	for (uint64_t off = 0, n; off < bytes; off += n) {
		int err;

		n = MIN(bytes - off, 70 * 512);
		err = qcow2_read(im->image, off, buf + off, n);
		cr_assert_eq(err, 0, "read at %llu: %s", (unsigned long long)off, strerror(-err));
	}
}

void rig_map_all(struct rig_image *im, uint8_t *buf, uint64_t bytes)
{
	bool asked = false;
	struct qcow2_extent e;

	for (uint64_t off = 0; off < bytes; off += e.len) {
		qcow2_map(im->image, off, MIN(bytes - off, 1U << 20), false, &e);
		cr_assert(e.len > 0 && e.len <= bytes - off);
		if (e.kind == QCOW2_ASK && !asked) {
			cr_assert_eq(qcow2_load(im->image, off, e.len), 0);
			e.len = 0;
			asked = true;
			continue;
		}
		asked = false;
		if (e.kind == QCOW2_ASK)
			cr_assert_eq(qcow2_read(im->image, off, buf + off, e.len = 512), 0);
		else if (e.kind == QCOW2_ZERO)
			memset(buf + off, 0, e.len);
		else
			cr_assert_eq(fd_pread_full(im->fd[e.layer], buf + off, e.len, (off_t)e.off), 0,
				     "layer %u at %llu", e.layer, (unsigned long long)e.off);
	}
}

void rig_qemu_reads(const char *file, uint8_t *buf, uint64_t bytes)
{
	int fd;

	rig_sh("qemu-img convert -U -f qcow2 -O raw %s raw", file);
	fd = open("raw", O_RDONLY | O_CLOEXEC);
	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_pread_full(fd, buf, bytes, 0), 0);
	close(fd);
}

void rig_qemu_checks(const char *file, bool leaks)
{
	/* Status 3: leaks and nothing else. */
	int status = rig_sh_status("qemu-img check -U -q -f qcow2 %s >check 2>&1", file);

	if (status && !(leaks && status == 3)) {
		rig_sh("qemu-img check -U -f qcow2 %s 2>&1 | head -20 | sed 's/^/# /' >&2", file);
		cr_assert_fail("qemu-img check of %s: status %d", file, status);
	}
}
