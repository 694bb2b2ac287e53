/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reference counts: a table of blocks, cached in slices, written through. The table grows by being written anew at the
 * end of the file; a new block lies, where it can, among the clusters that it counts, so that it counts itself.
 * Whatever points to something new is written after a flush of what it points to.
 */
#include <stdlib.h>

#include "qcow2_priv.h"

static unsigned bits(const struct qcow2 *q)
{
	return 1U << q->ref_order;
}

uint64_t ref_max(const struct qcow2 *q)
{
	return q->ref_order == 6 ? UINT64_MAX : (1ULL << bits(q)) - 1;
}

uint64_t ref_block_entries(const struct qcow2 *q)
{
	return q->cluster * 8 / bits(q);
}

static uint64_t slice_entries(const struct qcow2 *q)
{
	return q->slice_bytes * 8 / bits(q);
}

static uint64_t get_at(const struct qcow2 *q, const uint8_t *p, uint64_t i)
{
	uint64_t v = 0;

	if (q->ref_order < 3)
		return p[i * bits(q) / 8] >> (i * bits(q) % 8) & ref_max(q);
	for (unsigned n = 0; n < bits(q) / 8; n++)
		v = v << 8 | p[i * (bits(q) / 8) + n];
	return v;
}

static void set_at(const struct qcow2 *q, uint8_t *p, uint64_t i, uint64_t v)
{
	unsigned bytes = bits(q) / 8, shift = (unsigned)(i * bits(q) % 8);
	uint8_t *at = p + i * bits(q) / 8;

	if (q->ref_order < 3) {
		*at = (uint8_t)((*at & ~(ref_max(q) << shift)) | v << shift);
		return;
	}
	for (unsigned n = 0; n < bytes; n++)
		at[n] = (uint8_t)(v >> 8 * (bytes - 1 - n));
}

int ref_load_table(struct qcow2 *q)
{
	size_t bytes = (size_t)q->header.reftable_clusters << q->cluster_bits;
	int err;

	q->reftable_entries = bytes / 8;
	q->reftable = qcow2_alloc(bytes);
	q->refs.bytes = qcow2_alloc((size_t)REF_SLICES * SLICE_MAX);
	if (!q->reftable || !q->refs.bytes)
		return -ENOMEM;
	memset(q->refs.index, 0xff, sizeof(q->refs.index));
	err = file_read_full(q, q->reftable, bytes, q->header.reftable_off);
	for (uint64_t i = 0; i < q->reftable_entries; i++)
		q->reftable[i] = be64toh(q->reftable[i]);
	return err;
}

/* The slice that counts a cluster, with where it is in the file; *bytes is NULL where there is none: all are 0. */
static int get_slice(struct qcow2 *q, uint64_t cluster, uint8_t **bytes, uint64_t *off)
{
	uint64_t slice = cluster / slice_entries(q), region = cluster / ref_block_entries(q), block;
	unsigned i = (unsigned)(slice % REF_SLICES);

	*bytes = NULL;
	block = region < q->reftable_entries ? q->reftable[region] : 0;
	if (!block)
		return 0;
	if (!offset_is_sound(q, block, q->cluster) || header_is_protected(q, cluster_of(q, block)))
		return -WHAT_IS_WRONG;
	*off = block + slice % (q->cluster / q->slice_bytes) * q->slice_bytes;
	if (q->refs.index[i] != slice) {
		int err;

		q->refs.index[i] = UINT64_MAX;
		err = file_read_full(q, q->refs.bytes + (size_t)i * SLICE_MAX, q->slice_bytes, *off);
		if (err)
			return err;
		q->refs.index[i] = slice;
	}
	*bytes = q->refs.bytes + (size_t)i * SLICE_MAX;
	return 0;
}

int ref_get(struct qcow2 *q, uint64_t cluster, uint64_t *value)
{
	uint8_t *bytes;
	uint64_t off;
	int err = get_slice(q, cluster, &bytes, &off);

	*value = !err && bytes ? get_at(q, bytes, cluster % slice_entries(q)) : 0;
	return err;
}

