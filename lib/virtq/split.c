/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split virtqueues (virtio 1.2 §2.7), the device's side.
 *
 * Ordering against the driver, which runs on another processor:
 * - avail.idx is loaded with acquire; ring entries and descriptors are read after it and so are at least as new.
 * - used.idx is stored sequentially consistent: as a release, it makes the used elements visible first; and it
 *   comes before the load of used_event or avail.flags that follows. The driver stores used_event, then loads
 *   used.idx, in the same total order, so one of the two sees the other's store: no notification is lost.
 * - avail_event and avail.idx in enable_kicks are the same, mirrored.
 */
#include <linux/virtio_ring.h>

#include "chain.h"
#include "crash.h"
#include "num.h"
#include "virtq_priv.h"

#define FLAGS 0 /* of the avail and used rings, as 16-bit words */
#define IDX   1
#define RING  2

static uint16_t *used_event(const struct vq *vq)
{
	return &vq->split.avail[RING + vq->size];
}

static uint16_t *avail_event(const struct vq *vq)
{
	return &vq->split.used[RING + 4U * vq->size];
}

static size_t avail_bytes(const struct vq *vq)
{
	return 4U + 2U * vq->size + (vq->event_idx ? 2U : 0U);
}

static size_t used_bytes(const struct vq *vq)
{
	return 4U + 8U * vq->size + (vq->event_idx ? 2U : 0U);
}

static bool apart(const void *a, size_t a_len, const void *b, size_t b_len)
{
	uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;

	return x < y ? y - x >= a_len : x - y >= b_len;
}

static int split_ring(struct vq *vq)
{
	struct vq_split *s = &vq->split;
	size_t desc_len = sizeof(*s->desc) * vq->size;

	s->desc = mem_at_user(vq->mem, vq->desc_user, desc_len);
	s->avail = mem_at_user(vq->mem, vq->avail_user, avail_bytes(vq));
	s->used = mem_at_user(vq->mem, vq->used_user, used_bytes(vq));
	if (!s->desc || !s->avail || !s->used)
		return -EFAULT;
	if ((uintptr_t)s->desc % 16 || (uintptr_t)s->avail % 2 || (uintptr_t)s->used % 4)
		return -EINVAL;
	if (!apart(s->used, used_bytes(vq), s->desc, desc_len) ||
	    !apart(s->used, used_bytes(vq), s->avail, avail_bytes(vq)) ||
	    !apart(s->avail, avail_bytes(vq), s->desc, desc_len))
		return -EINVAL;
	return 0;
}

static int split_init(struct vq *vq, const struct vq_config *config)
{
	struct vq_split *s = &vq->split;
	int err;

	s->used_idx = __atomic_load_n(&s->used[IDX], __ATOMIC_RELAXED);
	s->region = config->inflight;
	if (s->region) {
		vq->notes = &s->region->desc[0].note;
		vq->note_step = sizeof(s->region->desc[0]);
	}
	if (!s->region) {
		if (config->base > UINT16_MAX)
			return -EINVAL;
		s->last_avail = (uint16_t)config->base;
	} else {
		if (inflight_is_blank(s->region))
			inflight_init(s->region, vq->size, false, s->used_idx);
		err = inflight_split_recover(vq);
		if (err)
			return err;
		/* Not avail.idx, which counts what nobody fetched yet. */
		s->last_avail = (uint16_t)(s->used_idx + vq->n_resubmit);
	}
	s->avail_seen = s->last_avail;
	return 0;
}

static int walk_table(struct vq *vq, struct vq_desc desc, struct vq_chain *c)
{
	struct vq_table table;
	uint32_t i = 0;
	int err = vq_table_open(vq, desc, &table);

	if (VQ_UNLIKELY(err))
		return err;
	for (uint32_t left = table.entries; left; left--) {
		struct vq_desc d = { 0 };
		uint16_t flags;

		err = vq_table_read(vq, &table, i, &d);
		if (VQ_UNLIKELY(err))
			return err;
		flags = (uint16_t)(d.rest >> 32);
		if (VQ_UNLIKELY(flags & DESC_INDIRECT))
			return -EINVAL;
		err = vq_chain_add(vq, c, d.addr, vq_desc_len(d), flags & DESC_WRITE);
		if (VQ_UNLIKELY(err))
			return err;
		if (!(flags & DESC_NEXT))
			return 0;
		i = (uint32_t)(d.rest >> 48);
		if (VQ_UNLIKELY(i >= table.entries))
			return -ERANGE;
	}
	return -ELOOP;
}

