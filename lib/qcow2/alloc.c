/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which clusters are used.
 *
 * Taken: from a pool. Filling it finds clusters whose count is 0, or new ones at the end of the file, sees to it that
 * they read as zeroes, counts them, and flushes all that at once. So whatever is made to refer to one of them later, in
 * whatever order that gets to the disk, refers to a cluster that is counted and empty. Who is killed leaves the pool as
 * leaked clusters.
 *
 * Given back: in four steps, none before the last is sure. The tables no longer refer to the cluster (alloc_free); nobody has
 * data on its way to it (epoch.c); a flush makes the tables' change sure; its space is given up and its count lowered. Only
 * then can it be found for the pool.
 */
#include "qcow2_priv.h"

#define SCAN_BUDGET 65536      /* counts that are looked at for free clusters at a time */
#define END_BUDGET  (1U << 22) /* ... and for the last that is in use, of a device */

/* ---- the file's end ---- */

/* Makes the file long enough for so many clusters. */
int alloc_extend(struct qcow2 *q, uint64_t end)
{
	uint64_t bytes = end << q->cluster_bits, eof = atomic_load_explicit(&q->eof, memory_order_relaxed);
	int err = 0;

	if (end > OFFSET_MASK >> q->cluster_bits)
		return -EFBIG;
	if (q->device)
		return bytes <= eof ? 0 : -ENOSPC;
	if (bytes <= eof)
		return 0;
	/* The file may end within its last block, which then stays what it is. */
	err = file_read_full(q, q->block, QCOW2_BLOCK, bytes - QCOW2_BLOCK);
	if (!err)
		err = file_write(q, q->block, QCOW2_BLOCK, bytes - QCOW2_BLOCK);
	if (err)
		return err;
	atomic_store_explicit(&q->eof, bytes, memory_order_release);
	atomic_store_explicit(&q->limit, bytes, memory_order_release);
	return 0;
}

void alloc_grow_to(struct qcow2 *q, uint64_t end)
{
	q->pool.end = MAX(q->pool.end, end);
}

/*
 * On a device there is no end of the file: the last cluster that is counted. What is free before it is found all the same, so
 * it does not matter if the search ends earlier.
 */
static int find_end(struct qcow2 *q, uint64_t *end)
{
	uint64_t per = ref_block_entries(q), c = atomic_load(&q->limit) >> q->cluster_bits, value = 0;
	int err = 0;

	for (unsigned i = 0; i < END_BUDGET && c > 1 && !err && !value; i++) {
		uint64_t region = (c - 1) / per;

		if (region >= q->reftable_entries || !q->reftable[region]) {
			c = region * per;
			continue;
		}
		err = ref_get(q, --c, &value);
	}
	*end = MAX(value ? c + 1 : c, 1);
	return err;
}

int alloc_start(struct qcow2 *q)
{
	uint64_t limit = atomic_load_explicit(&q->limit, memory_order_relaxed);

	if (q->device) {
		atomic_store(&q->limit, num_align_down(atomic_load(&q->eof), q->cluster));
		return find_end(q, &q->pool.end);
	}
	q->pool.end = limit >> q->cluster_bits;
	return alloc_extend(q, q->pool.end);
}

/* ---- the pool ---- */

static bool pool_add(struct pool *pool, uint64_t cluster)
{
	struct run *last = pool->nruns ? &pool->run[pool->nruns - 1] : NULL;

	if (last && last->first + last->n == cluster) {
		last->n++;
		return true;
	}
	if (pool->nruns == POOL_RUNS)
		return false;
	pool->run[pool->nruns++] = (struct run) { cluster, 1 };
	return true;
}

/* Clusters before the end whose count is 0; how many. */
static int find_free(struct qcow2 *q, uint64_t want, uint64_t *found)
{
	struct pool *pool = &q->pool;

	*found = 0;
	for (unsigned i = 0; i < SCAN_BUDGET && pool->hint < pool->end && *found < want; i++, pool->hint++) {
		uint64_t value;
		int err = ref_get(q, pool->hint, &value);

		if (err)
			return err;
		if (value || header_is_protected(q, pool->hint))
			continue;
		err = ref_ensure(q, pool->hint);
		if (err)
			return err;
		/* A block that was made for it may have been put anywhere. */
		err = ref_get(q, pool->hint, &value);
		if (err)
			return err;
		if (!value && !pool_add(pool, pool->hint))
			break;
		*found += !value;
	}
	return 0;
}

