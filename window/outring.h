/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver's side of a split ring in the window (virtio 1.2 §2.7), whose other side is the device's server: taken for
 * hostile, so nothing that stands in the ring is believed, nothing is read twice, and nothing is read back that was written. A
 * request is a slot; slot i has the descriptors from OUTRING_PARTS * i on, for good. One thread's.
 */
#ifndef WINDOW_OUTRING_H
#define WINDOW_OUTRING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OUTRING_SLOTS 256 /* requests at a time */
#define OUTRING_PARTS 4   /* descriptors of one */
#define OUTRING_SIZE  (OUTRING_SLOTS * OUTRING_PARTS)

/* Where its parts lie, in bytes from its beginning, and how much they take. */
#define OUTRING_AVAIL (16 * OUTRING_SIZE)
#define OUTRING_USED  (OUTRING_AVAIL + 4096)
#define OUTRING_BYTES (OUTRING_USED + 12288)

struct outring_part {
	uint64_t gpa;
	uint32_t len;
	bool write; /* by the device; those come last */
};

struct outring {
	uint64_t *desc;
	uint16_t *avail; /* flags, idx, ring[], used_event */
	uint16_t *used;  /* flags, idx, ring[] of two words of 32 bits, avail_event */
	bool event_idx;
	uint16_t added; /* avail.idx, with those that are not shown yet */
	uint16_t shown; /* ... and without */
	uint16_t taken; /* of used.idx */
	uint16_t out;   /* shown and not taken */
};

/* Begins anew at index 0, in memory of OUTRING_BYTES that is aligned to a page and zeroed here. */
void outring_init(struct outring *r, uint8_t *memory, bool event_idx);

/* Puts a request into the ring; outring_show makes all of them visible, and says whether the device wants a kick. The slot
 * is not out. */
void outring_add(struct outring *r, uint16_t slot, const struct outring_part *parts, unsigned n);
bool outring_show(struct outring *r);

/* Takes a completion: 1 with *slot (below OUTRING_SLOTS; whether it is out the caller knows) and *len, 0 if there is none,
 * -EPROTO for an index that jumps, -ERANGE for an id that is no request's. */
int outring_take(struct outring *r, uint16_t *slot, uint32_t *len);

/* The device is to call for the next completion; true if there is one already, as none may be called for then. */
bool outring_want_call(struct outring *r);

#endif