static int walk(struct vq *vq, uint16_t head, struct vq_chain *c)
{
	uint16_t i = head;

	vq_chain_start(c);
	for (uint32_t left = vq->size; left; left--) {
		struct vq_desc d = vq_desc_read(&vq->split.desc[i]);
		uint16_t flags = (uint16_t)(d.rest >> 32);
		int err;

		/* An indirect table ends a chain (§2.7.5.3.1): nothing may follow it. */
		if (flags & DESC_INDIRECT)
			return flags & DESC_NEXT ? -EINVAL : walk_table(vq, d, c);
		err = vq_chain_add(vq, c, d.addr, vq_desc_len(d), flags & DESC_WRITE);
		if (VQ_UNLIKELY(err))
			return err;
		if (!(flags & DESC_NEXT))
			return 0;
		i = (uint16_t)(d.rest >> 48);
		if (VQ_UNLIKELY(i >= vq->size))
			return -ERANGE;
	}
	return -ELOOP;
}

static void take(struct vq *vq, struct vq_chain *c, uint16_t head, bool resubmitted)
{
	struct vq_slot *slot = &vq->slots[head];

	slot->state = SLOT_TAKEN;
	slot->in_len = c->in_len;
	vq->n_taken++;
	c->head = head;
	c->resubmitted = resubmitted;
}

static int pop_resubmit(struct vq *vq, struct vq_chain *c)
{
	uint16_t head = vq->resubmit[vq->next_resubmit];
	int err = walk(vq, head, c);

	if (err)
		return err;
	vq->next_resubmit++;
	vq->n_resubmit--;
	take(vq, c, head, true);
	return 1;
}

/* 1 if there are new requests, 0, or -ERANGE if the driver claims more than fit. */
static int look(struct vq_split *s, uint16_t size)
{
	uint16_t n;

	s->avail_seen = __atomic_load_n(&s->avail[IDX], __ATOMIC_ACQUIRE);
	n = (uint16_t)(s->avail_seen - s->last_avail);
	if (!n)
		return 0;
	return n > size ? -ERANGE : 1;
}

static int split_pop(struct vq *vq, struct vq_chain *c)
{
	struct vq_split *s = &vq->split;
	uint16_t mask = (uint16_t)(vq->size - 1), head, next;
	int err;

	if (VQ_UNLIKELY(vq->n_resubmit))
		return pop_resubmit(vq, c);
	if (s->last_avail == s->avail_seen) {
		int got = look(s, vq->size);

		if (got <= 0)
			return got;
	}
	head = __atomic_load_n(&s->avail[RING + (s->last_avail & mask)], __ATOMIC_RELAXED);
	if (VQ_UNLIKELY(head >= vq->size))
		return -ERANGE;
	if (VQ_UNLIKELY(vq->slots[head].state != SLOT_FREE))
		return -EALREADY;
	/* A hint only: this read of the next entry is checked by nobody, the mask keeps it in the table. */
	next = __atomic_load_n(&s->avail[RING + ((s->last_avail + 1) & mask)], __ATOMIC_RELAXED);
	__builtin_prefetch(&s->desc[next & mask]);
	err = walk(vq, head, c);
	if (VQ_UNLIKELY(err))
		return err;
	if (s->region) {
		CRASH_POINT("mark before");
		INFLIGHT_STORE(s->region->desc[head].counter, s->counter++);
		CRASH_POINT("split mark counted");
		inflight_mark(&s->region->desc[head].inflight, NOTE_HAND);
		CRASH_POINT("mark after");
	}
	s->last_avail++;
	take(vq, c, head, false);
	return 1;
}

/* With its mark gone, one less is in flight for a successor, which so goes on one entry earlier: here. */
static int split_unpop(struct vq *vq, uint16_t head)
{
	struct vq_split *s = &vq->split;
	uint16_t at = (uint16_t)(s->last_avail - 1), mask = (uint16_t)(vq->size - 1);

	if (__atomic_load_n(&s->avail[RING + (at & mask)], __ATOMIC_RELAXED) != head)
		return -ESTALE;
	if (s->region) {
		CRASH_POINT("unmark before");
		INFLIGHT_STORE(s->region->desc[head].inflight, 0);
		CRASH_POINT("unmark after");
	}
	s->last_avail = at;
	return 0;
}

