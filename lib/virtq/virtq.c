/* SPDX-License-Identifier: Apache-2.0 */
/* A queue's making and end, and what both ring formats have in common. */
#include "virtq.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "chain.h"
#include "clean.h"
#include "num.h"
#include "virtq_priv.h"

#define FEATURE(bit) (1ULL << (bit))

#define TRIAL_DEATHS 2 /* from which on a request is taken up alone */

/* Whose turn is over. */
static void pass_on_trial(struct vq *vq)
{
	bool was = vq->trial && vq->trials;

	vq->trial = false;
	if (!was)
		return;
	atomic_store(&vq->trials->busy, false);
	vq->trials->over(vq->trials->arg);
}

static void free_cleanup(struct vq **vq)
{
	vq_free(*vq);
}
#define CLEAN_VQ __attribute__((cleanup(free_cleanup)))

static int check(const struct vq_config *c)
{
	bool packed = c->features & FEATURE(VIRTIO_F_RING_PACKED);

	if (!c->size || c->size > VQ_SIZE_MAX || (!packed && !num_is_pow2(c->size)))
		return -EINVAL;
	if (!c->iov_max || (uintptr_t)c->inflight % 8)
		return -EINVAL;
	return 0;
}

static int allocate(struct vq *vq)
{
	vq->slots = calloc(vq->size, sizeof(*vq->slots));
	vq->staged = calloc(vq->size, sizeof(*vq->staged));
	vq->resubmit = calloc(vq->size, sizeof(*vq->resubmit));
	return vq->slots && vq->staged && vq->resubmit ? 0 : -ENOMEM;
}

int vq_new(const struct vq_config *config, struct vq **out)
{
	CLEAN_VQ struct vq *vq = NULL;
	int err = check(config);

	if (err)
		return err;
	vq = calloc(1, sizeof(*vq));
	if (!vq)
		return -ENOMEM;
	vq->ops = config->features & FEATURE(VIRTIO_F_RING_PACKED) ? &vq_packed_ops : &vq_split_ops;
	vq->mem = mem_get(config->mem);
	vq->size = config->size;
	vq->iov_max = config->iov_max;
	vq->hand = VQ_NO_HAND;
	vq->event_idx = config->features & FEATURE(VIRTIO_RING_F_EVENT_IDX);
	vq->indirect = config->features & FEATURE(VIRTIO_RING_F_INDIRECT_DESC);
	vq->log_used = config->log_used;
	vq->buffers = config->buffers;
	vq->trials = config->trials;
	vq->call_once = true;
	vq->desc_user = config->desc;
	vq->avail_user = config->avail;
	vq->used_user = config->used;
	err = allocate(vq);
	if (!err)
		err = vq->ops->ring(vq);
	if (!err)
		err = vq->ops->init(vq, config);
	if (err)
		return err == -EFAULT ? -EINVAL : err;
	*out = TAKE_PTR(vq);
	return 0;
}

void vq_free(struct vq *vq)
{
	if (!vq)
		return;
	pass_on_trial(vq);
	if (vq->ops == &vq_packed_ops) {
		free(vq->packed.saved);
		free(vq->packed.ids);
	}
	free(vq->slots);
	free(vq->staged);
	free(vq->resubmit);
	mem_put(vq->mem);
	free(vq);
}

/* ---- what the in-flight region says of a request ---- */

static void set_note(struct vq *vq, uint16_t head, unsigned note)
{
	vq->slots[head].note = (uint8_t)note;
	if (vq->notes)
		INFLIGHT_STORE(vq->notes[head * vq->note_step], note);
}

void vq_lay_down(struct vq *vq)
{
	/* On trial it stays in hand to the end. */
	if (vq->hand == VQ_NO_HAND || VQ_UNLIKELY(vq->trial))
		return;
	set_note(vq, (uint16_t)vq->hand, vq->slots[vq->hand].note & ~(unsigned)NOTE_HAND);
	vq->hand = VQ_NO_HAND;
}

void vq_take_up(struct vq *vq, uint16_t head)
{
	if (VQ_UNLIKELY(vq->trial))
		return;
	vq_lay_down(vq);
	set_note(vq, head, vq->slots[head].note | NOTE_HAND);
	vq->hand = head;
}

bool vq_is_tracked(const struct vq *vq)
{
	return vq->notes;
}

