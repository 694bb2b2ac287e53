/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocation and copying. The order, which is all there is to surviving a power cut:
 *   a cluster that an entry will refer to is counted and reads as zeroes, on stable storage (alloc.c);
 *   what it must hold besides is written, then flushed, once for all that is pending;
 *   then the entries are written, and only then seen by the fast side, so that nothing is ever written into a cluster
 *   that the file does not know of;
 *   what they referred to before is given up last (alloc.c).
 */
#include "qcow2_priv.h"

/* ---- tables ---- */

static int copy_table(struct qcow2 *q, uint64_t from, uint64_t to)
{
	int err = file_read_full(q, q->buffer, q->cluster, from);

	if (!err)
		err = file_write(q, q->buffer, q->cluster, to);
	return err ? err : file_sync(q);
}

/* Makes the table of an L1 entry one that may be written to. A new one is a cluster of the pool, and so empty. */
int write_own_table(struct qcow2 *q, uint64_t l1_index)
{
	uint64_t entry = q->l1[l1_index], old = entry & OFFSET_MASK, host;
	int err;

	if (old && entry & FLAG_COPIED)
		return 0;
	if (old && !offset_is_sound(q, old, q->cluster))
		return -WHAT_IS_WRONG;
	err = alloc_take(q, &host);
	if (err)
		return err;
	if (old)
		err = copy_table(q, old, host);
	if (err) {
		alloc_free(q, host, 1);
		return err;
	}
	q->l1[l1_index] = host | FLAG_COPIED;
	err = l1_write(q, l1_index);
	if (err) {
		/* Perhaps it was written: then the new table is the one that counts, and nothing is in it yet. */
		q->l1[l1_index] = entry;
		q->doubt.l1 = true;
		q->doubt.l1_index = l1_index;
		q->doubt.host = host;
		return err;
	}
	if (old)
		alloc_free(q, old, 1);
	return 0;
}

/* ---- what is pending ---- */

static struct pending *find_pending(struct qcow2 *q, uint64_t index)
{
	for (unsigned i = q->npending; i-- > 0;)
		if (q->pending[i].index == index)
			return &q->pending[i];
	return NULL;
}

void write_later(struct qcow2 *q, uint64_t index, const struct cluster *before, const struct cluster *after)
{
	struct pending *p = find_pending(q, index);

	if (!p) {
		p = &q->pending[q->npending++];
		p->before = *before;
	}
	p->index = index;
	map_encode(q, after, &p->word, &p->bitmap);
}

/* Copies a slice into q->block, with what is pending for it; *from to *to is what that changed. */
static void compose(struct qcow2 *q, const struct slot *s, uint64_t key, size_t *from, size_t *to)
{
	const _Atomic uint64_t *words = cache_words(q, s);
	uint64_t mask = (1ULL << q->slice_bits) - 1;
	uint64_t *out = (uint64_t *)(void *)q->block;

	*from = q->slice_bytes;
	*to = 0;
	for (size_t i = 0; i < q->slice_bytes / 8; i++)
		out[i] = atomic_load_explicit(&words[i], memory_order_relaxed);
	for (unsigned i = 0; i < q->npending; i++) {
		const struct pending *p = &q->pending[i];
		size_t at = (p->index & mask) * q->words;

		if (p->index >> q->slice_bits != key)
			continue;
		out[at] = htobe64(p->word);
		if (q->extended)
			out[at + 1] = htobe64(p->bitmap);
		*from = MIN(*from, num_align_down(at * 8, QCOW2_BLOCK));
		*to = MAX(*to, num_align_up((at + q->words) * 8, QCOW2_BLOCK));
	}
}

static int write_slice(struct qcow2 *q, uint64_t key)
{
	unsigned bits = q->l2_bits - q->slice_bits;
	uint64_t table = q->l1[key >> bits] & OFFSET_MASK;
	struct slot *s;
	size_t from, to;
	int err = cache_get(q, key, &s);

	if (err)
		return err;
	compose(q, s, key, &from, &to);
	return file_write(q, q->block + from, to - from,
			  table + (key & ((1ULL << bits) - 1)) * q->slice_bytes + from);
}

