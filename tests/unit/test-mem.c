/* SPDX-License-Identifier: Apache-2.0 */
/* lib/mem: what is refused, what is found, what stays valid, and which pages the dirty log names. */
#include "mem.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "clean.h"
#include "fd.h"

#define MIB     (1ULL << 20)
#define PAGE    4096ULL
#define USER(x) (0x7f0000000000ULL + (x))

static int ram(uint64_t size)
{
	int fd = fd_sealed_memfd("ram", size);

	cr_assert_geq(fd, 0);
	return fd;
}

/* One region of size bytes at gpa, from off in a memfd that is just long enough. */
static struct mem *one(uint64_t gpa, uint64_t size, uint64_t off)
{
	struct mem_region r = { .gpa = gpa, .size = size, .user_addr = USER(gpa), .mmap_offset = off };
	CLEAN_FD int fd = ram(off + size);
	struct mem *mem = NULL;

	cr_assert_eq(mem_new(&r, &fd, 1, &mem), 0);
	return mem;
}

static int refused(struct mem_region r)
{
	CLEAN_FD int fd = ram(MIB);
	struct mem *mem = NULL;
	int err = mem_new(&r, &fd, 1, &mem);

	cr_assert_null(mem);
	return err;
}

Test(mem, regions_that_are_empty_or_wrap_are_refused)
{
	cr_expect_eq(refused((struct mem_region) { .gpa = 0, .size = 0 }), -EINVAL);
	cr_expect_eq(refused((struct mem_region) { .gpa = UINT64_MAX - PAGE + 2, .size = PAGE }), -EINVAL);
	cr_expect_eq(refused((struct mem_region) { .user_addr = UINT64_MAX - 10, .size = PAGE }), -EINVAL);
	cr_expect_eq(refused((struct mem_region) { .size = PAGE, .mmap_offset = UINT64_MAX - 10 }), -ENXIO);
}

Test(mem, a_file_too_short_for_its_region_is_refused)
{
	cr_expect_eq(refused((struct mem_region) { .size = MIB + 1 }), -ENXIO);
	cr_expect_eq(refused((struct mem_region) { .size = MIB, .mmap_offset = PAGE }), -ENXIO);
}

Test(mem, descriptors_of_a_wrong_kind_are_refused)
{
	struct mem_region r = { .size = PAGE };
	struct mem *mem = NULL;
	int p[2];
	CLEAN_FD int dir = open("/", O_RDONLY | O_DIRECTORY), path = open("/proc/self/exe", O_PATH), bad = -1;

	cr_assert_eq(pipe(p), 0);
	cr_expect_eq(mem_new(&r, &p[0], 1, &mem), -ENXIO);
	cr_expect_eq(mem_new(&r, &dir, 1, &mem), -ENXIO);
	cr_expect_eq(mem_new(&r, &path, 1, &mem), -EBADF);
	cr_expect_eq(mem_new(&r, &bad, 1, &mem), -EBADF);
	cr_expect_null(mem);
	close(p[0]);
	close(p[1]);
}

Test(mem, overlapping_regions_are_refused)
{
	CLEAN_FD int fd = ram(4 * MIB);
	int fds[2] = { fd, fd };
	struct mem_region by_gpa[2] = { { .gpa = 0, .size = 2 * MIB, .user_addr = USER(0) },
					{ .gpa = 2 * MIB - 1, .size = MIB, .user_addr = USER(8 * MIB) } };
	struct mem_region by_user[2] = { { .gpa = 0, .size = 2 * MIB, .user_addr = USER(0) },
					 { .gpa = 8 * MIB, .size = MIB, .user_addr = USER(MIB) } };
	struct mem *mem = NULL;

	cr_expect_eq(mem_new(by_gpa, fds, 2, &mem), -EINVAL);
	cr_expect_eq(mem_new(by_user, fds, 2, &mem), -EINVAL);
	cr_expect_null(mem);
}

Test(mem, more_regions_than_the_maximum_are_refused)
{
	CLEAN_FD int fd = ram(MIB);
	struct mem_region r[MEM_REGIONS_MAX + 1];
	int fds[MEM_REGIONS_MAX + 1];
	struct mem *mem = NULL, *more = NULL;

	for (unsigned i = 0; i <= MEM_REGIONS_MAX; i++) {
		r[i] = (struct mem_region) { .gpa = i * PAGE, .size = PAGE, .user_addr = USER(i * PAGE) };
		fds[i] = fd;
	}
	cr_expect_eq(mem_new(r, fds, MEM_REGIONS_MAX + 1, &mem), -EINVAL);
	cr_assert_eq(mem_new(r, fds, MEM_REGIONS_MAX, &mem), 0);
	cr_expect_eq(mem_with_region(mem, &r[MEM_REGIONS_MAX], fd, &more), -ENOSPC);
	mem_put(mem);
}

