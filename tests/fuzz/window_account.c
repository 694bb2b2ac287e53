/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the window may do with the driver's memory: of each request that it takes from lib/server, into the window what the driver
 * wrote, in a place that no other request has; out of it as many bytes as were written for the device, into the request's own
 * vectors; and that once. The linker has these calls of the window's pass through here (--wrap).
 *
 * The driver's data are kept twice: what the window was to write is written to both.
 */
#include <linux/virtio_blk.h>

#include "window_rig.h"

struct request {
	bool taken, given, failed;
	uint16_t slot, out_num, in_num;
	uint32_t out_len, in_len;
	struct account_parts parts;
	struct iovec iov[LANE_IOV];
};

static const uint64_t areas[] = { RIG_DATA, RIG_DATA + RIG_BYTES, RIG_APART };
static uint8_t twin[ARRAY_SIZE(areas)][RIG_BYTES];
static struct request requests[WINDOW_LANES][RIG_SIZE];
static struct request *latest[WINDOW_LANES];
static uint64_t answered, checked;
bool account_broken;

int __real_server_pop(struct server_queue *queue, struct vq_chain *chain);
void __real_server_push(struct server_queue *queue, uint16_t head, uint32_t written, uint32_t result);
void __real_server_break(struct server_queue *queue, const char *why);
void __real_outring_init(struct outring *r, uint8_t *memory, bool event_idx);
void __real_outring_add(struct outring *r, uint16_t slot, const struct outring_part *parts, unsigned n);
int __wrap_server_pop(struct server_queue *queue, struct vq_chain *chain);
void __wrap_server_push(struct server_queue *queue, uint16_t head, uint32_t written, uint32_t result);
void __wrap_server_break(struct server_queue *queue, const char *why);
void __wrap_outring_init(struct outring *r, uint8_t *memory, bool event_idx);
void __wrap_outring_add(struct outring *r, uint16_t slot, const struct outring_part *parts, unsigned n);

/* ---- the driver's memory ---- */

void account_reset(void)
{
	memset(twin, 0, sizeof(twin));
	account_broken = false;
	answered = checked = 0;
}

void account_forget(unsigned lane)
{
	for (unsigned i = 0; i < RIG_SIZE; i++)
		requests[lane][i].taken = requests[lane][i].given = false;
	latest[lane] = NULL;
}

void account_new_process(void)
{
	for (unsigned i = 0; i < WINDOW_LANES; i++)
		account_forget(i);
}

void account_put(uint64_t gpa, const void *from, uint32_t len)
{
	rig_put(&rig, gpa, from, len);
	for (size_t i = 0; i < ARRAY_SIZE(areas); i++)
		if (gpa >= areas[i] && gpa - areas[i] < RIG_BYTES && len <= RIG_BYTES - (gpa - areas[i]))
			memcpy(twin[i] + (gpa - areas[i]), from, len);
}

void account_check(bool anyway)
{
	if (checked == answered && !anyway)
		return;
	checked = answered;
	for (size_t i = 0; i < ARRAY_SIZE(areas); i++)
		MUST(!memcmp(rig_ptr(&rig, areas[i], RIG_BYTES), twin[i], RIG_BYTES));
}

/* Where the twin of a byte is, that the device has at this place; NULL: it is none of the data. */
static uint8_t *twin_of(const uint8_t *at)
{
	for (size_t i = 0; i < ARRAY_SIZE(areas); i++) {
		uintptr_t off = (uintptr_t)at - (uintptr_t)rig_device_ptr(areas[i], RIG_BYTES);

		if (off < RIG_BYTES)
			return &twin[i][off];
	}
	return NULL;
}

/* ---- places in the window ---- */

static uint8_t *place(const struct outring_part *p)
{
	return window.share.memory + (p->gpa - share_gpa(&window.share, window.share.memory));
}

static bool is_apart(const struct outring_part *a, const struct outring_part *b)
{
	return a->gpa + a->len <= b->gpa || b->gpa + b->len <= a->gpa;
}

static void check_apart(unsigned lane, const struct outring_part *p)
{
	for (unsigned i = 0; i < RIG_SIZE; i++) {
		const struct request *r = &requests[lane][i];

		for (unsigned k = 0; r->given && k < r->parts.n; k++)
			MUST(&r->parts.part[k] == p || is_apart(&r->parts.part[k], p));
	}
}

static void check_place(unsigned lane, const struct outring_part *p)
{
	const uint8_t *ring = share_ring(&window.share, lane), *at = place(p);

	MUST(p->len && at >= ring + OUTRING_BYTES && at < ring + window.share.part);
	MUST(p->len <= (size_t)(ring + window.share.part - at));
	check_apart(lane, p);
}

/* The parts of one kind as vectors, where the window has them. */
static void list_parts(const struct request *r, bool write, struct iovec *list)
{
	for (unsigned i = 0; i < r->parts.n; i++)
		if (r->parts.part[i].write == write)
			*list++ = (struct iovec) { place(&r->parts.part[i]), r->parts.part[i].len };
}

typedef void (*pair_fn)(const uint8_t *a, const uint8_t *b, size_t len);

/* The bytes [from, to) of two lists, as pieces that lie in one vector of each. */
static void for_pieces(const struct iovec *a, const struct iovec *b, size_t from, size_t to, pair_fn fn)
{
	size_t at_a = 0, at_b = 0;

	for (size_t at = 0; at < to;) {
		size_t piece = MIN(MIN(a->iov_len - at_a, b->iov_len - at_b), to - at);
		size_t skip = at < from ? MIN(piece, from - at) : 0;

		if (piece > skip)
			fn((const uint8_t *)a->iov_base + at_a + skip,
			   (const uint8_t *)b->iov_base + at_b + skip, piece - skip);
		at += piece;
		at_a += piece;
		at_b += piece;
		if (at_a == a->iov_len) {
			a++;
			at_a = 0;
		}
		if (at_b == b->iov_len) {
			b++;
			at_b = 0;
		}
	}
}

