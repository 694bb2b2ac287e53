/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory for tests and benchmarks: a memfd mapped by this process, with a bump allocator. */
#ifndef SUPPORT_GUEST_H
#define SUPPORT_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "mem.h"

#define GUEST_REGIONS 4
#define GUEST_GPA     0x100000 /* where guest_init puts the one region */

struct guest {
	int fd;
	uint8_t *base;
	bool adopted; /* base is a table's mapping */
	uint64_t size;
	unsigned n;
	struct mem_region regions[GUEST_REGIONS];
	uint64_t next; /* offset into the first region of the next allocation */
};

/* One region of size bytes at GUEST_GPA; or n regions of which the caller gives gpa and size. 0 or -errno. */
int guest_init(struct guest *g, uint64_t size);
int guest_init_regions(struct guest *g, const struct mem_region *regions, unsigned n);
void guest_free(struct guest *g);

/* A table of this memory as a back end would map it, the caller's; NULL if it can't be had. */
struct mem *guest_mem(const struct guest *g);

/*
 * Gives up this process's own mapping of a guest of one region for that of a table made by guest_mem, which
 * must outlive the guest. Before ring_init. For driver and device as threads: the thread sanitizer goes by
 * addresses and would see two mappings of one byte as two bytes.
 */
void guest_adopt(struct guest *g, struct mem *mem);

/* len bytes of the first region, zeroed: its guest-physical address, or 0 if there is no room. */
uint64_t guest_alloc(struct guest *g, uint64_t len, uint64_t align);

/* This process's pointer to a guest-physical address, NULL outside; its region must hold len bytes. */
void *guest_ptr(const struct guest *g, uint64_t gpa, uint64_t len);

/* The front end's user address of a guest-physical one, 0 outside. */
uint64_t guest_user(const struct guest *g, uint64_t gpa);

#endif
