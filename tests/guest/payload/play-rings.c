/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the playing guest puts into rings: chains of requests that are mostly right, spoiled before or after the device is
 * told of them. A descriptor that leads to an indirect table says so before it has the address, and one that does not has its
 * address first: whatever moment a device reads it at, it never takes a table for a buffer to be written.
 */
#include "play.h"

#define DESC_AVAIL (1u << 7)
#define DESC_USED  (1u << 15)

#define BLK_DISCARD      11
#define BLK_WRITE_ZEROES 13

/* A descriptor of either kind of ring: what stands last has another order. */
struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t a, b; /* split: flags, next; packed: id, flags */
};

struct split_avail {
	uint16_t flags, idx, ring[PLAY_SIZE + 1];
};

struct split_used {
	uint16_t flags, idx;
	struct vring_used ring[PLAY_SIZE];
};

static volatile struct desc *descs_of(const struct play_lane *l)
{
	return (volatile struct desc *)(uintptr_t)l->descs;
}

static volatile struct desc *table_of(const struct play_lane *l, unsigned head)
{
	return (volatile struct desc *)(uintptr_t)(l->tables + head * PLAY_TABLE * sizeof(struct desc));
}

static volatile struct split_avail *avail_of(const struct play_lane *l)
{
	return (volatile struct split_avail *)(uintptr_t)l->avail;
}

static volatile struct split_used *used_of(const struct play_lane *l)
{
	return (volatile struct split_used *)(uintptr_t)l->used;
}

void play_lane_clear(struct play_lane *l, bool packed)
{
	memset((void *)(uintptr_t)l->descs, 0, PLAY_SIZE * sizeof(struct desc));
	memset((void *)(uintptr_t)l->avail, 0, sizeof(struct split_avail));
	memset((void *)(uintptr_t)l->used, 0, sizeof(struct split_used));
	l->next = l->seen = l->added = l->out = 0;
	l->wrap = l->seen_wrap = true;
	if (packed)
		memset(l->length, 0, sizeof(l->length));
}

/* ---- chains ---- */

static void set_desc(volatile struct desc *at, const struct play_part *part, uint16_t a, uint16_t b)
{
	at->addr = part->addr;
	at->len = part->len;
	at->a = a;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	at->b = b;
}

static void fill_table(const struct play_device *d, const struct play_lane *l, unsigned head,
		       const struct play_part *parts, unsigned n)
{
	volatile struct desc *table = table_of(l, head);

	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = (uint16_t)((parts[i].write ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0));

		if (d->packed)
			set_desc(&table[i], &parts[i], 0, flags & DESC_WRITE);
		else
			set_desc(&table[i], &parts[i], flags, (uint16_t)(i + 1));
	}
}

static void put_split(struct play_device *d, struct play_lane *l, const struct play_part *parts, unsigned n,
		      bool table)
{
	volatile struct desc *descs = descs_of(l);
	uint16_t head = l->next;

	if (table) {
		fill_table(d, l, head, parts, n);
		descs[head].a = DESC_INDIRECT;
		descs[head].b = 0;
		__atomic_thread_fence(__ATOMIC_RELEASE);
		descs[head].addr = l->tables + head * PLAY_TABLE * sizeof(struct desc);
		descs[head].len = n * (uint32_t)sizeof(struct desc);
		l->next = (uint16_t)((head + 1) % l->size);
	} else {
		for (unsigned i = 0; i < n; i++) {
			uint16_t at = l->next;

			l->next = (uint16_t)((at + 1) % l->size);
			set_desc(&descs[at], &parts[i],
				 (uint16_t)((parts[i].write ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0)),
				 l->next);
		}
	}
	avail_of(l)->ring[l->added++ % l->size] = head;
}