Test(mem, every_byte_and_no_other_is_found)
{
	struct mem *mem = one(MIB, 64 * 1024, 0);
	uint8_t *p = mem_at(mem, MIB, 64 * 1024);

	cr_assert_not_null(p);
	cr_expect_eq(mem_at(mem, MIB + 65535, 1), p + 65535);
	cr_expect_null(mem_at(mem, MIB + 65535, 2));
	cr_expect_null(mem_at(mem, MIB - 1, 1));
	cr_expect_null(mem_at(mem, MIB - 1, 2));
	cr_expect_null(mem_at(mem, MIB + 65536, 1));
	cr_expect_null(mem_at(mem, MIB, 0));
	cr_expect_null(mem_at(mem, MIB + 1, UINT64_MAX));
	cr_expect_null(mem_at(mem, UINT64_MAX, 2));
	cr_expect_eq(mem_at_user(mem, USER(MIB) + 5, 1), p + 5);
	cr_expect_null(mem_at_user(mem, USER(MIB) + 5, UINT64_MAX - 4));
	cr_expect_null(mem_at_user(mem, USER(MIB) - 1, 1));
	mem_put(mem);
}

Test(mem, an_offset_that_is_not_page_aligned_is_mapped_right)
{
	struct mem_region r = { .gpa = 0, .size = PAGE, .user_addr = USER(0), .mmap_offset = 5000 };
	CLEAN_FD int fd = ram(4 * PAGE);
	struct mem *mem = NULL;

	cr_assert_eq(pwrite(fd, "here", 4, 5000), 4);
	cr_assert_eq(mem_new(&r, &fd, 1, &mem), 0);
	cr_expect_eq(memcmp(mem_at(mem, 0, 4), "here", 4), 0);
	mem_put(mem);
}

/* Twelve regions, every third place left a hole, given in a shuffled order. */
static struct mem *many(void)
{
	struct mem_region r[12];
	int fds[12];
	CLEAN_FD int fd = ram(12 * PAGE);
	struct mem *mem = NULL;

	for (unsigned i = 0; i < 12; i++) {
		unsigned k = i * 5 % 12;
		uint64_t gpa = (k + k / 2) * PAGE; /* 0 1 _ 3 4 _ 6 7 _ ... */

		r[i] = (struct mem_region) {
			.gpa = gpa, .size = PAGE, .user_addr = USER(gpa), .mmap_offset = k * PAGE
		};
		fds[i] = fd;
	}
	for (unsigned k = 0; k < 12; k++)
		cr_assert_eq(pwrite(fd, &k, sizeof(k), (off_t)(k * PAGE)), (ssize_t)sizeof(k));
	cr_assert_eq(mem_new(r, fds, 12, &mem), 0);
	return mem;
}

Test(mem, lookups_among_many_regions_hit_the_right_one)
{
	struct mem *mem = many();
	struct mem_window window = { 0 };

	for (unsigned page = 0; page < 20; page++) {
		unsigned *at = mem_at(mem, page * PAGE, PAGE);

		cr_expect_eq(mem_at_window(mem, &window, page * PAGE, PAGE), at);
		if (page % 3 == 2 || page > 16) {
			cr_expect_null(at);
			continue;
		}
		cr_assert_not_null(at);
		cr_expect_eq(*at, page - page / 3);
	}
	cr_expect_null(mem_at_window(mem, &window, 3 * PAGE, PAGE + 1));
	cr_expect_null(mem_at_window(mem, &window, 3 * PAGE, 0));
	mem_put(mem);
}

Test(mem, a_range_over_adjacent_regions_becomes_vectors)
{
	struct mem *mem = many();
	struct iovec iov[4];

	cr_expect_eq(mem_iov(mem, 100, 200, iov, 4), 1);
	cr_expect_eq(mem_iov(mem, PAGE - 1, 3, iov, 4), 2);
	cr_expect_eq(iov[0].iov_len, 1);
	cr_expect_eq(iov[1].iov_len, 2);
	cr_expect_eq(iov[0].iov_base, mem_at(mem, PAGE - 1, 1));
	cr_expect_eq(iov[1].iov_base, mem_at(mem, PAGE, 2));
	cr_expect_eq(mem_iov(mem, PAGE - 1, 3, iov, 1), -E2BIG);
	cr_expect_eq(mem_iov(mem, 2 * PAGE - 1, 2, iov, 4), -EFAULT, "a hole");
	cr_expect_eq(mem_iov(mem, UINT64_MAX, 2, iov, 4), -EFAULT);
	cr_expect_eq(mem_iov(mem, 16 * PAGE, UINT64_MAX, iov, 4), -EFAULT);
	cr_expect_eq(mem_iov(mem, 0, 0, iov, 4), -EINVAL);
	mem_put(mem);
}

Test(mem, the_last_page_of_the_address_space_does_not_wrap)
{
	struct mem *mem = one(UINT64_MAX - PAGE + 1, PAGE, 0);
	struct iovec iov[2];

	cr_expect_not_null(mem_at(mem, UINT64_MAX, 1));
	cr_expect_null(mem_at(mem, UINT64_MAX, 2));
	cr_expect_eq(mem_iov(mem, UINT64_MAX, 2, iov, 2), -EFAULT);
	mem_put(mem);
}

