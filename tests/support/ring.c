/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver's side of virtqueues for tests. All that the device's side may touch is accessed atomically, so
 * that the thread sanitizer judges the order and not the hardware.
 */
#include "ring.h"

#include <errno.h>
#include <stdlib.h>

#include "num.h"

static void store16(uint16_t *p, uint16_t v, int order)
{
	if (order == __ATOMIC_SEQ_CST)
		__atomic_store_n(p, v, __ATOMIC_SEQ_CST);
	else
		__atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static uint16_t load16(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static bool event_idx(const struct ring *r)
{
	return r->features & RING_F_EVENT_IDX;
}

static int lay_out(struct ring *r)
{
	struct guest *g = r->guest;
	uint64_t n = r->size;

	r->desc = guest_alloc(g, 16 * n, 4096);
	r->avail = guest_alloc(g, r->packed ? 4 : 6 + 2 * n, 64);
	r->used = guest_alloc(g, r->packed ? 4 : 6 + 8 * n, 4096);
	r->tables = guest_alloc(g, r->features & RING_F_INDIRECT ? n * RING_TABLE_MAX * 16 : 16, 64);
	if (!r->desc || !r->avail || !r->used || !r->tables)
		return -ENOSPC;
	r->desc_ptr = guest_ptr(g, r->desc, 16 * n);
	r->avail_ptr = guest_ptr(g, r->avail, 4);
	r->used_ptr = guest_ptr(g, r->used, 4);
	return 0;
}

int ring_init(struct ring *r, struct guest *g, uint16_t size, uint64_t features)
{
	int err;

	*r = (struct ring) { .guest = g,
			     .features = features,
			     .size = size,
			     .packed = features & RING_F_PACKED,
			     .n_free = size };
	err = lay_out(r);
	if (err)
		return err;
	r->next = calloc(size, sizeof(*r->next));
	r->count = calloc(size, sizeof(*r->count));
	if (!r->next || !r->count) {
		ring_free(r);
		return -ENOMEM;
	}
	for (uint16_t i = 0; i < size; i++)
		r->next[i] = (uint16_t)(i + 1);
	ring_start_at(r, 0, true);
	return 0;
}

void ring_free(struct ring *r)
{
	free(r->next);
	free(r->count);
}

void ring_start_at(struct ring *r, uint16_t at, bool wrap)
{
	r->avail_idx = r->used_idx = r->published = at;
	r->avail_wrap = r->used_wrap = wrap;
	if (!r->packed) {
		store16(&r->avail_ptr[1], at, __ATOMIC_RELEASE);
		store16(&r->used_ptr[1], at, __ATOMIC_RELEASE);
		return;
	}
	/* Below the position lies this lap's, from it on last lap's; all used. */
	for (uint16_t i = 0; i < r->size; i++) {
		bool lap = i < at ? wrap : !wrap;

		ring_write_desc(r, i, (struct ring_desc) { .flags = lap ? RING_AVAIL | RING_USED : 0 });
	}
}

void ring_config(const struct ring *r, struct mem *mem, struct vq_config *config)
{
	uint16_t base = r->packed ? (uint16_t)(r->used_idx | (r->used_wrap ? 0x8000U : 0U)) : r->used_idx;

	*config = (struct vq_config) {
		.mem = mem,
		.features = r->features | 1ULL << 32,
		.size = r->size,
		.desc = guest_user(r->guest, r->desc),
		.avail = guest_user(r->guest, r->avail),
		.used = guest_user(r->guest, r->used),
		.base = r->packed ? base | (uint32_t)base << 16 : base,
		.iov_max = 64,
	};
}

static uint64_t desc_rest(bool packed, struct ring_desc d)
{
	uint64_t low = packed ? d.id : d.flags, high = packed ? d.flags : d.id;

	return d.len | low << 32 | high << 48;
}

static void write_desc(uint64_t *at, bool packed, struct ring_desc d)
{
	__atomic_store_n(&at[0], d.addr, __ATOMIC_RELAXED);
	__atomic_store_n(&at[1], desc_rest(packed, d), __ATOMIC_RELEASE);
}

void ring_write_desc(struct ring *r, uint16_t i, struct ring_desc d)
{
	write_desc(&r->desc_ptr[2 * i], r->packed, d);
}

void ring_write_table(struct ring *r, uint64_t table, uint16_t i, struct ring_desc d)
{
	write_desc(guest_ptr(r->guest, table + 16U * i, 16), r->packed, d);
}

uint16_t ring_avail_flags(const struct ring *r)
{
	return r->avail_wrap ? RING_AVAIL : RING_USED;
}

static uint16_t flags_for(const struct ring_buf *buf, bool more)
{
	return (uint16_t)((buf->write ? RING_WRITE : 0) | (more ? RING_NEXT : 0));
}

/* Fills the table that belongs to head or id and returns the one descriptor that names it. */
static struct ring_desc make_table(struct ring *r, uint16_t id, const struct ring_buf *bufs, unsigned n)
{
	uint64_t table = r->tables + (uint64_t)id * RING_TABLE_MAX * 16;

	for (unsigned i = 0; i < n; i++) {
		struct ring_desc d = { .addr = bufs[i].gpa, .len = bufs[i].len, .id = (uint16_t)(i + 1) };

		d.flags = flags_for(&bufs[i], i + 1 < n && !r->packed);
		ring_write_table(r, table, (uint16_t)i, d);
	}
	return (struct ring_desc) { .addr = table, .len = n * 16, .flags = RING_INDIRECT };
}

static int add_split(struct ring *r, const struct ring_buf *bufs, unsigned n, bool indirect)
{
	uint16_t head = r->free_head, at = head;
	unsigned descs = indirect ? 1 : n;

	for (unsigned i = 0; i < descs; i++) {
		struct ring_desc d;

		if (i)
			at = r->next[at];
		d = indirect ? make_table(r, head, bufs, n)
			     : (struct ring_desc) { .addr = bufs[i].gpa,
						    .len = bufs[i].len,
						    .flags = flags_for(&bufs[i], i + 1 < n) };
		d.id = r->next[at];
		ring_write_desc(r, at, d);
	}
	r->free_head = r->next[at];
	r->next[at] = r->size;
	r->count[head] = (uint16_t)descs;
	r->n_free = (uint16_t)(r->n_free - descs);
	ring_put_avail(r, head);
	return head;
}

static void advance(uint16_t *idx, bool *wrap, uint16_t size, uint16_t n)
{
	uint32_t to = (uint32_t)*idx + n;

	if (to >= size) {
		to -= size;
		*wrap = !*wrap;
	}
	*idx = (uint16_t)to;
}

static int add_packed(struct ring *r, const struct ring_buf *bufs, unsigned n, bool indirect)
{
	uint16_t id = r->free_head;
	unsigned descs = indirect ? 1 : n;

	r->free_head = r->next[id];
	for (unsigned i = 0; i < descs; i++) {
		struct ring_desc d = indirect
					 ? make_table(r, id, bufs, n)
					 : (struct ring_desc) { .addr = bufs[i].gpa,
								.len = bufs[i].len,
								.flags = flags_for(&bufs[i], i + 1 < n) };

		d.id = id;
		d.flags |= ring_avail_flags(r);
		if (!r->staged) {
			/* The first descriptor's flags show all that follows: ring_publish writes them. */
			r->first = d;
			d.flags = (uint16_t)(r->avail_wrap ? 0 : RING_AVAIL | RING_USED);
		}
		ring_write_desc(r, r->avail_idx, d);
		advance(&r->avail_idx, &r->avail_wrap, r->size, 1);
		r->staged++;
	}
	r->count[id] = (uint16_t)descs;
	r->n_free = (uint16_t)(r->n_free - descs);
	return id;
}

int ring_add(struct ring *r, const struct ring_buf *bufs, unsigned n, bool indirect)
{
	if (!n || r->n_free < (indirect ? 1 : n) || (indirect && n > RING_TABLE_MAX))
		return -ENOSPC;
	return r->packed ? add_packed(r, bufs, n, indirect) : add_split(r, bufs, n, indirect);
}

void ring_put_avail(struct ring *r, uint16_t head)
{
	__atomic_store_n(&r->avail_ptr[2 + r->avail_idx % r->size], head, __ATOMIC_RELAXED);
	r->avail_idx++;
}

void ring_set_avail_idx(struct ring *r, uint16_t idx)
{
	r->avail_idx = r->published = idx;
	store16(&r->avail_ptr[1], idx, __ATOMIC_SEQ_CST);
}

/* True if event lies in [now - n, now) on the way round; both count from the lap of now. */
static bool passed(const struct ring *r, uint32_t event, uint16_t now, bool wrap, uint16_t n)
{
	int32_t at = (int32_t)(event & 0x7fff) - ((bool)(event & 0x8000) != wrap ? r->size : 0);

	return at >= now - n && at < now;
}

static bool publish_packed(struct ring *r)
{
	uint16_t n = r->staged, first;
	uint32_t event;

	if (!n)
		return false;
	first = (uint16_t)((r->avail_idx + r->size - n) % r->size);
	__atomic_store_n(&r->desc_ptr[2 * first + 1], desc_rest(true, r->first), __ATOMIC_SEQ_CST);
	r->staged = 0;
	event = __atomic_load_n((uint32_t *)(void *)r->used_ptr, __ATOMIC_SEQ_CST);
	if ((event >> 16 & 3) != 2)
		return (event >> 16 & 3) == 0;
	return passed(r, event, r->avail_idx, r->avail_wrap, n);
}

bool ring_publish(struct ring *r)
{
	uint16_t old = r->published, event;

	if (r->packed)
		return publish_packed(r);
	if (old == r->avail_idx)
		return false;
	store16(&r->avail_ptr[1], r->avail_idx, __ATOMIC_SEQ_CST);
	r->published = r->avail_idx;
	if (!event_idx(r))
		return !(load16(&r->used_ptr[0]) & 1);
	event = load16(&r->used_ptr[2 + 4 * r->size]);
	return (uint16_t)(r->avail_idx - event - 1) < (uint16_t)(r->avail_idx - old);
}

/* Gives the descriptors of a completed request back; its id is not outstanding any more. */
static int give_back(struct ring *r, uint32_t id)
{
	uint16_t n, last;

	if (id >= r->size || !r->count[id])
		return -EPROTO;
	n = r->count[id];
	last = (uint16_t)id;
	for (uint16_t i = 1; !r->packed && i < n; i++)
		last = r->next[last];
	r->next[last] = r->free_head;
	r->free_head = (uint16_t)id;
	r->n_free = (uint16_t)(r->n_free + n);
	r->count[id] = 0;
	return n;
}

static int get_split(struct ring *r, uint16_t *id, uint32_t *len)
{
	uint32_t *element = (uint32_t *)(void *)&r->used_ptr[2 + 4 * (r->used_idx % r->size)];
	uint32_t got;

	if (load16(&r->used_ptr[1]) == r->used_idx)
		return 0;
	got = __atomic_load_n(&element[0], __ATOMIC_RELAXED);
	*len = __atomic_load_n(&element[1], __ATOMIC_RELAXED);
	*id = (uint16_t)got;
	if (give_back(r, got) < 0)
		return -EPROTO;
	r->used_idx++;
	return 1;
}

static uint64_t used_word(const struct ring *r)
{
	return __atomic_load_n(&r->desc_ptr[2 * r->used_idx + 1], __ATOMIC_SEQ_CST);
}

static bool is_used(const struct ring *r, uint64_t word)
{
	uint16_t flags = (uint16_t)(word >> 48) & (RING_AVAIL | RING_USED);

	return flags == (r->used_wrap ? RING_AVAIL | RING_USED : 0);
}

static int get_packed(struct ring *r, uint16_t *id, uint32_t *len)
{
	uint64_t word = used_word(r);
	int n;

	if (!is_used(r, word))
		return 0;
	*id = (uint16_t)(word >> 32);
	*len = (uint32_t)word;
	n = give_back(r, *id);
	if (n < 0)
		return -EPROTO;
	advance(&r->used_idx, &r->used_wrap, r->size, (uint16_t)n);
	return 1;
}

int ring_get(struct ring *r, uint16_t *id, uint32_t *len)
{
	return r->packed ? get_packed(r, id, len) : get_split(r, id, len);
}

void ring_disable_calls(struct ring *r)
{
	if (r->packed)
		__atomic_store_n((uint32_t *)(void *)r->avail_ptr, 1U << 16, __ATOMIC_RELAXED);
	else if (!event_idx(r))
		store16(&r->avail_ptr[0], 1, __ATOMIC_RELEASE);
	else /* as far behind as it can be */
		store16(&r->avail_ptr[2 + r->size], (uint16_t)(r->used_idx - 1), __ATOMIC_RELEASE);
}

bool ring_enable_calls(struct ring *r)
{
	uint32_t event = event_idx(r) ? 2U << 16 | r->used_idx | (r->used_wrap ? 0x8000U : 0U) : 0;

	if (r->packed) {
		__atomic_store_n((uint32_t *)(void *)r->avail_ptr, event, __ATOMIC_SEQ_CST);
		return is_used(r, used_word(r));
	}
	if (event_idx(r))
		store16(&r->avail_ptr[2 + r->size], r->used_idx, __ATOMIC_SEQ_CST);
	else
		store16(&r->avail_ptr[0], 0, __ATOMIC_SEQ_CST);
	return load16(&r->used_ptr[1]) != r->used_idx;
}