/* Descriptors at l->next and on, of which the first is shown last. */
static void put_packed(struct play_device *d, struct play_lane *l, const struct play_part *parts, unsigned n,
		       bool table)
{
	volatile struct desc *descs = descs_of(l);
	uint16_t head = l->next, first = 0;
	struct play_part whole = { .addr = l->tables + head * PLAY_TABLE * sizeof(struct desc),
				   .len = n * (uint32_t)sizeof(struct desc) };

	if (table) {
		fill_table(d, l, head, parts, n);
		parts = &whole;
		n = 1;
	}
	l->length[head] = (uint16_t)n;
	l->out = (uint16_t)(l->out + n);
	for (unsigned i = 0; i < n; i++) {
		uint16_t flags =
		    (uint16_t)((l->wrap ? DESC_AVAIL : DESC_USED) | (parts[i].write ? DESC_WRITE : 0) |
			       (i + 1 < n ? DESC_NEXT : 0) | (table ? DESC_INDIRECT : 0));

		if (table)
			descs[l->next].b = DESC_INDIRECT | (l->wrap ? DESC_USED : DESC_AVAIL);
		set_desc(&descs[l->next], &parts[i], head, i ? flags : descs[l->next].b);
		if (!i)
			first = flags;
		l->next++;
		if (l->next == l->size) {
			l->next = 0;
			l->wrap = !l->wrap;
		}
	}
	__atomic_thread_fence(__ATOMIC_RELEASE);
	descs[head].b = first;
	l->added++;
}

static bool has_room(const struct play_device *d, const struct play_lane *l)
{
	uint16_t out = l->out;

	if (!d->packed)
		out = (uint16_t)((l->added - used_of(l)->idx) * PLAY_TABLE);
	return out + PLAY_TABLE <= l->size;
}

bool play_take(struct play_device *d, struct play_lane *l)
{
	uint16_t id, flags;

	if (!d->packed) {
		if (__atomic_load_n(&used_of(l)->idx, __ATOMIC_ACQUIRE) == l->seen)
			return false;
		l->seen++;
		return true;
	}
	flags = __atomic_load_n(&descs_of(l)[l->seen].b, __ATOMIC_ACQUIRE);
	if (!(flags & DESC_AVAIL) != !l->seen_wrap || !(flags & DESC_USED) != !l->seen_wrap)
		return false;
	id = descs_of(l)[l->seen].a % PLAY_SIZE;
	if (!l->length[id] || l->length[id] > l->out)
		return false;
	l->out = (uint16_t)(l->out - l->length[id]);
	l->seen = (uint16_t)(l->seen + l->length[id]);
	l->length[id] = 0;
	if (l->seen >= l->size) {
		l->seen = (uint16_t)(l->seen - l->size);
		l->seen_wrap = !l->seen_wrap;
	}
	return true;
}

/* ---- what is wrong ---- */

static uint16_t odd_flags(struct play *p)
{
	static const uint16_t flags[] = { 0,
					  DESC_NEXT,
					  DESC_WRITE,
					  DESC_NEXT | DESC_WRITE,
					  DESC_INDIRECT | DESC_NEXT,
					  DESC_INDIRECT | DESC_WRITE,
					  0xffff };

	return play_one_in(p, 4) ? (uint16_t)play_roll(p) : flags[play_pick(p, 7)];
}

static void spoil_desc(struct play *p, const struct play_device *d, const struct play_lane *l,
		       volatile struct desc *at)
{
	uint16_t flags = odd_flags(p);

	switch (play_pick(p, 7)) {
	case 0:
		at->addr = play_address(p);
		break;
	case 1:
		at->len = play_odd(p);
		break;
	case 2:
		at->len = 0;
		break;
	case 3: /* the next one; packed: what it is given back with */
		if (d->packed)
			at->a = (uint16_t)play_odd(p);
		else
			at->b = (uint16_t)(play_one_in(p, 2) ? play_odd(p) : play_pick(p, l->size));
		break;
	case 4: /* a table of an odd length, or in a table */
		if (d->packed)
			at->b = (uint16_t)((at->b & (DESC_AVAIL | DESC_USED)) | DESC_INDIRECT);
		else
			at->a = DESC_INDIRECT;
		__atomic_thread_fence(__ATOMIC_RELEASE);
		at->addr = (uintptr_t)table_of(l, play_pick(p, PLAY_SIZE));
		at->len = play_one_in(p, 2) ? play_pick(p, 400) : play_odd(p);
		break;
	default:
		at->addr = play_address(p);
		__atomic_thread_fence(__ATOMIC_RELEASE);
		if (d->packed)
			at->b = flags;
		else
			at->a = flags;
	}
}

