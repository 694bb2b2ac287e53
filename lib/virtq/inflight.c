/* SPDX-License-Identifier: Apache-2.0 */
/* The in-flight region before its first use: size, initial contents. */
#include "inflight.h"

#include <string.h>

#include "inflight_priv.h"
#include "num.h"

size_t inflight_queue_bytes(uint16_t size, bool packed)
{
	size_t header = packed ? sizeof(struct inflight_packed) : sizeof(struct inflight_split);
	size_t desc = packed ? sizeof(struct inflight_packed_desc) : sizeof(struct inflight_split_desc);

	return num_align_up(header + desc * size, 64);
}

static void init_split(struct inflight_split *r, uint16_t size, uint16_t used_idx)
{
	r->desc_num = size;
	r->last_batch_head = INFLIGHT_NO_HEAD;
	r->used_idx = used_idx;
	INFLIGHT_STORE(r->version, INFLIGHT_VERSION);
}

static void init_packed(struct inflight_packed *r, uint16_t size, uint16_t base)
{
	r->desc_num = size;
	r->used_idx = r->old_used_idx = base & 0x7fff;
	r->used_wrap = r->old_used_wrap = (uint8_t)(base >> 15);
	for (uint16_t i = 0; i < size; i++)
		r->desc[i].next = (uint16_t)(i + 1);
	INFLIGHT_STORE(r->version, INFLIGHT_VERSION);
}

/* The version goes in last: whoever dies before it leaves a region that still counts as blank. */
void inflight_init(void *queue, uint16_t size, bool packed, uint16_t base)
{
	/* Both layouts begin with features and version. */
	INFLIGHT_STORE(((struct inflight_split *)queue)->version, 0);
	memset(queue, 0, inflight_queue_bytes(size, packed));
	if (packed)
		init_packed(queue, size, base);
	else
		init_split(queue, size, base);
}

uint8_t inflight_note_death(uint8_t note)
{
	uint8_t deaths = note & NOTE_DEATHS, now = note & (NOTE_POISON | NOTE_FAILED);

	if ((note & NOTE_HAND) && (note & NOTE_POISON) != NOTE_POISON)
		now = (uint8_t)(now + NOTE_GUILT_1);
	return (uint8_t)(now | MIN(deaths + 1, NOTE_DEATHS));
}

void inflight_packed_used(const void *queue, uint16_t *used, uint16_t *old)
{
	const struct inflight_packed *r = queue;
	uint64_t word = INFLIGHT_LOAD(*(const inflight_word64 *)(const void *)&r->used_idx);

	*used = (uint16_t)((word & 0x7fff) | (word >> 32 & 1) << 15);
	*old = (uint16_t)((word >> 16 & 0x7fff) | (word >> 40 & 1) << 15);
}

bool inflight_is_blank(const void *queue)
{
	return INFLIGHT_LOAD(((const struct inflight_split *)queue)->version) == 0;
}

bool inflight_is_fresh(const void *queue, uint16_t size, bool packed)
{
	const struct inflight_packed *p = queue;
	const struct inflight_split *s = queue;

	if (inflight_is_blank(queue))
		return true;
	if (!packed && INFLIGHT_LOAD(s->last_batch_head) != INFLIGHT_NO_HEAD)
		return false;
	for (uint16_t i = 0; i < size; i++) {
		/* What a packed ring's request was stays there when it is over. */
		if (packed ? INFLIGHT_LOAD(p->desc[i].num) : INFLIGHT_LOAD(s->desc[i].inflight))
			return false;
	}
	return true;
}
