/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a split ring's device takes over from a process that died.
 *
 * Where the process was killed decides what stands in the region:
 *   before inflight = 1           the request was never fetched: it lies above used.idx + number in flight
 *   after it, before used.idx     it is in flight: resubmitted in counter order
 *   after used.idx, before all    the driver has the completions, but flags are still set: the batch list, as
 *   flags are cleared             long as used.idx is ahead of the region's used_idx, names them
 *   after used_idx                nothing is left to do
 * Recovery may itself be killed: clearing the batch again is harmless until used_idx is stored, which is last.
 */
#include <errno.h>

#include "clean.h"
#include "crash.h"
#include "num.h"
#include "virtq_priv.h"

static int finish_batch(struct vq *vq, struct inflight_split *r)
{
	uint16_t left = (uint16_t)(vq->split.used_idx - INFLIGHT_LOAD(r->used_idx));
	uint16_t head = INFLIGHT_LOAD(r->last_batch_head);

	if (left > vq->size)
		return -EPROTO;
	for (; left; left--) {
		if (head >= vq->size)
			return -EPROTO;
		CRASH_POINT("split recover-batch before");
		INFLIGHT_STORE(r->desc[head].inflight, 0);
		CRASH_POINT("split recover-batch after");
		head = INFLIGHT_LOAD(r->desc[head].next);
	}
	CRASH_POINT("recover-settle before");
	INFLIGHT_STORE(r->used_idx, vq->split.used_idx);
	CRASH_POINT("recover-settle after");
	return 0;
}

static int list_one(struct vq *vq, struct inflight_split_desc *d, uint16_t head, uint64_t *counter)
{
	uint8_t inflight = INFLIGHT_LOAD(d->inflight), note;

	if (!inflight)
		return 0;
	*counter = INFLIGHT_LOAD(d->counter);
	if (inflight != 1 || *counter == UINT64_MAX)
		return -EPROTO;
	note = inflight_note_death(INFLIGHT_LOAD(d->note));
	CRASH_POINT("recover-note before");
	inflight_mark(&d->inflight, note);
	CRASH_POINT("recover-note after");
	vq->slots[head].state = SLOT_PENDING;
	vq->slots[head].note = note;
	vq->resubmit[vq->n_resubmit++] = head;
	vq->split.counter = MAX(vq->split.counter, *counter + 1);
	return 0;
}

int inflight_split_recover(struct vq *vq)
{
	struct inflight_split *r = vq->split.region;
	CLEAN_FREE uint64_t *counters = calloc(vq->size, sizeof(*counters));
	int err;

	if (!counters)
		return -ENOMEM;
	if (INFLIGHT_LOAD(r->features) || INFLIGHT_LOAD(r->version) != INFLIGHT_VERSION ||
	    INFLIGHT_LOAD(r->desc_num) != vq->size)
		return -EPROTO;
	CRASH_POINT("recover-read before");
	err = finish_batch(vq, r);
	for (uint16_t head = 0; !err && head < vq->size; head++)
		err = list_one(vq, &r->desc[head], head, &counters[head]);
	if (!err)
		vq_sort_by_counter(vq->resubmit, vq->n_resubmit, counters);
	CRASH_POINT("recover-read after");
	return err;
}
