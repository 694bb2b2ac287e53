/* SPDX-License-Identifier: Apache-2.0 */
/* To have code that is not ours run, and memory of others. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "try.h"

static char page_of_ours[8192] __attribute__((aligned(4096)));

EACH(map_code, SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0)
EACH(map_shared_code, SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, fd, 0)
EACH(add_seals, SYS_fcntl, fd, 1033 /* F_ADD_SEALS */, 1 /* F_SEAL_SEAL */)

/* Ours already, but made executable. */
static long own_code(const struct taken_page *page)
{
	(void)page;
	return CALL(SYS_mprotect, page_of_ours, 4096, PROT_READ | PROT_EXEC);
}

static long own_code_by_key(const struct taken_page *page)
{
	(void)page;
	return CALL(SYS_pkey_mprotect, page_of_ours, 4096, PROT_READ | PROT_EXEC, -1);
}

/* What runs is not to be written to. */
static long patch(const struct taken_page *page)
{
	(void)page;
	return CALL(SYS_mprotect, (uintptr_t)patch & ~4095UL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static long moved(const struct taken_page *page)
{
	(void)page;
	return CALL(SYS_mremap, page_of_ours, 4096, 8192, MREMAP_MAYMOVE);
}

static long memory_file(const struct taken_page *page)
{
	long fd = CALL(SYS_memfd_create, "x", 0);

	(void)page;
	if (fd >= 0)
		CALL(SYS_close, fd);
	return fd;
}

#define PIECE (64L << 20)
#define MUCH  (8L << 30)

/* As much as there is in pieces; it is given back. */
static long hoard(const struct taken_page *page)
{
	static long piece[MUCH / PIECE];
	long r = 0;
	size_t n = 0;

	(void)page;
	while (n < ARRAY_SIZE(piece) && r >= 0) {
		r = CALL(SYS_mmap, 0, PIECE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		piece[n] = r;
		n += r >= 0;
	}
	while (n--)
		CALL(SYS_munmap, piece[n], PIECE);
	return r;
}

static long grow_heap(const struct taken_page *page)
{
	long now = CALL(SYS_brk, 0);

	(void)page;
	if (now < 0)
		return now;
	return CALL(SYS_brk, now + MUCH) == now ? -ENOMEM : 0;
}

static const struct taken_try tries[] = {
	PLAIN("map code", mmap, ARGS(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ),
	PLAIN("map shared code", mmap,
	      ARGS(0, 4096, PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS, -1, 0), ),
	BY("map a descriptor as code", map_code),
	BY("map a descriptor as shared code", map_shared_code),
	BY("make own memory code", own_code),
	BY("make own memory code by a key", own_code_by_key),
	BY("write to code", patch),
	BY("move memory", moved),
	PLAIN("take much memory", mmap,
	      ARGS(0, MUCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), ),
	BY("take much memory in pieces", hoard),
	BY("take much memory as heap", grow_heap),
	PLAIN("take shared memory, which no limit counts", mmap,
	      ARGS(0, MUCH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), ),
	BY("seal what a descriptor is of", add_seals, .set_up = true),
	BY("make memory with a descriptor", memory_file, .set_up = true),
	PLAIN("make secret memory", memfd_secret, ARGS(0), ),
	PLAIN("make shared memory", shmget, ARGS(0, 4096, 01600), ),
	PLAIN("attach shared memory", shmat, ARGS(0, 0, 0), ),
	PLAIN("handle page faults", userfaultfd, ARGS(0), ),
	PLAIN("reorder pages", remap_file_pages, ARGS(PTR(page_of_ours), 4096, 0, 0, 0), ),
	PLAIN("lock all memory", mlockall, ARGS(MCL_CURRENT | MCL_FUTURE), ),
	PLAIN("move pages", move_pages, ARGS(0, 0, 0, 0, 0, 0), ),
	PLAIN("bind memory", mbind, ARGS(PTR(page_of_ours), 4096, 0, 0, 0, 0), ),
	PLAIN("advise another process's memory", process_madvise, ARGS(0, 0, 0, 0, 0), ),
};

TABLE(taken_memory);
