/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packed virtqueues (virtio 1.2 §2.8), the device's side.
 *
 * Ordering against the driver:
 * - A descriptor's second word, flags included, is one acquire load; the driver writes the flags of a chain's
 *   first descriptor last, so address and followers, read after it, are at least as new.
 * - Of a batch, all used descriptors but the first are written, then the first one's word, sequentially
 *   consistent: the driver, which reads in ring order, sees the whole batch or none of it. It comes before the
 *   load of the driver's event suppression for the reason given in split.c.
 *
 * The private table gives each ring descriptor in flight a slot, in the order and by the free list that the
 * in-flight region prescribes, so that the region is a mirror that is written and, until a successor takes
 * over, never read. Slots are taken from the free list only while nothing is half done, as vq_publish frees
 * a whole batch at once: the region's free_head and old_free_head then are the same.
 */
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>

#include "chain.h"
#include "crash.h"
#include "num.h"
#include "packed_priv.h"

static uint16_t flags_of(uint64_t rest)
{
	return (uint16_t)(rest >> 48);
}

static bool is_avail(uint16_t flags, bool wrap)
{
	return (flags & (DESC_AVAIL | DESC_USED)) == packed_avail_flags(wrap);
}

static int packed_ring(struct vq *vq)
{
	struct vq_packed *p = &vq->packed;
	uint64_t desc_len = sizeof(*p->desc) * vq->size;
	uintptr_t desc, driver, device;

	p->desc = mem_at_user(vq->mem, vq->desc_user, desc_len);
	p->driver_event = mem_at_user(vq->mem, vq->avail_user, sizeof(*p->driver_event));
	p->device_event = mem_at_user(vq->mem, vq->used_user, sizeof(*p->device_event));
	if (!p->desc || !p->driver_event || !p->device_event)
		return -EFAULT;
	desc = (uintptr_t)p->desc;
	driver = (uintptr_t)p->driver_event;
	device = (uintptr_t)p->device_event;
	if (desc % 16 || driver % 4 || device % 4)
		return -EINVAL;
	if (driver == device || driver - desc < desc_len || device - desc < desc_len)
		return -EINVAL;
	return 0;
}

static void free_list_init(struct vq *vq)
{
	for (uint16_t i = 0; i < vq->size; i++)
		vq->slots[i].next = (uint16_t)(i + 1);
	vq->packed.free_head = 0;
}

static int packed_init(struct vq *vq, const struct vq_config *config)
{
	struct vq_packed *p = &vq->packed;

	p->ids = calloc((UINT16_MAX + 1) / 64, sizeof(*p->ids));
	if (!p->ids)
		return -ENOMEM;
	p->region = config->inflight;
	if (p->region) {
		vq->notes = &p->region->desc[0].note;
		vq->note_step = sizeof(p->region->desc[0]);
	}
	if (p->region && !inflight_is_blank(p->region))
		return inflight_packed_recover(vq);
	/* The used index in base's upper half can't differ: nothing is known to be in flight. */
	p->avail = (struct vq_pos) { .idx = config->base & 0x7fff, .wrap = config->base & 0x8000 };
	if (p->avail.idx >= vq->size)
		return -EINVAL;
	p->used = p->avail;
	free_list_init(vq);
	if (p->region)
		inflight_init(p->region, vq->size, true, vq_pos_code(p->used));
	return 0;
}

static int walk_table(struct vq *vq, struct vq_desc desc, struct vq_chain *c)
{
	struct vq_table table;
	int err = vq_table_open(vq, desc, &table);

	if (VQ_UNLIKELY(err))
		return err;
	/* Entries follow one another; of their flags only WRITE means anything (§2.8.7). */
	for (uint32_t i = 0; i < table.entries; i++) {
		struct vq_desc d = { 0 };

		err = vq_table_read(vq, &table, i, &d);
		if (VQ_UNLIKELY(err))
			return err;
		if (VQ_UNLIKELY(flags_of(d.rest) & DESC_INDIRECT))
			return -EINVAL;
		err = vq_chain_add(vq, c, d.addr, vq_desc_len(d), flags_of(d.rest) & DESC_WRITE);
		if (VQ_UNLIKELY(err))
			return err;
	}
	return 0;
}

/* Appends what ring descriptor number n of a chain names. */
static inline int add_desc(struct vq *vq, struct vq_chain *c, struct vq_desc d, uint16_t n)
{
	uint16_t flags = flags_of(d.rest);

	if (!(flags & DESC_INDIRECT))
		return vq_chain_add(vq, c, d.addr, vq_desc_len(d), flags & DESC_WRITE);
	/* A list is all direct or one table (§2.8.6). */
	if (n || flags & DESC_NEXT)
		return -EINVAL;
	return walk_table(vq, d, c);
}