static void spoil_ring(struct play *p, const struct play_device *d, struct play_lane *l)
{
	volatile uint16_t *driver = (volatile uint16_t *)(uintptr_t)l->avail;

	if (d->packed) {
		driver[play_pick(p, 2)] = (uint16_t)play_odd(p);
		return;
	}
	switch (play_pick(p, 5)) {
	case 0:
		avail_of(l)->idx = (uint16_t)(l->added + play_odd(p));
		break;
	case 1:
		avail_of(l)->flags = (uint16_t)play_odd(p);
		break;
	case 2: /* used_event, too */
		avail_of(l)->ring[play_pick(p, l->size + 1)] = (uint16_t)play_odd(p);
		break;
	case 3: /* the same request twice */
		avail_of(l)->ring[l->added % l->size] = avail_of(l)->ring[(l->added - 1u) % l->size];
		avail_of(l)->idx = ++l->added;
		break;
	default:
		if (play_one_in(p, 4)) /* the device's own */
			used_of(l)->idx = (uint16_t)(used_of(l)->idx + play_odd(p));
	}
}

static void spoil(struct play *p, struct play_device *d, struct play_lane *l)
{
	unsigned head = play_pick(p, l->size);

	switch (play_pick(p, 4)) {
	case 0:
		spoil_ring(p, d, l);
		break;
	case 1:
		spoil_desc(p, d, l, &table_of(l, head)[play_pick(p, PLAY_TABLE)]);
		break;
	default: /* one that was put in not long ago */
		spoil_desc(p, d, l,
			   &descs_of(l)[(l->next + l->size - 1 - play_pick(p, 8) % l->size) % l->size]);
	}
}

