/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One PCI bus with its host bridge: configuration space by ports 0xcf8/0xcfc and by ECAM, and the window in
 * which the devices' memory BARs lie. pci.c tells how a BAR moves.
 */
#ifndef CORE_PCI_H
#define CORE_PCI_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define PCI_SLOTS        32
#define PCI_BARS         6
#define PCI_CONFIG_SIZE  256
#define PCI_CONFIG_WORDS (PCI_CONFIG_SIZE / 4)
#define PCI_UNMAPPED     UINT64_MAX /* the base of a BAR that does not decode now */

struct end;
struct pci_bus;
struct space;

/* What a device does. All are called by vCPU threads, several at once, with no lock held. */
struct pci_dev_ops {
	/* An access within a memory BAR: size 1, 2, 4 or 8, off a multiple of size, off + size inside. */
	uint64_t (*bar_read)(void *arg, unsigned bar, uint64_t off, unsigned size);
	void (*bar_write)(void *arg, unsigned bar, uint64_t off, unsigned size, uint64_t value);
	/* Bytes [off, off + size) of configuration space are about to be read, or were written. May be NULL. */
	void (*config_reading)(void *arg, unsigned off, unsigned size);
	void (*config_written)(void *arg, unsigned off, unsigned size);
};

/*
 * A device's configuration space and BARs, embedded in the device that has it. Configuration space is 64
 * atomic words, each with the bits that the guest may write, so that no access takes a lock.
 */
struct pci_dev {
	const struct pci_dev_ops *ops;
	void *arg;
	_Atomic uint32_t config[PCI_CONFIG_WORDS];
	uint32_t writable[PCI_CONFIG_WORDS]; /* fixed once the device is attached */
	uint64_t bar_size[PCI_BARS];         /* 0: there is none, or it is the upper half of the one before */
	unsigned cap_next;                   /* where the next capability goes */
	unsigned cap_last;                   /* the pointer to patch with it */
};

struct pci_id {
	uint16_t vendor, device, subvendor, subdevice;
	uint32_t class; /* 24 bits */
	uint8_t revision;
};

/* ---- set-up of a device, before it is attached ---- */

void pci_dev_init(struct pci_dev *dev, const struct pci_id *id, const struct pci_dev_ops *ops, void *arg);

/* Sets size (1, 2 or 4) bytes at off, which must be a multiple of size, and which of their bits the guest may write. */
void pci_dev_set(struct pci_dev *dev, unsigned off, unsigned size, uint32_t value, uint32_t writable);

/* A 64-bit memory BAR, not prefetchable, of size bytes, a power of two from 4 KiB on; it takes bar and bar + 1. */
void pci_dev_add_bar(struct pci_dev *dev, unsigned bar, uint64_t size);

/* Appends a capability of len bytes, id and next pointer included, all 0 and read-only. Returns its offset, or
 * -ENOSPC if configuration space is full. */
int pci_dev_add_cap(struct pci_dev *dev, uint8_t id, unsigned len);

/* ---- a device's own view of its configuration space; any thread ---- */

uint32_t pci_dev_get(const struct pci_dev *dev, unsigned off, unsigned size);

/* Stores a whole word at off, a multiple of 4, past what the guest may write: for registers that the device fills. */
void pci_dev_store(struct pci_dev *dev, unsigned off, uint32_t value);

/* Where a BAR lies in guest-physical address space, or PCI_UNMAPPED if memory decoding is off. */
uint64_t pci_dev_bar(const struct pci_dev *dev, unsigned bar);

/* ---- the bus ---- */

/* Makes the bus with its host bridge in slot 0 and puts its ranges into the two spaces. end learns of a reset
 * by port 0xcf9. -errno. */
int pci_bus_new(struct space *pio, struct space *mmio, struct end *end, struct pci_bus **out);

/* Takes the ranges out and frees the bus; the devices stay their owners'. NULL is ignored. */
void pci_bus_free(struct pci_bus *bus);

/*
 * Puts a device into a slot (1 to 31), or takes it out. After pci_bus_detach no new access finds it; who frees
 * it waits until the vCPUs' present dispatches are over. -EBUSY if the slot is taken, -ERANGE for no slot. Main loop.
 */
int pci_bus_attach(struct pci_bus *bus, unsigned slot, struct pci_dev *dev);
void pci_bus_detach(struct pci_bus *bus, unsigned slot);

/*
 * Gives every BAR its address in the window, in the order of slots, and turns memory decoding and bus mastering
 * on, as firmware would have. Before the guest runs. -ENOSPC if the window is too small.
 */
int pci_bus_assign(struct pci_bus *bus);

/* ---- accesses; any thread in a dispatch. Exposed for tests ---- */

uint32_t pci_config_read(struct pci_bus *bus, unsigned slot, unsigned off, unsigned size);
void pci_config_write(struct pci_bus *bus, unsigned slot, unsigned off, unsigned size, uint32_t value);

/* What the guest did so far. */
struct pci_stats {
	uint64_t config_accesses;
	uint64_t bar_accesses;
	uint64_t unclaimed; /* accesses to the window that no BAR decodes */
};

void pci_get_stats(const struct pci_bus *bus, struct pci_stats *out);

#endif
