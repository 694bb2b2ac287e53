/* SPDX-License-Identifier: Apache-2.0 */
/* Counted mappings of what a front end sent a descriptor of. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "mem_priv.h"
#include "num.h"

#define PAGE_BYTES 4096ULL

struct mem_map {
	atomic_uint refs;
	void *base;
	size_t len;
};

/*
 * The span of the file to map: hugetlbfs wants offset and length in its own pages, which fstat reports as the
 * block size; elsewhere rounding to the block size maps a little more than needed, which nobody is given.
 */
static int span(int fd, uint64_t off, uint64_t size, uint64_t *start, size_t *len)
{
	struct stat st;
	uint64_t end, align;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size < 0)
		return -ENXIO;
	if (!num_add(off, size, &end) || end > (uint64_t)st.st_size)
		return -ENXIO;
	align = MAX(PAGE_BYTES, (uint64_t)st.st_blksize);
	if (!num_is_pow2(align))
		align = PAGE_BYTES;
	*start = num_align_down(off, align);
	*len = num_align_up(end, align) - *start;
	return 0;
}

int mem_map_new(int fd, uint64_t off, uint64_t size, struct mem_map **out, uint8_t **ptr)
{
	struct mem_map *map;
	uint64_t start = 0;
	size_t len = 0;
	int err = span(fd, off, size, &start, &len);

	if (err)
		return err;
	map = malloc(sizeof(*map));
	if (!map)
		return -ENOMEM;
	map->base = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)start);
	if (map->base == MAP_FAILED) {
		err = -errno;
		free(map);
		return err;
	}
	map->len = len;
	atomic_init(&map->refs, 1);
	if (madvise(map->base, len, MADV_DONTDUMP) < 0) {
		err = -errno;
		mem_map_put(map);
		return err;
	}
	*out = map;
	*ptr = (uint8_t *)map->base + (off - start);
	return 0;
}

void mem_map_get(struct mem_map *map)
{
	atomic_fetch_add_explicit(&map->refs, 1, memory_order_relaxed);
}

void mem_map_put(struct mem_map *map)
{
	if (!map || atomic_fetch_sub_explicit(&map->refs, 1, memory_order_acq_rel) != 1)
		return;
	munmap(map->base, map->len);
	free(map);
}
