/* SPDX-License-Identifier: Apache-2.0 */
/* The window's memory and its lay-out. */
#include "share.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fd.h"
#include "inflight.h"
#include "num.h"

#define GPA   0x100000U /* no address of it is 0 */
#define STUBS (2 * SHARE_STUB * OUTRING_SLOTS)
#define HEAD  (OUTRING_BYTES + STUBS) /* before the pages */

_Static_assert(HEAD % SHARE_PAGE == 0, "pages are pages");

static int map(const char *name, uint64_t size, int *fd, uint8_t **to)
{
	void *at;

	*fd = fd_sealed_memfd(name, size);
	if (*fd < 0)
		return *fd;
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	*to = at;
	return madvise(at, size, MADV_DONTDUMP) < 0 ? -errno : 0;
}

int share_open(struct share *s, uint64_t size, unsigned rings)
{
	int err;

	*s = (struct share) { .fd = -1,
			      .inflight_fd = -1,
			      .size = num_align_down(size, SHARE_PAGE),
			      .part = num_align_down(size / rings, SHARE_PAGE),
			      .inflight_size = rings * inflight_queue_bytes(OUTRING_SIZE, false),
			      .rings = rings };
	if (s->part < SHARE_PART_MIN)
		return -ENOSPC;
	err = map("window", s->size, &s->fd, &s->memory);
	return err ? err : map("window-inflight", s->inflight_size, &s->inflight_fd, &s->inflight);
}

void share_close(struct share *s)
{
	if (s->memory)
		munmap(s->memory, s->size);
	if (s->inflight)
		munmap(s->inflight, s->inflight_size);
	if (s->fd >= 0)
		close(s->fd);
	if (s->inflight_fd >= 0)
		close(s->inflight_fd);
}

struct mem_region share_region(const struct share *s)
{
	return (struct mem_region) { .gpa = GPA, .size = s->size, .user_addr = GPA };
}

uint64_t share_gpa(const struct share *s, const uint8_t *at)
{
	return GPA + (uint64_t)(at - s->memory);
}

uint8_t *share_ring(const struct share *s, unsigned ring)
{
	return s->memory + ring * s->part;
}

uint8_t *share_stub(const struct share *s, unsigned ring, unsigned slot)
{
	return share_ring(s, ring) + OUTRING_BYTES + slot * 2UL * SHARE_STUB;
}

uint8_t *share_pages(const struct share *s, unsigned ring, uint32_t *n)
{
	*n = (uint32_t)((s->part - HEAD) / SHARE_PAGE);
	return share_ring(s, ring) + HEAD;
}

void share_reset_inflight(struct share *s)
{
	memset(s->inflight, 0, s->inflight_size);
}
