/* SPDX-License-Identifier: Apache-2.0 */
/* Giving up, and zeroes: of what is on the disk, and of what comes to it when it grows. */
#include "qcow2_priv.h"

/* Zeroes a part of a cluster, or all of one that can't be marked, by zeroing its data. */
static int zero_data(struct qcow2 *q, uint64_t off, uint64_t len)
{
	struct cluster c;
	bool zero;
	int err = read_is_zero(q, off, len, &zero);

	if (err || zero)
		return err;
	err = qcow2_prepare(q, off, len);
	if (!err)
		err = qcow2_commit(q);
	if (!err)
		err = read_entry(q, off >> q->cluster_bits, &c);
	if (!err)
		err = q->file.ops->zero(q->file.arg, c.host + (off & (q->cluster - 1)), len);
	return err;
}

/* Changes a cluster's entry to one without data. keep: with its space. */
static int mark_cluster(struct qcow2 *q, uint64_t index, const struct cluster *c, bool keep)
{
	struct cluster after = { 0 };
	int err = 0;

	if (keep)
		after.host = c->host;
	/* A flag where there must be one: something below would be seen again, or the space that is kept. */
	if (q->below || after.host)
		after.zero = all_subs(q);
	if (c->host == after.host && !c->compressed && !c->alloc && (c->zero == after.zero || !q->below))
		return 0;
	if (q->npending == PENDING_MAX)
		err = qcow2_commit(q);
	if (!err)
		err = write_own_table(q, index >> q->l2_bits);
	if (!err)
		write_later(q, index, c, &after);
	return err;
}

enum how { DISCARD, ZERO_UNMAP, ZERO_KEEP };

static int empty_cluster(struct qcow2 *q, uint64_t index, enum how how)
{
	struct cluster c;
	bool taken, keep, room;
	int err = read_entry(q, index, &c);

	if (err)
		return err;
	taken = c.host || c.compressed;
	if (how == DISCARD && (!taken || !qcow2_can_zero(q)))
		return 0;
	if (!qcow2_can_zero(q))
		return zero_data(q, index << q->cluster_bits, q->cluster);
	room = alloc_has_room(q, PENDING_MAX + 2);
	keep = how == ZERO_KEEP && c.host && c.copied;
	if (!room && !keep && taken) {
		err = qcow2_commit(q);
		if (!err)
			err = qcow2_reclaim(q);
		if (err || how == DISCARD)
			return err;
		keep = c.host && c.copied; /* somebody is slow; what is freed can't be noted any more */
	}
	if (keep && !q->v3)
		return zero_data(q, index << q->cluster_bits, q->cluster);
	return mark_cluster(q, index, &c, keep);
}

/* True if no cluster of the table that has this one has anything to give up; then *next is the first behind it. */
static bool no_table(const struct qcow2 *q, uint64_t index, enum how how, uint64_t *next)
{
	*next = ((index >> q->l2_bits) + 1) << q->l2_bits;
	return !q->l1[index >> q->l2_bits] && (how == DISCARD || !q->below);
}

static int empty(struct qcow2 *q, uint64_t off, uint64_t len, enum how how)
{
	uint64_t size = qcow2_size(q), end = off + len, next, n;
	int err = q->readonly ? -EROFS : qcow2_commit(q);

	for (; off < end && !err; off += n) {
		uint64_t index = off >> q->cluster_bits, in = off & (q->cluster - 1);

		n = MIN(q->cluster - in, end - off);
		/* The last cluster may be longer than the disk. */
		if (!in && (n == q->cluster || end == size)) {
			if (no_table(q, index, how, &next))
				n = MIN((next << q->cluster_bits) - off, end - off);
			else
				err = empty_cluster(q, index, how);
		} else if (how != DISCARD) {
			err = zero_data(q, off, n);
		}
	}
	return err ? err : qcow2_commit(q);
}

int qcow2_discard(struct qcow2 *q, uint64_t off, uint64_t len)
{
	return empty(q, off, len, DISCARD);
}

int qcow2_zero(struct qcow2 *q, uint64_t off, uint64_t len, bool unmap)
{
	return empty(q, off, len, unmap ? ZERO_UNMAP : ZERO_KEEP);
}

/* ---- behind the disk's end ---- */

#define HIDE_MAX (1U << 20) /* clusters that are marked when a disk grows, so that it takes a second or two */

/* The rest of the cluster in which the disk ends now. What QEMU copied there may be anything. */
static int zero_tail(struct qcow2 *q, uint64_t from, uint64_t below_end)
{
	uint64_t index = from >> q->cluster_bits, in = from & (q->cluster - 1), len = q->cluster - in;
	uint32_t mask = write_touched(q, index, from, len);
	struct cluster c;
	int err = in ? read_entry(q, index, &c) : 0;

	if (err || !in)
		return err;
	if (!c.compressed && !(c.alloc & mask) && (!(mask & ~c.zero) || below_end <= from))
		return 0;
	/* A copy ends with the disk as it is, with zeroes behind. */
	err = write_prepare(q, index, mask);
	if (!err)
		err = qcow2_commit(q);
	if (!err)
		err = read_entry(q, index, &c);
	return err ? err : q->file.ops->zero(q->file.arg, c.host + in, len);
}

/* A whole cluster. hide: of a file below there is something in its place. */
static int zero_cluster(struct qcow2 *q, uint64_t index, bool hide)
{
	struct cluster c;
	int err = read_entry(q, index, &c);

	if (err || (!hide && !c.host && !c.compressed))
		return err;
	return qcow2_can_zero(q) ? empty_cluster(q, index, ZERO_UNMAP) : -EOPNOTSUPP;
}

int zero_beyond(struct qcow2 *q, uint64_t to, const char **why)
{
	uint64_t from = qcow2_size(q), below_end = q->below ? qcow2_size(q->below) : 0, next;
	uint64_t first = num_align_up(from, q->cluster) >> q->cluster_bits;
	uint64_t last = num_align_up(to, q->cluster) >> q->cluster_bits;
	uint64_t hidden = MIN(num_align_up(below_end, q->cluster) >> q->cluster_bits, last);
	int err = 0;

	if (hidden > first && !qcow2_can_zero(q)) {
		*why = "its backing file is longer, and a version 2 image can't hide what is in it";
		return -EOPNOTSUPP;
	}
	if (hidden > first && hidden - first > HIDE_MAX) {
		*why = "its backing file is longer by more than can be hidden while it is in use";
		return -EFBIG;
	}
	err = zero_tail(q, from, below_end);
	for (uint64_t i = first; i < last && !err; i++) {
		/* What once was longer may have left something. */
		if (i >= hidden && no_table(q, i, DISCARD, &next))
			i = next - 1;
		else
			err = zero_cluster(q, i, i < hidden);
	}
	if (err == -EOPNOTSUPP)
		*why = "it was longer once, and a version 2 image can't hide what is left there";
	if (!err)
		err = qcow2_commit(q);
	return err ? err : file_sync(q);
}
