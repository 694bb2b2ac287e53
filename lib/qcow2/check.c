/* SPDX-License-Identifier: Apache-2.0 */
/* Counts the references that there are, compares them with the counts in the file, and mends those. */
#include <stdlib.h>

#include "clean.h"
#include "qcow2_priv.h"

#define CLUSTERS_MAX (1ULL << 28) /* of a file that is checked */
#define TABLES_MAX                                                                                           \
	(16ULL << 30) /* bytes of tables that are read: what 128 TiB need with clusters of 64 KiB */

struct counts {
	uint32_t *count;
	uint32_t *tables; /* how often each cluster is referred to as a mapping table */
	uint32_t times;   /* that what is found counts */
	uint64_t n;       /* clusters of the file */
	uint64_t wild;    /* references to where there is none */
	uint64_t bytes;   /* of tables, so far */
};

static void add(uint32_t *to, uint32_t n)
{
	if (__builtin_add_overflow(*to, n, to))
		*to = UINT32_MAX;
}

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
		add(&k->count[c], k->times);
	return 0;
}

/* Clusters, each once: for whoever goes through tables that may refer to one over and over again. */
struct seen {
	uint8_t *bits;
};

static int seen_new(const struct qcow2 *q, struct seen *s)
{
	s->bits = calloc((atomic_load(&q->limit) >> q->cluster_bits) / 8 + 1, 1);
	return s->bits ? 0 : -ENOMEM;
}

