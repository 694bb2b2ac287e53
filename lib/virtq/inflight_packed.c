/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a packed ring's device takes over from a process that died.
 *
 * The region holds each position twice. The old_ ones are as of the last finished step; the others run ahead
 * while a chain is fetched or a batch published. One question decides which hold: has the driver been shown the
 * batch, that is, was the descriptor at the old used position overwritten? If so the batch is finished on its
 * behalf, else what was begun is taken back. Whatever then stands in the free list is not in flight.
 *
 * The specification leaves one thing out. The process may have died after it wrote the later used descriptors
 * of a batch and before the first, which shows them: the driver would take them for completions as soon as a
 * successor writes the first one alone. So every descriptor in flight is marked available again.
 */
#include <errno.h>

#include "clean.h"
#include "crash.h"
#include "num.h"
#include "packed_priv.h"
#include "virtq_priv.h"

/* What the walks over the region found out about its entries. */
struct survey {
	bool *seen;
	uint64_t *counters;
	uint32_t free;
	uint32_t taken;
};

static int check_header(const struct vq *vq, struct inflight_packed *r)
{
	if (INFLIGHT_LOAD(r->features) || INFLIGHT_LOAD(r->version) != INFLIGHT_VERSION ||
	    INFLIGHT_LOAD(r->desc_num) != vq->size)
		return -EPROTO;
	return 0;
}

/* Takes the positions over, the batch that was being published finished or taken back. */
static int settle(struct vq *vq, struct inflight_packed *r)
{
	struct vq_packed *p = &vq->packed;
	struct vq_pos old = { INFLIGHT_LOAD(r->old_used_idx), INFLIGHT_LOAD(r->old_used_wrap) };
	struct vq_pos ahead = { INFLIGHT_LOAD(r->used_idx), INFLIGHT_LOAD(r->used_wrap) };
	uint16_t free_head = INFLIGHT_LOAD(r->old_free_head);

	if (old.idx >= vq->size || ahead.idx >= vq->size)
		return -EPROTO;
	/* The wrap bits too: a batch as large as the ring ends where it began. */
	if (old.idx != ahead.idx || old.wrap != ahead.wrap) {
		uint64_t rest = __atomic_load_n(&p->desc[old.idx].rest, __ATOMIC_RELAXED);
		uint16_t flags = (uint16_t)(rest >> 48) & (DESC_AVAIL | DESC_USED);

		if (flags != packed_avail_flags(old.wrap)) {
			free_head = INFLIGHT_LOAD(r->free_head);
			old = ahead;
		}
	}
	if (free_head > vq->size)
		return -EPROTO;
	p->used = old;
	p->free_head = free_head;
	return 0;
}

/* The free list ends with an index that is the ring's size. */
static int walk_free(struct vq *vq, struct inflight_packed *r, struct survey *s)
{
	for (uint16_t at = vq->packed.free_head; at != vq->size; at = vq->slots[at].next) {
		if (at > vq->size || s->seen[at])
			return -EPROTO;
		s->seen[at] = true;
		s->free++;
		INFLIGHT_STORE(r->desc[at].inflight, 0);
		CRASH_POINT("packed recover-free cleared");
		vq->slots[at].next = INFLIGHT_LOAD(r->desc[at].next);
	}
	return 0;
}

/* Copies the chain that begins at head into private memory. */
static int copy_chain(struct vq *vq, struct inflight_packed *r, struct survey *s, uint16_t head)
{
	struct vq_packed *p = &vq->packed;
	struct vq_slot *slot = &vq->slots[head];
	uint16_t num = INFLIGHT_LOAD(r->desc[head].num), at = head;

	if (!num || num > vq->size)
		return -EPROTO;
	for (uint16_t n = 0; n < num; n++) {
		const struct inflight_packed_desc *d;

		if (n)
			at = vq->slots[at].next;
		if (at >= vq->size || s->seen[at])
			return -EPROTO;
		d = &r->desc[at];
		s->seen[at] = true;
		slot->id = INFLIGHT_LOAD(d->id);
		p->saved[at].addr = INFLIGHT_LOAD(d->addr);
		p->saved[at].rest = INFLIGHT_LOAD(d->len) | (uint64_t)INFLIGHT_LOAD(d->flags) << 48;
		vq->slots[at].next = INFLIGHT_LOAD(d->next);
	}
	if (at != INFLIGHT_LOAD(r->desc[head].last))
		return -EPROTO;
	slot->last = at;
	slot->num = num;
	s->taken += num;
	return 0;
}

