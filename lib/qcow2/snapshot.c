/* SPDX-License-Identifier: Apache-2.0 */
/* Internal snapshots: listed, and reverted to. */
#include <stdlib.h>

#include "clean.h"
#include "qcow2_priv.h"

#define ENTRY_BYTES 40 /* before what is variable */

/* len bytes from anywhere in the file. */
static int read_bytes(struct qcow2 *q, uint64_t off, void *buf, size_t len)
{
	int err = 0;

	for (size_t n; len && !err; off += n, buf = (uint8_t *)buf + n, len -= n) {
		uint64_t start = num_align_down(off, QCOW2_BLOCK);

		n = MIN(len, QCOW2_BLOCK - (size_t)(off - start));
		err = file_read_full(q, q->block, QCOW2_BLOCK, start);
		if (!err)
			memcpy(buf, q->block + (off - start), n);
	}
	return err;
}

/* Text of len bytes in a table, as much of it as fits. */
static int read_text(struct qcow2 *q, uint64_t off, size_t len, char *out, size_t size)
{
	size_t n = MIN(len, size - 1);

	out[n] = 0;
	return read_bytes(q, off, out, n);
}

struct entry {
	uint64_t l1_off;
	uint32_t l1_entries;
	uint16_t id_len, name_len;
	uint32_t seconds, nanoseconds;
	uint64_t ran;
	uint32_t vm_state, extra_len;
} __attribute__((packed));

_Static_assert(sizeof(struct entry) == ENTRY_BYTES, "as it stands in the file");

int snapshot_next(struct qcow2 *q, struct snapshot *s)
{
	uint64_t at = s->next ? s->next : q->header.snapshots_off, extra[2] = { 0 }, end;
	struct entry e;
	int err;

	err = read_bytes(q, at, &e, sizeof(e));
	if (err)
		return err;
	*s = (struct snapshot) { .l1_off = be64toh(e.l1_off), .l1_entries = be32toh(e.l1_entries) };
	e.extra_len = be32toh(e.extra_len);
	e.id_len = be16toh(e.id_len);
	e.name_len = be16toh(e.name_len);
	end = at + ENTRY_BYTES + e.extra_len + e.id_len + e.name_len;
	s->next = num_align_up(end, 8);
	if (s->next - q->header.snapshots_off > SNAPSHOT_TABLE_MAX ||
	    s->next > atomic_load_explicit(&q->limit, memory_order_relaxed))
		return -WHAT_IS_WRONG;
	s->told.time = be32toh(e.seconds);
	s->told.vm_state = be32toh(e.vm_state);
	s->told.bytes = q->header.size;
	err = read_bytes(q, at + ENTRY_BYTES, extra, MIN(e.extra_len, sizeof(extra)));
	if (e.extra_len >= 8)
		s->told.vm_state = be64toh(extra[0]);
	if (e.extra_len >= 16)
		s->told.bytes = be64toh(extra[1]);
	at += ENTRY_BYTES + e.extra_len;
	if (!err)
		err = read_text(q, at, e.id_len, s->told.id, sizeof(s->told.id));
	if (!err)
		err = read_text(q, at + e.id_len, e.name_len, s->told.name, sizeof(s->told.name));
	return err;
}

int snapshot_load_l1(struct qcow2 *q, const struct snapshot *s, uint64_t **l1)
{
	uint64_t bytes = num_align_up((uint64_t)s->l1_entries * 8, QCOW2_BLOCK);
	int err;

	if (bytes > L1_MAX || (bytes && !offset_is_sound(q, s->l1_off, bytes)))
		return -WHAT_IS_WRONG;
	*l1 = qcow2_alloc(MAX(bytes, QCOW2_BLOCK));
	if (!*l1)
		return -ENOMEM;
	err = bytes ? file_read_full(q, *l1, bytes, s->l1_off) : 0;
	for (uint32_t i = 0; i < s->l1_entries; i++)
		(*l1)[i] = be64toh((*l1)[i]);
	return err;
}

int qcow2_snapshot_get(struct qcow2 *q, unsigned index, struct qcow2_snapshot *out)
{
	struct snapshot s = { 0 };
	int err = index < q->header.nsnapshots ? 0 : -ENOENT;

	for (unsigned i = 0; i <= index && !err; i++)
		err = snapshot_next(q, &s);
	*out = s.told;
	return err;
}

int qcow2_snapshot_each(struct qcow2 *q, int (*fn)(void *arg, const struct qcow2_snapshot *s), void *arg)
{
	struct snapshot s = { 0 };
	int err = 0;

	for (uint32_t i = 0; i < q->header.nsnapshots && !err; i++) {
		err = snapshot_next(q, &s);
		if (!err)
			err = fn(arg, &s.told);
	}
	return err;
}

