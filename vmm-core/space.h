/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An address space: which register model answers at which address. One for MMIO, one for port I/O. Look-ups
 * read an immutable sorted table under RCU and take no lock; see space.c for how changes are published.
 */
#ifndef CORE_SPACE_H
#define CORE_SPACE_H

#include <stdbool.h>
#include <stdint.h>

#define SPACE_RANGES_MAX 256

struct space;

/*
 * A model's registers. Called by vCPU threads, several at once, inside a read-side section: a model takes its
 * own leaf lock or none, never waits, never allocates. off counts from the range's base; size is 1, 2, 4 or 8,
 * off is a multiple of size and off + size never passes the range's end: the space splits whatever the guest
 * did differently. A read returns the value in its low size bytes.
 */
struct space_ops {
	uint64_t (*read)(void *owner, uint64_t off, unsigned size);
	void (*write)(void *owner, uint64_t off, unsigned size, uint64_t value);
	unsigned max; /* accesses are split into pieces of at most this size: 1, 2, 4 or 8; 0 means 8 */
};

struct space_range {
	uint64_t base;
	uint64_t size;
	const struct space_ops *ops;
	void *owner;
};

/* Makes an empty space of addresses 0 to limit - 1 (limit 0: all 64 bits). Allocates all that it ever needs. */
int space_new(uint64_t limit, struct space **out);
void space_free(struct space *space); /* no reader may be left; NULL is ignored */

/*
 * Adds or removes a range; several changes at once are published together by space_replace. -EINVAL if it is
 * empty, wraps or passes the limit, -EEXIST if it overlaps another, -ENOSPC if the table is full, -ENOENT if no
 * range begins at base.
 *
 * Any thread. Outside a dispatch the change is in force, and no reader of the old table left, when the call
 * returns: after space_remove the owner may be freed. Within a dispatch (a model's write that moves a BAR) the
 * change is in force before the vCPU continues with the guest, and the owner must not be freed by it. Waits for
 * nothing but other vCPUs' dispatches; never allocates.
 */
int space_add(struct space *space, const struct space_range *range);
int space_remove(struct space *space, uint64_t base);

/* Removes the range at old_base and adds range as one change; on error nothing is changed. */
int space_replace(struct space *space, uint64_t old_base, const struct space_range *range);

/* True if [base, base + size) touches no range. */
bool space_is_free(struct space *space, uint64_t base, uint64_t size);

/*
 * A guest's access of len bytes (1-8, any alignment) at addr, to or from data in little-endian order. What no
 * range claims reads as all ones and swallows writes. The thread must be registered with RCU (see below).
 */
void space_access(struct space *space, uint64_t addr, void *data, unsigned len, bool write);

/* Each thread that calls space_access registers first and unregisters before it ends. */
void space_thread_enter(void);
void space_thread_leave(void);

#endif
