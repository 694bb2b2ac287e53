/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM: making and mapping the memfd, and the lookup of guest-physical addresses in it. */
#include "ram.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clean.h"
#include "layout.h"
#include "num.h"

#define HUGE_PAGE (2ULL << 20)

struct ram {
	int fd;
	uint8_t *base; /* the whole memfd: RAM below the hole, then RAM above it */
	uint64_t size;
	uint64_t low; /* bytes below the hole */
};

/* Neither shrinking (a SIGBUS for whoever maps it) nor growing, by anyone, for ever. */
static int make_memfd(uint64_t size, bool hugepages)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	CLEAN_FD int fd = -1;

	if (hugepages)
		flags |= MFD_HUGETLB | MFD_HUGE_2MB;
	fd = memfd_create("guest-ram", flags);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) < 0)
		return -errno;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	return take_fd(&fd);
}

/*
 * Maps the memfd on a huge page's boundary: where the host lets shared memory have transparent huge pages
 * (shmem_enabled "advise"), they are then huge in the guest's second-level tables as well. NULL with errno set.
 */
static void *map_aligned(int fd, uint64_t size)
{
	uint64_t room = size + HUGE_PAGE;
	uint8_t *reserved = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *base;

	if (reserved == MAP_FAILED)
		return NULL;
	base = reserved + (num_align_up((uintptr_t)reserved, HUGE_PAGE) - (uintptr_t)reserved);
	if (mmap(base, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
		int err = errno;

		munmap(reserved, room);
		errno = err;
		return NULL;
	}
	if (base > reserved)
		munmap(reserved, (size_t)(base - reserved));
	munmap(base + size, (size_t)(reserved + room - (base + size)));
	return base;
}

int ram_new(uint64_t size, bool hugepages, struct ram **out)
{
	uint64_t page = hugepages ? HUGE_PAGE : 4096;
	CLEAN_FREE struct ram *ram = NULL;
	void *base;
	int fd;

	if (size < RAM_SIZE_MIN || size > RAM_SIZE_MAX || size % page)
		return -EINVAL;
	ram = calloc(1, sizeof(*ram));
	if (!ram)
		return -ENOMEM;
	fd = make_memfd(size, hugepages);
	if (fd < 0)
		return fd;
	base = map_aligned(fd, size);
	if (!base || madvise(base, size, MADV_DONTDUMP) < 0) {
		int err = errno;

		if (base)
			munmap(base, size);
		close(fd);
		return -err;
	}
	if (!hugepages)
		madvise(base, size, MADV_HUGEPAGE); /* a wish: a host without them refuses */
	ram->fd = fd;
	ram->base = base;
	ram->size = size;
	ram->low = MIN(size, LAYOUT_HOLE_START);
	*out = TAKE_PTR(ram);
	return 0;
}

void ram_free(struct ram *ram)
{
	if (!ram)
		return;
	munmap(ram->base, ram->size);
	close(ram->fd);
	free(ram);
}

uint64_t ram_size(const struct ram *ram)
{
	return ram->size;
}

int ram_fd(const struct ram *ram)
{
	return ram->fd;
}

uint64_t ram_low_end(const struct ram *ram)
{
	return ram->low;
}

uint64_t ram_high_end(const struct ram *ram)
{
	return LAYOUT_HOLE_END + (ram->size - ram->low);
}

unsigned ram_regions(const struct ram *ram, struct mem_region out[RAM_REGIONS_MAX])
{
	out[0] = (struct mem_region) {
		.gpa = 0,
		.size = ram->low,
		.user_addr = (uintptr_t)ram->base,
		.mmap_offset = 0,
	};
	if (ram->size == ram->low)
		return 1;
	out[1] = (struct mem_region) {
		.gpa = LAYOUT_HOLE_END,
		.size = ram->size - ram->low,
		.user_addr = (uintptr_t)ram->base + ram->low,
		.mmap_offset = ram->low,
	};
	return 2;
}

void *ram_at(const struct ram *ram, uint64_t gpa, uint64_t len)
{
	uint64_t end;

	if (!len || !num_add(gpa, len, &end))
		return NULL;
	if (end <= ram->low)
		return ram->base + gpa;
	if (gpa >= LAYOUT_HOLE_END && end <= ram_high_end(ram))
		return ram->base + ram->low + (gpa - LAYOUT_HOLE_END);
	return NULL;
}
