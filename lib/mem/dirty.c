/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty log: one bit per 4 KiB page, shared with the front end, which takes bits away while we set them.
 *
 * A bit is set after its page was written, by a sequentially consistent OR: a front end that takes the bit
 * away and then copies the page copies what was written. The OR is not skipped when the bit is seen set: it may
 * be gone a moment later, with the page copied before our write reached it.
 */
#include <errno.h>

#include "mem_priv.h"
#include "num.h"

#define LOG_PAGE_SHIFT 12

int mem_set_log(struct mem *mem, int fd, uint64_t off, uint64_t size)
{
	struct mem_log log = { .bits = NULL };

	if (fd >= 0) {
		uint8_t *ptr = NULL;
		int err;

		if (!size || !num_mul(size, 8, &log.pages))
			return -EINVAL;
		err = mem_map_new(fd, off, size, &log.map, &ptr);
		if (err)
			return err;
		log.bits = (_Atomic uint8_t *)ptr;
	}
	mem_map_put(mem->log.map);
	mem->log = log;
	return 0;
}

int mem_with_log(struct mem *old, int fd, uint64_t off, uint64_t size, struct mem **out)
{
	struct mem *mem = mem_table_new(old, 0);
	int err;

	if (!mem)
		return -ENOMEM;
	err = mem_set_log(mem, fd, off, size);
	if (err)
		mem_put(mem);
	else
		*out = mem;
	return err;
}

bool mem_logging(const struct mem *mem)
{
	return mem->log.bits != NULL;
}

void mem_dirty(const struct mem *mem, uint64_t gpa, uint64_t len)
{
	uint64_t page = gpa >> LOG_PAGE_SHIFT, end;

	if (!mem->log.bits || !len)
		return;
	if (!num_add(gpa, len - 1, &end))
		end = UINT64_MAX;
	end = MIN((end >> LOG_PAGE_SHIFT) + 1, mem->log.pages);
	for (; page < end; page++)
		atomic_fetch_or(&mem->log.bits[page / 8], (uint8_t)(1U << (page % 8)));
}

void mem_dirty_ptr(const struct mem *mem, const void *ptr, uint64_t len)
{
	if (!mem->log.bits)
		return;
	for (unsigned i = 0; i < mem->n; i++) {
		uintptr_t at = (uintptr_t)ptr, start = (uintptr_t)mem->slots[i].ptr;

		if (at >= start && at - start < mem->slots[i].size) {
			mem_dirty(mem, mem->slots[i].gpa + (at - start), len);
			return;
		}
	}
}
