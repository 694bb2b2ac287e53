/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An address space's table and its publication.
 *
 * The master copy is guarded by a leaf lock. A change alters the master; publishing copies it to a free slot,
 * makes that slot the current table and, after a grace period in which every vCPU has left its read-side
 * section, frees the slot that was current. No lock is held while waiting for the grace period.
 *
 * A model may move a range from within its own dispatch (a guest moves a BAR). Publishing there would wait for
 * the grace period inside a read-side section, for ever. So a change within a dispatch is only recorded for
 * this thread, and space_access publishes when it has left the section, before the vCPU goes back to its guest.
 */
#include "space.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <urcu/urcu-memb.h>

#include "lock.h"
#include "num.h"

#define SLOTS        8 /* the current table, and seven whose last readers may still be looking */
#define DEFERRED_MAX 2 /* spaces that one dispatch may change: MMIO and PIO */

/* The thread sanitizer does not see liburcu's ordering; this shows it that a reader's look ends before the
 * slot is written again. */
#if defined(__SANITIZE_THREAD__)
#define SHOW_ORDER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHOW_ORDER 1
#endif
#endif
#ifndef SHOW_ORDER
#define SHOW_ORDER 0
#endif

struct table {
	unsigned count;
	struct space_range range[SPACE_RANGES_MAX]; /* by rising base, none overlapping */
	_Atomic unsigned order;                     /* for SHOW_ORDER only */
};

struct space {
	uint64_t last; /* the highest address */
	struct lock lock;
	/* The master copy, and which slots are current or not yet out of their readers' sight. */
	unsigned count GUARDED_BY(lock);
	struct space_range range[SPACE_RANGES_MAX] GUARDED_BY(lock);
	bool busy[SLOTS] GUARDED_BY(lock);
	struct table slot[SLOTS];
	struct table *_Atomic current;
};

static _Thread_local bool in_dispatch;
static _Thread_local struct space *deferred[DEFERRED_MAX];

int space_new(uint64_t limit, struct space **out)
{
	struct space *space = calloc(1, sizeof(*space));

	if (!space)
		return -ENOMEM;
	space->last = limit - 1;
	lock_init(&space->lock);
	lock_take(&space->lock);
	space->busy[0] = true;
	lock_drop(&space->lock);
	atomic_init(&space->current, &space->slot[0]);
	*out = space;
	return 0;
}

void space_free(struct space *space)
{
	if (!space)
		return;
	lock_destroy(&space->lock);
	free(space);
}

void space_thread_enter(void)
{
	urcu_memb_register_thread();
}

void space_thread_leave(void)
{
	urcu_memb_unregister_thread();
}