Test(mem, old_tables_stay_valid_when_new_ones_are_made)
{
	struct mem *a = one(0, PAGE, 0), *b = NULL, *c = NULL;
	struct mem_region r = { .gpa = PAGE, .size = PAGE, .user_addr = USER(PAGE) };
	CLEAN_FD int fd = ram(PAGE);
	uint8_t *p = mem_at(a, 0, PAGE), *q;

	cr_assert_eq(mem_with_region(a, &r, fd, &b), 0);
	cr_expect_eq(mem_at(b, 0, PAGE), p, "the mapping is shared, not made anew");
	cr_expect_null(mem_at(a, PAGE, 1));
	q = mem_at(b, PAGE, PAGE);
	cr_assert_not_null(q);
	cr_expect_eq(mem_without_region(b, &(struct mem_region) { .gpa = PAGE, .size = PAGE }, &c), -ENOENT);
	cr_assert_eq(mem_without_region(b, &r, &c), 0);
	cr_expect_null(mem_at(c, PAGE, 1));
	mem_put(a);
	mem_put(c);
	*p = 1;
	*q = 2; /* b still holds both */
	mem_put(b);
	cr_expect_eq(msync(p, PAGE, MS_ASYNC), -1, "the last reference unmaps");
	cr_expect_eq(msync(q, PAGE, MS_ASYNC), -1);
}

Test(mem, guest_memory_is_left_out_of_core_dumps)
{
	struct mem *mem = one(0, 16 * PAGE, 0);
	FILE *f = fopen("/proc/self/smaps", "r");
	char line[512], want[32];
	bool in = false, seen = false;

	cr_assert_not_null(f);
	/* As the kernel prints it. */
	snprintf(want, sizeof(want), "%08lx-", (unsigned long)mem_at(mem, 0, 1));
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, want, strlen(want)) == 0)
			in = true;
		if (in && strncmp(line, "VmFlags:", 8) == 0) {
			seen = strstr(line, " dd ") != NULL && !strstr(line, " ex ");
			break;
		}
	}
	fclose(f);
	cr_expect(seen);
	mem_put(mem);
}

Test(mem, the_dirty_log_names_the_pages_written_and_no_other)
{
	struct mem *mem = one(0, 64 * PAGE, 0);
	CLEAN_FD int fd = ram(PAGE);
	uint8_t bits[9];
	const uint8_t want[8] = { 0x06, 0, 0x01, 0, 0, 0, 0, 0x80 };
	uint8_t *p = mem_at(mem, 0, 64 * PAGE);

	mem_dirty(mem, 0, 64 * PAGE); /* not logging yet */
	cr_expect_not(mem_logging(mem));
	cr_expect_eq(mem_set_log(mem, fd, 0, 0), -EINVAL);
	cr_expect_eq(mem_set_log(mem, fd, PAGE, 1), -ENXIO);
	cr_assert_eq(mem_set_log(mem, fd, 8, 8), 0);
	cr_expect(mem_logging(mem));
	mem_dirty(mem, 2 * PAGE - 1, 2);
	mem_dirty_ptr(mem, p + 16 * PAGE, PAGE);
	mem_dirty(mem, 63 * PAGE, 1);
	mem_dirty(mem, 64 * PAGE, PAGE); /* past the log */
	mem_dirty(mem, UINT64_MAX - 1, UINT64_MAX);
	mem_dirty(mem, 0, 0);
	cr_assert_eq(pread(fd, bits, sizeof(bits), 8), (ssize_t)sizeof(bits));
	cr_expect_eq(memcmp(bits, want, sizeof(want)), 0);
	cr_expect_eq(bits[8], 0);
	cr_expect_eq(mem_set_log(mem, -1, 0, 0), 0);
	cr_expect_not(mem_logging(mem));
	mem_put(mem);
}

Test(mem, a_new_log_leaves_the_old_table_its_own)
{
	struct mem *a = one(0, 64 * PAGE, 0), *b = NULL, *c = NULL;
	CLEAN_FD int log_a = ram(PAGE), log_b = ram(PAGE);
	uint8_t in_a = 0, in_b = 0;

	cr_assert_eq(mem_set_log(a, log_a, 0, 8), 0);
	cr_expect_eq(mem_with_log(a, log_b, PAGE, 8, &b), -ENXIO);
	cr_assert_eq(mem_with_log(a, log_b, 0, 8, &b), 0);
	cr_assert_eq(mem_with_log(b, -1, 0, 0, &c), 0);
	cr_expect_eq(mem_at(b, 0, 1), mem_at(a, 0, 1), "the mapping is shared");
	mem_dirty(a, 0, 1);
	mem_dirty(b, PAGE, 1);
	mem_dirty(c, 2 * PAGE, 1);
	cr_assert_eq(pread(log_a, &in_a, 1, 0), 1);
	cr_assert_eq(pread(log_b, &in_b, 1, 0), 1);
	cr_expect_eq(in_a, 1);
	cr_expect_eq(in_b, 2);
	cr_expect_not(mem_logging(c));
	mem_put(a);
	mem_put(b);
	mem_put(c);
}
