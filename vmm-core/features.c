/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPU features by name (those of /proc/cpuinfo), and their removal from a CPUID table. Removing a feature removes
 * those that are built on it and the XSAVE state that only it used, so that no guest sees half an extension.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clean.h"
#include "cpuid.h"
#include "cpuid_priv.h"
#include "num.h"

enum reg { EAX, EBX, ECX, EDX };

struct feature {
	const char *name;
	uint32_t leaf;
	uint32_t index;
	enum reg reg;
	unsigned bit;
	const char *needs;     /* the feature without which this one goes too */
	uint64_t xsave_states; /* components of XCR0 that go with it */
};

#define KVM_FEATURES 0x40000001U
#define EXT_FEATURES 0x80000001U

static const struct feature features[] = {
	{ "sse3", 1, 0, ECX, 0, NULL, 0 },
	{ "pclmulqdq", 1, 0, ECX, 1, NULL, 0 },
	{ "monitor", 1, 0, ECX, 3, NULL, 0 },
	{ "vmx", 1, 0, ECX, 5, NULL, 0 },
	{ "ssse3", 1, 0, ECX, 9, NULL, 0 },
	{ "fma", 1, 0, ECX, 12, "avx", 0 },
	{ "cx16", 1, 0, ECX, 13, NULL, 0 },
	{ "pcid", 1, 0, ECX, 17, NULL, 0 },
	{ "sse4_1", 1, 0, ECX, 19, NULL, 0 },
	{ "sse4_2", 1, 0, ECX, 20, NULL, 0 },
	{ "x2apic", 1, 0, ECX, 21, NULL, 0 },
	{ "movbe", 1, 0, ECX, 22, NULL, 0 },
	{ "popcnt", 1, 0, ECX, 23, NULL, 0 },
	{ "tsc_deadline_timer", 1, 0, ECX, 24, NULL, 0 },
	{ "aes", 1, 0, ECX, 25, NULL, 0 },
	{ "xsave", 1, 0, ECX, 26, NULL, 0 },
	{ "avx", 1, 0, ECX, 28, "xsave", 1U << 2 },
	{ "f16c", 1, 0, ECX, 29, "avx", 0 },
	{ "rdrand", 1, 0, ECX, 30, NULL, 0 },
	{ "hypervisor", 1, 0, ECX, 31, NULL, 0 },
	{ "mtrr", 1, 0, EDX, 12, NULL, 0 },
	{ "pat", 1, 0, EDX, 16, NULL, 0 },
	{ "clflush", 1, 0, EDX, 19, NULL, 0 },
	{ "fsgsbase", 7, 0, EBX, 0, NULL, 0 },
	{ "tsc_adjust", 7, 0, EBX, 1, NULL, 0 },
	{ "bmi1", 7, 0, EBX, 3, NULL, 0 },
	{ "hle", 7, 0, EBX, 4, NULL, 0 },
	{ "avx2", 7, 0, EBX, 5, "avx", 0 },
	{ "smep", 7, 0, EBX, 7, NULL, 0 },
	{ "bmi2", 7, 0, EBX, 8, NULL, 0 },
	{ "erms", 7, 0, EBX, 9, NULL, 0 },
	{ "invpcid", 7, 0, EBX, 10, "pcid", 0 },
	{ "rtm", 7, 0, EBX, 11, NULL, 0 },
	{ "mpx", 7, 0, EBX, 14, "xsave", 3U << 3 },
	{ "avx512f", 7, 0, EBX, 16, "avx2", 7U << 5 },
	{ "avx512dq", 7, 0, EBX, 17, "avx512f", 0 },
	{ "rdseed", 7, 0, EBX, 18, NULL, 0 },
	{ "adx", 7, 0, EBX, 19, NULL, 0 },
	{ "smap", 7, 0, EBX, 20, NULL, 0 },
	{ "avx512ifma", 7, 0, EBX, 21, "avx512f", 0 },
	{ "clflushopt", 7, 0, EBX, 23, NULL, 0 },
	{ "clwb", 7, 0, EBX, 24, NULL, 0 },
	{ "avx512pf", 7, 0, EBX, 26, "avx512f", 0 },
	{ "avx512er", 7, 0, EBX, 27, "avx512f", 0 },
	{ "avx512cd", 7, 0, EBX, 28, "avx512f", 0 },
	{ "sha_ni", 7, 0, EBX, 29, NULL, 0 },
	{ "avx512bw", 7, 0, EBX, 30, "avx512f", 0 },
	{ "avx512vl", 7, 0, EBX, 31, "avx512f", 0 },
	{ "avx512vbmi", 7, 0, ECX, 1, "avx512f", 0 },
	{ "umip", 7, 0, ECX, 2, NULL, 0 },
	{ "pku", 7, 0, ECX, 3, "xsave", 1U << 9 },
	{ "avx512_vbmi2", 7, 0, ECX, 6, "avx512f", 0 },
	{ "gfni", 7, 0, ECX, 8, NULL, 0 },
	{ "vaes", 7, 0, ECX, 9, "avx", 0 },
	{ "vpclmulqdq", 7, 0, ECX, 10, "avx", 0 },
	{ "avx512_vnni", 7, 0, ECX, 11, "avx512f", 0 },
	{ "avx512_bitalg", 7, 0, ECX, 12, "avx512f", 0 },
	{ "avx512_vpopcntdq", 7, 0, ECX, 14, "avx512f", 0 },
	{ "la57", 7, 0, ECX, 16, NULL, 0 },
	{ "rdpid", 7, 0, ECX, 22, NULL, 0 },
	{ "movdiri", 7, 0, ECX, 27, NULL, 0 },
	{ "movdir64b", 7, 0, ECX, 28, NULL, 0 },
	{ "avx512_4vnniw", 7, 0, EDX, 2, "avx512f", 0 },
	{ "avx512_4fmaps", 7, 0, EDX, 3, "avx512f", 0 },
	{ "fsrm", 7, 0, EDX, 4, NULL, 0 },
	{ "avx512_vp2intersect", 7, 0, EDX, 8, "avx512f", 0 },
	{ "amx_bf16", 7, 0, EDX, 22, "amx_tile", 0 },
	{ "avx512_fp16", 7, 0, EDX, 23, "avx512f", 0 },
	{ "amx_tile", 7, 0, EDX, 24, "xsave", 3U << 17 },
	{ "amx_int8", 7, 0, EDX, 25, "amx_tile", 0 },
	{ "spec_ctrl", 7, 0, EDX, 26, NULL, 0 },
	{ "arch_capabilities", 7, 0, EDX, 29, NULL, 0 },
	{ "ssbd", 7, 0, EDX, 31, NULL, 0 },
	{ "avx_vnni", 7, 1, EAX, 4, "avx2", 0 },
	{ "avx512_bf16", 7, 1, EAX, 5, "avx512f", 0 },
	{ "amx_fp16", 7, 1, EAX, 21, "amx_tile", 0 },
	{ "avx_ifma", 7, 1, EAX, 23, "avx2", 0 },
	{ "xsaveopt", 0xd, 1, EAX, 0, "xsave", 0 },
	{ "xsavec", 0xd, 1, EAX, 1, "xsave", 0 },
	{ "xgetbv1", 0xd, 1, EAX, 2, "xsave", 0 },
	{ "xsaves", 0xd, 1, EAX, 3, "xsave", 0 },
	{ "arat", 6, 0, EAX, 2, NULL, 0 },
	{ "kvmclock", KVM_FEATURES, 0, EAX, 3, NULL, 0 },
	{ "kvm_asyncpf", KVM_FEATURES, 0, EAX, 4, NULL, 0 },
	{ "kvm_steal_time", KVM_FEATURES, 0, EAX, 5, NULL, 0 },
	{ "kvm_pv_eoi", KVM_FEATURES, 0, EAX, 6, NULL, 0 },
	{ "kvm_pv_unhalt", KVM_FEATURES, 0, EAX, 7, NULL, 0 },
	{ "kvm_pv_tlb_flush", KVM_FEATURES, 0, EAX, 9, NULL, 0 },
	{ "kvm_pv_send_ipi", KVM_FEATURES, 0, EAX, 11, NULL, 0 },
	{ "kvm_poll_control", KVM_FEATURES, 0, EAX, 12, NULL, 0 },
	{ "kvm_pv_sched_yield", KVM_FEATURES, 0, EAX, 13, NULL, 0 },
	{ "svm", EXT_FEATURES, 0, ECX, 2, NULL, 0 },
	{ "abm", EXT_FEATURES, 0, ECX, 5, NULL, 0 },
	{ "sse4a", EXT_FEATURES, 0, ECX, 6, NULL, 0 },
	{ "misalignsse", EXT_FEATURES, 0, ECX, 7, NULL, 0 },
	{ "3dnowprefetch", EXT_FEATURES, 0, ECX, 8, NULL, 0 },
	{ "xop", EXT_FEATURES, 0, ECX, 11, "avx", 0 },
	{ "fma4", EXT_FEATURES, 0, ECX, 16, "avx", 0 },
	{ "tbm", EXT_FEATURES, 0, ECX, 21, NULL, 0 },
	{ "topoext", EXT_FEATURES, 0, ECX, 22, NULL, 0 },
	{ "nx", EXT_FEATURES, 0, EDX, 20, NULL, 0 },
	{ "pdpe1gb", EXT_FEATURES, 0, EDX, 26, NULL, 0 },
	{ "rdtscp", EXT_FEATURES, 0, EDX, 27, NULL, 0 },
	{ "invtsc", 0x80000007, 0, EDX, 8, NULL, 0 },
	{ "clzero", 0x80000008, 0, EBX, 0, NULL, 0 },
	{ "ibpb", 0x80000008, 0, EBX, 12, NULL, 0 },
	{ "ibrs", 0x80000008, 0, EBX, 14, NULL, 0 },
	{ "stibp", 0x80000008, 0, EBX, 15, NULL, 0 },
	{ "virt_ssbd", 0x80000008, 0, EBX, 25, NULL, 0 },
};

