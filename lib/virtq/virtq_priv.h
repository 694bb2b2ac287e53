/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of lib/virtq share: the queue itself, and the two ring formats' operations. */
#ifndef VIRTQ_PRIV_H
#define VIRTQ_PRIV_H

#include <stdbool.h>
#include <stdint.h>

#include "inflight_priv.h"
#include "mem.h"
#include "virtq.h"

/* A descriptor as it lies in either ring format, in two words that are each read once: the second holds, from
 * the low bits up, split: len, flags, next; packed: len, id, flags. */
struct vq_desc {
	uint64_t addr;
	uint64_t rest;
};
_Static_assert(sizeof(struct vq_desc) == 16, "virtio 1.2 §2.7.5, §2.8.13");

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

enum vq_slot_state {
	SLOT_FREE,    /* not known to the caller: may be fetched; becomes TAKEN */
	SLOT_PENDING, /* was in flight when an earlier process died, waits to be popped; becomes TAKEN */
	SLOT_TAKEN,   /* popped; becomes STAGED by vq_push */
	SLOT_STAGED,  /* completed, not yet visible to the driver; becomes FREE by vq_publish */
};

/* What the queue itself remembers of a request, by head (split) or table slot (packed): never read back from
 * shared memory. The fields from id on are the packed ring's. */
struct vq_slot {
	uint8_t state; /* enum vq_slot_state */
	uint8_t note;  /* what its entry in the region says, NOTE_ bits */
	uint32_t in_len;
	uint32_t written;
	uint16_t id;   /* the driver's buffer id */
	uint16_t num;  /* ring descriptors */
	uint16_t last; /* slot of the chain's last descriptor */
	uint16_t next; /* the chain's next slot, or the next free one; size ends the list */
};

struct vq;

/* One ring format. */
struct vq_ops {
	int (*init)(struct vq *vq, const struct vq_config *config); /* after ring: positions, recovery */
	int (*ring)(struct vq *vq);                                 /* looks the ring's pointers up */
	int (*pop)(struct vq *vq, struct vq_chain *chain);
	int (*unpop)(struct vq *vq, uint16_t head); /* back to the ring, or -ESTALE */
	bool (*publish)(struct vq *vq);
	void (*disable_kicks)(struct vq *vq);
	bool (*enable_kicks)(struct vq *vq);
	bool (*has_avail)(const struct vq *vq);
	uint32_t (*base)(const struct vq *vq);
	void (*dirty)(struct vq *vq); /* marks all that the device writes in the ring */
};

extern const struct vq_ops vq_split_ops, vq_packed_ops;

/* Positions in a packed ring run on through the laps: an index below size and the lap's wrap bit. */
struct vq_pos {
	uint16_t idx;
	bool wrap;
};

struct vq_split {
	struct vq_desc *desc;
	uint16_t *avail; /* flags, idx, ring[size], used_event */
	uint16_t *used;  /* flags, idx, ring[size] of two words of 32 bits, avail_event */
	uint16_t last_avail;
	uint16_t avail_seen; /* avail.idx when it was last read */
	uint16_t used_idx;   /* as published */
	uint64_t counter;    /* of the next request, for the in-flight region */
	struct inflight_split *region;
};

struct vq_packed {
	struct vq_desc *desc;
	uint32_t *driver_event;
	uint32_t *device_event;
	struct vq_pos avail;
	struct vq_pos used;
	uint16_t taken;     /* ring descriptors between used and avail */
	uint16_t free_head; /* of the private table */
	uint64_t counter;
	struct inflight_packed *region;
	struct vq_desc *saved; /* descriptors of the requests to be resubmitted, by slot */
	uint64_t *ids;         /* a bit for each buffer id in flight */
};

struct vq {
	const struct vq_ops *ops;
	struct mem *mem;
	struct mem_window window;
	struct vq_slot *slots;
	uint16_t *staged; /* heads, in the order of vq_push */
	uint16_t n_staged;
	uint16_t n_taken;
	uint16_t size;
	uint16_t iov_max;
	bool event_idx;
	bool indirect;
	bool log_used;
	bool buffers;
	bool call_once; /* the first publication always asks for a notification: the last one may be lost */
	bool broken;
	bool trial;               /* what is in flight is there alone */
	struct vq_trials *trials; /* shared with other queues; NULL: none are */
	bool gone;                /* the rings are in no memory any more: completions lead nowhere */
	uint16_t n_resubmit;      /* left to be popped */
	uint16_t next_resubmit;   /* index into resubmit */
	uint16_t *resubmit;       /* slots, in counter order */
	uint8_t *notes;           /* of the in-flight region's first entry; NULL: there is no region */
	size_t note_step;         /* from one to the next */
	uint32_t hand;            /* the slot that is in hand; VQ_NO_HAND: none */
	uint64_t desc_user, avail_user, used_user;
	union {
		struct vq_split split;
		struct vq_packed packed;
	};
};

#define VQ_NO_HAND UINT32_MAX

/* Orders the slots[] in heads by counters[slot], lowest first, equal ones by slot. */
void vq_sort_by_counter(uint16_t *heads, uint16_t n, uint64_t *counters);

/* True if the driver's event index lies in (old, new], that is, was passed by what was just published. */
static inline bool vq_event_passed(uint16_t event, uint16_t new_idx, uint16_t old_idx)
{
	return (uint16_t)(new_idx - event - 1) < (uint16_t)(new_idx - old_idx);
}

static inline struct vq_pos vq_pos_add(struct vq_pos pos, uint16_t n, uint16_t size)
{
	uint32_t idx = (uint32_t)pos.idx + n;

	if (idx >= size)
		return (struct vq_pos) { .idx = (uint16_t)(idx - size), .wrap = !pos.wrap };
	return (struct vq_pos) { .idx = (uint16_t)idx, .wrap = pos.wrap };
}

static inline struct vq_pos vq_pos_sub(struct vq_pos pos, uint16_t n, uint16_t size)
{
	if (pos.idx < n)
		return (struct vq_pos) { .idx = (uint16_t)((uint32_t)pos.idx + size - n), .wrap = !pos.wrap };
	return (struct vq_pos) { .idx = (uint16_t)(pos.idx - n), .wrap = pos.wrap };
}

static inline uint16_t vq_pos_code(struct vq_pos pos)
{
	return (uint16_t)(pos.idx | (pos.wrap ? 0x8000U : 0U));
}

#endif