static int find(struct qcow2 *q, const char *which, struct snapshot *out)
{
	struct snapshot s = { 0 };
	bool found = false;
	int err = 0;

	for (uint32_t i = 0; i < q->header.nsnapshots && !err; i++) {
		err = snapshot_next(q, &s);
		if (err)
			break;
		if (!strcmp(s.told.id, which)) {
			*out = s;
			return 0;
		}
		if (!found && !strcmp(s.told.name, which)) {
			*out = s;
			found = true;
		}
	}
	return err ? err : found ? 0 : -ENOENT;
}

/* ---- reverting ---- */

struct change {
	int delta;
	uint64_t done, stop; /* changed so far; how many to change at most */
};

static int change(struct qcow2 *q, void *arg, uint64_t off, uint64_t len)
{
	struct change *c = arg;
	uint64_t first = cluster_of(q, off);
	int err;

	if (!len)
		return 0;
	if (off > atomic_load_explicit(&q->limit, memory_order_relaxed))
		return c->delta < 0 ? 0 : -WHAT_IS_WRONG;
	if (c->done == c->stop)
		return -ECANCELED;
	err = ref_add(q, first, cluster_of(q, off + len - 1) - first + 1, c->delta);
	c->done += !err;
	return err;
}

/* One reference more for all that a snapshot refers to; or none, if it can't be had for one of them. */
static int add_references(struct qcow2 *q, const uint64_t *l1, uint32_t entries)
{
	struct change more = { .delta = 1, .stop = UINT64_MAX }, back = { .delta = -1 };
	int err = check_walk(q, l1, entries, change, &more);

	if (!err)
		return file_sync(q);
	back.stop = more.done;
	check_walk(q, l1, entries, change, &back);
	return err;
}

static int write_l1(struct qcow2 *q, uint64_t *l1, uint64_t entries, uint64_t off)
{
	uint64_t bytes = num_align_up(entries * 8, QCOW2_BLOCK);
	uint64_t *out = qcow2_alloc(MAX(bytes, QCOW2_BLOCK));
	int err;

	if (!out)
		return -ENOMEM;
	memset(out, 0, bytes);
	for (uint64_t i = 0; i < entries; i++)
		out[i] = htobe64(l1[i]);
	err = file_write(q, out, bytes, off);
	free(out);
	return err ? err : file_sync(q);
}

static uint64_t entries_for(const struct qcow2 *q, uint64_t bytes)
{
	uint64_t per = q->cluster << q->l2_bits;

	return bytes / per + !!(bytes % per);
}

/* A copy of the snapshot's L1 table at *off, with all that it refers to counted once more. */
static int copy_table(struct qcow2 *q, const struct snapshot *s, uint64_t *l1, uint64_t *off)
{
	uint64_t n = clusters_for(q, (uint64_t)s->l1_entries * 8), flags = 0;
	int err = alloc_row(q, n, off);

	if (err)
		return err;
	err = add_references(q, l1, s->l1_entries);
	if (err) {
		/* Counts that are full, for one: nothing refers to the row yet. If that fails, too, it leaks. */
		ref_add(q, cluster_of(q, *off), n, -1);
		return err;
	}
	/* All counts are above 1 now, so no flag may stay. */
	err = check_flags(q, l1, s->l1_entries, 0, true, &flags);
	return err ? err : write_l1(q, l1, s->l1_entries, *off);
}

/*
 * The references of the new state are counted first, then the header changes, in one block, then those of the old
 * state are given up. Between these there are flushes, so whatever happens leaves the one or the other, and leaks.
 */
int qcow2_snapshot_revert(struct qcow2 *q, const char *which)
{
	CLEAN_FREE uint64_t *l1 = NULL;
	struct snapshot s;
	struct header before, to;
	struct change less = { .delta = -1, .stop = UINT64_MAX };
	uint64_t off, flags = 0, *old = q->l1;
	int err = q->readonly ? -EROFS : find(q, which, &s);

	/* A count of what was given up, and is not lowered yet, could have no room for one more. */
	if (!err)
		err = alloc_settle(q);
	if (!err)
		err = snapshot_load_l1(q, &s, &l1);
	if (!err && (!s.l1_entries || s.l1_entries < entries_for(q, s.told.bytes)))
		err = -WHAT_IS_WRONG;
	if (!err)
		err = copy_table(q, &s, l1, &off);
	if (err)
		return err;
	to = before = q->header;
	to.l1_off = off;
	to.l1_entries = s.l1_entries;
	to.size = s.told.bytes;
	err = header_change(q, &to);
	if (err)
		return err;
	q->l1 = TAKE_PTR(l1);
	cache_drop_all(q);
	atomic_store(&q->size, num_align_down(s.told.bytes, QCOW2_BLOCK));
	err = check_walk(q, old, before.l1_entries, change, &less);
	if (!err && before.l1_entries)
		err = ref_add(q, cluster_of(q, before.l1_off),
			      clusters_for(q, (uint64_t)before.l1_entries * 8), -1);
	free(old);
	if (!err)
		err = file_sync(q);
	return err ? err : check_flags(q, q->l1, q->header.l1_entries, off, true, &flags);
}
