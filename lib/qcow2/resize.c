/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes the virtual disk larger: a longer L1 table if need be, then zeroes where something would be seen in the new part,
 * then the size. Between these there are flushes, and the header changes in one block.
 */
#include <stdlib.h>

#include "qcow2_priv.h"

/* A copy of the L1 table with room for more entries, at the end of the file. */
static int write_longer_l1(struct qcow2 *q, uint64_t entries, uint64_t **out, uint64_t *off)
{
	uint64_t bytes = num_align_up(entries * 8, q->cluster), *l1;
	int err = alloc_row(q, bytes >> q->cluster_bits, off);

	if (err)
		return err;
	l1 = qcow2_alloc(bytes);
	if (!l1)
		return -ENOMEM;
	memset(l1, 0, bytes);
	for (uint64_t i = 0; i < q->header.l1_entries; i++)
		l1[i] = htobe64(q->l1[i]);
	err = file_write(q, l1, bytes, *off);
	if (!err)
		err = file_sync(q);
	for (uint64_t i = 0; i < entries; i++)
		l1[i] = be64toh(l1[i]);
	*out = l1;
	if (err)
		free(l1);
	return err;
}

static int lengthen_l1(struct qcow2 *q, uint64_t entries)
{
	struct header before = q->header, to;
	uint64_t off, *l1;
	int err = write_longer_l1(q, entries, &l1, &off);

	if (err)
		return err;
	to = q->header; /* the counts may have moved meanwhile */
	to.l1_off = off;
	to.l1_entries = (uint32_t)entries;
	err = header_change(q, &to);
	if (err) {
		free(l1);
		return err;
	}
	free(q->l1);
	q->l1 = l1;
	if (before.l1_entries)
		alloc_free(q, before.l1_off, clusters_for(q, (uint64_t)before.l1_entries * 8));
	return 0;
}

int qcow2_resize(struct qcow2 *q, uint64_t bytes, const char **why)
{
	uint64_t per = q->cluster << q->l2_bits, entries;
	int err = q->readonly ? -EROFS : qcow2_commit(q);
	struct header to;

	*why = NULL;
	if (err)
		return err;
	if (bytes < q->header.size)
		return -ENOTSUP;
	if (bytes % QCOW2_BLOCK || bytes > INT64_MAX - q->cluster)
		return -EINVAL;
	entries = MAX(bytes / per + !!(bytes % per), q->header.l1_entries);
	if (entries * 8 > L1_MAX)
		return -EFBIG;
	if (entries > q->header.l1_entries)
		err = lengthen_l1(q, entries);
	if (!err)
		err = zero_beyond(q, bytes, why);
	if (err)
		return err;
	to = q->header;
	to.size = bytes;
	err = header_change(q, &to);
	if (!err)
		atomic_store_explicit(&q->size, bytes, memory_order_release);
	return err;
}
