/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one gateway to guest memory: a table of mapped regions that turns guest-physical addresses (and, for
 * ring addresses of vhost-user, the front end's user addresses) into pointers, every access bounds-checked.
 *
 * A table is immutable and counted by reference; adding or removing a region makes a new table that shares
 * the mappings of the old one, so a queue that still holds the old table stays valid until it puts it.
 * Everything here may be called by any thread; only mem_new and its like allocate or block (mmap).
 */
#ifndef MEM_H
#define MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define MEM_REGIONS_MAX 64

struct mem;

/* One region as a front end describes it (vhost-user "Memory region description"). */
struct mem_region {
	uint64_t gpa;         /* guest-physical address */
	uint64_t size;        /* bytes */
	uint64_t user_addr;   /* the front end's own address of it */
	uint64_t mmap_offset; /* where it begins in fd */
};

/*
 * Maps n regions, each from its descriptor (which stays the caller's), shared, read-write, never executable,
 * left out of core dumps. -EINVAL for regions that are empty, wrap, overlap or are more than MEM_REGIONS_MAX;
 * -ENXIO for one that its file is too short for, or whose file is not a regular one (a memfd is); else mmap's
 * -errno. The caller holds the one reference.
 */
int mem_new(const struct mem_region *regions, const int *fds, unsigned n, struct mem **out);

/* A new table: old's regions and one more (-EINVAL if it overlaps, -ENOSPC past MEM_REGIONS_MAX), or all but the
 * one that matches by both addresses and size (-ENOENT if none does). The dirty log goes along. */
int mem_with_region(struct mem *old, const struct mem_region *region, int fd, struct mem **out);
int mem_without_region(struct mem *old, const struct mem_region *region, struct mem **out);

struct mem *mem_get(struct mem *mem);
void mem_put(struct mem *mem); /* NULL is ignored */

/* The bytes [gpa, gpa + len) if they lie within one region, else NULL. len 0 gives NULL. */
void *mem_at(const struct mem *mem, uint64_t gpa, uint64_t len);

/* The same by the front end's user address. */
void *mem_at_user(const struct mem *mem, uint64_t user_addr, uint64_t len);

/* One region as a caller may remember it for as long as it holds the table: the way to look up many addresses
 * in a row, since most lie where the last one did. All zero, it holds nothing. */
struct mem_window {
	uint64_t gpa;
	uint64_t size;
	uint8_t *ptr;
};

/* As mem_at, and *window becomes the region that was hit. */
void *mem_at_slow(const struct mem *mem, struct mem_window *window, uint64_t gpa, uint64_t len);

/* As mem_at, looking into *window first. The window is one thread's. */
static inline void *mem_at_window(const struct mem *mem, struct mem_window *window, uint64_t gpa,
				  uint64_t len)
{
	uint64_t off = gpa - window->gpa; /* wraps to a huge number below the window */

	if (__builtin_expect(off < window->size && len - 1 < window->size - off, 1))
		return window->ptr + off;
	return mem_at_slow(mem, window, gpa, len);
}

/*
 * The bytes [gpa, gpa + len), which may cross adjacent regions, as at most max vectors. Returns how many, or
 * -EFAULT if any byte lies outside RAM or the range wraps, -E2BIG if max is too few, -EINVAL for len 0.
 */
int mem_iov(const struct mem *mem, uint64_t gpa, uint64_t len, struct iovec *iov, int max);

/* ---- dirty log (vhost-user VHOST_USER_SET_LOG_BASE) ---- */

/* A new table: old's regions, with logging as mem_set_log starts or ends it. How a log is changed under queues
 * that run: they are given the new table, and the old one keeps the old log until they put it. */
int mem_with_log(struct mem *old, int fd, uint64_t off, uint64_t size, struct mem **out);

/* Starts logging into size bytes at off of fd: one bit per 4 KiB page of guest-physical address, set by an
 * atomic OR. fd < 0 ends it. No other thread may be in mem_dirty or mem_dirty_ptr meanwhile, since the old log
 * is unmapped: the caller quiesces queues first. -EINVAL for size 0, -ENXIO if fd is too short for it. */
int mem_set_log(struct mem *mem, int fd, uint64_t off, uint64_t size);
bool mem_logging(const struct mem *mem);

/* Marks pages dirty after a write to guest memory: by guest-physical address, or by a pointer that this table
 * gave out. Pages outside the log are ignored. No-ops when not logging. */
void mem_dirty(const struct mem *mem, uint64_t gpa, uint64_t len);
void mem_dirty_ptr(const struct mem *mem, const void *ptr, uint64_t len);

#endif
