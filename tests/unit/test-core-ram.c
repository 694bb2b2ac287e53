/* SPDX-License-Identifier: Apache-2.0 */
/* Guest RAM's layout around the PCI hole, its bounds and its seals. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "layout.h"
#include "ram.h"
#include "smaps.h"

#define MIB (1ULL << 20)
#define GIB (1ULL << 30)

static void check_layout(uint64_t size)
{
	uint64_t low = size < 3 * GIB ? size : 3 * GIB, high = size - low;
	struct mem_region r[RAM_REGIONS_MAX];
	struct ram *ram;

	cr_assert_eq(ram_new(size, false, &ram), 0);
	cr_assert_eq(ram_size(ram), size);
	cr_assert_eq(ram_low_end(ram), low);
	cr_assert_eq(ram_high_end(ram), 4 * GIB + high);
	cr_assert_eq(ram_regions(ram, r), high ? 2 : 1);
	cr_assert_eq(r[0].gpa, 0);
	cr_assert_eq(r[0].user_addr % (2 * MIB), 0, "a huge page's boundary");
	cr_assert_eq(r[0].size, low);
	cr_assert_eq(r[0].mmap_offset, 0);
	if (high) {
		cr_assert_eq(r[1].gpa, 4 * GIB);
		cr_assert_eq(r[1].size, high);
		cr_assert_eq(r[1].mmap_offset, low);
		cr_assert_eq(ram_at(ram, 4 * GIB, 1), (uint8_t *)ram_at(ram, 0, 1) + low);
		cr_assert_not_null(ram_at(ram, 4 * GIB + high - 1, 1));
	}
	cr_assert_not_null(ram_at(ram, low - 1, 1));
	cr_assert_null(ram_at(ram, low - 1, 2));
	cr_assert_null(ram_at(ram, low, 1));
	cr_assert_null(ram_at(ram, 4 * GIB - 1, 2));
	cr_assert_null(ram_at(ram, 4 * GIB + high, 1));
	cr_assert_null(ram_at(ram, 0, 0));
	cr_assert_null(ram_at(ram, UINT64_MAX, 2));
	cr_assert_null(ram_at(ram, 1, UINT64_MAX));
	ram_free(ram);
}

Test(core_ram, fault_30_no_memory_stands_where_devices_are)
{
	static const uint64_t sizes[] = { 64 * MIB, GIB, 3 * GIB, 4 * GIB, 8 * GIB };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		check_layout(sizes[i]);
}

Test(core_ram, refuses_bad_sizes)
{
	struct ram *ram;

	cr_assert_eq(ram_new(0, false, &ram), -EINVAL);
	cr_assert_eq(ram_new(64 * MIB + 1, false, &ram), -EINVAL);
	cr_assert_eq(ram_new(RAM_SIZE_MIN - 4096, false, &ram), -EINVAL);
	cr_assert_eq(ram_new(RAM_SIZE_MAX + 4096, false, &ram), -EINVAL);
	cr_assert_eq(ram_new(64 * MIB + 4096, true, &ram), -EINVAL);
}

Test(core_ram, is_sealed_and_shared)
{
	struct ram *ram;
	char byte = 0;

	cr_assert_eq(ram_new(64 * MIB, false, &ram), 0);
	cr_assert_eq(fcntl(ram_fd(ram), F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	cr_assert_neq(ftruncate(ram_fd(ram), 4096), 0);
	cr_assert_neq(ftruncate(ram_fd(ram), (off_t)(128 * MIB)), 0);
	cr_assert_neq(fcntl(ram_fd(ram), F_ADD_SEALS, F_SEAL_WRITE), 0);
	memset(ram_at(ram, 0x1234, 1), 'x', 1);
	cr_assert_eq(pread(ram_fd(ram), &byte, 1, 0x1234), 1);
	cr_assert_eq(byte, 'x');
	ram_free(ram);
}

Test(core_ram, is_left_out_of_core_dumps)
{
	struct ram *ram;
	unsigned found;

	cr_assert_eq(ram_new(64 * MIB, false, &ram), 0);
	cr_expect_eq(smaps_without(getpid(), "/memfd:guest-ram", "", "dd", &found), 0);
	cr_expect_geq(found, 1U);
	ram_free(ram);
}
