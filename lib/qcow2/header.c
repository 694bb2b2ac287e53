/* SPDX-License-Identifier: Apache-2.0 */
/* The header: read, judged field by field, and written back. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "qcow2_priv.h"

#define MAGIC        0x514649fbU
#define V2_LENGTH    72
#define V3_LENGTH    104
#define BACKING_NAME 1023
#define EXT_END      0U
#define EXT_FORMAT   0xe2792acaU

/* Where each field stands. */
enum {
	AT_MAGIC = 0,
	AT_VERSION = 4,
	AT_BACKING_OFF = 8,
	AT_BACKING_LEN = 16,
	AT_CLUSTER_BITS = 20,
	AT_SIZE = 24,
	AT_CRYPT = 32,
	AT_L1_ENTRIES = 36,
	AT_L1_OFF = 40,
	AT_REFTABLE_OFF = 48,
	AT_REFTABLE_CLUSTERS = 56,
	AT_NSNAPSHOTS = 60,
	AT_SNAPSHOTS_OFF = 64,
	AT_INCOMPATIBLE = 72,
	AT_COMPATIBLE = 80,
	AT_AUTOCLEAR = 88,
	AT_REFCOUNT_ORDER = 96,
	AT_LENGTH = 100,
	AT_COMPRESSION = 104,
};

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static void put32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

static void parse(struct header *h, const uint8_t *p)
{
	*h = (struct header) {
		.magic = get32(p + AT_MAGIC),
		.version = get32(p + AT_VERSION),
		.backing_off = get64(p + AT_BACKING_OFF),
		.backing_len = get32(p + AT_BACKING_LEN),
		.cluster_bits = get32(p + AT_CLUSTER_BITS),
		.size = get64(p + AT_SIZE),
		.crypt = get32(p + AT_CRYPT),
		.l1_entries = get32(p + AT_L1_ENTRIES),
		.l1_off = get64(p + AT_L1_OFF),
		.reftable_off = get64(p + AT_REFTABLE_OFF),
		.reftable_clusters = get32(p + AT_REFTABLE_CLUSTERS),
		.nsnapshots = get32(p + AT_NSNAPSHOTS),
		.snapshots_off = get64(p + AT_SNAPSHOTS_OFF),
		.refcount_order = 4,
		.length = V2_LENGTH,
	};
	if (h->version < 3)
		return;
	h->incompatible = get64(p + AT_INCOMPATIBLE);
	h->compatible = get64(p + AT_COMPATIBLE);
	h->autoclear = get64(p + AT_AUTOCLEAR);
	h->refcount_order = get32(p + AT_REFCOUNT_ORDER);
	h->length = get32(p + AT_LENGTH);
	h->compression = h->length > AT_COMPRESSION ? p[AT_COMPRESSION] : 0;
}

#define REFUSE(...)                                                                                          \
	do {                                                                                                 \
		snprintf(why, size, __VA_ARGS__);                                                            \
		return -EINVAL;                                                                              \
	} while (0)

static int judge_features(const struct qcow2 *q, const struct header *h, char *why, size_t size)
{
	uint64_t unknown = h->incompatible & ~(uint64_t)(FEATURE_DIRTY | FEATURE_CORRUPT | FEATURE_DATA_FILE |
							 FEATURE_COMPRESSION | FEATURE_EXTENDED);

	if (unknown)
		REFUSE("its header has the unknown incompatible feature bit %d", __builtin_ctzll(unknown));
	if (h->incompatible & FEATURE_DATA_FILE)
		REFUSE("it keeps its data in an external data file, which is not supported");
	if (h->crypt)
		REFUSE("it is encrypted (method %u), which is not supported", h->crypt);
	if ((h->incompatible & FEATURE_CORRUPT) && !q->readonly)
		REFUSE("it is marked as corrupt, so it can only be read; mend it with qemu-img check -r all");
	if (!!(h->incompatible & FEATURE_COMPRESSION) != !!h->compression)
		REFUSE("its compression type %u contradicts its feature bits", h->compression);
	if (h->compression > 1)
		REFUSE("its compression type %u is unknown", h->compression);
#ifndef HAVE_ZSTD
	if (h->compression == 1)
		REFUSE("it is compressed with zstd, without which this program was built");
#endif
	return 0;
}

