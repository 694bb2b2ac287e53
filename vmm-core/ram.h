/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM: one sealed memfd, mapped once, split around the PCI hole. Immutable after ram_new, so any thread may read it. */
#ifndef CORE_RAM_H
#define CORE_RAM_H

#include <stdbool.h>
#include <stdint.h>

#include "mem.h"

#define RAM_REGIONS_MAX 2
#define RAM_SIZE_MIN    (16ULL << 20)
#define RAM_SIZE_MAX    (1ULL << 39) /* what every 64-bit processor can address, hole included */

struct ram;

/*
 * Makes RAM of size bytes, a multiple of 4 KiB (of 2 MiB with huge pages) between RAM_SIZE_MIN and
 * RAM_SIZE_MAX: -EINVAL otherwise. hugepages takes them from the host's reserved pool and fails with
 * -ENOMEM where it has too few. Left out of core dumps. May block.
 */
int ram_new(uint64_t size, bool hugepages, struct ram **out);
void ram_free(struct ram *ram); /* NULL is ignored */

uint64_t ram_size(const struct ram *ram);
int ram_fd(const struct ram *ram); /* the memfd; stays the RAM's */

/* Where RAM below the hole ends, and where RAM above it ends (4 GiB if there is none). */
uint64_t ram_low_end(const struct ram *ram);
uint64_t ram_high_end(const struct ram *ram);

/* The regions for KVM slots and for vhost: user_addr is the address in this process, mmap_offset the one in
 * the memfd. How many of out were filled: 1 or 2. */
unsigned ram_regions(const struct ram *ram, struct mem_region out[RAM_REGIONS_MAX]);

/* The bytes [gpa, gpa + len) if they lie within one region, else NULL; len 0 gives NULL. */
void *ram_at(const struct ram *ram, uint64_t gpa, uint64_t len);

#endif