void vq_hand_over(struct vq *vq)
{
	for (size_t i = 0; vq->notes && i < vq->size; i++) {
		uint8_t *note = &vq->notes[i * vq->note_step];

		INFLIGHT_STORE(*note, *note & ~(unsigned)(NOTE_DEATHS | NOTE_HAND));
	}
}

void vq_fail(struct vq *vq, uint16_t head)
{
	set_note(vq, head, vq->slots[head].note | NOTE_FAILED);
}

/* ---- taking requests ---- */

static bool needs_trial(const struct vq *vq)
{
	uint8_t note;

	if (!vq->n_resubmit || vq->buffers)
		return false;
	note = vq->slots[vq->resubmit[vq->next_resubmit]].note;
	return (note & NOTE_DEATHS) >= TRIAL_DEATHS && (note & NOTE_POISON) != NOTE_POISON &&
	       !(note & NOTE_FAILED);
}

bool vq_is_kept_back(const struct vq *vq)
{
	return needs_trial(vq) && !vq->n_taken && vq->trials && atomic_load(&vq->trials->busy);
}

/* True while nothing may be taken: for a trial, here or elsewhere, or since one is about to begin. */
static bool must_wait(const struct vq *vq)
{
	return (vq->n_taken && (vq->trial || needs_trial(vq))) || vq_is_kept_back(vq);
}

/* False if another queue was faster: its end is told. */
static bool begin_trial(struct vq *vq)
{
	vq->trial = !vq->trials || !atomic_exchange(&vq->trials->busy, true);
	return vq->trial;
}

static void end_trial(struct vq *vq)
{
	if (!vq->trial)
		return;
	pass_on_trial(vq);
	vq_lay_down(vq);
}

void vq_break(struct vq *vq)
{
	vq->broken = true;
	pass_on_trial(vq);
}

static void pop_again(struct vq *vq, struct vq_chain *chain)
{
	unsigned note = vq->slots[chain->head].note;

	chain->poisoned = (note & NOTE_POISON) == NOTE_POISON;
	chain->failed = note & NOTE_FAILED;
	chain->deaths = note & NOTE_DEATHS;
	set_note(vq, chain->head, note | NOTE_HAND);
}

static void pop_new(struct vq *vq, struct vq_chain *chain)
{
	vq->slots[chain->head].note = NOTE_HAND; /* the region says so since it was marked */
	chain->poisoned = chain->failed = false;
	chain->deaths = 0;
}

int vq_pop(struct vq *vq, struct vq_chain *chain)
{
	int got;

	if (VQ_UNLIKELY(vq->broken))
		return -ENOTCONN;
	if (VQ_UNLIKELY(vq->trial || vq->n_resubmit) && must_wait(vq))
		return 0;
	vq_lay_down(vq);
	if (VQ_UNLIKELY(needs_trial(vq)) && !begin_trial(vq))
		return 0;
	got = vq->ops->pop(vq, chain);
	if (VQ_UNLIKELY(got < 0))
		vq_break(vq);
	if (got <= 0)
		return got;
	if (VQ_UNLIKELY(chain->resubmitted))
		pop_again(vq, chain);
	else
		pop_new(vq, chain);
	vq->hand = chain->head;
	return 1;
}

void vq_push(struct vq *vq, uint16_t head, uint32_t written)
{
	struct vq_slot *slot = &vq->slots[head];

	assert(head < vq->size && slot->state == SLOT_TAKEN); /* a device that completes what it has not */
	slot->state = SLOT_STAGED;
	slot->written = MIN(written, slot->in_len);
	vq->staged[vq->n_staged++] = head;
}

/* It waits to be taken again, before all that is in the list already. */
static void resubmit_again(struct vq *vq, uint16_t head)
{
	vq->resubmit[--vq->next_resubmit] = head;
	vq->n_resubmit++;
}

/*
 * One that a predecessor had goes back to the ring only if it is known to stand there, and else waits in flight as it did
 * before: who died may have completed others that came later, and have overwritten its place.
 */