static void region_start(struct vq_packed *p, uint16_t head)
{
	struct inflight_packed_desc *d = &p->region->desc[head];

	CRASH_POINT("mark before");
	INFLIGHT_STORE(d->num, 0);
	INFLIGHT_STORE(d->counter, p->counter++);
	inflight_mark(&d->inflight, NOTE_HAND);
	CRASH_POINT("packed mark begun");
}

static void region_desc(struct vq_packed *p, uint16_t slot, struct vq_desc d)
{
	struct inflight_packed_desc *to = &p->region->desc[slot];

	INFLIGHT_STORE(to->addr, d.addr);
	INFLIGHT_STORE(to->len, vq_desc_len(d));
	INFLIGHT_STORE(to->flags, flags_of(d.rest));
	INFLIGHT_STORE(to->id, d.rest >> 32);
	CRASH_POINT("packed mark copied");
}

/* The request counts as fetched from the store of old_free_head on; before it, a successor finds its slots in
 * the free list and its descriptors still to be fetched. */
static void region_finish(struct vq_packed *p, uint16_t head, uint16_t last, uint16_t num)
{
	struct inflight_packed *r = p->region;

	INFLIGHT_STORE(r->desc[head].last, last);
	INFLIGHT_STORE(r->desc[head].num, num);
	INFLIGHT_STORE(r->free_head, p->free_head);
	CRASH_POINT("packed mark listed");
	INFLIGHT_STORE(r->old_free_head, p->free_head);
	CRASH_POINT("mark after");
}

/* Makes the chain in c the caller's, unless its buffer id is that of another in flight. */
static int take(struct vq *vq, struct vq_chain *c, uint16_t head, uint16_t id)
{
	struct vq_packed *p = &vq->packed;
	struct vq_slot *slot = &vq->slots[head];
	uint64_t bit = 1ULL << (id % 64);

	if (VQ_UNLIKELY(p->ids[id / 64] & bit))
		return -EALREADY;
	p->ids[id / 64] |= bit;
	slot->state = SLOT_TAKEN;
	slot->in_len = c->in_len;
	slot->id = id;
	vq->n_taken++;
	c->head = head;
	return 0;
}

/* A resubmitted chain comes from the region: the driver may long have overwritten its place in the ring. */
static int pop_resubmit(struct vq *vq, struct vq_chain *c)
{
	struct vq_packed *p = &vq->packed;
	uint16_t head = vq->resubmit[vq->next_resubmit], at = head;
	struct vq_slot *slot = &vq->slots[head];

	vq_chain_start(c);
	for (uint16_t n = 0; n < slot->num; n++, at = vq->slots[at].next) {
		int err = add_desc(vq, c, p->saved[at], n);

		if (err)
			return err;
	}
	vq->next_resubmit++;
	vq->n_resubmit--;
	slot->state = SLOT_TAKEN;
	slot->in_len = c->in_len;
	vq->n_taken++;
	c->head = head;
	c->resubmitted = true;
	return 1;
}

/* Reads the chain whose first descriptor is d, at p->avail, giving each descriptor a slot. */
static int read_list(struct vq *vq, struct vq_chain *c, struct vq_desc d, struct vq_slot *head)
{
	struct vq_packed *p = &vq->packed;
	uint16_t at = p->avail.idx, slot = p->free_head;

	for (uint16_t n = 0;; n++) {
		int err;

		/* Also what ends a loop: descriptors that wait for their completion can't be available. */
		if (VQ_UNLIKELY(p->taken + n >= vq->size))
			return -ELOOP;
		if (p->region)
			region_desc(p, slot, d);
		err = add_desc(vq, c, d, n);
		if (VQ_UNLIKELY(err))
			return err;
		head->last = slot;
		slot = vq->slots[slot].next;
		if (!(flags_of(d.rest) & DESC_NEXT)) {
			head->num = (uint16_t)(n + 1);
			head->id = (uint16_t)(d.rest >> 32); /* the last one's is the list's */
			p->free_head = slot;
			return 0;
		}
		at = (uint16_t)(at + 1 == vq->size ? 0 : at + 1);
		d = vq_desc_read(&p->desc[at]);
	}
}

