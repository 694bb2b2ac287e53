/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-virtq: the walk of a split and of a packed ring, and what a device's side takes over from one that died: a driver
 * that adds chains, anybody who writes over ring, tables and in-flight region, a device that pops, gives back, completes
 * and dies.
 *
 * What is popped lies in guest memory and is of a head that is not taken already. While nobody writes over anything, every
 * chain is popped, and completed once.
 */
#include "inflight.h"
#include "ring.h"
#include "virtq.h"

#include "fuzz.h"

#define SIZE_MAX_LOG 5
#define TAKEN_MAX    (1 << SIZE_MAX_LOG)
#define VECTORS      24
#define RING_RAM     0x10000U
#define DATA         0x40000U
#define BYTES        0x2000U
#define APART        0x80000U

static struct guest guest;
static struct mem *mems[2];
static const struct mem_region regions[] = {
	{ .gpa = 0x10000, .size = RING_RAM },
	{ .gpa = DATA, .size = BYTES },
	{ .gpa = DATA + BYTES, .size = BYTES },
	{ .gpa = APART, .size = BYTES },
};

static struct ring ring;
static struct vq *vq;
static struct vq_config config;
static uint8_t *region;
static size_t region_len;
static bool honest;
static uint16_t taken[TAKEN_MAX];
static unsigned n_taken;
static unsigned deaths;

static void make_memory(void)
{
	MUST(guest_init_regions(&guest, regions, ARRAY_SIZE(regions)) == 0);
	mems[0] = guest_mem(&guest);
	MUST(mems[0]);
	/* Without the last region. */
	MUST(mem_without_region(mems[0], &guest.regions[3], &mems[1]) == 0);
}

static bool is_ram(const void *at, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(regions); i++) {
		const uint8_t *base = mem_at(mems[0], regions[i].gpa, regions[i].size);
		uintptr_t off = (uintptr_t)at - (uintptr_t)base;

		if (off < regions[i].size && len <= regions[i].size - off)
			return true;
	}
	return false;
}

/* ---- the device's side ---- */

static void begin(void)
{
	n_taken = 0;
	if (vq_new(&config, &vq)) {
		MUST(!honest);
		vq = NULL;
	}
}

static void die(void)
{
	if (deaths++ >= 8)
		return;
	vq_free(vq);
	begin();
}

static void check(const struct vq_chain *c)
{
	uint64_t out = 0, in = 0;

	MUST(c->out_num + c->in_num >= 1 && c->out_num + c->in_num <= VECTORS);
	for (unsigned i = 0; i < (unsigned)c->out_num + c->in_num; i++) {
		MUST(c->iov[i].iov_len && is_ram(c->iov[i].iov_base, c->iov[i].iov_len));
		if (i < c->out_num)
			out += c->iov[i].iov_len;
		else
			in += c->iov[i].iov_len;
	}
	MUST(out == c->out_len && in == c->in_len);
	MUST(c->head < config.size);
	for (unsigned i = 0; i < n_taken; i++)
		MUST(taken[i] != c->head);
	MUST(n_taken < config.size);
}

static void pop(void)
{
	/* Of the size that it says, so that one more is seen. */
	struct iovec *iov = malloc(VECTORS * sizeof(*iov));
	struct vq_chain chain = { .iov = iov };
	int got = vq ? vq_pop(vq, &chain) : 0;

	MUST(got >= 0 || !honest);
	if (got == 1) {
		check(&chain);
		taken[n_taken++] = chain.head;
		MUST(vq_in_flight(vq) >= n_taken);
	}
	free(iov);
}

static uint16_t take_off(unsigned i)
{
	uint16_t head = taken[i];

	memmove(&taken[i], &taken[i + 1], (--n_taken - i) * sizeof(*taken));
	return head;
}

static void push(struct input *in)
{
	uint32_t written = in_u8(in) & 1 ? in_u32(in) : in_u8(in);

	if (vq && n_taken)
		vq_push(vq, take_off(in_below(in, n_taken)), written);
}