/* The number of ranges whose base is at or below addr. */
static unsigned ranges_upto(const struct space_range *range, unsigned count, uint64_t addr)
{
	unsigned low = 0, high = count;

	while (low < high) {
		unsigned mid = low + (high - low) / 2;

		if (range[mid].base <= addr)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static uint64_t range_last(const struct space_range *r)
{
	return r->base + (r->size - 1);
}

/* Where a range of these limits would be inserted, or -EEXIST. */
static int find_gap(struct space *space, uint64_t base, uint64_t last) REQUIRES(space->lock)
{
	unsigned i = ranges_upto(space->range, space->count, base);

	if (i > 0 && range_last(&space->range[i - 1]) >= base)
		return -EEXIST;
	if (i < space->count && space->range[i].base <= last)
		return -EEXIST;
	return (int)i;
}

static int check_range(const struct space *space, uint64_t base, uint64_t size)
{
	if (!size || base > space->last || size - 1 > space->last - base)
		return -EINVAL;
	return 0;
}

static int master_add(struct space *space, const struct space_range *r) REQUIRES(space->lock)
{
	int i = find_gap(space, r->base, range_last(r));

	if (i < 0)
		return i;
	if (space->count == SPACE_RANGES_MAX)
		return -ENOSPC;
	memmove(&space->range[i + 1], &space->range[i], (space->count - (unsigned)i) * sizeof(*r));
	space->range[i] = *r;
	space->count++;
	return 0;
}

static int master_remove(struct space *space, uint64_t base, struct space_range *removed)
    REQUIRES(space->lock)
{
	unsigned i = ranges_upto(space->range, space->count, base);

	if (i == 0 || space->range[i - 1].base != base)
		return -ENOENT;
	*removed = space->range[i - 1];
	memmove(&space->range[i - 1], &space->range[i], (space->count - i) * sizeof(*removed));
	space->count--;
	return 0;
}

static unsigned slot_of(const struct space *space, const struct table *table)
{
	return (unsigned)(table - space->slot);
}

/* Makes a copy of the master current. The slot that was, or -1 if all slots are in use. */
static int publish_once(struct space *space)
{
	struct table *old;
	int retired = -1;

	lock_take(&space->lock);
	for (unsigned i = 0; i < SLOTS; i++) {
		struct table *next = &space->slot[i];

		if (space->busy[i])
			continue;
		if (SHOW_ORDER)
			atomic_load_explicit(&next->order, memory_order_acquire);
		next->count = space->count;
		memcpy(next->range, space->range, space->count * sizeof(next->range[0]));
		space->busy[i] = true;
		old = atomic_exchange_explicit(&space->current, next, memory_order_acq_rel);
		retired = (int)slot_of(space, old);
		break;
	}
	lock_drop(&space->lock);
	return retired;
}

/* Not within a read-side section. Returns when no reader is left that saw an older master. */
static void publish(struct space *space)
{
	int retired;

	while ((retired = publish_once(space)) < 0)
		urcu_memb_synchronize_rcu(); /* those who hold the slots wait for no more than this */
	urcu_memb_synchronize_rcu();
	lock_take(&space->lock);
	space->busy[retired] = false;
	lock_drop(&space->lock);
}

static void changed(struct space *space)
{
	if (!in_dispatch) {
		publish(space);
		return;
	}
	for (unsigned i = 0; i < DEFERRED_MAX; i++) {
		if (!deferred[i])
			deferred[i] = space;
		if (deferred[i] == space)
			return;
	}
}

int space_add(struct space *space, const struct space_range *range)
{
	int rc = check_range(space, range->base, range->size);

	if (rc)
		return rc;
	lock_take(&space->lock);
	rc = master_add(space, range);
	lock_drop(&space->lock);
	if (!rc)
		changed(space);
	return rc;
}

int space_remove(struct space *space, uint64_t base)
{
	struct space_range removed;
	int rc;

	lock_take(&space->lock);
	rc = master_remove(space, base, &removed);
	lock_drop(&space->lock);
	if (!rc)
		changed(space);
	return rc;
}

int space_replace(struct space *space, uint64_t old_base, const struct space_range *range)
{
	struct space_range removed;
	int rc = check_range(space, range->base, range->size);

	if (rc)
		return rc;
	lock_take(&space->lock);
	rc = master_remove(space, old_base, &removed);
	if (!rc) {
		rc = master_add(space, range);
		if (rc)
			master_add(space, &removed); /* fits: it was there */
	}
	lock_drop(&space->lock);
	if (!rc)
		changed(space);
	return rc;
}

bool space_is_free(struct space *space, uint64_t base, uint64_t size)
{
	bool is_free = false;

	if (check_range(space, base, size))
		return false;
	lock_take(&space->lock);
	is_free = find_gap(space, base, base + (size - 1)) >= 0;
	lock_drop(&space->lock);
	return is_free;
}

/* The largest aligned piece at off that the range, its model and the access allow. */
static unsigned piece_size(const struct space_range *r, uint64_t off, unsigned left)
{
	unsigned max = r->ops->max ? r->ops->max : 8;
	unsigned size = 8;

	while (size > max || size > left || off % size || size > r->size - off)
		size /= 2;
	return size;
}

static void range_access(const struct space_range *r, uint64_t off, uint8_t *data, unsigned size, bool write)
{
	uint64_t value = 0;

	if (write) {
		memcpy(&value, data, size);
		r->ops->write(r->owner, off, size, value);
	} else {
		value = r->ops->read(r->owner, off, size);
		memcpy(data, &value, size);
	}
}

/* One piece of the access; how many bytes it took. */
static unsigned access_piece(const struct table *t, uint64_t addr, uint8_t *data, unsigned left, bool write)
{
	unsigned i = ranges_upto(t->range, t->count, addr);
	const struct space_range *r = i ? &t->range[i - 1] : NULL;
	unsigned size;

	if (!r || addr - r->base >= r->size) {
		if (!write)
			*data = 0xff;
		return 1;
	}
	size = piece_size(r, addr - r->base, left);
	range_access(r, addr - r->base, data, size, write);
	return size;
}

static void publish_deferred(void)
{
	for (unsigned i = 0; i < DEFERRED_MAX && deferred[i]; i++) {
		struct space *space = deferred[i];

		deferred[i] = NULL;
		publish(space);
	}
}

void space_access(struct space *space, uint64_t addr, void *data, unsigned len, bool write)
{
	struct table *table;
	unsigned done = 0;

	urcu_memb_read_lock();
	in_dispatch = true;
	table = atomic_load_explicit(&space->current, memory_order_acquire);
	while (done < len && done <= UINT64_MAX - addr)
		done += access_piece(table, addr + done, (uint8_t *)data + done, len - done, write);
	if (SHOW_ORDER)
		atomic_fetch_add_explicit(&table->order, 1, memory_order_release);
	in_dispatch = false;
	urcu_memb_read_unlock();
	if (done < len && !write)
		memset((uint8_t *)data + done, 0xff, len - done);
	if (deferred[0])
		publish_deferred();
}
