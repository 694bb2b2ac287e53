/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mappings for the fuzz targets that make them again for each input: the linker has mmap and munmap of what is tested end
 * here (--wrap).
 *
 * What is mapped of a file lies between two stretches that nobody may touch, each longer than the farthest that an index of
 * 16 bits reaches from a table of descriptors; so an access over the end is seen. Private memory is kept and handed out
 * again, as to fault in each of its pages for each input would take most of the time.
 */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "num.h"

#define STRETCH (2U << 20)
#define KEPT    16
#define CLEARED 65536 /* bytes: more is scratch memory, written before it is read */

static struct {
	void *at;
	size_t len;
} kept[KEPT];

void *__real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
int __real_munmap(void *addr, size_t len);
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
int __wrap_munmap(void *addr, size_t len);

static void *between(size_t len, int prot, int flags, int fd, off_t off)
{
	size_t rounded = num_align_up(len, 4096);
	uint8_t *all = __real_mmap(NULL, rounded + 2 * (size_t)STRETCH, PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (all == MAP_FAILED)
		return MAP_FAILED;
	return __real_mmap(all + STRETCH, len, prot, flags | MAP_FIXED, fd, off);
}

void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	if (fd >= 0 && !addr)
		return between(len, prot, flags, fd, off);
	for (unsigned i = 0; i < KEPT && fd < 0 && !addr; i++) {
		void *at = kept[i].at;

		if (!at || kept[i].len != len)
			continue;
		kept[i].at = NULL;
		if (len <= CLEARED)
			memset(at, 0, len);
		return at;
	}
	return __real_mmap(addr, len, prot, flags, fd, off);
}

/* Stretches stay: what lies between them is mapped once. */
int __wrap_munmap(void *addr, size_t len)
{
	for (unsigned i = 0; i < KEPT; i++) {
		if (kept[i].at)
			continue;
		kept[i].at = addr;
		kept[i].len = len;
		return 0;
	}
	return __real_munmap(addr, len);
}
