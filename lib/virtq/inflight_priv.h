/* SPDX-License-Identifier: Apache-2.0 */
/* The in-flight region's layout (vhost-user "Inflight I/O tracking") and the stores that write it. */
#ifndef VIRTQ_INFLIGHT_PRIV_H
#define VIRTQ_INFLIGHT_PRIV_H

#include <stddef.h>
#include <stdint.h>

#include "inflight.h"

#define INFLIGHT_VERSION 1
/* A batch head that names no descriptor: no ring is as large. */
#define INFLIGHT_NO_HEAD 0xffff

/*
 * What a request's entry says beside the fact that it is in flight, in the one byte of padding that both layouts have.
 * When a process dies, many requests are in flight and at most one of them is to blame; the others must not pay for it.
 * HAND is set while the queue's thread itself works on a request: from the moment it is marked in flight until it lies
 * with the kernel or waits, and again while its end is dealt with. Who dies of a request mostly dies with it in hand.
 * What does its damage later, say by memory that it spoils, is found by trial: from its second death on a request is
 * taken up alone, when nothing else of the queue is in flight and none is tried in another queue of the process, and stays in
 * hand until it is published. One that was in hand at three deaths, the last of them on trial therefore, is not given a fourth chance. Fewer are no proof: a death
 * may have come from outside at just that moment.
 */
enum {
	NOTE_DEATHS = 7,       /* a number: processes that it has outlived, at most 7 */
	NOTE_HAND = 1 << 3,    /* in hand now */
	NOTE_GUILT_1 = 1 << 4, /* a number: deaths at which it was in hand */
	NOTE_POISON = 3 << 4,  /* the number at which it is to be answered with an error */
	NOTE_FAILED = 1 << 6,  /* it did fail, and only its answer is missing */
};

struct inflight_split_desc {
	uint8_t inflight;
	uint8_t note; /* of the specification's padding: NOTE_ bits */
	uint8_t padding[4];
	uint16_t next;
	uint64_t counter;
};

struct inflight_split {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct inflight_split_desc desc[];
};

struct inflight_packed_desc {
	uint8_t inflight;
	uint8_t note; /* all of the specification's padding */
	uint16_t next;
	uint16_t last;
	uint16_t num;
	uint64_t counter;
	uint16_t id;
	uint16_t flags;
	uint32_t len;
	uint64_t addr;
};

struct inflight_packed {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t free_head;
	uint16_t old_free_head;
	uint16_t used_idx;
	uint16_t old_used_idx;
	uint8_t used_wrap;
	uint8_t old_used_wrap;
	uint8_t padding[7];
	struct inflight_packed_desc desc[];
};

_Static_assert(sizeof(struct inflight_split_desc) == 16 && sizeof(struct inflight_split) == 16, "layout");
_Static_assert(sizeof(struct inflight_packed_desc) == 32 && sizeof(struct inflight_packed) == 32, "layout");
_Static_assert(offsetof(struct inflight_packed, used_idx) == 16, "the word below");

typedef uint16_t __attribute__((may_alias)) inflight_word16;
typedef uint64_t __attribute__((may_alias)) inflight_word64;

/*
 * A store whose place in the program's order matters, since the process may be killed after any instruction
 * and a successor reads what was written until then. What a dead process had stored does not get lost, and on
 * x86 the stores of one processor become visible in program order, so it is enough that the compiler keeps
 * the order: a release store, which is a plain move, may not be moved above any access that stands before it,
 * and so a row of them stays in its order.
 */
#define INFLIGHT_STORE(field, value) __atomic_store_n(&(field), (__typeof__(field))(value), __ATOMIC_RELEASE)

/* A read of what another process may be writing: once, into a local. */
#define INFLIGHT_LOAD(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

/* inflight and the note beside it as one store, so that neither is ever seen without the other. */
static inline void inflight_mark(uint8_t *inflight, uint8_t note)
{
	INFLIGHT_STORE(*(inflight_word16 *)(void *)inflight, 1U | (unsigned)note << 8);
}

/* The note of a request that is in flight after one more death. */
uint8_t inflight_note_death(uint8_t note);

/*
 * The used positions of a packed ring (index, wrap bit in bit 15) by one store. An index whose wrap bit was not
 * stored yet would name the lap before, where flags that nobody ever overwrote lead recovery astray.
 */
static inline void inflight_positions(struct inflight_packed *r, uint16_t used, uint16_t old)
{
	uint64_t word = (used & 0x7fffU) | (old & 0x7fffU) << 16 | (uint64_t)(used >> 15) << 32 |
			(uint64_t)(old >> 15) << 40;

	INFLIGHT_STORE(*(inflight_word64 *)(void *)&r->used_idx, word);
}

struct vq;

/*
 * What an earlier process left: lists in vq->resubmit the slots that are in flight, by counter, their state
 * SLOT_PENDING, and sets the ring format's positions and counter. -EPROTO if the region contradicts itself.
 */
int inflight_split_recover(struct vq *vq);
int inflight_packed_recover(struct vq *vq);

#endif
