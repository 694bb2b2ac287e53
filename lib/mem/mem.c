/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of guest memory: made, changed by making another, looked up.
 *
 * Two things are counted. A mapping belongs to all tables that were derived from the one that made it; a table
 * belongs to whoever got or was given it. A table never changes after it was handed out (the dirty log apart),
 * so lookups take no lock: whoever holds a reference may read it.
 */
#include "mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clean.h"
#include "mem_priv.h"
#include "num.h"

static bool region_sane(const struct mem_region *r)
{
	uint64_t end;

	return r->size && num_add(r->gpa, r->size - 1, &end) && num_add(r->user_addr, r->size - 1, &end);
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a <= b ? b - a < a_size : a - b < b_size;
}

/* Where r belongs in the sorted table, or -EINVAL if it overlaps one that is there. */
static int slot_for(const struct mem *mem, const struct mem_region *r)
{
	unsigned at = 0;

	for (unsigned i = 0; i < mem->n; i++) {
		const struct mem_slot *s = &mem->slots[i];

		if (overlap(s->gpa, s->size, r->gpa, r->size) ||
		    overlap(s->user_addr, s->size, r->user_addr, r->size))
			return -EINVAL;
		if (s->gpa < r->gpa)
			at = i + 1;
	}
	return (int)at;
}

static int insert(struct mem *mem, const struct mem_region *r, int fd)
{
	struct mem_map *map = NULL;
	uint8_t *ptr = NULL;
	int at, err;

	if (!region_sane(r))
		return -EINVAL;
	at = slot_for(mem, r);
	if (at < 0)
		return at;
	err = mem_map_new(fd, r->mmap_offset, r->size, &map, &ptr);
	if (err)
		return err;
	memmove(&mem->slots[at + 1], &mem->slots[at], (mem->n - (unsigned)at) * sizeof(mem->slots[0]));
	mem->slots[at] = (struct mem_slot) {
		.gpa = r->gpa, .size = r->size, .ptr = ptr, .user_addr = r->user_addr, .map = map
	};
	mem->n++;
	return 0;
}

struct mem *mem_table_new(const struct mem *old, unsigned more)
{
	unsigned n = old ? old->n : 0;
	struct mem *mem = calloc(1, sizeof(*mem) + (n + more) * sizeof(mem->slots[0]));

	if (!mem)
		return NULL;
	atomic_init(&mem->refs, 1);
	mem->n = n;
	for (unsigned i = 0; i < n; i++) {
		mem->slots[i] = old->slots[i];
		mem_map_get(mem->slots[i].map);
	}
	if (old && old->log.map) {
		mem->log = old->log;
		mem_map_get(mem->log.map);
	}
	return mem;
}

static void put_cleanup(struct mem **mem)
{
	mem_put(*mem);
}
#define CLEAN_MEM __attribute__((cleanup(put_cleanup)))

int mem_new(const struct mem_region *regions, const int *fds, unsigned n, struct mem **out)
{
	CLEAN_MEM struct mem *mem = NULL;

	if (n > MEM_REGIONS_MAX)
		return -EINVAL;
	mem = mem_table_new(NULL, n);
	if (!mem)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		int err = insert(mem, &regions[i], fds[i]);

		if (err)
			return err;
	}
	*out = TAKE_PTR(mem);
	return 0;
}

int mem_with_region(struct mem *old, const struct mem_region *region, int fd, struct mem **out)
{
	CLEAN_MEM struct mem *mem = NULL;
	int err;

	if (old->n >= MEM_REGIONS_MAX)
		return -ENOSPC;
	mem = mem_table_new(old, 1);
	if (!mem)
		return -ENOMEM;
	err = insert(mem, region, fd);
	if (err)
		return err;
	*out = TAKE_PTR(mem);
	return 0;
}

int mem_without_region(struct mem *old, const struct mem_region *region, struct mem **out)
{
	struct mem *mem;
	unsigned at = 0;

	while (at < old->n &&
	       (old->slots[at].gpa != region->gpa || old->slots[at].user_addr != region->user_addr ||
		old->slots[at].size != region->size))
		at++;
	if (at == old->n)
		return -ENOENT;
	mem = mem_table_new(old, 0);
	if (!mem)
		return -ENOMEM;
	mem_map_put(mem->slots[at].map);
	mem->n--;
	memmove(&mem->slots[at], &mem->slots[at + 1], (mem->n - at) * sizeof(mem->slots[0]));
	*out = mem;
	return 0;
}

struct mem *mem_get(struct mem *mem)
{
	atomic_fetch_add_explicit(&mem->refs, 1, memory_order_relaxed);
	return mem;
}

void mem_put(struct mem *mem)
{
	if (!mem || atomic_fetch_sub_explicit(&mem->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (unsigned i = 0; i < mem->n; i++)
		mem_map_put(mem->slots[i].map);
	mem_map_put(mem->log.map);
	free(mem);
}

/* The slot that holds gpa, or NULL: the last one that begins at or below it is the only candidate. */
static const struct mem_slot *slot_at(const struct mem *mem, uint64_t gpa)
{
	const struct mem_slot *low = mem->slots;
	unsigned n = mem->n;

	if (!n)
		return NULL;
	while (n > 1) {
		unsigned half = n / 2;

		low = low[half].gpa <= gpa ? low + half : low; /* compiles to a conditional move */
		n -= half;
	}
	return gpa >= low->gpa && gpa - low->gpa < low->size ? low : NULL;
}

void *mem_at_slow(const struct mem *mem, struct mem_window *window, uint64_t gpa, uint64_t len)
{
	const struct mem_slot *s = slot_at(mem, gpa);

	if (!s || !len || len > s->size - (gpa - s->gpa))
		return NULL;
	*window = (struct mem_window) { .gpa = s->gpa, .size = s->size, .ptr = s->ptr };
	return s->ptr + (gpa - s->gpa);
}

void *mem_at(const struct mem *mem, uint64_t gpa, uint64_t len)
{
	struct mem_window window;

	return mem_at_slow(mem, &window, gpa, len);
}

void *mem_at_user(const struct mem *mem, uint64_t user_addr, uint64_t len)
{
	for (unsigned i = 0; i < mem->n; i++) {
		const struct mem_slot *s = &mem->slots[i];
		uint64_t off = user_addr - s->user_addr;

		if (user_addr >= s->user_addr && off < s->size)
			return len && len <= s->size - off ? s->ptr + off : NULL;
	}
	return NULL;
}

int mem_iov(const struct mem *mem, uint64_t gpa, uint64_t len, struct iovec *iov, int max)
{
	int n = 0;

	if (!len)
		return -EINVAL;
	while (len) {
		const struct mem_slot *s = slot_at(mem, gpa);
		uint64_t part;

		if (!s)
			return -EFAULT;
		if (n == max)
			return -E2BIG;
		part = MIN(len, s->size - (gpa - s->gpa));
		iov[n++] = (struct iovec) { .iov_base = s->ptr + (gpa - s->gpa), .iov_len = part };
		len -= part;
		if (len && !num_add(gpa, part, &gpa))
			return -EFAULT;
	}
	return n;
}
