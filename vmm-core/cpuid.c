/* SPDX-License-Identifier: Apache-2.0 */
/* What CPUID tells the guest: fetching KVM's table, fitting it to each vCPU; features.c removes what the user names. */
#include "cpuid.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "clean.h"
#include "cpuid_priv.h"
#include "num.h"

#define LEAF_MAX_BASIC 0x0
#define LEAF_FEATURES  0x1
#define LEAF_CACHE     0x4
#define LEAF_TOPOLOGY  0xb
#define LEAF_TOPOLOGY2 0x1f
#define LEAF_BRAND     0x80000002
#define LEAF_AMD_SIZES 0x80000008
#define LEAF_AMD_CACHE 0x8000001d
#define LEAF_AMD_TOPO  0x8000001e

#define TOPO_LEVEL_SMT  1
#define TOPO_LEVEL_CORE 2

struct kvm_cpuid_entry2 *cpuid_find(struct kvm_cpuid2 *t, uint32_t leaf, uint32_t index)
{
	for (uint32_t i = 0; i < t->nent; i++) {
		if (t->entries[i].function == leaf && t->entries[i].index == index)
			return &t->entries[i];
	}
	return NULL;
}

void cpuid_drop(struct kvm_cpuid2 *t, uint32_t leaf)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < t->nent; i++) {
		if (t->entries[i].function != leaf)
			t->entries[kept++] = t->entries[i];
	}
	t->nent = kept;
}

static struct kvm_cpuid_entry2 *add_entry(struct kvm_cpuid2 *t, uint32_t leaf, uint32_t index)
{
	struct kvm_cpuid_entry2 *e;

	if (t->nent == CPUID_ENTRIES_MAX)
		return NULL;
	e = &t->entries[t->nent++];
	*e = (struct kvm_cpuid_entry2) {
		.function = leaf,
		.index = index,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
	};
	return e;
}

/* Features that KVM provides whatever it lists: the hypervisor bit, and the deadline timer by a capability. */
static void add_features(struct kvm_cpuid2 *t, bool deadline_timer)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(t, LEAF_FEATURES, 0);

	if (!e)
		return;
	e->ecx |= 1U << 31;
	if (deadline_timer)
		e->ecx |= 1U << 24;
}

/* The processor's name, which KVM leaves out. */
static void add_brand(struct kvm_cpuid2 *t)
{
	for (uint32_t leaf = LEAF_BRAND; leaf < LEAF_BRAND + 3; leaf++) {
		struct kvm_cpuid_entry2 *e = cpuid_find(t, leaf, 0);

		if (e && !(e->eax | e->ebx | e->ecx | e->edx))
			__asm__("cpuid"
				: "=a"(e->eax), "=b"(e->ebx), "=c"(e->ecx), "=d"(e->edx)
				: "a"(leaf), "c"(0));
	}
}

int cpuid_new(int kvm_fd, const char *spec, struct cpuid_model **out, char *err, size_t err_size)
{
	CLEAN_FREE struct cpuid_model *model =
	    calloc(1, sizeof(*model) + CPUID_ENTRIES_MAX * sizeof(model->table.entries[0]));
	int rc;

	if (!model) {
		snprintf(err, err_size, "no memory for the CPUID table");
		return -ENOMEM;
	}
	model->table.nent = CPUID_ENTRIES_MAX;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, &model->table) < 0) {
		rc = -errno;
		snprintf(err, err_size, "KVM_GET_SUPPORTED_CPUID: %s", strerror(-rc));
		return rc;
	}
	add_features(&model->table, ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0);
	add_brand(&model->table);
	rc = cpuid_remove(&model->table, spec, err, err_size);
	if (rc)
		return rc;
	*out = TAKE_PTR(model);
	return 0;
}

void cpuid_free(struct cpuid_model *model)
{
	free(model);
}

/* Bits that number count things. */
static unsigned bits_for(unsigned count)
{
	unsigned bits = 0;

	while (1U << bits < count)
		bits++;
	return bits;
}

/* One package of count cores with one thread each: what vCPUs that may run anywhere honestly are. */
static void fit_features(struct kvm_cpuid2 *t, unsigned index, unsigned count)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(t, LEAF_FEATURES, 0);

	if (!e)
		return;
	e->ebx = (e->ebx & 0x0000ffff) | index << 24 | count << 16;
	e->ecx &= ~(1U << 27); /* OSXSAVE follows the guest's CR4; KVM keeps it */
	if (count > 1)
		e->edx |= 1U << 28;
	else
		e->edx &= ~(1U << 28);
}

/* Caches of the first and second level belong to a core, those beyond to the package. */
static void fit_caches(struct kvm_cpuid2 *t, uint32_t leaf, unsigned count)
{
	for (uint32_t i = 0; i < t->nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->entries[i];
		unsigned level = e->eax >> 5 & 7;

		if (e->function != leaf || !(e->eax & 0x1f))
			continue;
		e->eax &= 0x3fff;
		if (level >= 3)
			e->eax |= ((1U << bits_for(count)) - 1) << 14 & 0x03ffc000;
		if (leaf == LEAF_CACHE)
			e->eax |= MIN((1U << bits_for(count)) - 1, 63U) << 26;
	}
}

static void fit_topology(struct kvm_cpuid2 *t, uint32_t leaf, unsigned index, unsigned count)
{
	const struct kvm_cpuid_entry2 *top = cpuid_find(t, LEAF_MAX_BASIC, 0);
	const struct {
		uint32_t shift, number, level;
	} levels[] = {
		{ 0, 1, TOPO_LEVEL_SMT },
		{ bits_for(count), count, TOPO_LEVEL_CORE },
		{ 0, 0, 0 },
	};

	cpuid_drop(t, leaf);
	if (!top || top->eax < leaf)
		return;
	for (uint32_t i = 0; i < ARRAY_SIZE(levels); i++) {
		struct kvm_cpuid_entry2 *e = add_entry(t, leaf, i);

		if (!e)
			return;
		e->eax = levels[i].shift;
		e->ebx = levels[i].number;
		e->ecx = levels[i].level << 8 | i;
		e->edx = index;
	}
}

static void fit_amd(struct kvm_cpuid2 *t, unsigned index, unsigned count)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(t, LEAF_AMD_SIZES, 0);

	if (e && (e->ecx || cpuid_find(t, LEAF_AMD_TOPO, 0)))
		e->ecx = (e->ecx & 0xffff0000) | bits_for(count) << 12 | (count - 1);
	e = cpuid_find(t, LEAF_AMD_TOPO, 0);
	if (e) {
		e->eax = index;
		e->ebx = index & 0xff;
		e->ecx = 0;
	}
}

void cpuid_fill(const struct cpuid_model *model, unsigned index, unsigned count, struct kvm_cpuid2 *dst)
{
	memcpy(dst, &model->table, sizeof(*dst) + model->table.nent * sizeof(dst->entries[0]));
	fit_features(dst, index, count);
	fit_caches(dst, LEAF_CACHE, count);
	fit_caches(dst, LEAF_AMD_CACHE, count);
	fit_topology(dst, LEAF_TOPOLOGY, index, count);
	fit_topology(dst, LEAF_TOPOLOGY2, index, count);
	fit_amd(dst, index, count);
}
