/* SPDX-License-Identifier: Apache-2.0 */
/* The owner's reads: through the chain, whatever a cluster is. */
#include "qcow2_priv.h"

#define LOAD_SLICES 16 /* at a time */

/* The entry of a cluster of the disk. */
int read_entry(struct qcow2 *q, uint64_t index, struct cluster *c)
{
	struct slot *s;
	uint64_t mask = (1ULL << q->slice_bits) - 1, word, bitmap = 0;
	_Atomic uint64_t *words;
	int err = cache_get(q, index >> q->slice_bits, &s);

	if (err)
		return err;
	words = cache_words(q, s) + (index & mask) * q->words;
	word = be64toh(atomic_load_explicit(&words[0], memory_order_relaxed));
	if (q->extended)
		bitmap = be64toh(atomic_load_explicit(&words[1], memory_order_relaxed));
	if (!map_is_sound(q, word, bitmap, atomic_load_explicit(&q->limit, memory_order_relaxed)))
		return -WHAT_IS_WRONG;
	map_decode(q, word, bitmap, c);
	return 0;
}

/* Unpacks a cluster into q->inflated, if it is not there already. */
static int unpack(struct qcow2 *q, uint64_t word)
{
	uint64_t off, len, start;
	int err;

	if (q->inflated_word == word)
		return 0;
	q->inflated_word = 0;
	read_packed_range(q, word, &off, &len);
	len = MIN(len, 2 * q->cluster);
	start = num_align_down(off, QCOW2_BLOCK);
	err = file_read_full(q, q->packed, num_align_up(off + len - start, QCOW2_BLOCK), start);
	if (!err)
		err =
		    inflate_cluster(q->compression, q->packed + (off - start), len, q->inflated, q->cluster);
	if (!err)
		q->inflated_word = word;
	return err;
}

/* A part of a subcluster. */
static int read_part(struct qcow2 *q, const struct cluster *c, uint64_t off, uint8_t *buf, uint64_t len)
{
	uint64_t in = off & (q->cluster - 1);
	uint32_t bit = 1U << (in >> q->sub_bits);
	int err;

	if (c->compressed) {
		err = unpack(q, c->word);
		if (!err)
			memcpy(buf, q->inflated + in, len);
		return err;
	}
	if (c->alloc & bit)
		return file_read_full(q, buf, len, c->host + in);
	if (!(c->zero & bit) && q->below)
		return read_guest(q->below, off, buf, len);
	memset(buf, 0, len);
	return 0;
}

static int read_raw(struct qcow2 *q, uint64_t off, uint8_t *buf, uint64_t len)
{
	return file_read_full(q, buf, len, off);
}

int read_guest(struct qcow2 *q, uint64_t off, uint8_t *buf, uint64_t len)
{
	uint64_t size = atomic_load_explicit(&q->size, memory_order_relaxed);
	uint64_t have = off < size ? MIN(len, size - off) : 0;
	int err = 0;

	memset(buf + have, 0, len - have);
	if (q->raw)
		return have ? read_raw(q, off, buf, have) : 0;
	for (uint64_t n; have && !err; off += n, buf += n, have -= n) {
		struct cluster c;

		n = MIN((1ULL << q->sub_bits) - (off & ((1ULL << q->sub_bits) - 1)), have);
		err = read_entry(q, off >> q->cluster_bits, &c);
		if (!err)
			err = read_part(q, &c, off, buf, n);
	}
	return err;
}

int qcow2_read(struct qcow2 *q, uint64_t off, void *buf, size_t len)
{
	return read_guest(q, off, buf, len);
}

int read_is_zero(struct qcow2 *q, uint64_t off, uint64_t len, bool *zero)
{
	*zero = true;
	for (; q && len; q = q->below) {
		uint64_t size = atomic_load_explicit(&q->size, memory_order_relaxed);
		bool none = false;

		if (off >= size)
			return 0;
		len = MIN(len, size - off);
		*zero = false;
		if (q->raw)
			return 0;
		for (uint64_t at = off, n; at < off + len; at += n) {
			struct cluster c;
			uint32_t bit;
			int err = read_entry(q, at >> q->cluster_bits, &c);

			if (err)
				return err;
			n = MIN((1ULL << q->sub_bits) - (at & ((1ULL << q->sub_bits) - 1)), off + len - at);
			bit = 1U << ((at & (q->cluster - 1)) >> q->sub_bits);
			if (c.alloc & bit)
				return 0;
			none |= !(c.zero & bit);
		}
		*zero = true;
		if (!none)
			return 0;
	}
	return 0;
}

static int load_layer(struct qcow2 *q, uint64_t off, uint64_t len)
{
	uint64_t size = atomic_load_explicit(&q->size, memory_order_relaxed), first, last;

	if (q->raw || off >= size)
		return 0;
	len = MIN(len, size - off);
	first = off >> q->cluster_bits >> q->slice_bits;
	last = (off + len - 1) >> q->cluster_bits >> q->slice_bits;
	last = MIN(last, first + LOAD_SLICES - 1);
	for (uint64_t key = first; key <= last; key++) {
		struct slot *s;
		int err = cache_get(q, key, &s);

		if (err)
			return err;
	}
	return 0;
}

int qcow2_load(struct qcow2 *q, uint64_t off, uint64_t len)
{
	struct cluster c;
	int err = 0;

	for (struct qcow2 *layer = q; layer && !err; layer = layer->below)
		err = load_layer(layer, off, len);
	/* What is nonsense is not asked for again and again. */
	for (; q && !err && !q->raw && off < qcow2_size(q); q = q->below)
		err = read_entry(q, off >> q->cluster_bits, &c);
	return err;
}
