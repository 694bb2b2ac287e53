/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's side of a split ring, towards a device that may write what it likes into it. */
#include "outring.h"

#include <errno.h>
#include <string.h>

enum { DESC_NEXT = 1, DESC_WRITE = 2 };
enum { USED_NO_NOTIFY = 1 };
enum { RING_FLAGS, RING_IDX, RING_FIRST };

#define AVAIL_USED_EVENT (RING_FIRST + OUTRING_SIZE)
#define USED_AVAIL_EVENT (RING_FIRST + 4 * OUTRING_SIZE)
#define MASK             (OUTRING_SIZE - 1)

_Static_assert((OUTRING_SIZE & MASK) == 0, "a split ring's size is a power of two");
_Static_assert(2 * (AVAIL_USED_EVENT + 1) <= OUTRING_USED - OUTRING_AVAIL, "the available ring fits");
_Static_assert(2 * (USED_AVAIL_EVENT + 1) <= OUTRING_BYTES - OUTRING_USED, "the used ring fits");

static uint16_t load(const uint16_t *at)
{
	return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

static void store(uint16_t *at, uint16_t value)
{
	__atomic_store_n(at, value, __ATOMIC_RELEASE);
}

void outring_init(struct outring *r, uint8_t *memory, bool event_idx)
{
	memset(memory, 0, OUTRING_BYTES);
	*r = (struct outring) { .desc = (uint64_t *)(void *)memory,
				.avail = (uint16_t *)(void *)(memory + OUTRING_AVAIL),
				.used = (uint16_t *)(void *)(memory + OUTRING_USED),
				.event_idx = event_idx };
}

void outring_add(struct outring *r, uint16_t slot, const struct outring_part *parts, unsigned n)
{
	uint16_t head = (uint16_t)(slot * OUTRING_PARTS);

	for (unsigned i = 0; i < n; i++) {
		uint64_t flags = (i + 1 < n ? DESC_NEXT : 0U) | (parts[i].write ? DESC_WRITE : 0U);
		uint64_t *desc = &r->desc[2 * (head + i)];

		desc[0] = parts[i].gpa;
		desc[1] = parts[i].len | flags << 32 | (uint64_t)(head + i + 1) << 48;
	}
	r->avail[RING_FIRST + (r->added & MASK)] = head;
	r->added++;
}

bool outring_show(struct outring *r)
{
	uint16_t old = r->shown, new = r->added, event;

	r->out = (uint16_t)(r->out + (uint16_t)(new - old));
	r->shown = new;
	store(&r->avail[RING_IDX], new);
	/* Before the look at what the device wants to be told of. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!r->event_idx)
		return !(load(&r->used[RING_FLAGS]) & USED_NO_NOTIFY);
	event = load(&r->used[USED_AVAIL_EVENT]);
	return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

int outring_take(struct outring *r, uint16_t *slot, uint32_t *len)
{
	uint16_t there = (uint16_t)(load(&r->used[RING_IDX]) - r->taken);
	const uint32_t *element =
	    (const uint32_t *)(const void *)&r->used[RING_FIRST + 4 * (r->taken & MASK)];
	uint32_t id;

	if (!there)
		return 0;
	if (there > r->out)
		return -EPROTO;
	id = __atomic_load_n(&element[0], __ATOMIC_RELAXED);
	*len = __atomic_load_n(&element[1], __ATOMIC_RELAXED);
	if (id % OUTRING_PARTS || id >= OUTRING_SIZE)
		return -ERANGE;
	*slot = (uint16_t)(id / OUTRING_PARTS);
	r->taken++;
	r->out--;
	return 1;
}

bool outring_want_call(struct outring *r)
{
	if (r->event_idx)
		store(&r->avail[AVAIL_USED_EVENT], r->taken);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return load(&r->used[RING_IDX]) != r->taken;
}
