/* SPDX-License-Identifier: Apache-2.0 */
/* A qcow2 image in memory, for tests that refuse changes of it, cut it off or write over it. What fails here fails the test. */
#ifndef QCOW2_MEM_H
#define QCOW2_MEM_H

#include <stdbool.h>
#include <stdint.h>

#include "qcow2.h"

#define MEM_MAX     (64U << 20)
#define MEM_CHANGES 4096 /* that are told apart */

struct mem_file {
	uint8_t *data;
	uint64_t bytes;
	uint64_t top; /* all behind it is zeroes */
	unsigned reads;
	unsigned changes; /* so far */
	unsigned refused; /* the change that is; 0: none */
	bool done;        /* it was made all the same */
	int err;
	unsigned unsynced;
	struct qcow2 *watched; /* whose offset must not be shown before all is stable */
	uint64_t watched_off;
	bool shown_early;
};

extern struct mem_file mem;
/* Of a run without faults: which changes are of the header, or of a table that it names. */
extern bool mem_is_root[MEM_CHANGES];

extern const struct qcow2_file_ops mem_ops;

/* Takes "disk" of this folder as the image, which mem_reset then puts into mem. */
void mem_load(void);
void mem_reset(void);
void mem_save(const char *name);

/* Opens it, on the raw file base (-1: none), with so many bytes of tables. One at a time. */
struct qcow2 *mem_open(int base, size_t cache);

/* Numbers of the image, big-endian; mem_put's has 8 bytes. */
uint64_t mem_field(unsigned at, unsigned bytes);
void mem_put(uint64_t at, uint64_t value);

#endif