/* Shows the fast side what is in the file now. A slice that is not cached is read from there when it is wanted. */
static void publish_slice(struct qcow2 *q, uint64_t key)
{
	struct slot *s = cache_find(q, key);
	_Atomic uint64_t *words;
	size_t from, to;

	if (!s)
		return;
	compose(q, s, key, &from, &to);
	words = cache_words(q, s);
	cache_change(s);
	for (size_t i = from / 8; i < to / 8; i++) {
		uint64_t word;

		memcpy(&word, q->block + 8 * i, 8);
		atomic_store_explicit(&words[i], word, memory_order_release);
	}
	cache_publish(s);
}

/* Does something once for each slice that has something pending. */
static int each_slice(struct qcow2 *q, bool publish)
{
	int err = 0;

	for (unsigned i = 0; i < q->npending && !err; i++) {
		uint64_t key = q->pending[i].index >> q->slice_bits;
		unsigned j = 0;

		while (q->pending[j].index >> q->slice_bits != key)
			j++;
		if (j < i)
			continue;
		if (publish)
			publish_slice(q, key);
		else
			err = write_slice(q, key);
	}
	return err;
}

static void free_replaced(struct qcow2 *q)
{
	for (unsigned i = 0; i < q->npending; i++) {
		const struct pending *p = &q->pending[i];

		if (p->before.compressed || p->before.host != (p->word & OFFSET_MASK))
			alloc_free_cluster(q, &p->before);
	}
}

/* After an error some of the entries may be in the file. What they refer to is theirs, so it stays counted; but where there was
 * no room, what is not there now will not be later. */
static void undo(struct qcow2 *q, int err)
{
	/* They will be looked up there, and what is written through by them is to be found after a power cut. */
	if (q->durable && !file_sync(q))
		q->unsynced = false;
	cache_drop_all(q);
	for (unsigned i = 0; i < q->npending && (err == -ENOSPC || err == -EDQUOT); i++) {
		const struct pending *p = &q->pending[i];
		uint64_t host = p->word & OFFSET_MASK;
		struct cluster now;

		if (host && (p->before.compressed || p->before.host != host) &&
		    !read_entry(q, p->index, &now) && now.host != host)
			alloc_free(q, host, 1);
	}
}

int qcow2_commit(struct qcow2 *q)
{
	int err = 0;

	if (!q->npending)
		return 0;
	if (q->must_sync)
		err = file_sync(q);
	if (!err) {
		q->unsynced = true;
		err = each_slice(q, false);
	}
	if (!err && q->durable)
		err = file_sync(q);
	if (!err) {
		each_slice(q, true);
		free_replaced(q);
		q->unsynced = !q->durable;
	} else {
		undo(q, err);
	}
	q->npending = 0;
	q->must_sync = false;
	return err;
}

int qcow2_write_through(struct qcow2 *q, bool on)
{
	int err = on && q->unsynced ? file_sync(q) : 0;

	if (!err)
		q->durable = on;
	return err;
}

/* ---- allocation ---- */

/* Of the subclusters in mask, those whose content is more than zeroes. */
static int find_content(struct qcow2 *q, uint64_t index, const struct cluster *c, uint32_t mask,
			uint32_t *out)
{
	*out = mask & c->alloc;
	for (unsigned i = 0; i < q->nsubs; i++) {
		uint32_t bit = 1U << i;
		uint64_t off = (index << q->cluster_bits) + ((uint64_t)i << q->sub_bits);
		bool zero;
		int err;

		if (!(mask & ~c->alloc & ~c->zero & bit) || !q->below)
			continue;
		err = read_is_zero(q->below, off, 1ULL << q->sub_bits, &zero);
		if (err)
			return err;
		if (!zero)
			*out |= bit;
	}
	return 0;
}

/* Copies the content of these subclusters, as the guest sees it, to where the cluster will be. */
static int copy_content(struct qcow2 *q, uint64_t index, uint32_t mask, uint64_t host)
{
	int err = 0;

	for (unsigned i = 0, n; i < q->nsubs && !err; i += n) {
		uint64_t in = (uint64_t)i << q->sub_bits, len;

		n = 1;
		if (!(mask & 1U << i))
			continue;
		while (i + n < q->nsubs && mask & 1U << (i + n))
			n++;
		len = (uint64_t)n << q->sub_bits;
		err = read_guest(q, (index << q->cluster_bits) + in, q->buffer, len);
		if (!err)
			err = file_write(q, q->buffer, len, host + in);
		q->must_sync = true;
	}
	return err;
}

