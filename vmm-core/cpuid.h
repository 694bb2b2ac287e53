/* SPDX-License-Identifier: Apache-2.0 */
/* What CPUID tells the guest: the host's features that KVM can give, less what the user removed, with topology for each vCPU. */
#ifndef CORE_CPUID_H
#define CORE_CPUID_H

#include <stddef.h>
#include <stdint.h>

#define CPUID_ENTRIES_MAX 256

struct kvm_cpuid2;
struct cpuid_model;

/*
 * Reads what KVM supports and applies spec, "host" followed by ",-feature" for each one to remove. -EINVAL if
 * spec is malformed or names a feature that is not known (err says which, and what is allowed), or KVM's -errno.
 */
int cpuid_new(int kvm_fd, const char *spec, struct cpuid_model **out, char *err, size_t err_size);
void cpuid_free(struct cpuid_model *model); /* NULL is ignored */

/* Checks spec alone, without KVM. */
int cpuid_check(const char *spec, char *err, size_t err_size);

/* The table for vCPU index of count; dst has room for CPUID_ENTRIES_MAX entries. */
void cpuid_fill(const struct cpuid_model *model, unsigned index, unsigned count, struct kvm_cpuid2 *dst);

#endif