/* True if the table that is there was seen before. */
static bool see(const struct qcow2 *q, struct seen *s, uint64_t off)
{
	uint64_t c = cluster_of(q, off);
	bool before = s->bits[c / 8] >> (c % 8) & 1;

	s->bits[c / 8] |= (uint8_t)(1U << (c % 8));
	return before;
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

/* A table, and what it refers to. */
static int walk_table(struct qcow2 *q, uint64_t off, uint64_t *table, entry_fn fn, void *arg)
{
	int err = fn(q, arg, off, q->cluster);

	if (!err)
		err = file_read_full(q, table, q->cluster, off);
	for (uint64_t j = 0; j < q->cluster / 8 && !err; j += q->words)
		err = walk_entry(q, be64toh(table[j]), q->extended ? be64toh(table[j + 1]) : 0, fn, arg);
	return err;
}

int check_walk(struct qcow2 *q, const uint64_t *l1, uint64_t entries, entry_fn fn, void *arg)
{
	uint64_t *table = qcow2_alloc(q->cluster);
	struct seen seen = { NULL };
	int err = table ? seen_new(q, &seen) : -ENOMEM;

	for (uint64_t i = 0; i < entries && !err; i++) {
		uint64_t off = l1[i] & OFFSET_MASK;

		if (!off)
			continue;
		if (!offset_is_sound(q, off, q->cluster))
			err = fn(q, arg, UINT64_MAX - 1, 1);
		else if (see(q, &seen, off))
			err = -WHAT_IS_WRONG; /* a table has one place on a disk */
		else
			err = walk_table(q, off, table, fn, arg);
	}
	free(seen.bits);
	free(table);
	return err;
}

static int spend(struct counts *k, uint64_t bytes)
{
	k->bytes += bytes;
	return k->bytes > TABLES_MAX ? -EFBIG : 0;
}

static void note_tables(const struct qcow2 *q, struct counts *k, const uint64_t *l1, uint64_t entries)
{
	for (uint64_t i = 0; i < entries; i++) {
		uint64_t off = l1[i] & OFFSET_MASK;

		if (off && offset_is_sound(q, off, q->cluster))
			add(&k->tables[cluster_of(q, off)], 1);
		else
			k->wild += off != 0;
	}
}

/* Each table is read once, however many L1 tables share it; what it refers to counts for all of them. */
static int walk_tables(struct qcow2 *q, struct counts *k)
{
	uint64_t *table = qcow2_alloc(q->cluster);
	int err = table ? 0 : -ENOMEM;

	for (uint64_t c = 0; c < k->n && !err; c++) {
		k->times = k->tables[c];
		if (k->times)
			err = spend(k, q->cluster);
		if (k->times && !err)
			err = walk_table(q, c << q->cluster_bits, table, count, k);
	}
	k->times = 1;
	free(table);
	return err;
}

static int note_snapshots(struct qcow2 *q, struct counts *k)
{
	struct snapshot s = { 0 };
	int err = 0;

	for (uint32_t i = 0; i < q->header.nsnapshots && !err; i++) {
		CLEAN_FREE uint64_t *l1 = NULL;

		err = snapshot_next(q, &s);
		if (!err)
			err = spend(k, (uint64_t)s.l1_entries * 8);
		if (!err)
			err = snapshot_load_l1(q, &s, &l1);
		if (!err)
			err = count(q, k, s.l1_off, (uint64_t)s.l1_entries * 8);
		if (!err)
			note_tables(q, k, l1, s.l1_entries);
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
	note_tables(q, k, q->l1, h->l1_entries);
	if (!err)
		err = note_snapshots(q, k);
	if (!err)
		err = walk_tables(q, k);
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
	/* ... nor known not to be referred to. */
	if (!err && q->doubt.host)
		err = count(q, k, q->doubt.host, q->cluster);
	return err;
}

/* ---- judging ---- */

/* A run of clusters whose counts are to be the same. */
struct mend {
	uint64_t first, n, value;
};

static int mend_now(struct qcow2 *q, struct mend *m)
{
	int err = m->n ? ref_set(q, m->first, m->n, m->value) : 0;

	m->n = 0;
	return err;
}

static int mend_later(struct qcow2 *q, struct mend *m, uint64_t cluster, uint64_t value)
{
	int err = 0;

	if (value > ref_max(q))
		return -E2BIG;
	if (m->n && (m->first + m->n != cluster || m->value != value))
		err = mend_now(q, m);
	if (!err)
		err = ref_ensure(q, cluster);
	if (!m->n)
		*m = (struct mend) { .first = cluster, .value = value };
	m->n++;
	return err;
}

static int compare(struct qcow2 *q, const struct counts *k, bool repair, struct qcow2_check *out)
{
	/* Blocks of counts that are added meanwhile come behind that, and are not known to k. */
	uint64_t end = repair ? MIN(k->n, q->pool.end) : k->n;
	struct mend mend = { 0 };
	int err = 0;

	for (uint64_t c = 0; c < end && !err; c++) {
		uint64_t value;

		err = ref_get(q, c, &value);
		if (err || value == k->count[c])
			continue;
		out->corruptions += value < k->count[c];
		out->leaks += value > k->count[c];
		if (repair)
			err = mend_later(q, &mend, c, k->count[c]);
	}
	return err ? err : mend_now(q, &mend);
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
	struct seen seen = { NULL };
	bool changed, any = false;
	int err = table ? seen_new(q, &seen) : -ENOMEM;

	for (uint64_t i = 0; i < entries && !err; i++) {
		uint64_t word = l1[i];

		err = right_flag(q, &word, &changed);
		if (repair)
			l1[i] = word;
		*wrong += changed;
		any |= changed;
		if (!err && offset_is_sound(q, word & OFFSET_MASK, q->cluster) &&
		    !see(q, &seen, word & OFFSET_MASK))
			err = right_table(q, word & OFFSET_MASK, table, repair, wrong);
	}
	free(seen.bits);
	free(table);
	if (!err && any && repair && l1_off == q->header.l1_off)
		for (uint64_t i = 0; i < entries && !err; i += QCOW2_BLOCK / 8)
			err = l1_write(q, i);
	return err;
}

/* Behind the last cluster that anything refers to. */
static uint64_t end_of(const struct counts *k)
{
	uint64_t end = k->n;

	while (end && !k->count[end - 1])
		end--;
	return end;
}

int qcow2_check(struct qcow2 *q, bool repair, struct qcow2_check *out)
{
	struct counts k = { .n = atomic_load(&q->limit) >> q->cluster_bits, .times = 1 };
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
	k.tables = calloc(k.n, sizeof(*k.tables));
	if (!err && (!k.count || !k.tables))
		err = -ENOMEM;
	if (!err)
		err = walk_all(q, &k);
	/* On a device that was looked for by the counts, which are in doubt; those that are missing will be put there. */
	if (!err && repair)
		alloc_grow_to(q, end_of(&k));
	if (!err)
		err = compare(q, &k, repair, out);
	free(k.count);
	free(k.tables);
	if (!err && repair)
		err = file_sync(q);
	if (!err)
		err = check_flags(q, q->l1, q->header.l1_entries, q->header.l1_off, repair, &flags);
	out->corruptions += k.wild + flags;
	if (repair)
		cache_drop_all(q);
	return !err && repair && k.wild ? -WHAT_IS_WRONG : err;
}
