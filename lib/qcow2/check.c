/* SPDX-License-Identifier: Apache-2.0 */
/* Counts the references that there are, compares them with the counts in the file, and mends those. */
#include <stdlib.h>

#include "clean.h"
#include "qcow2_priv.h"

#define CLUSTERS_MAX (1ULL << 30) /* of a file that is checked */

struct counts {
	uint32_t *count;
	uint64_t n;    /* clusters of the file */
	uint64_t wild; /* references to where there is none */
};

static int count(struct qcow2 *q, void *arg, uint64_t off, uint64_t len)
{
	struct counts *k = arg;
	uint64_t first = cluster_of(q, off), last = cluster_of(q, off + len - 1);

	if (!len)
		return 0;
	if (last >= k->n || off + len < off) {
		k->wild++;
		return 0;
	}
	for (uint64_t c = first; c <= last; c++)
		k->count[c]++;
	return 0;
}

/* ---- walking ---- */

static int walk_entry(struct qcow2 *q, uint64_t word, uint64_t bitmap, entry_fn fn, void *arg)
{
	uint64_t off, len, limit = atomic_load_explicit(&q->limit, memory_order_relaxed);

	if (!word)
		return 0;
	if (!map_is_sound(q, word, bitmap, limit))
		return fn(q, arg, UINT64_MAX - 1, 1);
	if (word & FLAG_COMPRESSED) {
		read_packed_range(q, word, &off, &len);
		return fn(q, arg, off, MIN(len, limit - off));
	}
	return word & OFFSET_MASK ? fn(q, arg, word & OFFSET_MASK, q->cluster) : 0;
}

int check_walk(struct qcow2 *q, const uint64_t *l1, uint64_t entries, entry_fn fn, void *arg)
{
	uint64_t *table = qcow2_alloc(q->cluster);
	int err = table ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < entries && !err; i++) {
		uint64_t off = l1[i] & OFFSET_MASK;

		if (!off)
			continue;
		if (!offset_is_sound(q, off, q->cluster)) {
			err = fn(q, arg, UINT64_MAX - 1, 1);
			continue;
		}
		err = fn(q, arg, off, q->cluster);
		if (!err)
			err = file_read_full(q, table, q->cluster, off);
		for (uint64_t j = 0; j < q->cluster / 8 && !err; j += q->words)
			err = walk_entry(q, be64toh(table[j]), q->extended ? be64toh(table[j + 1]) : 0, fn,
					 arg);
	}
	free(table);
	return err;
}

static int walk_snapshots(struct qcow2 *q, struct counts *k)
{
	struct snapshot s = { 0 };
	int err = 0;

	for (uint32_t i = 0; i < q->header.nsnapshots && !err; i++) {
		CLEAN_FREE uint64_t *l1 = NULL;

		err = snapshot_next(q, &s);
		if (!err)
			err = snapshot_load_l1(q, &s, &l1);
		if (!err)
			err = count(q, k, s.l1_off, (uint64_t)s.l1_entries * 8);
		if (!err)
			err = check_walk(q, l1, s.l1_entries, count, k);
	}
	if (!err && q->header.nsnapshots)
		err = count(q, k, q->header.snapshots_off, s.next - q->header.snapshots_off);
	return err;
}

static int walk_all(struct qcow2 *q, struct counts *k)
{
	const struct header *h = &q->header;
	int err = count(q, k, 0, q->cluster);

	if (!err)
		err = count(q, k, h->l1_off, (uint64_t)h->l1_entries * 8);
	if (!err)
		err = check_walk(q, q->l1, h->l1_entries, count, k);
	if (!err)
		err = walk_snapshots(q, k);
	if (!err)
		err = count(q, k, h->reftable_off, (uint64_t)h->reftable_clusters << q->cluster_bits);
	for (uint64_t i = 0; i < q->reftable_entries && !err; i++)
		if (q->reftable[i])
			err = count(q, k, q->reftable[i], q->cluster);
	/* What is reserved, or not given back yet. */
	for (unsigned i = 0; i < q->pool.nruns && !err; i++)
		err =
		    count(q, k, q->pool.run[i].first << q->cluster_bits, q->pool.run[i].n << q->cluster_bits);
	for (unsigned i = 0; i < q->freed->n && !err; i++)
		err = count(q, k, q->freed->run[i].first << q->cluster_bits,
			    q->freed->run[i].n << q->cluster_bits);
	return err;
}

