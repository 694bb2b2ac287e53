/* SPDX-License-Identifier: Apache-2.0 */
/* A split ring as its driver sees it. */
#include "ring.h"

#define AVAIL_NO_INTERRUPT 1

/* With event index the flag has no meaning: an index half a ring of 2^16 away keeps the device quiet. */
static void hush(struct ring *r)
{
	r->avail.flags = r->event_idx ? 0 : AVAIL_NO_INTERRUPT;
	r->avail.used_event = (uint16_t)(r->seen + 0x8000);
}

bool ring_set(struct ring *r, struct vdev *d, unsigned index, bool irq)
{
	struct vdev_queue q = { .index = index,
				.size = RING_SIZE,
				.vector = irq ? 0 : -1,
				.desc = r->desc,
				.driver = &r->avail,
				.device = &r->used };

	memset(r, 0, sizeof(*r));
	r->event_idx = d->features & RING_F_EVENT_IDX;
	r->index = (uint16_t)index;
	hush(r);
	r->doorbell = vdev_set_queue(d, &q);
	return r->doorbell;
}

void ring_offer(struct ring *r, uint16_t id)
{
	r->avail.ring[r->added++ % RING_SIZE] = id;
}

/* virtio 1.2 §2.7.7.2: true if the other side asked to be told when its index was passed. */
static bool passed(uint16_t event, uint16_t now, uint16_t before)
{
	return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

void ring_publish(struct ring *r)
{
	uint16_t before = r->shown;

	if (r->added == before)
		return;
	r->shown = r->added;
	__atomic_store_n(&r->avail.idx, r->added, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (r->event_idx ? passed(r->used.avail_event, r->added, before) : !(r->used.flags & USED_NO_NOTIFY))
		MMIO_WRITE(uint16_t, r->doorbell, r->index);
}

uint16_t ring_used(const struct ring *r)
{
	uint16_t n = (uint16_t)(__atomic_load_n(&r->used.idx, __ATOMIC_ACQUIRE) - r->seen);

	return n;
}

void ring_sleep(struct ring *rings, unsigned count)
{
	uint32_t before = irq_count[0];
	bool any = false;

	for (unsigned i = 0; i < count; i++) {
		rings[i].avail.used_event = rings[i].seen;
		rings[i].avail.flags = 0;
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < count; i++)
		any |= ring_used(&rings[i]) != 0;
	if (!any)
		wait_change(&irq_count[0], before);
	for (unsigned i = 0; i < count; i++)
		hush(&rings[i]);
}