/* Every number that other checks need first. */
static int judge_shape(const struct header *h, char *why, size_t size)
{
	if (h->magic != MAGIC)
		REFUSE("it is not a qcow2 image");
	if (h->version != 2 && h->version != 3)
		REFUSE("its version is %u; 2 and 3 are known", h->version);
	if (h->cluster_bits < 9 || h->cluster_bits > 21)
		REFUSE("its clusters have 2^%u bytes; 512 bytes to 2 MiB are allowed", h->cluster_bits);
	if (h->version == 3 && (h->length < V3_LENGTH || h->length % 8 || h->length > 1U << h->cluster_bits))
		REFUSE("its header length is %u", h->length);
	if (h->refcount_order > 6)
		REFUSE("its reference counts have 2^%u bits; 64 is the most", h->refcount_order);
	if ((h->incompatible & FEATURE_EXTENDED) && h->cluster_bits < 14)
		REFUSE("it has subclusters, and clusters of less than 16 KiB");
	return 0;
}

/* A table that the header points at: aligned, behind the header, within the file. */
static bool is_table(const struct qcow2 *q, uint64_t off, uint64_t bytes)
{
	return offset_is_sound(q, off, num_align_up(bytes, q->cluster));
}

static bool overlap(uint64_t a, uint64_t an, uint64_t b, uint64_t bn)
{
	return an && bn && a < b + bn && b < a + an;
}

static int judge_tables(const struct qcow2 *q, const struct header *h, char *why, size_t size)
{
	uint64_t l1_bytes = (uint64_t)h->l1_entries * 8;
	uint64_t ref_bytes = (uint64_t)h->reftable_clusters << q->cluster_bits;
	uint64_t per_entry = q->cluster << q->l2_bits, need = h->size / per_entry + !!(h->size % per_entry);

	if (h->size > INT64_MAX - q->cluster)
		REFUSE("its size is %" PRIu64 " bytes", h->size);
	if (l1_bytes > L1_MAX)
		REFUSE("its L1 table has %u entries", h->l1_entries);
	if (need > h->l1_entries)
		REFUSE("its L1 table has %u entries, and its size needs %" PRIu64, h->l1_entries, need);
	if (l1_bytes && !is_table(q, h->l1_off, l1_bytes))
		REFUSE("its L1 table at %#" PRIx64 " is not aligned, or outside the file", h->l1_off);
	if (!h->reftable_clusters || ref_bytes > REFTABLE_MAX)
		REFUSE("its refcount table has %u clusters", h->reftable_clusters);
	if (!is_table(q, h->reftable_off, ref_bytes))
		REFUSE("its refcount table at %#" PRIx64 " is not aligned, or outside the file",
		       h->reftable_off);
	if (overlap(h->l1_off, l1_bytes, h->reftable_off, ref_bytes))
		REFUSE("its L1 table and its refcount table overlap");
	if (h->nsnapshots > SNAPSHOTS_MAX)
		REFUSE("it has %u snapshots", h->nsnapshots);
	if (h->nsnapshots && !is_table(q, h->snapshots_off, (uint64_t)h->nsnapshots * 40))
		REFUSE("its snapshot table at %#" PRIx64 " is not aligned, or outside the file",
		       h->snapshots_off);
	if (h->backing_off && (h->backing_len > BACKING_NAME || h->backing_off > q->cluster ||
			       h->backing_len > q->cluster - h->backing_off))
		REFUSE("its backing file's name is not within its first cluster");
	return 0;
}

static void take_shape(struct qcow2 *q, const struct header *h)
{
	q->v3 = h->version == 3;
	q->extended = h->incompatible & FEATURE_EXTENDED;
	q->cluster_bits = h->cluster_bits;
	q->cluster = 1ULL << h->cluster_bits;
	q->words = q->extended ? 2 : 1;
	q->l2_bits = h->cluster_bits - 3 - q->extended;
	q->nsubs = q->extended ? SUBS : 1;
	q->sub_bits = h->cluster_bits - (q->extended ? 5 : 0);
	q->ref_order = h->refcount_order;
	q->compression = h->compression;
	q->slice_bytes = (size_t)MIN(q->cluster, SLICE_MAX);
	q->slice_bits = (unsigned)__builtin_ctzll(q->slice_bytes / 8 / q->words);
}