/* New ones, in a row. */
static int add_new(struct qcow2 *q, uint64_t want)
{
	struct pool *pool = &q->pool;
	uint64_t per = ref_block_entries(q), value = 1, n = 0, first;
	int err = 0;

	for (unsigned i = 0; i < SCAN_BUDGET && !err && value; i++) {
		err = ref_ensure(q, pool->end);
		if (!err)
			err = ref_get(q, pool->end, &value);
		if (!err && value)
			pool->end++; /* counted by somebody whose file ended before it did */
	}
	if (!err && value)
		err = -WHAT_IS_WRONG;
	first = pool->end;
	for (value = 0; !err && !value && n < want && (first + n) / per == first / per; n += !err && !value)
		err = ref_get(q, first + n, &value);
	while (!err && q->device && n && alloc_extend(q, first + n))
		n--;
	if (!err && !n)
		err = -ENOSPC;
	if (!err)
		err = alloc_extend(q, first + n);
	if (err)
		return err;
	for (uint64_t i = 0; i < n; i++)
		if (!pool_add(pool, first + i))
			break;
	alloc_grow_to(q, first + n);
	return 0;
}

/* Empties and counts what is in the pool; old ones were used before, and so is everything on a device. */
static int make_ready(struct qcow2 *q, uint64_t new_from)
{
	struct pool *pool = &q->pool;
	unsigned counted = 0;
	int err = 0;

	for (unsigned i = 0; i < pool->nruns && !err; i++)
		if (q->device || pool->run[i].first < new_from)
			err = q->file.ops->zero(q->file.arg, pool->run[i].first << q->cluster_bits,
						pool->run[i].n << q->cluster_bits);
	for (; counted < pool->nruns && !err; counted += !err)
		err = ref_add(q, pool->run[counted].first, pool->run[counted].n, 1);
	if (!err)
		err = file_sync(q);
	if (!err)
		return 0;
	for (unsigned i = 0; i < counted; i++)
		ref_add(q, pool->run[i].first, pool->run[i].n, -1);
	pool->nruns = 0;
	return err;
}

static int refill(struct qcow2 *q)
{
	uint64_t want = MAX(POOL_WANT, POOL_BYTES >> q->cluster_bits), found, new_from;
	int err = qcow2_reclaim(q);

	if (!err)
		err = find_free(q, want, &found);
	new_from = q->pool.end;
	if (!err && found < POOL_WANT / 2) {
		err = add_new(q, want);
		/* The end of a device: what was not looked at yet may be free. */
		while (err == -ENOSPC && !found && q->pool.hint < q->pool.end) {
			int scan = find_free(q, want, &found);

			err = scan ? scan : err;
		}
		if (err == -ENOSPC && found)
			err = 0;
	}
	if (err) {
		q->pool.nruns = 0;
		return err;
	}
	return make_ready(q, new_from);
}

int alloc_heal(struct qcow2 *q)
{
	const struct doubt d = q->doubt;
	int err = 0;

	if (!d.header && !d.l1 && !d.table)
		return 0;
	if (d.header)
		err = header_write(q);
	if (!err && d.l1)
		err = l1_write(q, d.l1_index);
	if (!err && d.table)
		err = ref_write_table(q, d.region);
	if (!err)
		err = file_sync(q);
	if (err)
		return err;
	q->doubt = (struct doubt) { 0 };
	if (d.host)
		alloc_free(q, d.host, 1);
	return 0;
}

int alloc_take(struct qcow2 *q, uint64_t *host)
{
	struct pool *pool = &q->pool;
	int err = alloc_heal(q);

	if (!err && !pool->nruns)
		err = refill(q);
	if (err)
		return err;
	*host = pool->run[0].first << q->cluster_bits;
	pool->run[0].first++;
	if (--pool->run[0].n == 0)
		memmove(pool->run, pool->run + 1, --pool->nruns * sizeof(pool->run[0]));
	return 0;
}

