/* SPDX-License-Identifier: Apache-2.0 */
/* What stands in a ring that others write while we look. */
#include <linux/virtio_ring.h>

#include "inflight.h"
#include "num.h"
#include "watch_priv.h"

#define READS 4 /* attempts at a consistent look at a ring that moves */

#define DESC_AVAIL (1U << 7)
#define DESC_USED  (1U << 15)

static uint16_t word(const void *area, unsigned index)
{
	return __atomic_load_n((const uint16_t *)area + index, __ATOMIC_ACQUIRE);
}

/* Used is read before and after avail: if it did not move, both are of one moment, and what lies between them is
 * what is outstanding then. */
static struct watch_sample look_split(const struct watch_ring *at)
{
	struct watch_sample s = { 0 };

	for (unsigned i = 0; i < READS; i++) {
		uint16_t used = word(at->used, 1), avail = word(at->avail, 1), n = (uint16_t)(avail - used);

		s = (struct watch_sample) { .pos = used, .owes = n > 0 };
		if (word(at->used, 1) != used)
			continue;
		if (n > at->size)
			s.wrong = "its used index is not among the requests that the driver made available";
		break;
	}
	return s;
}

static bool is_available(const struct watch_ring *at, uint16_t pos)
{
	const struct vring_packed_desc *d = at->desc;
	uint16_t flags = __atomic_load_n(&d[pos & 0x7fff].flags, __ATOMIC_ACQUIRE);

	return (flags & (DESC_AVAIL | DESC_USED)) == (pos >> 15 ? DESC_AVAIL : DESC_USED);
}

/* The descriptor where the next used one goes is available as long as anything is outstanding. While a batch is
 * being shown there are two such places. */
static struct watch_sample look_packed(const struct watch_ring *at)
{
	uint16_t used, old;

	inflight_packed_used(at->inflight, &used, &old);
	if ((used & 0x7fff) >= at->size || (old & 0x7fff) >= at->size)
		return (struct watch_sample) { .wrong = "its used position lies outside the ring" };
	return (struct watch_sample) { .pos = used | (uint32_t)old << 16,
				       .owes = is_available(at, used) || is_available(at, old) };
}

struct watch_sample watch_look(const struct watch_ring *at)
{
	return at->packed ? look_packed(at) : look_split(at);
}

bool watch_hears_kicks(const struct watch_ring *at, uint32_t pos)
{
	uint16_t how;

	if (!at->packed && at->event_idx)
		return word(at->used, 2 + 4U * at->size) == word(at->avail, 1);
	if (!at->packed)
		return !(word(at->used, 0) & VRING_USED_F_NO_NOTIFY);
	how = word(at->used, 1) & 3;
	if (how == VRING_PACKED_EVENT_FLAG_DESC)
		return word(at->used, 0) == (pos & 0xffff);
	return how == VRING_PACKED_EVENT_FLAG_ENABLE;
}

bool watch_names_none(const struct watch_ring *at, uint32_t before, uint32_t now)
{
	const uint32_t *elements = (const uint32_t *)at->used + 1;
	uint16_t n = (uint16_t)(now - before);

	for (unsigned i = 1; i <= MIN(n, at->size); i++)
		if (__atomic_load_n(&elements[2 * ((now - i) % at->size)], __ATOMIC_RELAXED) >= at->size)
			return true;
	return false;
}
