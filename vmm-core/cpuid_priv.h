/* SPDX-License-Identifier: Apache-2.0 */
/* Between cpuid.c and features.c, and for their tests: the table itself. */
#ifndef CORE_CPUID_PRIV_H
#define CORE_CPUID_PRIV_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

struct cpuid_model {
	struct kvm_cpuid2 table; /* with room for CPUID_ENTRIES_MAX entries */
};

/* The entry, or NULL. */
struct kvm_cpuid_entry2 *cpuid_find(struct kvm_cpuid2 *t, uint32_t leaf, uint32_t index);

/* Takes out all entries of a leaf. */
void cpuid_drop(struct kvm_cpuid2 *t, uint32_t leaf);

/* Removes what spec names, and what makes no sense without it. */
int cpuid_remove(struct kvm_cpuid2 *t, const char *spec, char *err, size_t err_size);

#endif
