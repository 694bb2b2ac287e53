/* SPDX-License-Identifier: Apache-2.0 */
/* The KVM machine: memory slots, the in-kernel interrupt chips, ioeventfds, irqfds and the interrupt routing table. */
#ifndef CORE_VM_H
#define CORE_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ram;
struct vm;

/*
 * Makes the machine on an open /dev/kvm (which stays the caller's and must stay open while vCPUs are made),
 * with ram as its memory, in-kernel PIC, IOAPIC, LAPICs and PIT. -errno on failure; then err names, in one
 * line, the call or the capability that is missing.
 */
int vm_new(int kvm_fd, const struct ram *ram, struct vm **out, char *err, size_t err_size);
void vm_free(struct vm *vm); /* vCPUs must be gone; NULL is ignored */

int vm_fd(const struct vm *vm);
int vm_kvm_fd(const struct vm *vm);

/* ---- from the guest: ioeventfd ---- */

enum vm_bus { VM_MMIO, VM_PIO };

/* A guest's write to a place, turned into a signal of an eventfd by the kernel. */
struct vm_kick {
	enum vm_bus bus;
	uint64_t addr;
	uint32_t len; /* 1, 2, 4 or 8; 0 (MMIO only): a write of any length, any value */
	bool match;   /* only if value is written; len must not be 0 */
	uint64_t value;
	int fd;
};

/* Any thread; never waits for another process. -EEXIST if the same place is taken; -ENOENT if it was not assigned. */
int vm_add_kick(struct vm *vm, const struct vm_kick *kick);
int vm_del_kick(struct vm *vm, const struct vm_kick *kick);

/* ---- to the guest ---- */

/* Sets the level of an interrupt line 0-23 on PIC and IOAPIC. Any thread, no lock of ours. */
void vm_set_irq(struct vm *vm, uint32_t gsi, bool level);

/*
 * Message-signalled interrupts: a GSI of its own for each vector, its message in the routing table. The table
 * is allocated whole at vm_new and guarded by a leaf lock, so every call here may come from any thread (a
 * vCPU that handles a guest's write to an MSI-X table, say) and allocates nothing. -ENOSPC when all are taken.
 * An allocated GSI is not in the kernel's table before vm_msi_set: an irqfd on it raises nothing until then.
 */
int vm_msi_alloc(struct vm *vm, uint32_t *gsi);
void vm_msi_free(struct vm *vm, uint32_t gsi);
int vm_msi_set(struct vm *vm, uint32_t gsi, uint64_t addr, uint32_t data); /* does nothing if unchanged */

/* An eventfd whose signal raises gsi (edge). Any thread. Deassigning waits for deliveries that run. */
int vm_add_irqfd(struct vm *vm, uint32_t gsi, int fd);
int vm_del_irqfd(struct vm *vm, uint32_t gsi, int fd);

#endif