/* Changes n counts of one slice; nothing if any of them can't be changed so. */
static int change_slice(struct qcow2 *q, uint64_t first, uint64_t n, int delta, const uint64_t *set)
{
	uint64_t off, at = first % slice_entries(q), from, to;
	uint8_t *bytes;
	int err = get_slice(q, first, &bytes, &off);

	if (err)
		return err;
	if (!bytes)
		return -WHAT_IS_WRONG;
	for (uint64_t i = 0; !set && i < n; i++) {
		uint64_t v = get_at(q, bytes, at + i);

		if (delta < 0 ? v < (uint64_t)-delta : v > ref_max(q) - (uint64_t)delta)
			return delta < 0 ? -WHAT_IS_WRONG : -E2BIG;
	}
	for (uint64_t i = 0; i < n; i++)
		set_at(q, bytes, at + i, set ? *set : get_at(q, bytes, at + i) + (uint64_t)(int64_t)delta);
	from = num_align_down(at * bits(q) / 8, QCOW2_BLOCK);
	to = num_align_up(((at + n) * bits(q) + 7) / 8, QCOW2_BLOCK);
	err = file_write(q, bytes + from, to - from, off + from);
	if (err)
		q->refs.index[first / slice_entries(q) % REF_SLICES] = UINT64_MAX;
	return err;
}

int ref_add(struct qcow2 *q, uint64_t first, uint64_t n, int delta)
{
	int err = 0;

	for (uint64_t part; n && !err; first += part, n -= part) {
		part = MIN(slice_entries(q) - first % slice_entries(q), n);
		err = change_slice(q, first, part, delta, NULL);
	}
	return err;
}

int ref_set(struct qcow2 *q, uint64_t first, uint64_t n, uint64_t value)
{
	int err = 0;

	for (uint64_t part; n && !err; first += part, n -= part) {
		part = MIN(slice_entries(q) - first % slice_entries(q), n);
		err = change_slice(q, first, part, 0, &value);
	}
	return err;
}

/* ---- growing ---- */

int ref_write_table(struct qcow2 *q, uint64_t region)
{
	uint64_t first = num_align_down(region, QCOW2_BLOCK / 8), words[QCOW2_BLOCK / 8];

	for (uint64_t i = 0; i < QCOW2_BLOCK / 8; i++)
		words[i] = htobe64(q->reftable[first + i]);
	memcpy(q->block, words, sizeof(words));
	return file_write(q, q->block, QCOW2_BLOCK, q->header.reftable_off + first * 8);
}

/* Writes a block of zeroes, with ones for n clusters from first on, at host. */
static int write_block(struct qcow2 *q, uint64_t host, uint64_t first, uint64_t n)
{
	uint64_t at = first % ref_block_entries(q);

	memset(q->buffer, 0, q->cluster);
	for (uint64_t i = 0; i < n; i++)
		set_at(q, q->buffer, at + i, 1);
	return file_write(q, q->buffer, q->cluster, host);
}

/* Has the table point to a new block. After an error the table here and the one in the file may differ. */
static int add_to_table(struct qcow2 *q, uint64_t region, uint64_t cluster)
{
	int err;

	q->reftable[region] = cluster << q->cluster_bits;
	alloc_grow_to(q, cluster + 1);
	err = ref_write_table(q, region);
	if (!err)
		err = file_sync(q);
	if (err) {
		q->doubt.table = true;
		q->doubt.region = region;
	}
	return err;
}

/* A new block that counts itself, at the end of the file. */
static int add_self_counting(struct qcow2 *q)
{
	uint64_t cluster = q->pool.end, region = cluster / ref_block_entries(q);
	int err = alloc_extend(q, cluster + 1);

	if (!err)
		err = write_block(q, cluster << q->cluster_bits, cluster, 1);
	if (!err)
		err = file_sync(q);
	if (err)
		return err;
	return add_to_table(q, region, cluster);
}

