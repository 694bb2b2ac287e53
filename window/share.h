/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The window itself: the memory that the device's server sees in place of the guest's, and the in-flight region of the rings
 * in it. Each ring has a part: the ring, a small place for each of its slots, and pages.
 */
#ifndef WINDOW_SHARE_H
#define WINDOW_SHARE_H

#include <stdint.h>

#include "mem.h"
#include "outring.h"

#define SHARE_PAGE 4096U
#define SHARE_STUB                                                                                           \
	32U /* bytes of a slot's small place, for what comes first; as much again for what comes last */
/* A ring's part is at least so large: as many segments as a driver may use have some pages each. */
#define SHARE_PART_MIN (2ULL << 20)

struct share {
	int fd, inflight_fd; /* -1: none */
	uint8_t *memory, *inflight;
	uint64_t size, part, inflight_size;
	unsigned rings;
};

/* Of size bytes, for so many rings, which share it evenly. 0 or -errno. */
int share_open(struct share *s, uint64_t size, unsigned rings);
void share_close(struct share *s);

/* For a front end: its one region. */
struct mem_region share_region(const struct share *s);

/* What address the server has for a place in it. */
uint64_t share_gpa(const struct share *s, const uint8_t *at);

/* A ring's part: OUTRING_BYTES for the ring; a slot's small place; the pages and how many. */
uint8_t *share_ring(const struct share *s, unsigned ring);
uint8_t *share_stub(const struct share *s, unsigned ring, unsigned slot);
uint8_t *share_pages(const struct share *s, unsigned ring, uint32_t *n);

/* Makes the in-flight region one of rings that were never served. */
void share_reset_inflight(struct share *s);

#endif