static const struct feature *find_feature(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		if (!strcmp(features[i].name, name))
			return &features[i];
	}
	return NULL;
}

/* Gives up components of XCR0, and the leafs that describe them. */
static void drop_xsave_states(struct kvm_cpuid2 *t, uint64_t states)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(t, 0xd, 0);
	uint32_t kept = 0;

	if (!e || !states)
		return;
	e->eax &= ~(uint32_t)states;
	e->edx &= ~(uint32_t)(states >> 32);
	for (uint32_t i = 0; i < t->nent; i++) {
		const struct kvm_cpuid_entry2 *s = &t->entries[i];

		if (s->function != 0xd || s->index < 2 || s->index > 63 || !(states >> s->index & 1))
			t->entries[kept++] = *s;
	}
	t->nent = kept;
}

static void drop_feature(struct kvm_cpuid2 *t, const struct feature *f)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(t, f->leaf, f->index);

	if (e) {
		uint32_t *const regs[] = {
			[EAX] = &e->eax, [EBX] = &e->ebx, [ECX] = &e->ecx, [EDX] = &e->edx
		};

		*regs[f->reg] &= ~(1U << f->bit);
	}
	drop_xsave_states(t, f->xsave_states);
	if (f->leaf == 1 && f->reg == ECX && f->bit == 26)
		cpuid_drop(t, 0xd); /* xsave itself */
}

