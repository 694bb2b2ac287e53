/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When may a cluster that was given up be used for something else? When nothing is on its way to it any more.
 *
 * Each reader counts what it has on its way in one of two counters, that of the present epoch. The owner, having
 * published tables that no longer show the cluster, waits until the other counter of every reader has been seen at 0,
 * turns the epoch, and waits until the one that counted so far has been seen at 0. Who counts itself after the owner
 * looked, finds the new tables: it counts, then looks at the tables; the owner writes the tables, then looks at the
 * counters; and both do so with a full fence between. Both counters must be looked at, as a reader may count itself in
 * the epoch that it saw a long time ago.
 */
#include "qcow2_priv.h"

unsigned qcow2_enter(struct qcow2 *q, unsigned reader)
{
	unsigned token = atomic_load_explicit(&q->epoch, memory_order_acquire) & 1;

	atomic_fetch_add_explicit(&q->readers[reader].running[token], 1, memory_order_seq_cst);
	atomic_thread_fence(memory_order_seq_cst);
	return token;
}

void qcow2_leave(struct qcow2 *q, unsigned reader, unsigned token)
{
	atomic_fetch_sub_explicit(&q->readers[reader].running[token], 1, memory_order_release);
}

static bool is_idle(const struct qcow2 *q, unsigned token)
{
	for (unsigned i = 0; i < QCOW2_READERS_MAX; i++)
		if (atomic_load_explicit(&q->readers[i].running[token], memory_order_seq_cst))
			return false;
	return true;
}

bool qcow2_wants_reclaim(const struct qcow2 *q)
{
	return atomic_load_explicit(&q->wants_reclaim, memory_order_relaxed);
}

/* True if what closed before freed->step became 1 is over. */
bool epoch_passed(struct qcow2 *q)
{
	struct freed *f = q->freed;

	atomic_thread_fence(memory_order_seq_cst);
	if (f->step == 1) {
		f->old = atomic_fetch_add_explicit(&q->epoch, 0, memory_order_seq_cst) & 1;
		if (!is_idle(q, !f->old))
			return false;
		atomic_fetch_add_explicit(&q->epoch, 1, memory_order_seq_cst);
		f->step = 2;
	}
	if (f->step == 2) {
		if (!is_idle(q, f->old))
			return false;
		f->step = 0;
	}
	return true;
}
