/* SPDX-License-Identifier: Apache-2.0 */
/* Between vcpu.c and vcpu_state.c: what a vCPU starts with. */
#ifndef CORE_VCPU_PRIV_H
#define CORE_VCPU_PRIV_H

struct boot_entry;

/* MSRs, local APIC; and for vCPU 0 the registers of entry (NULL for the others, which wait for SIPI). 0 or -errno; *what names the
 * call that failed. */
int vcpu_state_init(int vcpu_fd, const struct boot_entry *entry, const char **what);

#endif