/* ---- judging ---- */

static int compare(struct qcow2 *q, const struct counts *k, bool repair, struct qcow2_check *out)
{
	int err = 0;

	for (uint64_t c = 0; c < k->n && !err; c++) {
		uint64_t value;

		err = ref_get(q, c, &value);
		if (err || value == k->count[c])
			continue;
		out->corruptions += value < k->count[c];
		out->leaks += value > k->count[c];
		if (!repair)
			continue;
		if (k->count[c] > ref_max(q))
			return -E2BIG;
		err = ref_ensure(q, c);
		if (!err)
			err = ref_set(q, c, k->count[c]);
	}
	return err;
}

/* Sets or clears a word's flag as its cluster's count demands; true if that changed it. */
static int right_flag(struct qcow2 *q, uint64_t *word, bool *changed)
{
	uint64_t value, off = *word & OFFSET_MASK;
	int err;

	*changed = false;
	if (*word & FLAG_COMPRESSED || !off || !offset_is_sound(q, off, q->cluster))
		return 0;
	err = ref_get(q, cluster_of(q, off), &value);
	*changed = !err && (value == 1) != !!(*word & FLAG_COPIED);
	if (*changed)
		*word ^= FLAG_COPIED;
	return err;
}

static int right_table(struct qcow2 *q, uint64_t off, uint64_t *table, bool repair, uint64_t *wrong)
{
	bool changed, any = false;
	int err = file_read_full(q, table, q->cluster, off);

	for (uint64_t j = 0; j < q->cluster / 8 && !err; j += q->words) {
		uint64_t word = be64toh(table[j]);

		err = right_flag(q, &word, &changed);
		table[j] = htobe64(word);
		*wrong += changed;
		any |= changed;
	}
	return !err && any && repair ? file_write(q, table, q->cluster, off) : err;
}

int check_flags(struct qcow2 *q, uint64_t *l1, uint64_t entries, uint64_t l1_off, bool repair,
		uint64_t *wrong)
{
	uint64_t *table = qcow2_alloc(q->cluster);
	bool changed, any = false;
	int err = table ? 0 : -ENOMEM;

	for (uint64_t i = 0; i < entries && !err; i++) {
		uint64_t word = l1[i];

		err = right_flag(q, &word, &changed);
		if (repair)
			l1[i] = word;
		*wrong += changed;
		any |= changed;
		if (!err && offset_is_sound(q, word & OFFSET_MASK, q->cluster))
			err = right_table(q, word & OFFSET_MASK, table, repair, wrong);
	}
	free(table);
	if (!err && any && repair && l1_off == q->header.l1_off)
		for (uint64_t i = 0; i < entries && !err; i += QCOW2_BLOCK / 8)
			err = l1_write(q, i);
	return err;
}

int qcow2_check(struct qcow2 *q, bool repair, struct qcow2_check *out)
{
	struct counts k = { .n = atomic_load(&q->limit) >> q->cluster_bits };
	uint64_t flags = 0;
	int err = 0;

	*out = (struct qcow2_check) { 0 };
	if (k.n > CLUSTERS_MAX)
		return -EFBIG;
	if (repair && q->readonly)
		return -EROFS;
	if (!q->reftable)
		err = ref_load_table(q);
	k.count = calloc(k.n, sizeof(*k.count));
	if (!err && !k.count)
		err = -ENOMEM;
	if (!err)
		err = walk_all(q, &k);
	if (!err)
		err = compare(q, &k, repair, out);
	free(k.count);
	if (!err && repair)
		err = file_sync(q);
	if (!err)
		err = check_flags(q, q->l1, q->header.l1_entries, q->header.l1_off, repair, &flags);
	out->corruptions += k.wild + flags;
	if (repair)
		cache_drop_all(q);
	return !err && repair && k.wild ? -WHAT_IS_WRONG : err;
}