/* A new block for clusters that are not at the end of the file, counted by the block of those that are. */
static int add_elsewhere(struct qcow2 *q, uint64_t region)
{
	uint64_t cluster = q->pool.end;
	int err = ref_set(q, cluster, 1, 1);

	if (!err)
		err = alloc_extend(q, cluster + 1);
	if (!err)
		err = write_block(q, cluster << q->cluster_bits, 0, 0);
	if (!err)
		err = file_sync(q);
	if (err)
		return err;
	return add_to_table(q, region, cluster);
}

/*
 * A larger table, behind the present end of the file, together with the blocks that count it. All of it is written and
 * flushed before the header says so. The old table is given up.
 */
static int grow_table(struct qcow2 *q, uint64_t region)
{
	uint64_t per = ref_block_entries(q), start = q->pool.end, clusters, blocks, entries, end;
	uint64_t old_off = q->header.reftable_off, old_clusters = q->header.reftable_clusters, *table;
	int err = 0;

	/* The new part begins where new blocks do. */
	while (start / per < q->reftable_entries && q->reftable[start / per])
		start = (start / per + 1) * per;
	entries = MAX(region, start / per) + 1;
	entries += entries / 2 + 8;
	clusters = clusters_for(q, entries * 8);
	blocks = 1;
	while ((start + clusters + blocks - 1) / per - start / per + 1 > blocks)
		blocks++;
	entries = MAX(entries, (start + clusters + blocks) / per + 1);
	clusters = clusters_for(q, entries * 8);
	entries = (clusters << q->cluster_bits) / 8;
	if (clusters << q->cluster_bits > REFTABLE_MAX)
		return -EFBIG;
	end = start + clusters + blocks + 1; /* one to spare, as clusters may have become one more */
	table = qcow2_alloc(clusters << q->cluster_bits);
	if (!table)
		return -ENOMEM;
	memset(table, 0, clusters << q->cluster_bits);
	memcpy(table, q->reftable, q->reftable_entries * 8);
	err = alloc_extend(q, end);
	blocks = 0;
	for (uint64_t r = start / per; !err && r <= (end - 1) / per; r++) {
		uint64_t from = MAX(r * per, start), to = MIN((r + 1) * per, end);
		uint64_t host = (start + clusters + blocks++) << q->cluster_bits;

		if (host >> q->cluster_bits >= end)
			err = -EFBIG;
		if (!err)
			err = write_block(q, host, from, to - from);
		table[r] = host;
	}
	for (uint64_t i = 0; i < entries; i++)
		table[i] = htobe64(table[i]);
	if (!err)
		err = file_write(q, table, clusters << q->cluster_bits, start << q->cluster_bits);
	if (!err)
		err = file_sync(q);
	for (uint64_t i = 0; i < entries; i++)
		table[i] = be64toh(table[i]);
	if (err) {
		free(table);
		return err;
	}
	free(q->reftable);
	q->reftable = table;
	q->reftable_entries = entries;
	q->header.reftable_off = start << q->cluster_bits;
	q->header.reftable_clusters = (uint32_t)clusters;
	alloc_grow_to(q, end);
	err = header_write(q);
	if (!err)
		err = file_sync(q);
	q->doubt.header |= err != 0;
	/* The spare ones, and the old table: nothing refers to them any more. */
	if (!err && start + clusters + blocks < end)
		err = ref_add(q, start + clusters + blocks, end - start - clusters - blocks, -1);
	return err ? err : ref_add(q, cluster_of(q, old_off), old_clusters, -1);
}

int ref_ensure(struct qcow2 *q, uint64_t cluster)
{
	uint64_t per = ref_block_entries(q), region = cluster / per;
	int err = alloc_heal(q);

	while (!err && (region >= q->reftable_entries || !q->reftable[region])) {
		uint64_t end_region = q->pool.end / per, value;

		if (MAX(region, end_region) >= q->reftable_entries) {
			err = grow_table(q, region);
		} else if (!q->reftable[end_region]) {
			err = add_self_counting(q);
		} else {
			err = ref_get(q, q->pool.end, &value);
			if (!err && value)
				alloc_grow_to(q, q->pool.end + 1);
			else if (!err)
				err = add_elsewhere(q, region);
		}
	}
	return err;
}
