/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Regions of the flight recorder. How many queues a region has follows from its size, which the seals hold fast; the
 * words in it that could say so are not looked at.
 */
#include "flight_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"

static size_t region_size(unsigned queues)
{
	return FLIGHT_HEAD + ((size_t)queues + 1) * FLIGHT_RING;
}

/* The queues of a region of size bytes; -EINVAL if no region has that size. */
static int region_queues(uint64_t size)
{
	uint64_t rings;

	if (size < region_size(0) || (size - FLIGHT_HEAD) % FLIGHT_RING)
		return -EINVAL;
	rings = (size - FLIGHT_HEAD) / FLIGHT_RING;
	return rings - 1 <= FLIGHT_QUEUES_MAX ? (int)(rings - 1) : -EINVAL;
}

int flight_create(unsigned queues)
{
	if (queues > FLIGHT_QUEUES_MAX)
		return -EINVAL;
	return fd_sealed_memfd("flight", region_size(queues));
}

int flight_reader(int fd)
{
	char path[32];
	int reader;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	reader = open(path, O_RDONLY | O_CLOEXEC);
	return reader < 0 ? -errno : reader;
}

/* Makes the handle; the caller gives it its memory. */
static int make(unsigned queues, struct flight **out)
{
	struct flight *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->queues = queues;
	f->size = region_size(queues);
	*out = f;
	return 0;
}

static int map(int fd, unsigned queues, size_t size, int prot, struct flight **out)
{
	CLEAN_FREE struct flight *f = NULL;
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	int err = make(queues, &f);

	if (err)
		return err;
	f->size = size;
	f->base = mmap(NULL, size, prot, flags, fd, 0);
	if (f->base == MAP_FAILED)
		return -errno;
	f->mapped = true;
	*out = TAKE_PTR(f);
	return 0;
}

int flight_map(int fd, bool writable, struct flight **out)
{
	int err = fd_check_unshrinkable(fd), queues;
	struct stat st;

	if (err)
		return err;
	if (fstat(fd, &st) < 0)
		return -errno;
	queues = st.st_size < 0 ? -EINVAL : region_queues((uint64_t)st.st_size);
	if (queues < 0)
		return queues;
	return map(fd, (unsigned)queues, region_size((unsigned)queues),
		   writable ? PROT_READ | PROT_WRITE : PROT_READ, out);
}

int flight_map_health(int fd, struct flight **out)
{
	int err = fd_check_unshrinkable(fd);
	struct iovec iov;
	char last;

	if (err)
		return err;
	/* What can be read and can't shrink is there for good. */
	iov = (struct iovec) { &last, sizeof(last) };
	if (preadv2(fd, &iov, 1, FLIGHT_HEAD - 1, 0) != 1)
		return -EINVAL;
	return map(fd, FLIGHT_QUEUES_MAX, FLIGHT_HEAD, PROT_READ, out);
}

int flight_alloc(unsigned queues, struct flight **out)
{
	if (queues > FLIGHT_QUEUES_MAX)
		return -EINVAL;
	return map(-1, queues, region_size(queues), PROT_READ | PROT_WRITE, out);
}

int flight_load(int fd, off_t off, struct flight **out)
{
	CLEAN_FREE struct flight *f = NULL;
	struct stat st;
	int queues, err;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (off < 0 || st.st_size < off)
		return -EINVAL;
	queues = region_queues((uint64_t)(st.st_size - off));
	err = queues < 0 ? queues : make((unsigned)queues, &f);
	if (err)
		return err;
	f->base = malloc(f->size);
	if (!f->base)
		return -ENOMEM;
	err = fd_pread_full(fd, f->base, f->size, off);
	if (!err && (flight_head(f)->magic != FLIGHT_MAGIC || flight_head(f)->version != FLIGHT_VERSION))
		err = -EINVAL;
	if (err) {
		free(f->base);
		return err;
	}
	*out = TAKE_PTR(f);
	return 0;
}

void flight_free(struct flight *f)
{
	if (!f)
		return;
	if (f->mapped)
		munmap(f->base, f->size);
	else
		free(f->base);
	free(f);
}

unsigned flight_queues(const struct flight *f)
{
	return f->queues;
}

void flight_reset(struct flight *f)
{
	memset(f->base, 0, f->size);
}

void flight_begin(struct flight *f)
{
	struct flight_head *head = flight_head(f);

	head->magic = FLIGHT_MAGIC;
	head->version = FLIGHT_VERSION;
	head->pid = getpid();
	head->start = clock_ns();
}

static void open_ring(struct flight *f, unsigned i, uint16_t index, struct flight_ring *out)
{
	*out = (struct flight_ring) { .queue = flight_line(f, i),
				      .record = flight_records(f, i),
				      .index = index };
}

void flight_open_queue(struct flight *f, unsigned i, struct flight_ring *out)
{
	open_ring(f, i + 1, (uint16_t)i, out);
}

const struct flight_queue *flight_main(const struct flight *f)
{
	return flight_line(f, 0);
}

void flight_open_main(struct flight *f, struct flight_ring *out)
{
	open_ring(f, 0, UINT16_MAX, out);
}

void flight_note_trap(void *f, int nr, uint32_t arch, const char *thread)
{
	struct flight_head *head = flight_head(f);
	uint32_t none = 0;

	if (!atomic_compare_exchange_strong(&head->trapped, &none, 1))
		return;
	head->trap_nr = nr;
	head->trap_arch = arch;
	strncpy(head->trap_thread, thread, FLIGHT_THREAD - 1);
	atomic_store(&head->trapped, 2);
}

const struct flight_queue *flight_queue(const struct flight *f, unsigned i)
{
	return i < f->queues ? flight_line(f, i + 1) : NULL;
}

bool flight_get_trap(const struct flight *f, struct flight_trap *out)
{
	const struct flight_head *head = flight_head(f);

	if (atomic_load(&head->trapped) != 2)
		return false;
	out->nr = head->trap_nr;
	out->arch = head->trap_arch;
	memcpy(out->thread, head->trap_thread, FLIGHT_THREAD);
	out->thread[FLIGHT_THREAD - 1] = '\0';
	for (char *c = out->thread; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	return true;
}

int flight_save(const struct flight *f, int fd)
{
	return fd_write_full(fd, f->base, f->size);
}