static bool wants_call(const struct vq *vq, uint16_t old, uint16_t now)
{
	if (vq->event_idx)
		return vq_event_passed(__atomic_load_n(used_event(vq), __ATOMIC_SEQ_CST), now, old);
	return !(__atomic_load_n(&vq->split.avail[FLAGS], __ATOMIC_SEQ_CST) & VRING_AVAIL_F_NO_INTERRUPT);
}

static void write_elements(struct vq *vq)
{
	struct vq_split *s = &vq->split;
	uint16_t mask = (uint16_t)(vq->size - 1);

	for (uint16_t i = 0; i < vq->n_staged; i++) {
		uint16_t head = vq->staged[i];
		uint32_t at = RING + 4U * ((uint32_t)(s->used_idx + i) & mask);
		uint32_t *element = (uint32_t *)(void *)&s->used[at];

		CRASH_POINT("used-element before");
		__atomic_store_n(&element[0], head, __ATOMIC_RELAXED);
		CRASH_POINT("split used-element half");
		__atomic_store_n(&element[1], vq->slots[head].written, __ATOMIC_RELAXED);
		CRASH_POINT("used-element after");
	}
}

/* The batch as a list, so that a successor which finds used.idx moved knows whose flags to clear. It counts
 * only from the moment used.idx moves, and then as many entries as it moved by. */
static void link_batch(struct vq *vq, struct inflight_split *r)
{
	uint16_t head = INFLIGHT_LOAD(r->last_batch_head);

	for (uint16_t i = 0; i < vq->n_staged; i++) {
		INFLIGHT_STORE(r->desc[vq->staged[i]].next, head);
		head = vq->staged[i];
		CRASH_POINT("split batch linked");
	}
	INFLIGHT_STORE(r->last_batch_head, head);
}

static bool split_publish(struct vq *vq)
{
	struct vq_split *s = &vq->split;
	uint16_t old = s->used_idx, now = (uint16_t)(old + vq->n_staged);

	write_elements(vq);
	if (s->region)
		link_batch(vq, s->region);
	CRASH_POINT("used-index before");
	__atomic_store_n(&s->used[IDX], now, __ATOMIC_SEQ_CST);
	CRASH_POINT("used-index after");
	for (uint16_t i = 0; i < vq->n_staged; i++) {
		CRASH_POINT("flag-clear before");
		if (s->region)
			INFLIGHT_STORE(s->region->desc[vq->staged[i]].inflight, 0);
		CRASH_POINT("flag-clear after");
		vq->slots[vq->staged[i]].state = SLOT_FREE;
	}
	if (s->region)
		INFLIGHT_STORE(s->region->used_idx, now);
	CRASH_POINT("publish settled");
	s->used_idx = now;
	vq->n_taken = (uint16_t)(vq->n_taken - vq->n_staged);
	vq->n_staged = 0;
	return wants_call(vq, old, now);
}

static void split_dirty(struct vq *vq)
{
	mem_dirty_ptr(vq->mem, vq->split.used, used_bytes(vq));
}

static void split_disable_kicks(struct vq *vq)
{
	/* With event indices the last avail_event simply stays behind: the driver has passed it. */
	if (!vq->event_idx)
		__atomic_store_n(&vq->split.used[FLAGS], VRING_USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
}

static bool split_enable_kicks(struct vq *vq)
{
	if (vq->event_idx)
		__atomic_store_n(avail_event(vq), vq->split.last_avail, __ATOMIC_SEQ_CST);
	else
		__atomic_store_n(&vq->split.used[FLAGS], 0, __ATOMIC_SEQ_CST);
	return __atomic_load_n(&vq->split.avail[IDX], __ATOMIC_SEQ_CST) != vq->split.last_avail;
}

static bool split_has_avail(const struct vq *vq)
{
	return __atomic_load_n(&vq->split.avail[IDX], __ATOMIC_RELAXED) != vq->split.last_avail;
}

static uint32_t split_base(const struct vq *vq)
{
	return vq->split.last_avail;
}

const struct vq_ops vq_split_ops = {
	.ring = split_ring,
	.init = split_init,
	.pop = split_pop,
	.unpop = split_unpop,
	.publish = split_publish,
	.dirty = split_dirty,
	.disable_kicks = split_disable_kicks,
	.enable_kicks = split_enable_kicks,
	.has_avail = split_has_avail,
	.base = split_base,
};
