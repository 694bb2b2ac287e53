/* SPDX-License-Identifier: Apache-2.0 */
/* What a table's entry means, and the fast side's look-up. */
#include "qcow2_priv.h"

#define RETRIES 3

#define HOST_MASK      0x00fffffffffffe00ULL
#define PLAIN_RESERVED (0x3fULL << 56 | 0x1feULL)

void map_decode(const struct qcow2 *q, uint64_t word, uint64_t bitmap, struct cluster *c)
{
	*c = (struct cluster) { .word = word, .compressed = word & FLAG_COMPRESSED };
	if (c->compressed) {
		c->alloc = all_subs(q);
		return;
	}
	c->host = word & HOST_MASK;
	c->copied = word & FLAG_COPIED;
	if (q->extended) {
		c->alloc = (uint32_t)bitmap;
		c->zero = (uint32_t)(bitmap >> 32);
	} else {
		c->zero = word & FLAG_ZERO;
		c->alloc = c->host && !c->zero;
	}
}

void map_encode(const struct qcow2 *q, const struct cluster *c, uint64_t *word, uint64_t *bitmap)
{
	*word = c->host | (c->host ? FLAG_COPIED : 0);
	*bitmap = 0;
	if (q->extended)
		*bitmap = (uint64_t)c->zero << 32 | c->alloc;
	else
		*word |= c->zero ? FLAG_ZERO : 0;
}

void read_packed_range(const struct qcow2 *q, uint64_t word, uint64_t *off, uint64_t *len)
{
	unsigned shift = 62 - (q->cluster_bits - 8);
	uint64_t host = word & ((1ULL << shift) - 1) & ((1ULL << 56) - 1);
	uint64_t sectors = (word & (FLAG_COMPRESSED - 1)) >> shift;

	*off = host;
	*len = (sectors + 1) * QCOW2_BLOCK - host % QCOW2_BLOCK;
}

/* A few compares, as this is asked of each entry that is used. */
bool map_is_sound(const struct qcow2 *q, uint64_t word, uint64_t bitmap, uint64_t limit)
{
	uint64_t host = word & HOST_MASK, off, len;

	if (word & FLAG_COMPRESSED) {
		read_packed_range(q, word, &off, &len);
		/* Its last sector may be cut off by the end of the file. */
		return !(word & FLAG_COPIED) && off >= q->cluster && off < limit &&
		       len <= limit - off + q->cluster;
	}
	if (word & PLAIN_RESERVED || host & (q->cluster - 1) || ((word & FLAG_COPIED) && !host))
		return false;
	if (host && (host < q->cluster || host >= limit || limit - host < q->cluster))
		return false;
	if (q->extended)
		return !(word & FLAG_ZERO) && !((uint32_t)bitmap & (uint32_t)(bitmap >> 32)) &&
		       (host || !(uint32_t)bitmap);
	return !(word & FLAG_ZERO) || q->v3;
}

enum part_kind { PART_NONE, PART_ZERO, PART_DATA, PART_ASK };

/* A stretch of the disk that is of one kind, and contiguous in the file if it has data. */
struct part {
	enum part_kind kind;
	uint64_t host, len;
};

/* What begins at in, at most len bytes, within one cluster. */
static void part_of(const struct qcow2 *q, const struct cluster *c, uint64_t in, uint64_t len, struct part *p)
{
	unsigned sub = (unsigned)(in >> q->sub_bits), end = sub + 1;
	uint32_t bit = 1U << sub;

	p->kind = c->alloc & bit ? PART_DATA : c->zero & bit ? PART_ZERO : PART_NONE;
	while (end < q->nsubs && !(c->alloc & bit) == !(c->alloc & 1U << end) &&
	       !(c->zero & bit) == !(c->zero & 1U << end))
		end++;
	p->host = c->host + in;
	p->len = MIN(((uint64_t)end << q->sub_bits) - in, len);
	if (c->compressed)
		p->kind = PART_ASK;
}

/* The part at off as the table that is in slot tells; PART_ASK also if it can't. */
static void look(const struct qcow2 *q, const struct slot *slot, uint64_t off, uint64_t len, bool write,
		 struct part *p)
{
	const _Atomic uint64_t *words = cache_words(q, slot);
	uint64_t limit = atomic_load_explicit(&q->limit, memory_order_acquire);
	uint64_t mask = (1ULL << q->slice_bits) - 1, i = (off >> q->cluster_bits) & mask;

	*p = (struct part) { .kind = PART_ASK };
	for (bool first = true; i <= mask && p->len < len; i++, first = false) {
		uint64_t word = be64toh(atomic_load_explicit(&words[i * q->words], memory_order_acquire));
		uint64_t in = first ? off & (q->cluster - 1) : 0, bitmap = 0;
		struct cluster c;
		struct part next;

		if (q->extended)
			bitmap = be64toh(atomic_load_explicit(&words[i * 2 + 1], memory_order_acquire));
		if (!map_is_sound(q, word, bitmap, limit))
			return;
		map_decode(q, word, bitmap, &c);
		part_of(q, &c, in, MIN(q->cluster - in, len - p->len), &next);
		if (write && !(next.kind == PART_DATA && c.copied))
			next.kind = PART_ASK;
		if (first)
			*p = next;
		else if (next.kind == p->kind && (next.kind != PART_DATA || next.host == p->host + p->len))
			p->len += next.len;
		else
			return;
		if (p->kind == PART_ASK || next.len < q->cluster - in)
			return;
	}
}

static bool look_steadily(const struct qcow2 *q, uint64_t off, uint64_t len, bool write, struct part *p)
{
	uint64_t key = off >> q->cluster_bits >> q->slice_bits;

	for (unsigned i = 0; i < RETRIES; i++) {
		const struct slot *s = cache_find(q, key);
		uint32_t seq;

		if (!s)
			return false;
		seq = atomic_load_explicit(&s->seq, memory_order_acquire);
		if (seq & 1 || atomic_load_explicit(&s->key, memory_order_acquire) != key)
			continue;
		look(q, s, off, len, write, p);
		if (atomic_load_explicit(&s->seq, memory_order_relaxed) == seq)
			return true;
	}
	return false;
}

/* A file that may be shorter than what is asked for; what is past its whole blocks the owner reads. */
static void map_file(const struct qcow2 *q, uint64_t host, uint64_t len, struct qcow2_extent *out)
{
	uint64_t eof = atomic_load_explicit(&q->eof, memory_order_acquire);

	*out = (struct qcow2_extent) { .kind = QCOW2_ASK, .layer = q->layer, .off = host, .len = len };
	if (host >= eof)
		return;
	out->kind = QCOW2_DATA;
	out->len = MIN(len, eof - host);
}

void qcow2_map(const struct qcow2 *q, uint64_t off, uint64_t len, bool write, struct qcow2_extent *out)
{
	struct part p;

	for (; q; q = q->below) {
		uint64_t size = atomic_load_explicit(&q->size, memory_order_acquire);

		if (off >= size)
			break;
		len = MIN(len, size - off);
		if (q->raw) {
			map_file(q, off, len, out);
			return;
		}
		if (!look_steadily(q, off, len, write, &p))
			p.kind = PART_ASK;
		if (p.kind == PART_ASK) {
			*out = (struct qcow2_extent) { .kind = QCOW2_ASK, .len = len };
			return;
		}
		len = p.len;
		if (p.kind == PART_DATA) {
			map_file(q, p.host, len, out);
			return;
		}
		if (p.kind == PART_ZERO)
			break;
	}
	*out = (struct qcow2_extent) { .kind = QCOW2_ZERO, .len = len };
}