static void unpop(struct input *in)
{
	unsigned i = in_u8(in) & 3 ? n_taken - 1 : 0;

	if (!vq || !n_taken)
		return;
	if (vq_unpop(vq, taken[i]) == 0)
		take_off(i);
}

static void hand(struct input *in)
{
	uint8_t what = in_u8(in);

	if (!vq)
		return;
	if (what & 1 && n_taken)
		vq_take_up(vq, taken[(what >> 2) % n_taken]);
	else if (what & 2 && n_taken)
		vq_fail(vq, taken[(what >> 2) % n_taken]);
	else
		vq_lay_down(vq);
}

static void kicks(struct input *in)
{
	uint8_t what = in_u8(in);

	if (!vq)
		return;
	if (what & 1)
		vq_disable_kicks(vq);
	else
		vq_enable_kicks(vq);
	if (what & 2)
		vq_has_avail(vq);
	if (what & 4)
		vq_base(vq);
	if (what & 8) {
		struct mem *mem = mems[what >> 4 & 1];

		/* What was popped of the other table points there as well. */
		honest &= mem == mems[0];
		vq_set_mem(vq, mem);
	}
}

/* ---- the driver's side ---- */

static uint64_t some_address(struct input *in)
{
	uint8_t pick = in_u8(in);

	if (pick < 16)
		return in_u64(in);
	if (pick < 48)
		return (pick & 1 ? APART + BYTES : DATA) - 32 + in_below(in, 64);
	if (pick < 96)
		return 0x10000U + in_u16(in);
	if (pick < 128)
		return ring.tables + 16U * in_below(in, 16);
	return DATA + in_u16(in) % (2 * BYTES);
}

static struct ring_desc some_desc(struct input *in)
{
	struct ring_desc d = { .addr = some_address(in), .len = in_u8(in) };
	uint8_t how = in_u8(in);

	if (how & 1)
		d.len = in_u32(in);
	if (how & 2)
		d.len *= 16;
	d.id = how & 4 ? in_u16(in) : (uint16_t)(in_u8(in) % ring.size);
	d.flags = how & 8 ? in_u16(in) : (uint16_t)in_below(in, 8);
	if (ring.packed && how & 16)
		d.flags |= ring_avail_flags(&ring);
	return d;
}

/* One of its entries is another, and mostly goes on at any other. */
static void spoil_table(struct input *in, unsigned head, unsigned n)
{
	struct ring_desc d = some_desc(in);

	honest = false;
	if (in_u8(in) & 3)
		d.flags |= RING_NEXT;
	ring_write_table(&ring, ring.tables + head * RING_TABLE_MAX * 16U, (uint16_t)in_below(in, n), d);
}

static void add(struct input *in)
{
	struct ring_buf bufs[RING_TABLE_MAX];
	uint8_t how = in_u8(in);
	unsigned n = 1 + (how & 3), writable = in_below(in, n + 1);
	bool indirect;
	int head;

	if (how & 4)
		n += 1 + in_below(in, RING_TABLE_MAX - n);
	for (unsigned i = 0; i < n; i++) {
		uint16_t at = in_u16(in);
		uint32_t len = 1 + in_u8(in);
		uint64_t gpa = at & 1 ? APART : DATA;

		bufs[i] =
		    (struct ring_buf) { .gpa = gpa + at % (gpa == APART ? BYTES - len : 2 * BYTES - len),
					.len = len,
					.write = i >= n - writable };
	}
	/* Pieces that lie over two regions take a vector more. */
	if (n > VECTORS / 2)
		honest = false;
	indirect = how & 8 && ring.features & RING_F_INDIRECT;
	head = ring_add(&ring, bufs, n, indirect);
	if (how & 64 && indirect && head >= 0)
		spoil_table(in, (unsigned)head, n);
	if (how & 16)
		ring_publish(&ring);
}

static void publish(void)
{
	ring_publish(&ring);
}

static void collect(void)
{
	uint16_t id;
	uint32_t len;
	int got;

	/* What was put there by hand may come back before what was added. */
	if (!honest)
		ring_publish(&ring);
	while ((got = ring_get(&ring, &id, &len)) == 1)
		;
	MUST(got == 0 || !honest);
}

