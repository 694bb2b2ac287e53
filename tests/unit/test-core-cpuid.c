/* SPDX-License-Identifier: Apache-2.0 */
/* CPUID: features removed by name with what depends on them, and topology for each vCPU. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "cpuid.h"
#include "cpuid_priv.h"

static union {
	struct cpuid_model model;
	uint8_t room[sizeof(struct cpuid_model) + CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2)];
} host;
static union {
	struct kvm_cpuid2 table;
	uint8_t room[sizeof(struct kvm_cpuid2) + CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2)];
} guest;
static char err[200];

static struct kvm_cpuid_entry2 *put(uint32_t leaf, uint32_t index)
{
	struct kvm_cpuid2 *t = &host.model.table;
	struct kvm_cpuid_entry2 *e = &t->entries[t->nent++];

	*e = (struct kvm_cpuid_entry2) {
		.function = leaf, .index = index, .eax = ~0U, .ebx = ~0U, .ecx = ~0U, .edx = ~0U
	};
	return e;
}

/* A processor that has everything. */
static void set_up(void)
{
	host.model.table.nent = 0;
	put(0, 0)->eax = 0x1f;
	put(1, 0);
	for (uint32_t i = 0; i < 4; i++)
		put(4, i)->eax = (i < 2 ? 1 : i) << 5 | (i < 3 ? 1U : 0U); /* two of level 1, level 2, end */
	put(4, 4)->eax = 3U << 5 | 3;
	put(7, 0);
	put(7, 1);
	put(0xb, 0);
	put(0xd, 0)->eax = 0x000602ff;
	put(0xd, 1);
	for (uint32_t i = 2; i < 10; i++)
		put(0xd, i);
	put(0x40000001, 0);
	put(0x80000001, 0);
	put(0x80000008, 0);
	put(0x8000001e, 0);
}

TestSuite(core_cpuid, .init = set_up);

static struct kvm_cpuid_entry2 *find(uint32_t leaf, uint32_t index)
{
	return cpuid_find(&guest.table, leaf, index);
}

static int fill(const char *spec, unsigned index, unsigned count)
{
	int rc = cpuid_remove(&host.model.table, spec, err, sizeof(err));

	if (!rc)
		cpuid_fill(&host.model, index, count, &guest.table);
	return rc;
}

Test(core_cpuid, removes_features_by_name)
{
	cr_assert_eq(fill("host,-x2apic,-avx2,-svm,-kvmclock,-rdtscp", 0, 1), 0);
	cr_assert_eq(find(1, 0)->ecx >> 21 & 1, 0);
	cr_assert_eq(find(1, 0)->ecx >> 28 & 1, 1, "avx stays");
	cr_assert_eq(find(7, 0)->ebx >> 5 & 1, 0);
	cr_assert_eq(find(7, 0)->ebx >> 16 & 1, 0, "avx512f needs avx2");
	cr_assert_eq(find(0x80000001, 0)->ecx >> 2 & 1, 0);
	cr_assert_eq(find(0x80000001, 0)->edx >> 27 & 1, 0);
	cr_assert_eq(find(0x40000001, 0)->eax >> 3 & 1, 0);
}

Test(core_cpuid, removing_avx_removes_its_state_and_what_needs_it)
{
	cr_assert_eq(fill("host,-avx", 0, 1), 0);
	cr_assert_eq(find(0xd, 0)->eax & (1 << 2 | 7 << 5), 0);
	cr_assert_eq(find(0xd, 0)->eax & 3, 3);
	cr_assert_null(find(0xd, 2));
	cr_assert_null(find(0xd, 5));
	cr_assert_not_null(find(0xd, 9));
	cr_assert_eq(find(1, 0)->ecx >> 12 & 1, 0, "fma");
	cr_assert_eq(find(7, 0)->ebx >> 5 & 1, 0, "avx2");
	cr_assert_eq(find(7, 0)->ebx >> 31 & 1, 0, "avx512vl");
}

Test(core_cpuid, removing_xsave_removes_its_leaf)
{
	cr_assert_eq(fill("host,-xsave", 0, 1), 0);
	cr_assert_null(find(0xd, 0));
	cr_assert_eq(find(1, 0)->ecx >> 28 & 1, 0);
	cr_assert_eq(find(7, 0)->ecx >> 3 & 1, 0, "pku");
}

Test(core_cpuid, refuses_what_it_does_not_know)
{
	static const char *const bad[] = { "", "qemu64", "host,avx", "host,+avx", "host,-nosuch", "host,-" };

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err[0] = '\0';
		cr_assert_eq(cpuid_check(bad[i], err, sizeof(err)), -EINVAL, "%s", bad[i]);
		cr_assert_neq(err[0], '\0');
	}
	cr_assert_eq(cpuid_check("host", err, sizeof(err)), 0);
	cr_assert_eq(cpuid_check("host,-avx", err, sizeof(err)), 0);
}

Test(core_cpuid, each_vcpu_has_its_place)
{
	for (unsigned i = 0; i < 5; i++) {
		cr_assert_eq(fill("host", i, 5), 0);
		cr_assert_eq(find(1, 0)->ebx >> 24, i);
		cr_assert_eq(find(1, 0)->ebx >> 16 & 0xff, 5);
		cr_assert_eq(find(1, 0)->edx >> 28 & 1, 1);
		cr_assert_eq(find(1, 0)->ecx >> 27 & 1, 0, "OSXSAVE is the guest's");
		for (unsigned k = 0; k < 2; k++) {
			uint32_t leaf = k ? 0x1f : 0xb;

			cr_assert_eq(find(leaf, 0)->edx, i);
			cr_assert_eq(find(leaf, 0)->ebx, 1);
			cr_assert_eq(find(leaf, 0)->ecx, 0x100);
			cr_assert_eq(find(leaf, 1)->eax, 3, "5 need 3 bits");
			cr_assert_eq(find(leaf, 1)->ebx, 5);
			cr_assert_eq(find(leaf, 1)->ecx, 0x201);
			cr_assert_eq(find(leaf, 2)->ebx, 0);
		}
		cr_assert_eq(find(0x80000008, 0)->ecx & 0xf0ff, 0x3004);
		cr_assert_eq(find(0x8000001e, 0)->eax, i);
	}
	cr_assert_eq(fill("host", 0, 1), 0);
	cr_assert_eq(find(1, 0)->edx >> 28 & 1, 0);
	cr_assert_eq(find(0xb, 1)->eax, 0);
}

Test(core_cpuid, caches_are_shared_as_far_as_they_are)
{
	cr_assert_eq(fill("host", 0, 4), 0);
	cr_assert_eq(find(4, 0)->eax >> 14 & 0xfff, 0);
	cr_assert_eq(find(4, 2)->eax >> 14 & 0xfff, 0);
	cr_assert_eq(find(4, 4)->eax >> 14 & 0xfff, 3);
	cr_assert_eq(find(4, 0)->eax >> 26, 3, "cores of the package");
}
