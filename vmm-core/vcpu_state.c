/* SPDX-License-Identifier: Apache-2.0 */
/* The state that firmware would leave a processor in: MTRRs, local APIC, and the registers of the boot protocol. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>

#include "boot.h"
#include "num.h"
#include "vcpu_priv.h"

#define MSR_MISC_ENABLE      0x1a0
#define MISC_ENABLE_FAST_STR (1ULL << 0)
#define MSR_MTRR_DEF_TYPE    0x2ff
#define MTRR_ENABLE          (1ULL << 11)
#define MTRR_TYPE_WB         6

#define CR0_PE   (1ULL << 0)
#define CR0_ET   (1ULL << 4)
#define CR0_NE   (1ULL << 5)
#define CR0_PG   (1ULL << 31)
#define CR4_PAE  (1ULL << 5)
#define EFER_LME (1ULL << 8)
#define EFER_LMA (1ULL << 10)

#define APIC_LVT0        0x350
#define APIC_LVT1        0x360
#define APIC_MODE_NMI    0x400
#define APIC_MODE_EXTINT 0x700
#define SELECTOR_CODE    0x10
#define SELECTOR_DATA    0x18
#define GDT_LIMIT        (4 * 8 - 1)

static int set_msrs(int fd)
{
	static const struct kvm_msr_entry entries[] = {
		{ .index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLE | MTRR_TYPE_WB },
		{ .index = MSR_MISC_ENABLE, .data = MISC_ENABLE_FAST_STR },
	};
	union {
		struct kvm_msrs head;
		uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
	} msrs = { .head = { .nmsrs = 1 } };

	/* One by one: MISC_ENABLE may be refused where the processor has none, and then the guest sees none. */
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++) {
		msrs.head.entries[0] = entries[i];
		if (ioctl(fd, KVM_SET_MSRS, &msrs) < 0)
			return -errno;
	}
	return 0;
}

static void put_u32(struct kvm_lapic_state *lapic, unsigned reg, uint32_t value)
{
	memcpy(&lapic->regs[reg], &value, sizeof(value));
}

/* Virtual wire: the PIC's interrupts arrive on LINT0, NMIs on LINT1. */
static int set_lapic(int fd)
{
	struct kvm_lapic_state lapic;

	if (ioctl(fd, KVM_GET_LAPIC, &lapic) < 0)
		return -errno;
	put_u32(&lapic, APIC_LVT0, APIC_MODE_EXTINT);
	put_u32(&lapic, APIC_LVT1, APIC_MODE_NMI);
	return ioctl(fd, KVM_SET_LAPIC, &lapic) < 0 ? -errno : 0;
}

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, const struct boot_entry *entry)
{
	bool is_code = type & 8;

	return (struct kvm_segment) {
		.base = 0,
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.g = 1,
		.l = is_code && entry->mode == BOOT_LONG64,
		.db = !(is_code && entry->mode == BOOT_LONG64),
	};
}

static int set_sregs(int fd, const struct boot_entry *entry)
{
	struct kvm_segment data = flat_segment(SELECTOR_DATA, 0x3, entry); /* read, write, accessed */
	struct kvm_sregs s;

	if (ioctl(fd, KVM_GET_SREGS, &s) < 0)
		return -errno;
	s.cs = flat_segment(SELECTOR_CODE, 0xb, entry); /* execute, read, accessed */
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.tr = (struct kvm_segment) { .limit = 0x67, .type = 0xb, .present = 1 };
	s.gdt.base = entry->gdt;
	s.gdt.limit = GDT_LIMIT;
	s.idt.base = 0;
	s.idt.limit = 0;
	s.cr0 = CR0_PE | CR0_ET | CR0_NE;
	s.cr4 = 0;
	s.efer = 0;
	if (entry->mode == BOOT_LONG64) {
		s.cr0 |= CR0_PG;
		s.cr3 = entry->cr3;
		s.cr4 = CR4_PAE;
		s.efer = EFER_LME | EFER_LMA;
	}
	return ioctl(fd, KVM_SET_SREGS, &s) < 0 ? -errno : 0;
}

static int set_regs(int fd, const struct boot_entry *entry)
{
	struct kvm_regs regs = {
		.rip = entry->rip,
		.rax = entry->rax,
		.rbx = entry->rbx,
		.rsi = entry->rsi,
		.rsp = entry->rsp,
		.rflags = 2,
	};

	return ioctl(fd, KVM_SET_REGS, &regs) < 0 ? -errno : 0;
}

int vcpu_state_init(int vcpu_fd, const struct boot_entry *entry, const char **what)
{
	int rc;

	*what = "KVM_SET_MSRS";
	rc = set_msrs(vcpu_fd);
	if (rc)
		return rc;
	*what = "KVM_SET_LAPIC";
	rc = set_lapic(vcpu_fd);
	if (rc || !entry)
		return rc;
	*what = "KVM_SET_SREGS";
	rc = set_sregs(vcpu_fd, entry);
	if (rc)
		return rc;
	*what = "KVM_SET_REGS";
	return set_regs(vcpu_fd, entry);
}