static int list_one(struct vq *vq, struct inflight_packed *r, struct survey *s, uint16_t head)
{
	struct vq_packed *p = &vq->packed;
	struct vq_slot *slot = &vq->slots[head];
	uint64_t counter = INFLIGHT_LOAD(r->desc[head].counter), bit;
	int err;

	if (INFLIGHT_LOAD(r->desc[head].inflight) != 1 || counter == UINT64_MAX)
		return -EPROTO;
	err = copy_chain(vq, r, s, head);
	if (err)
		return err;
	bit = 1ULL << (slot->id % 64);
	if (p->ids[slot->id / 64] & bit)
		return -EPROTO;
	p->ids[slot->id / 64] |= bit;
	slot->note = inflight_note_death(INFLIGHT_LOAD(r->desc[head].note));
	CRASH_POINT("recover-note before");
	inflight_mark(&r->desc[head].inflight, slot->note);
	CRASH_POINT("recover-note after");
	slot->state = SLOT_PENDING;
	s->counters[head] = counter;
	p->counter = MAX(p->counter, counter + 1);
	vq->resubmit[vq->n_resubmit++] = head;
	return 0;
}

/* Undoes used flags that the driver was never shown, in all that is in flight. */
static void mark_available(struct vq *vq, uint16_t taken)
{
	struct vq_packed *p = &vq->packed;
	struct vq_pos at = p->used;
	const uint64_t both = (uint64_t)(DESC_AVAIL | DESC_USED) << 48;

	for (uint16_t n = 0; n < taken; n++, at = vq_pos_add(at, 1, vq->size)) {
		uint64_t want = (uint64_t)packed_avail_flags(at.wrap) << 48;
		uint64_t rest = __atomic_load_n(&p->desc[at.idx].rest, __ATOMIC_RELAXED);

		if ((rest & both) == want)
			continue;
		CRASH_POINT("packed recover-available before");
		__atomic_store_n(&p->desc[at.idx].rest, (rest & ~both) | want, __ATOMIC_RELEASE);
		CRASH_POINT("packed recover-available after");
	}
}

/* Only when the entries are right is it written down that the batch is settled, the positions last: if we die
 * before them, the question above has the same answer for our successor. */
static void write_down(struct vq *vq, struct inflight_packed *r)
{
	struct vq_packed *p = &vq->packed;

	CRASH_POINT("recover-settle before");
	INFLIGHT_STORE(r->free_head, p->free_head);
	CRASH_POINT("packed recover-settle head");
	INFLIGHT_STORE(r->old_free_head, p->free_head);
	CRASH_POINT("packed recover-settle heads");
	inflight_positions(r, vq_pos_code(p->used), vq_pos_code(p->used));
	CRASH_POINT("recover-settle after");
}

static int survey(struct vq *vq, struct inflight_packed *r, struct survey *s)
{
	int err = walk_free(vq, r, s);

	for (uint16_t head = 0; !err && head < vq->size; head++) {
		if (!s->seen[head] && INFLIGHT_LOAD(r->desc[head].inflight))
			err = list_one(vq, r, s, head);
	}
	if (!err && s->free + s->taken != vq->size)
		err = -EPROTO; /* entries in no list */
	return err;
}

int inflight_packed_recover(struct vq *vq)
{
	struct vq_packed *p = &vq->packed;
	struct inflight_packed *r = p->region;
	CLEAN_FREE bool *seen = calloc(vq->size, sizeof(*seen));
	CLEAN_FREE uint64_t *counters = calloc(vq->size, sizeof(*counters));
	struct survey s = { .seen = seen, .counters = counters };
	int err;

	p->saved = calloc(vq->size, sizeof(*p->saved));
	if (!seen || !counters || !p->saved)
		return -ENOMEM;
	CRASH_POINT("recover-read before");
	err = check_header(vq, r);
	if (!err)
		err = settle(vq, r);
	if (!err)
		err = survey(vq, r, &s);
	if (err)
		return err;
	mark_available(vq, (uint16_t)s.taken);
	write_down(vq, r);
	vq_sort_by_counter(vq->resubmit, vq->n_resubmit, counters);
	p->taken = (uint16_t)s.taken;
	p->avail = vq_pos_add(p->used, p->taken, vq->size);
	CRASH_POINT("recover-read after");
	return 0;
}