static int zero_content(struct qcow2 *q, uint32_t mask, uint64_t host)
{
	int err = 0;

	for (unsigned i = 0; i < q->nsubs && !err; i++)
		if (mask & 1U << i) {
			err = q->file.ops->zero(q->file.arg, host + ((uint64_t)i << q->sub_bits),
						1ULL << q->sub_bits);
			q->must_sync = true;
		}
	return err;
}

/* The cluster as it is or will be. */
static int present(struct qcow2 *q, uint64_t index, struct cluster *c)
{
	const struct pending *p = find_pending(q, index);

	if (!p)
		return read_entry(q, index, c);
	map_decode(q, p->word, p->bitmap, c);
	return 0;
}

int write_prepare(struct qcow2 *q, uint64_t index, uint32_t mask)
{
	struct cluster c, after;
	uint32_t content, copy;
	bool fresh;
	int err = present(q, index, &c);

	if (err || (c.host && c.copied && (c.alloc & mask) == mask))
		return err;
	fresh = !c.host || !c.copied;
	after = (struct cluster) { .host = c.host, .alloc = c.alloc | mask, .zero = c.zero & ~mask };
	err = write_own_table(q, index >> q->l2_bits);
	if (!err)
		err = find_content(q, index, &c, fresh ? after.alloc : mask & ~c.alloc, &content);
	if (!err && fresh)
		err = alloc_take(q, &after.host);
	if (err)
		return err;
	/* What is copied must be read by the entry that is in the file, not by one that is pending. */
	copy = content;
	err = copy_content(q, index, copy, after.host);
	if (!err && !fresh)
		err = zero_content(q, mask & ~c.alloc & ~content, after.host);
	if (err) {
		if (fresh)
			alloc_free(q, after.host, 1);
		return err;
	}
	if (fresh && !q->below) {
		after.alloc = all_subs(q); /* what is in it reads as zeroes anyway */
		after.zero = 0;
	}
	write_later(q, index, &c, &after);
	return 0;
}

uint32_t write_touched(const struct qcow2 *q, uint64_t index, uint64_t off, uint64_t len)
{
	uint64_t start = index << q->cluster_bits, from = MAX(off, start) - start;
	uint64_t to = MIN(off + len, start + q->cluster) - start;
	unsigned first = (unsigned)(from >> q->sub_bits), last = (unsigned)((to - 1) >> q->sub_bits);

	return all_subs(q) >> (q->nsubs - 1 - last) & all_subs(q) << first;
}

int qcow2_prepare(struct qcow2 *q, uint64_t off, uint64_t len)
{
	uint64_t first = off >> q->cluster_bits, last = (off + len - 1) >> q->cluster_bits;
	int err = q->readonly ? -EROFS : 0;

	for (uint64_t i = first; i <= last && !err; i++) {
		/* What does not fit is asked for again. */
		if (q->npending == PENDING_MAX)
			return i == first ? qcow2_commit(q) : 0;
		err = write_prepare(q, i, write_touched(q, i, off, len));
	}
	return err;
}

/* Moves data to where it was prepared for. */
static int write_prepared(struct qcow2 *q, uint64_t off, const uint8_t *buf, uint64_t len)
{
	int err = 0;

	for (uint64_t n; len && !err; off += n, buf += n, len -= n) {
		uint64_t in = off & (q->cluster - 1);
		struct cluster c;

		n = MIN(q->cluster - in, len);
		err = read_entry(q, off >> q->cluster_bits, &c);
		if (!err && !(c.host && c.copied))
			err = -EIO;
		if (!err && buf)
			err = file_write(q, buf, n, c.host + in);
	}
	return err;
}

int qcow2_write(struct qcow2 *q, uint64_t off, const void *buf, size_t len)
{
	const uint8_t *at = buf;
	int err = 0;

	for (size_t n; len && !err; off += n, at += n, len -= n) {
		n = (size_t)MIN(PENDING_MAX / 2 * q->cluster, len);
		err = qcow2_commit(q);
		if (!err)
			err = qcow2_prepare(q, off, n);
		if (!err)
			err = qcow2_commit(q);
		if (!err)
			err = write_prepared(q, off, at, n);
	}
	return err;
}