int alloc_row(struct qcow2 *q, uint64_t n, uint64_t *host)
{
	uint64_t per = ref_block_entries(q), first, value;
	int err = alloc_heal(q);
	unsigned tries = 0;

	do {
		if (tries++ == SCAN_BUDGET)
			return -WHAT_IS_WRONG;
		first = q->pool.end;
		for (uint64_t c = first; !err && c < first + n && q->pool.end == first; c++) {
			value = 0;
			if (c == first || c % per == 0)
				err = ref_ensure(q, c);
			if (!err && q->pool.end == first)
				err = ref_get(q, c, &value);
			if (value)
				alloc_grow_to(q, c + 1);
		}
	} while (!err && q->pool.end != first);
	if (!err)
		err = alloc_extend(q, first + n);
	if (!err && q->device)
		err = q->file.ops->zero(q->file.arg, first << q->cluster_bits, n << q->cluster_bits);
	if (!err)
		err = ref_add(q, first, n, 1);
	if (!err)
		err = file_sync(q);
	if (err)
		return err;
	alloc_grow_to(q, first + n);
	*host = first << q->cluster_bits;
	return 0;
}

/* ---- giving back ---- */

bool alloc_has_room(const struct qcow2 *q, unsigned n)
{
	return q->freed->n + n <= FREED_MAX;
}

bool alloc_free(struct qcow2 *q, uint64_t host, uint64_t n)
{
	struct freed *f = q->freed;
	uint64_t first = cluster_of(q, host);

	atomic_store_explicit(&q->wants_reclaim, true, memory_order_relaxed);
	if (f->n > f->closing && f->run[f->n - 1].first + f->run[f->n - 1].n == first) {
		f->run[f->n - 1].n += n;
		return true;
	}
	if (!alloc_has_room(q, 1))
		return false;
	f->run[f->n++] = (struct run) { first, n };
	return true;
}

/* What the cluster took up in the file. Without room to note it, it leaks. */
void alloc_free_cluster(struct qcow2 *q, const struct cluster *c)
{
	uint64_t off, len, first;

	if (c->compressed) {
		read_packed_range(q, c->word, &off, &len);
		first = cluster_of(q, off);
		alloc_free(q, first << q->cluster_bits, cluster_of(q, off + len - 1) - first + 1);
	} else if (c->host) {
		alloc_free(q, c->host, 1);
	}
}

/* Lowers the counts of a run by one; where that leaves none, the space is given up first. */
static int release(struct qcow2 *q, struct run run)
{
	int err = 0;

	while (run.n && !err) {
		uint64_t value, next, n = 1;

		err = ref_get(q, run.first, &value);
		while (!err && n < run.n) {
			err = ref_get(q, run.first + n, &next);
			if (err || (next == 1) != (value == 1))
				break;
			n++;
		}
		if (!err && value == 1 && !header_is_protected(q, run.first)) {
			err = q->file.ops->zero(q->file.arg, run.first << q->cluster_bits,
						n << q->cluster_bits);
			q->pool.hint = MIN(q->pool.hint, run.first);
		}
		if (!err)
			err = ref_add(q, run.first, n, -1);
		run.first += n;
		run.n -= n;
	}
	return err;
}

int qcow2_reclaim(struct qcow2 *q)
{
	struct freed *f = q->freed;
	int err = 0, first_err = 0;

	if (!f->n)
		return 0;
	if (!f->closing) {
		f->closing = f->n;
		f->step = 1;
	}
	if (!epoch_passed(q))
		return 0;
	err = file_sync(q);
	if (err)
		return err;
	for (unsigned i = 0; i < f->closing; i++) {
		err = release(q, f->run[i]);
		first_err = first_err ? first_err : err;
	}
	f->n -= f->closing;
	memmove(f->run, f->run + f->closing, f->n * sizeof(f->run[0]));
	f->closing = 0;
	atomic_store_explicit(&q->wants_reclaim, f->n > 0, memory_order_relaxed);
	/* A count that is wrong costs a leak, and is no reason for who wants something else to fail. */
	return first_err == -WHAT_IS_WRONG ? 0 : first_err;
}

int alloc_settle(struct qcow2 *q)
{
	int err = qcow2_commit(q);

	/* What was given up meanwhile comes in a second turn. */
	for (unsigned i = 0; i < 3 && q->freed->n && !err; i++)
		err = qcow2_reclaim(q);
	return err;
}

/* Nobody moves data any more. */
int alloc_finish(struct qcow2 *q)
{
	int err = 0;

	if (!q->freed || !q->reftable)
		return 0;
	err = alloc_settle(q);
	for (unsigned i = 0; i < q->pool.nruns && !err; i++)
		err = ref_add(q, q->pool.run[i].first, q->pool.run[i].n, -1);
	q->pool.nruns = 0;
	return err ? err : file_sync(q);
}