static void write_over(struct input *in)
{
	uint8_t how = in_u8(in), at = in_u8(in);

	honest = false;
	switch (how % 5) {
	case 0:
		ring_write_desc(&ring, at % ring.size, some_desc(in));
		break;
	case 1:
		if (ring.features & RING_F_INDIRECT)
			ring_write_table(&ring, ring.tables + at % ring.size * RING_TABLE_MAX * 16U,
					 (uint16_t)in_below(in, RING_TABLE_MAX), some_desc(in));
		break;
	case 2:
		if (!ring.packed)
			ring_put_avail(&ring, at & 1 ? in_u16(in) : at % ring.size);
		break;
	case 3:
		if (!ring.packed)
			ring_set_avail_idx(&ring, (uint16_t)(ring.avail_idx + at));
		break;
	default:
		/* Any two bytes of rings and what lies behind them. */
		in_bytes(in, guest.base + in_u16(in), 2);
		break;
	}
}

/* One that a process which was taken over has left; a field of it, or a row of bytes. */
static void write_region(struct input *in)
{
	uint8_t how = in_u8(in);
	size_t len = how & 1 ? 1 : how & 2 ? 2 : how & 4 ? 8 : in_u8(in), at = in_u16(in);

	honest = false;
	at = how & 8 ? at % 32 : at % region_len;
	in_bytes(in, region + at, MIN(len, region_len - at));
}

/* ---- an input ---- */

static void operate(struct input *in)
{
	switch (in_below(in, 16)) {
	case 0:
	case 1:
	case 2:
		add(in);
		break;
	case 3:
		publish();
		break;
	case 4:
	case 5:
		pop();
		break;
	case 6:
		push(in);
		break;
	case 7:
		if (vq)
			vq_publish(vq);
		break;
	case 8:
		unpop(in);
		break;
	case 9:
		hand(in);
		break;
	case 10:
		kicks(in);
		break;
	case 11:
		collect();
		break;
	case 12:
		if (region)
			die();
		break;
	case 13:
		if (region)
			write_region(in);
		break;
	default:
		write_over(in);
		break;
	}
}

/* With both ends doing their duty, all that was added comes back. */
static void settle(void)
{
	ring_publish(&ring);
	for (unsigned i = 0; i < 4 * config.size; i++) {
		unsigned before = n_taken;

		pop();
		if (n_taken > before)
			continue;
		while (n_taken)
			vq_push(vq, take_off(0), 0);
		vq_publish(vq);
		collect();
	}
	MUST(ring.n_free == ring.size);
}

static void set_up(struct input *in)
{
	uint8_t how = in_u8(in), more = in_u8(in);
	uint16_t size = (uint16_t)(2U << (more & 7) % SIZE_MAX_LOG), at;
	uint64_t features = (how & 1 ? RING_F_PACKED : 0) | (how & 2 ? RING_F_EVENT_IDX : 0) |
			    (how & 4 ? RING_F_INDIRECT : 0);

	if (how & 1 && more & 8)
		size = (uint16_t)(size - 1); /* a packed ring may be of any size */
	guest.next = 0;
	memset(guest.base, 0, guest.size);
	MUST(ring_init(&ring, &guest, size, features) == 0);
	at = how & 1 ? in_u8(in) % size : in_u16(in);
	if (how & 8)
		ring_start_at(&ring, at, more & 16);
	ring_config(&ring, mems[0], &config);
	config.iov_max = VECTORS;
	config.log_used = more & 32;
	config.buffers = more & 64;
	region_len = inflight_queue_bytes(size, how & 1);
	region = how & 16 ? NULL : calloc(1, region_len);
	config.inflight = region;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };

	if (len > 4096)
		return 0;
	if (!guest.n)
		make_memory();
	honest = true;
	deaths = 0;
	set_up(&in);
	begin();
	while (in.left)
		operate(&in);
	if (honest)
		settle();
	vq_free(vq);
	ring_free(&ring);
	free(region);
	return 0;
}
