/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory for tests and benchmarks. */
#include "guest.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fd.h"
#include "num.h"

int guest_init(struct guest *g, uint64_t size)
{
	struct mem_region r = { .gpa = GUEST_GPA, .size = size };

	return guest_init_regions(g, &r, 1);
}

int guest_init_regions(struct guest *g, const struct mem_region *regions, unsigned n)
{
	*g = (struct guest) { .fd = -1, .n = n };
	if (!n || n > GUEST_REGIONS)
		return -EINVAL;
	for (unsigned i = 0; i < n; i++)
		g->size += regions[i].size;
	g->fd = fd_sealed_memfd("guest", g->size);
	if (g->fd < 0)
		return g->fd;
	g->base = mmap(NULL, g->size, PROT_READ | PROT_WRITE, MAP_SHARED, g->fd, 0);
	if (g->base == MAP_FAILED) {
		int err = -errno;

		close(g->fd);
		return err;
	}
	for (uint64_t i = 0, off = 0; i < n; off += regions[i++].size) {
		g->regions[i] = regions[i];
		g->regions[i].mmap_offset = off;
		g->regions[i].user_addr = (uintptr_t)g->base + off;
	}
	return 0;
}

void guest_free(struct guest *g)
{
	if (!g->adopted)
		munmap(g->base, g->size);
	close(g->fd);
}

struct mem *guest_mem(const struct guest *g)
{
	int fds[GUEST_REGIONS] = { g->fd, g->fd, g->fd, g->fd };
	struct mem *mem = NULL;

	return mem_new(g->regions, fds, g->n, &mem) ? NULL : mem;
}

void guest_adopt(struct guest *g, struct mem *mem)
{
	munmap(g->base, g->size);
	g->base = mem_at(mem, g->regions[0].gpa, g->size);
	g->adopted = true;
}

uint64_t guest_alloc(struct guest *g, uint64_t len, uint64_t align)
{
	uint64_t at = num_align_up(g->next, align);

	if (at > g->regions[0].size || len > g->regions[0].size - at)
		return 0;
	g->next = at + len;
	memset(g->base + at, 0, len);
	return g->regions[0].gpa + at;
}

void *guest_ptr(const struct guest *g, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < g->n; i++) {
		const struct mem_region *r = &g->regions[i];

		if (gpa >= r->gpa && gpa - r->gpa < r->size)
			return len <= r->size - (gpa - r->gpa) ? g->base + r->mmap_offset + (gpa - r->gpa)
							       : NULL;
	}
	return NULL;
}

uint64_t guest_user(const struct guest *g, uint64_t gpa)
{
	for (unsigned i = 0; i < g->n; i++) {
		const struct mem_region *r = &g->regions[i];

		if (gpa >= r->gpa && gpa - r->gpa < r->size)
			return r->user_addr + (gpa - r->gpa);
	}
	return 0;
}
