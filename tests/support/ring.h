/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver's side of a virtqueue (virtio 1.2 §2.7, §2.8), split or packed, in guest memory: what a guest does
 * and, by the functions that write descriptors raw, what none should. One thread at a time; the device's side
 * may be another thread or process.
 */
#ifndef SUPPORT_RING_H
#define SUPPORT_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "guest.h"
#include "virtq.h"

#define RING_TABLE_MAX 16 /* entries of an indirect table that ring_add makes */

#define RING_F_PACKED    (1ULL << 34)
#define RING_F_EVENT_IDX (1ULL << 29)
#define RING_F_INDIRECT  (1ULL << 28)

enum { RING_NEXT = 1, RING_WRITE = 2, RING_INDIRECT = 4, RING_AVAIL = 1 << 7, RING_USED = 1 << 15 };

/* A descriptor of either format; id is next in a split ring. */
struct ring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t id;
	uint16_t flags;
};

struct ring_buf {
	uint64_t gpa;
	uint32_t len;
	bool write; /* by the device */
};

struct ring {
	struct guest *guest;
	uint64_t features;
	uint16_t size;
	bool packed;
	uint64_t desc, avail, used; /* guest-physical; packed: driver and device event suppression */
	uint64_t *desc_ptr;
	uint16_t *avail_ptr;
	uint16_t *used_ptr;
	uint64_t tables; /* indirect tables, RING_TABLE_MAX entries for each head or id */

	uint16_t *next;  /* of free descriptors (split) or ids (packed) */
	uint16_t *count; /* ring descriptors of an outstanding head or id, 0 if it is free */
	uint16_t free_head;
	uint16_t n_free; /* descriptors */
	uint16_t avail_idx;
	uint16_t used_idx;
	bool avail_wrap, used_wrap;
	uint16_t published; /* avail_idx as of the last ring_publish */
	uint16_t staged;    /* packed: descriptors added since */
	struct ring_desc first;
};

/* Lays a ring out in g's memory, which outlives it. 0 or -errno. */
int ring_init(struct ring *r, struct guest *g, uint16_t size, uint64_t features);
void ring_free(struct ring *r);

/* Before first use: goes on from index at, on the lap with that wrap bit, as if all before had been used. */
void ring_start_at(struct ring *r, uint16_t at, bool wrap);

/* Fills what a front end would tell the device's side; iov_max is set to 64. */
void ring_config(const struct ring *r, struct mem *mem, struct vq_config *config);

/* Adds a request, not visible before ring_publish. Its head (split) or id (packed), or -ENOSPC. */
int ring_add(struct ring *r, const struct ring_buf *bufs, unsigned n, bool indirect);

/* Makes what was added visible; true if the device wants a kick. */
bool ring_publish(struct ring *r);

/* Takes one completion: 1 with *id and *len, 0 if there is none, -EPROTO for an id that is not outstanding. */
int ring_get(struct ring *r, uint16_t *id, uint32_t *len);

/* Whether the device may send calls; ring_enable_calls returns true if completions arrived meanwhile. */
void ring_disable_calls(struct ring *r);
bool ring_enable_calls(struct ring *r);

/* ---- misbehaviour ---- */

/* Writes descriptor i of the ring or of the table at gpa as it stands, flags last. */
void ring_write_desc(struct ring *r, uint16_t i, struct ring_desc d);
void ring_write_table(struct ring *r, uint64_t table, uint16_t i, struct ring_desc d);

/* Split: puts head into the next place of the available ring; sets avail.idx as it is. */
void ring_put_avail(struct ring *r, uint16_t head);
void ring_set_avail_idx(struct ring *r, uint16_t idx);

/* Packed: flags that make a descriptor available at the driver's next position. */
uint16_t ring_avail_flags(const struct ring *r);

#endif
