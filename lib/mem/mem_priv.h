/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of lib/mem share: the table's layout and counted mappings. */
#ifndef MEM_PRIV_H
#define MEM_PRIV_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "mem.h"

/* One mmap, unmapped when the last table that uses it goes. */
struct mem_map;

struct mem_slot {
	uint64_t gpa;
	uint64_t size;
	uint8_t *ptr;
	uint64_t user_addr;
	struct mem_map *map;
};

struct mem_log {
	_Atomic uint8_t *bits;
	uint64_t pages; /* that the log has room for */
	struct mem_map *map;
};

struct mem {
	atomic_uint refs;
	unsigned n;
	struct mem_log log;
	struct mem_slot slots[]; /* sorted by gpa, none overlapping */
};

/* A table of one reference with the slots and the log of old (may be NULL), and room for more; NULL if there is
 * no memory. */
struct mem *mem_table_new(const struct mem *old, unsigned more);

/* Maps size bytes at off of fd, which need not be aligned; *ptr points at them. */
int mem_map_new(int fd, uint64_t off, uint64_t size, struct mem_map **out, uint8_t **ptr);
void mem_map_get(struct mem_map *map);
void mem_map_put(struct mem_map *map); /* NULL is ignored */

#endif
