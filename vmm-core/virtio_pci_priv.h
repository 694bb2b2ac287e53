/* SPDX-License-Identifier: Apache-2.0 */
/* The transport's inside, shared by its life (virtio_pci.c) and its registers (virtio_pci_regs.c). */
#ifndef CORE_VIRTIO_PCI_PRIV_H
#define CORE_VIRTIO_PCI_PRIV_H

#include <stdatomic.h>

#include "lock.h"
#include "loop.h"
#include "msix.h"
#include "pci.h"
#include "virtio_pci.h"

/* BAR 0 holds everything; each structure has a page or more of its own. */
#define REG_BAR         0
#define REG_BAR_SIZE    0x10000
#define REG_COMMON      0x0000
#define REG_COMMON_SIZE 0x40
#define REG_ISR         0x1000
#define REG_ISR_SIZE    0x4
#define REG_DEVICE      0x2000
#define REG_DEVICE_SIZE VIRTIO_PCI_CONFIG_MAX
#define REG_NOTIFY      0x3000
#define REG_NOTIFY_EACH 4 /* notify_off_multiplier: a place of its own for each queue */
#define REG_NOTIFY_SIZE (VIRTIO_PCI_QUEUES_MAX * REG_NOTIFY_EACH)
#define REG_MSIX        0x8000
#define REG_MSIX_SIZE   ((VIRTIO_PCI_QUEUES_MAX + 1) * MSIX_ENTRY_SIZE)
#define REG_PBA         0xc000
#define REG_PBA_SIZE    MSIX_PBA_MAX

#define ISR_CONFIG 0x2

/* Where the driver is (virtio 1.2 §3.1.1). Every state but RESETTING ends in RESET when the driver writes 0. */
enum virtio_pci_state {
	VIRTIO_PCI_RESET,     /* status 0; ends when any status bit is set */
	VIRTIO_PCI_SETUP,     /* features may be written; ends with FEATURES_OK if they are acceptable */
	VIRTIO_PCI_AGREED,    /* features are fixed; ends with DRIVER_OK */
	VIRTIO_PCI_LIVE,      /* queues are served and their registers fixed; ends with a write of 0 */
	VIRTIO_PCI_RESETTING, /* writes are ignored, status as before; ends when the device has stopped */
};

struct virtio_pci {
	struct virtio_pci_args args;
	struct pci_dev dev;
	struct msix *msix; /* source i is queue i, source args.queues the configuration interrupt */
	unsigned cfg_cap;  /* VIRTIO_PCI_CAP_PCI_CFG in configuration space */
	int kick[VIRTIO_PCI_QUEUES_MAX];
	int call[VIRTIO_PCI_QUEUES_MAX + 1]; /* the last in use is the configuration interrupt's */
	_Atomic uint8_t isr;
	_Atomic bool kicked[VIRTIO_PCI_QUEUES_MAX]; /* kicks that exited, for the main loop to pass on */
	struct loop_bh kicks;                       /* posted with them */
	_Atomic uint64_t kicks_exited, config_interrupts, refused_writes;

	struct lock lock; /* a leaf */
	enum virtio_pci_state state GUARDED_BY(lock);
	uint8_t status GUARDED_BY(lock);
	uint8_t generation GUARDED_BY(lock);
	uint16_t queue_select GUARDED_BY(lock);
	uint32_t device_select GUARDED_BY(lock);
	uint32_t driver_select GUARDED_BY(lock);
	/* By the back end now; becomes device_features at the next reset at the latest. */
	uint64_t offered GUARDED_BY(lock);
	uint64_t device_features GUARDED_BY(lock);
	uint64_t driver_features GUARDED_BY(lock);
	unsigned config_len GUARDED_BY(lock);
	uint8_t config[VIRTIO_PCI_CONFIG_MAX] GUARDED_BY(lock);
	/* Bytes of the writable range that the driver wrote and nobody took. */
	uint64_t config_dirty GUARDED_BY(lock);
	struct virtio_pci_queue queues[VIRTIO_PCI_QUEUES_MAX] GUARDED_BY(lock);

	/* The main loop's alone. */
	struct loop_bh moved; /* posted when a BAR or the command register was written */
	bool wired;
	uint64_t wired_at[VIRTIO_PCI_QUEUES_MAX]; /* address of the ioeventfd, or PCI_UNMAPPED */
};

/* All as after power-on, with what the back end offers. */
void virtio_pci_clear(struct virtio_pci *t) REQUIRES(t->lock);

/* Accesses to BAR 0 and hooks of configuration space: any vCPU thread. */
extern const struct pci_dev_ops virtio_pci_dev_ops;

#endif