static int packed_pop(struct vq *vq, struct vq_chain *c)
{
	struct vq_packed *p = &vq->packed;
	const struct vq_desc *first = &p->desc[p->avail.idx];
	struct vq_slot *slot;
	struct vq_desc d;
	uint16_t head;
	int err;

	if (VQ_UNLIKELY(vq->n_resubmit))
		return pop_resubmit(vq, c);
	d.rest = __atomic_load_n(&first->rest, __ATOMIC_ACQUIRE);
	/* In a full ring the next descriptor is the oldest in flight, whose flags are last lap's. */
	if (!is_avail(flags_of(d.rest), p->avail.wrap) || p->taken == vq->size)
		return 0;
	d.addr = __atomic_load_n(&first->addr, __ATOMIC_RELAXED);
	head = p->free_head;
	slot = &vq->slots[head];
	vq_chain_start(c);
	if (p->region)
		region_start(p, head);
	err = read_list(vq, c, d, slot);
	if (!err)
		err = take(vq, c, head, slot->id);
	if (VQ_UNLIKELY(err))
		return err;
	if (p->region)
		region_finish(p, head, slot->last, slot->num);
	p->avail = vq_pos_add(p->avail, slot->num, vq->size);
	p->taken = (uint16_t)(p->taken + slot->num);
	c->resubmitted = false;
	return 1;
}

/* True if what a predecessor fetched stands in the ring as it was, from position at on: it may have overwritten it. */
static bool is_whole(const struct vq *vq, uint16_t head, struct vq_pos at)
{
	const struct vq_packed *p = &vq->packed;
	const uint64_t ours = (uint64_t)(DESC_AVAIL | DESC_USED) << 48 | 0xffffULL
									     << 32; /* flags, and the id */
	uint16_t slot = head;

	for (uint16_t n = 0; n < vq->slots[head].num; n++, at = vq_pos_add(at, 1, vq->size)) {
		struct vq_desc d = vq_desc_read(&p->desc[at.idx]);

		if (d.addr != p->saved[slot].addr || ((d.rest ^ p->saved[slot].rest) & ~ours))
			return false;
		slot = vq->slots[slot].next;
	}
	return true;
}

/* True if the ring's last fetched list, which ends before p->avail, is the one of slot head. */
static bool is_last(const struct vq *vq, uint16_t head)
{
	const struct vq_packed *p = &vq->packed;
	const struct vq_slot *slot = &vq->slots[head];
	struct vq_pos end = vq_pos_sub(p->avail, 1, vq->size);
	uint64_t rest = __atomic_load_n(&p->desc[end.idx].rest, __ATOMIC_RELAXED);

	if (!is_avail(flags_of(rest), end.wrap) || (uint16_t)(rest >> 32) != slot->id)
		return false;
	return !(slot->note & NOTE_DEATHS) || is_whole(vq, head, vq_pos_sub(p->avail, slot->num, vq->size));
}

/* The reverse of region_finish: from the store of old_free_head on its slots are free for a successor, which clears the
 * mark that stands beside them. */
static void region_return(struct vq_packed *p, uint16_t head, uint16_t last)
{
	struct inflight_packed *r = p->region;

	CRASH_POINT("unmark before");
	INFLIGHT_STORE(r->desc[last].next, p->free_head);
	CRASH_POINT("packed unmark linked");
	INFLIGHT_STORE(r->free_head, head);
	CRASH_POINT("packed unmark listed");
	INFLIGHT_STORE(r->old_free_head, head);
	CRASH_POINT("packed unmark freed");
	INFLIGHT_STORE(r->desc[head].inflight, 0);
	CRASH_POINT("unmark after");
}

static int packed_unpop(struct vq *vq, uint16_t head)
{
	struct vq_packed *p = &vq->packed;
	struct vq_slot *slot = &vq->slots[head];

	if (!is_last(vq, head))
		return -ESTALE;
	if (p->region)
		region_return(p, head, slot->last);
	vq->slots[slot->last].next = p->free_head;
	p->free_head = head;
	p->ids[slot->id / 64] &= ~(1ULL << (slot->id % 64));
	p->avail = vq_pos_sub(p->avail, slot->num, vq->size);
	p->taken = (uint16_t)(p->taken - slot->num);
	return 0;
}

static uint64_t used_word(const struct vq_slot *slot, bool wrap)
{
	uint64_t flags = (wrap ? DESC_AVAIL | DESC_USED : 0U) | (slot->written ? DESC_WRITE : 0U);

	return slot->written | (uint64_t)slot->id << 32 | flags << 48;
}

/*
 * True if the driver asked to hear of a descriptor in what was just published, which ends at now (exclusive)
 * and is n descriptors long. An event with the other wrap bit is counted as last lap's; if it means the next
 * lap it then lies below all that was published, as it should.
 */
static bool wants_call(const struct vq *vq, struct vq_pos now, uint16_t n)
{
	uint32_t event = __atomic_load_n(vq->packed.driver_event, __ATOMIC_SEQ_CST);
	uint16_t how = (uint16_t)(event >> 16) & 3U;
	int32_t at = (int32_t)(event & 0x7fff);

	if (how == RING_EVENT_ENABLE || (how == RING_EVENT_DESC && !vq->event_idx))
		return true;
	if (how != RING_EVENT_DESC)
		return false;
	if ((bool)(event & 0x8000) != now.wrap)
		at -= vq->size;
	return at >= now.idx - n && at < now.idx;
}