int vq_unpop(struct vq *vq, uint16_t head)
{
	struct vq_slot *slot = &vq->slots[head];
	bool again = slot->note & NOTE_DEATHS;
	int err = 0;

	assert(head < vq->size && slot->state == SLOT_TAKEN);
	if (!VQ_UNLIKELY(vq->gone))
		err = vq->ops->unpop(vq, head);
	if (err && !again)
		return err;
	if (err) {
		set_note(vq, head, slot->note & ~(unsigned)NOTE_HAND);
		resubmit_again(vq, head);
	}
	slot->state = err ? SLOT_PENDING : SLOT_FREE;
	vq->n_taken--;
	if (vq->hand == head) {
		vq->hand = VQ_NO_HAND;
		end_trial(vq);
	}
	return 0;
}

/* The caller need not know that there is nobody to tell. */
static void forget_staged(struct vq *vq)
{
	for (uint16_t i = 0; i < vq->n_staged; i++)
		vq->slots[vq->staged[i]].state = SLOT_FREE;
	vq->n_taken = (uint16_t)(vq->n_taken - vq->n_staged);
	vq->n_staged = 0;
}

bool vq_publish(struct vq *vq)
{
	bool call;

	if (!vq->n_staged)
		return false;
	if (VQ_UNLIKELY(vq->gone)) {
		forget_staged(vq);
		pass_on_trial(vq);
		return false;
	}
	call = vq->ops->publish(vq);
	if (VQ_UNLIKELY(vq->trial))
		end_trial(vq);
	if (VQ_UNLIKELY(vq->log_used))
		vq->ops->dirty(vq);
	if (VQ_UNLIKELY(vq->call_once)) {
		vq->call_once = false;
		call = true;
	}
	return call;
}

void vq_disable_kicks(struct vq *vq)
{
	if (!vq->broken)
		vq->ops->disable_kicks(vq);
}

bool vq_enable_kicks(struct vq *vq)
{
	/* The end of a trial wakes the caller, no kick. */
	if (vq->broken || must_wait(vq))
		return false;
	return vq->ops->enable_kicks(vq) || vq->n_resubmit;
}

bool vq_has_avail(const struct vq *vq)
{
	return !vq->broken && !must_wait(vq) && (vq->n_resubmit || vq->ops->has_avail(vq));
}

uint16_t vq_resubmits(const struct vq *vq)
{
	return vq->n_resubmit;
}

uint16_t vq_size(const struct vq *vq)
{
	return vq->size;
}

uint16_t vq_in_flight(const struct vq *vq)
{
	return vq->n_taken;
}

uint32_t vq_base(const struct vq *vq)
{
	return vq->ops->base(vq);
}

int vq_set_mem(struct vq *vq, struct mem *mem)
{
	struct mem *old = vq->mem;
	int err;

	vq->mem = mem_get(mem);
	vq->window = (struct mem_window) { .size = 0 };
	err = vq->ops->ring(vq);
	mem_put(old);
	vq->gone = err;
	if (err) {
		vq->broken = true;
		return -EFAULT;
	}
	return 0;
}

int vq_chain_add_slow(struct vq *vq, struct vq_chain *c, uint64_t addr, uint32_t len, bool write)
{
	int n = c->out_num + c->in_num;
	int got = mem_iov(vq->mem, addr, len, &c->iov[n], vq->iov_max - n);

	if (got < 0)
		return got;
	if (write)
		c->in_num = (uint16_t)(c->in_num + got);
	else
		c->out_num = (uint16_t)(c->out_num + got);
	return 0;
}

int vq_table_read_slow(struct vq *vq, uint64_t addr, struct vq_desc *out)
{
	const uint8_t *at = mem_at_window(vq->mem, &vq->window, addr, sizeof(*out));
	uint8_t bytes[sizeof(*out)];

	if (!at)
		return -EFAULT;
	for (unsigned b = 0; b < sizeof(bytes); b++)
		bytes[b] = __atomic_load_n(&at[b], __ATOMIC_RELAXED);
	memcpy(out, bytes, sizeof(bytes));
	return 0;
}

static int by_counter(const void *a, const void *b, void *counters)
{
	uint16_t x = *(const uint16_t *)a, y = *(const uint16_t *)b;
	uint64_t cx = ((const uint64_t *)counters)[x], cy = ((const uint64_t *)counters)[y];

	if (cx != cy)
		return cx < cy ? -1 : 1;
	return (int)x - (int)y;
}

void vq_sort_by_counter(uint16_t *heads, uint16_t n, uint64_t *counters)
{
	qsort_r(heads, n, sizeof(*heads), by_counter, counters);
}