/* Marks those that need a marked one, until there are no more. */
static void mark_dependents(bool marked[ARRAY_SIZE(features)])
{
	bool more = true;

	while (more) {
		more = false;
		for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
			if (marked[i] || !features[i].needs)
				continue;
			if (!marked[find_feature(features[i].needs) - features])
				continue;
			marked[i] = true;
			more = true;
		}
	}
}

static int parse_spec(const char *spec, bool marked[ARRAY_SIZE(features)], char *err, size_t err_size)
{
	CLEAN_FREE char *copy = strdup(spec);
	char *save = NULL;
	const char *word;

	if (!copy) {
		snprintf(err, err_size, "no memory");
		return -ENOMEM;
	}
	word = strtok_r(copy, ",", &save);
	if (!word || strcmp(word, "host") != 0) {
		snprintf(err, err_size, "cpu model \"%s\" is not known: it must be \"host\"",
			 word ? word : "");
		return -EINVAL;
	}
	while ((word = strtok_r(NULL, ",", &save))) {
		const struct feature *f = word[0] == '-' ? find_feature(word + 1) : NULL;

		if (word[0] != '-') {
			snprintf(err, err_size, "cpu feature \"%s\": only -FEATURE, its removal, is possible",
				 word);
			return -EINVAL;
		}
		if (!f) {
			snprintf(err, err_size,
				 "cpu feature \"%s\" is not known: names are those of /proc/cpuinfo",
				 word + 1);
			return -EINVAL;
		}
		marked[f - features] = true;
	}
	return 0;
}

int cpuid_check(const char *spec, char *err, size_t err_size)
{
	bool marked[ARRAY_SIZE(features)] = { false };

	return parse_spec(spec, marked, err, err_size);
}

int cpuid_remove(struct kvm_cpuid2 *t, const char *spec, char *err, size_t err_size)
{
	bool marked[ARRAY_SIZE(features)] = { false };
	int rc = parse_spec(spec, marked, err, err_size);

	if (rc)
		return rc;
	mark_dependents(marked);
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		if (marked[i])
			drop_feature(t, &features[i]);
	}
	return 0;
}