uint16_t play_put(struct play *p, struct play_device *d, struct play_lane *l, const struct play_part *parts,
		  unsigned n)
{
	uint16_t head = l->next;
	bool table = d->indirect && play_one_in(p, 2);

	if (n > l->size && !table)
		n = l->size;
	if (d->packed)
		put_packed(d, l, parts, n, table);
	else
		put_split(d, l, parts, n, table);
	if (play_wrong(p))
		spoil(p, d, l);
	if (!d->packed)
		__atomic_store_n(&avail_of(l)->idx, l->added, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	p->requests++;
	return head;
}

void play_kick(struct play_device *d, unsigned lane)
{
	if (d->lanes[lane].kick)
		MMIO_WRITE(uint16_t, d->lanes[lane].kick, (uint16_t)lane);
}

/* ---- requests ---- */

static uint64_t data_at(struct play *p, uint32_t len)
{
	uint32_t at = PLAY_DATA + play_pick(p, PLAY_END - PLAY_DATA - len);

	return play_one_in(p, 4) ? at : at & ~511u;
}

/* What follows the header: none, or so many pieces; and how long they are. */
static unsigned disk_data(struct play *p, struct play_part *parts, uint32_t type)
{
	unsigned n = play_pick(p, 4) ? 1 : 1 + play_pick(p, PLAY_TABLE - 3);
	uint64_t *range;

	if (type == BLK_FLUSH)
		return 0;
	if (type == BLK_GET_ID) {
		parts[0] = (struct play_part) { data_at(p, 20), 20, true };
		return 1;
	}
	if (type == BLK_DISCARD || type == BLK_WRITE_ZEROES) {
		parts[0] = (struct play_part) { data_at(p, 512) & ~7u, 16, false };
		range = (uint64_t *)(uintptr_t)parts[0].addr;
		range[0] = play_wrong(p) ? (uint64_t)play_odd(p) << 16 : play_pick(p, 32000);
		range[1] = play_wrong(p) ? play_odd(p) | (uint64_t)play_odd(p) << 32 : 1 + play_pick(p, 256);
		return 1;
	}
	for (unsigned i = 0; i < n; i++) {
		uint32_t len = 512 << play_pick(p, 6);

		if (play_wrong(p))
			len = play_pick(p, 5000);
		parts[i] = (struct play_part) { data_at(p, len), len, type == BLK_IN };
	}
	return n;
}

static unsigned disk_request(struct play *p, struct play_part *parts)
{
	static const uint32_t types[] = { BLK_IN,    BLK_OUT,    BLK_IN,      BLK_OUT,
					  BLK_FLUSH, BLK_GET_ID, BLK_DISCARD, BLK_WRITE_ZEROES };
	uint32_t type = types[play_pick(p, 8)];
	uint64_t header = data_at(p, 512) & ~15u;
	unsigned n = 1;

	parts[0] = (struct play_part) { header, 16, false };
	n += disk_data(p, parts + 1, type);
	if (play_wrong(p))
		type = play_odd(p);
	((volatile uint32_t *)(uintptr_t)header)[0] = type;
	((volatile uint32_t *)(uintptr_t)header)[1] = 0;
	((volatile uint64_t *)(uintptr_t)header)[1] =
	    play_wrong(p) ? (uint64_t)play_odd(p) << 33 | play_odd(p) : play_pick(p, 32700);
	parts[n++] = (struct play_part) { data_at(p, 1), 1, true };
	return n;
}

static unsigned control_request(struct play *p, struct play_part *parts)
{
	uint32_t at = (uint32_t)data_at(p, 512);
	volatile uint8_t *command = (volatile uint8_t *)(uintptr_t)at;
	uint32_t len = play_pick(p, 12);

	command[0] = (uint8_t)play_pick(p, 8);
	command[1] = (uint8_t)play_pick(p, 4);
	for (unsigned i = 0; i < len; i++)
		command[2 + i] = play_one_in(p, 2) ? (uint8_t)play_roll(p) : 0;
	parts[0] = (struct play_part) { at, 2, false };
	parts[1] = (struct play_part) { at + 2, len ? len : 1, false };
	parts[2] = (struct play_part) { data_at(p, 1), 1, true };
	return 3;
}

/* Rings of a port: received, sent, and control. */
static unsigned port_request(struct play *p, struct play_device *d, unsigned lane, struct play_part *parts)
{
	uint32_t at, len, cut;

	if (lane == 0) {
		len = play_one_in(p, 4) ? 1 + play_pick(p, 2000) : 2048;
		parts[0] = (struct play_part) { data_at(p, len), len, true };
		return 1;
	}
	if (lane > 1)
		return control_request(p, parts);
	at = (uint32_t)data_at(p, 8192);
	len = play_frame(p, d, at);
	cut = play_one_in(p, 2) ? len : 1 + play_pick(p, len);
	parts[0] = (struct play_part) { at, cut, false };
	parts[1] = (struct play_part) { at + cut, len - cut, false };
	return cut == len ? 1 : 2;
}

void play_ring(struct play *p)
{
	struct play_device *d = &p->devices[play_pick(p, p->n_devices)];
	unsigned lane = play_pick(p, PLAY_LANES), count = 1 + play_pick(p, 8);
	struct play_lane *l = &d->lanes[lane];
	struct play_part parts[PLAY_TABLE];

	if (!l->on)
		return;
	for (unsigned i = 0; i < PLAY_SIZE && play_take(d, l); i++)
		;
	while (count-- && (has_room(d, l) || play_wrong(p))) {
		unsigned n = d->kind == VIRTIO_BLK ? disk_request(p, parts) : port_request(p, d, lane, parts);

		play_put(p, d, l, parts, n);
	}
	play_kick(d, lane);
	/* While the device reads them. */
	if (play_wrong(p))
		for (unsigned n = play_pick(p, 64); n--;)
			spoil(p, d, l);
}
