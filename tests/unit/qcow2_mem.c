/* SPDX-License-Identifier: Apache-2.0 */
/* The image in memory. */
#include "qcow2_mem.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fd.h"
#include "num.h"

struct mem_file mem;
bool mem_is_root[MEM_CHANGES];

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

uint64_t mem_field(unsigned at, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v = v << 8 | mem.data[at + i];
	return v;
}

void mem_put(uint64_t at, uint64_t value)
{
	cr_assert_leq(at + 8, MEM_MAX);
	for (unsigned i = 0; i < 8; i++)
		mem.data[at + i] = (uint8_t)(value >> 8 * (7 - i));
	mem.top = MAX(mem.top, at + 8);
}

static void note_root(const struct mem_file *m, uint64_t off)
{
	uint64_t l1 = mem_field(40, 8), counts = mem_field(48, 8), cluster = 1ULL << mem_field(20, 4);

	if (m->changes >= MEM_CHANGES)
		return;
	mem_is_root[m->changes] =
	    !off || off - l1 < mem_field(36, 4) * 8 || off - counts < mem_field(56, 4) * cluster;
}

static int mem_write(void *arg, const void *buf, size_t len, uint64_t off)
{
	struct mem_file *m = arg;
	int err;

	cr_assert_leq(off + len, MEM_MAX);
	if (refuse(m, &err))
		return err;
	if (!m->refused)
		note_root(m, off);
	memcpy(m->data + off, buf, len);
	m->bytes = MAX(m->bytes, off + len);
	m->top = MAX(m->top, m->bytes);
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

const struct qcow2_file_ops mem_ops = {
	.read = mem_read,
	.write = mem_write,
	.sync = mem_sync,
	.zero = mem_zero,
	.size = mem_size,
};

static uint8_t *good; /* the image as it was made */
static uint64_t good_bytes;

void mem_load(void)
{
	int fd = open("disk", O_RDONLY | O_CLOEXEC);
	off_t end = lseek(fd, 0, SEEK_END);

	cr_assert(fd >= 0 && end > 0 && end < MEM_MAX);
	good_bytes = (uint64_t)end;
	if (!good) {
		good = malloc(MEM_MAX);
		mem.data = calloc(1, MEM_MAX);
		cr_assert(good && mem.data);
	}
	cr_assert_eq(fd_pread_full(fd, good, good_bytes, 0), 0);
	close(fd);
}

void mem_reset(void)
{
	uint8_t *data = mem.data;
	uint64_t top = MAX(mem.top, good_bytes);

	memcpy(data, good, good_bytes);
	memset(data + good_bytes, 0, top - good_bytes);
	mem = (struct mem_file) { .data = data, .bytes = good_bytes, .top = good_bytes };
}

void mem_save(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_pwrite_full(fd, mem.data, mem.bytes, 0), 0);
	close(fd);
}

struct qcow2 *mem_open(int base, size_t cache)
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