static void must_be_alike(const uint8_t *a, const uint8_t *b, size_t len)
{
	MUST(!memcmp(a, b, len));
}

/* The parts hold what the driver wrote, all of it, in front of what the device writes. */
static void check_given(const struct request *r)
{
	struct iovec list[OUTRING_PARTS];
	uint32_t out = 0, in = 0;

	for (unsigned i = 0; i < r->parts.n; i++) {
		const struct outring_part *p = &r->parts.part[i];

		MUST(p->write || !in);
		in += p->write ? p->len : 0;
		out += p->write ? 0 : p->len;
	}
	MUST(out == r->out_len && in == r->in_len);
	list_parts(r, false, list);
	for_pieces(list, r->iov, 0, out, must_be_alike);
}

/* ---- a request ---- */

static unsigned lane_of(const struct outring *ring)
{
	unsigned i = 0;

	while (&window.lane[i]->ring != ring)
		MUST(++i < WINDOW_LANES);
	return i;
}

int __wrap_server_pop(struct server_queue *queue, struct vq_chain *chain)
{
	unsigned lane = server_index(queue);
	struct request *r;
	int got = __real_server_pop(queue, chain);

	if (got != 1)
		return got;
	MUST(chain->head < RIG_SIZE);
	r = latest[lane] = &requests[lane][chain->head];
	MUST(!r->taken);
	r->taken = true;
	r->given = false;
	r->failed = chain->poisoned || chain->failed;
	r->out_num = chain->out_num;
	r->in_num = chain->in_num;
	r->out_len = chain->out_len;
	r->in_len = chain->in_len;
	MUST(r->out_num + r->in_num <= LANE_IOV);
	memcpy(r->iov, chain->iov, ((size_t)r->out_num + r->in_num) * sizeof(*r->iov));
	for (unsigned i = 0; i < (unsigned)r->out_num + r->in_num; i++)
		MUST(rig_is_ram(r->iov[i].iov_base, r->iov[i].iov_len));
	window_moment();
	return got;
}

void __wrap_outring_init(struct outring *r, uint8_t *memory, bool event_idx)
{
	unsigned lane = lane_of(r);

	for (unsigned i = 0; i < RIG_SIZE; i++)
		MUST(!requests[lane][i].given);
	__real_outring_init(r, memory, event_idx);
	server_ring(lane);
}

void __wrap_outring_add(struct outring *ring, uint16_t slot, const struct outring_part *parts, unsigned n)
{
	unsigned lane = lane_of(ring);
	struct request *r = latest[lane];

	MUST(r && r->taken && !r->given && !r->failed);
	MUST(n && n <= OUTRING_PARTS && slot < OUTRING_SLOTS);
	r->given = true;
	r->slot = slot;
	r->parts.n = n;
	memcpy(r->parts.part, parts, n * sizeof(*parts));
	for (unsigned i = 0; i < n; i++)
		check_place(lane, &r->parts.part[i]);
	for (unsigned i = 0; i < RIG_SIZE; i++)
		MUST(&requests[lane][i] == r || !requests[lane][i].given || requests[lane][i].slot != slot);
	check_given(r);
	window_moment();
	__real_outring_add(ring, slot, parts, n);
	server_given(lane, slot, &r->parts);
}

static void write_twin(const uint8_t *from, const uint8_t *device, size_t len)
{
	uint8_t *to = twin_of(device);

	if (to)
		memcpy(to, from, len);
}

/* Of a request that is not full, the last byte is a status, wherever what was written ends. */
static void write_twins(const struct request *r, uint32_t written)
{
	struct iovec list[OUTRING_PARTS];
	uint32_t data = written;

	list_parts(r, true, list);
	if (written && written < r->in_len) {
		data--;
		for_pieces(list, r->iov + r->out_num, r->in_len - 1, r->in_len, write_twin);
	}
	for_pieces(list, r->iov + r->out_num, 0, data, write_twin);
}

static void refuse_twin(const struct request *r)
{
	const struct iovec *last = &r->iov[r->out_num + r->in_num - 1];
	const uint8_t status = VIRTIO_BLK_S_IOERR;

	if (r->in_num)
		write_twin(&status, (const uint8_t *)last->iov_base + last->iov_len - 1, 1);
}

void __wrap_server_push(struct server_queue *queue, uint16_t head, uint32_t written, uint32_t result)
{
	struct request *r = &requests[server_index(queue)][head];

	MUST(head < RIG_SIZE && r->taken && r->given != r->failed);
	if (r->given) {
		MUST(written <= r->in_len);
		write_twins(r, written);
	} else {
		MUST(written == (r->in_num != 0));
		refuse_twin(r);
	}
	answered++;
	r->taken = r->given = false;
	__real_server_push(queue, head, written, result);
	window_moment();
}

/* The one that was taken last has no place; or else the server gave its ring up, and with it all that there were. */
void __wrap_server_break(struct server_queue *queue, const char *why)
{
	unsigned lane = server_index(queue);
	struct request *r = latest[lane];

	account_broken = true;
	if (r && r->taken && !r->given)
		r->taken = false;
	else
		account_forget(lane);
	__real_server_break(queue, why);
}