int header_read(struct qcow2 *q, char *why, size_t size)
{
	struct header *h = &q->header;
	uint64_t bytes;
	int64_t n;
	int err;

	q->header_block = qcow2_alloc(QCOW2_BLOCK);
	if (!q->header_block)
		return -ENOMEM;
	memset(q->header_block, 0, QCOW2_BLOCK);
	n = q->file.ops->read(q->file.arg, q->header_block, QCOW2_BLOCK, 0);
	if (n < 0) {
		snprintf(why, size, "its header can't be read: %s", strerrordesc_np((int)-n));
		return (int)n;
	}
	if (n < V2_LENGTH)
		REFUSE("it is shorter than a header");
	parse(h, q->header_block);
	err = judge_shape(h, why, size);
	if (err)
		return err;
	take_shape(q, h);
	err = q->file.ops->size(q->file.arg, &bytes);
	if (err) {
		snprintf(why, size, "its length can't be found: %s", strerrordesc_np(-err));
		return err;
	}
	if (bytes > INT64_MAX - CLUSTER_MAX)
		REFUSE("its file is too long");
	atomic_store(&q->eof, num_align_down(bytes, QCOW2_BLOCK));
	atomic_store(&q->limit, num_align_up(bytes, q->cluster));
	free(q->header_block);
	q->header_block = qcow2_alloc(q->cluster);
	err = q->header_block ? file_read_full(q, q->header_block, q->cluster, 0) : -ENOMEM;
	if (err) {
		snprintf(why, size, "its header can't be read: %s", strerrordesc_np(-err));
		return err;
	}
	err = judge_features(q, h, why, size);
	if (!err)
		err = judge_tables(q, h, why, size);
	if (!err)
		atomic_store(&q->size, num_align_down(h->size, QCOW2_BLOCK));
	return err;
}

/* All fields that change are within the first block, so that they change together. */
int header_write(struct qcow2 *q)
{
	const struct header *h = &q->header;
	uint8_t *p = q->header_block;

	put64(p + AT_SIZE, h->size);
	put32(p + AT_L1_ENTRIES, h->l1_entries);
	put64(p + AT_L1_OFF, h->l1_off);
	put64(p + AT_REFTABLE_OFF, h->reftable_off);
	put32(p + AT_REFTABLE_CLUSTERS, h->reftable_clusters);
	if (q->v3) {
		put64(p + AT_INCOMPATIBLE, h->incompatible);
		put64(p + AT_AUTOCLEAR, h->autoclear);
	}
	return file_write(q, p, QCOW2_BLOCK, 0);
}

int header_change(struct qcow2 *q, const struct header *to)
{
	struct header before = q->header;
	int err;

	q->header = *to;
	err = header_write(q);
	if (!err)
		err = file_sync(q);
	if (err) {
		q->header = before;
		q->doubt.header = true;
	}
	return err;
}

/* Strangers write it, and it may be shown on a terminal. */
static void copy_text(char *out, size_t size, const uint8_t *text, uint64_t len)
{
	size_t n = (size_t)MIN(len, size - 1);

	for (size_t i = 0; i < n; i++)
		out[i] = text[i] < ' ' || text[i] == 0x7f ? '?' : (char)text[i];
	out[n] = 0;
}

void header_backing(const struct qcow2 *q, char *name, size_t name_size, char *format, size_t format_size)
{
	const struct header *h = &q->header;
	uint64_t at = h->length;

	*name = *format = 0;
	if (!h->backing_off || !h->backing_len)
		return;
	copy_text(name, name_size, q->header_block + h->backing_off, h->backing_len);
	while (at + 8 <= q->cluster) {
		uint32_t type = get32(q->header_block + at), len = get32(q->header_block + at + 4);

		if (type == EXT_END || len > q->cluster - at - 8)
			return;
		if (type == EXT_FORMAT)
			copy_text(format, format_size, q->header_block + at + 8, len);
		at += 8 + num_align_up(len, 8);
	}
}

bool header_is_protected(const struct qcow2 *q, uint64_t cluster)
{
	const struct header *h = &q->header;
	uint64_t off = cluster << q->cluster_bits;

	return !cluster || overlap(off, q->cluster, h->l1_off, (uint64_t)h->l1_entries * 8) ||
	       overlap(off, q->cluster, h->reftable_off, (uint64_t)h->reftable_clusters << q->cluster_bits) ||
	       (h->nsnapshots && overlap(off, q->cluster, h->snapshots_off, q->cluster));
}