/* Frees the slots of one completed chain, as the specification prescribes: the list goes before the free one. */
static void free_chain(struct vq *vq, uint16_t head)
{
	struct vq_packed *p = &vq->packed;
	struct vq_slot *slot = &vq->slots[head];

	vq->slots[slot->last].next = p->free_head;
	if (p->region)
		INFLIGHT_STORE(p->region->desc[slot->last].next, p->free_head);
	p->free_head = head;
	p->ids[slot->id / 64] &= ~(1ULL << (slot->id % 64));
	slot->state = SLOT_FREE;
}

/* The step before the batch becomes visible: free list, then where used goes on. */
static void region_before(struct vq_packed *p, struct vq_pos used)
{
	INFLIGHT_STORE(p->region->free_head, p->free_head);
	CRASH_POINT("packed free-head ahead");
	inflight_positions(p->region, vq_pos_code(used), vq_pos_code(p->used));
}

static void region_after(struct vq *vq, struct vq_pos used)
{
	struct inflight_packed *r = vq->packed.region;

	for (uint16_t i = 0; i < vq->n_staged; i++) {
		CRASH_POINT("flag-clear before");
		INFLIGHT_STORE(r->desc[vq->staged[i]].inflight, 0);
		CRASH_POINT("flag-clear after");
	}
	INFLIGHT_STORE(r->old_free_head, vq->packed.free_head);
	CRASH_POINT("packed free-head settled");
	inflight_positions(r, vq_pos_code(used), vq_pos_code(used));
}

static bool packed_publish(struct vq *vq)
{
	struct vq_packed *p = &vq->packed;
	struct vq_pos at = p->used;
	uint64_t *first = &p->desc[at.idx].rest, first_word = 0;
	uint16_t num = 0;

	for (uint16_t i = 0; i < vq->n_staged; i++) {
		const struct vq_slot *slot = &vq->slots[vq->staged[i]];
		uint64_t word = used_word(slot, at.wrap);

		CRASH_POINT("used-element before");
		if (i == 0)
			first_word = word;
		else
			__atomic_store_n(&p->desc[at.idx].rest, word, __ATOMIC_RELAXED);
		CRASH_POINT("used-element after");
		at = vq_pos_add(at, slot->num, vq->size);
		num = (uint16_t)(num + slot->num);
		free_chain(vq, vq->staged[i]);
		CRASH_POINT("packed chain freed");
	}
	if (p->region)
		region_before(p, at);
	CRASH_POINT("used-index before");
	__atomic_store_n(first, first_word, __ATOMIC_SEQ_CST);
	CRASH_POINT("used-index after");
	if (p->region)
		region_after(vq, at);
	CRASH_POINT("publish settled");
	p->used = at;
	p->taken = (uint16_t)(p->taken - num);
	vq->n_taken = (uint16_t)(vq->n_taken - vq->n_staged);
	vq->n_staged = 0;
	return wants_call(vq, at, num);
}

static void packed_dirty(struct vq *vq)
{
	mem_dirty_ptr(vq->mem, vq->packed.desc, sizeof(*vq->packed.desc) * vq->size);
}

static void packed_disable_kicks(struct vq *vq)
{
	__atomic_store_n(vq->packed.device_event, (uint32_t)RING_EVENT_DISABLE << 16, __ATOMIC_RELAXED);
}

static bool packed_has_avail(const struct vq *vq)
{
	const struct vq_packed *p = &vq->packed;

	return is_avail(flags_of(__atomic_load_n(&p->desc[p->avail.idx].rest, __ATOMIC_SEQ_CST)),
			p->avail.wrap) &&
	       p->taken != vq->size;
}

static bool packed_enable_kicks(struct vq *vq)
{
	uint32_t event = (uint32_t)RING_EVENT_ENABLE << 16;

	if (vq->event_idx)
		event = (uint32_t)RING_EVENT_DESC << 16 | vq_pos_code(vq->packed.avail);
	__atomic_store_n(vq->packed.device_event, event, __ATOMIC_SEQ_CST);
	return packed_has_avail(vq);
}

static uint32_t packed_base(const struct vq *vq)
{
	return vq_pos_code(vq->packed.avail) | (uint32_t)vq_pos_code(vq->packed.used) << 16;
}

const struct vq_ops vq_packed_ops = {
	.ring = packed_ring,
	.init = packed_init,
	.pop = packed_pop,
	.unpop = packed_unpop,
	.publish = packed_publish,
	.dirty = packed_dirty,
	.disable_kicks = packed_disable_kicks,
	.enable_kicks = packed_enable_kicks,
	.has_avail = packed_has_avail,
	.base = packed_base,
};
