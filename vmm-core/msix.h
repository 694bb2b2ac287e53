/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSI-X of one device (PCI 3.0 §6.8.2): the table and the pending bits, and eventfds ("sources") that raise the
 * vectors by irqfd, without the core. Every function but msix_new and msix_free may be called by any thread.
 */
#ifndef CORE_MSIX_H
#define CORE_MSIX_H

#include <stdint.h>

#include "pci.h"

#define MSIX_NO_VECTOR   0xffff
#define MSIX_VECTORS_MAX 2048
#define MSIX_ENTRY_SIZE  16
#define MSIX_TABLE_MAX   (MSIX_VECTORS_MAX * MSIX_ENTRY_SIZE)
#define MSIX_PBA_MAX     (MSIX_VECTORS_MAX / 8)

struct msix;
struct vm;

struct msix_args {
	struct vm *vm;
	struct pci_dev *dev; /* gets the capability */
	unsigned bar;
	uint32_t table_off, pba_off; /* in the BAR, multiples of 8 */
	unsigned vectors;            /* 1 to MSIX_VECTORS_MAX */
	const int *fds;              /* the sources' eventfds; they stay the caller's and outlive the msix */
	unsigned sources;
};

/* Allocates a GSI for each vector and adds the capability. -errno. Main loop. */
int msix_new(const struct msix_args *args, struct msix **out);

/* Takes all irqfds and routes away. No vCPU may be in a dispatch to the device. NULL is ignored. */
void msix_free(struct msix *msix);

/* Ties a source to a vector, or to none. A vector that does not exist counts as none. Returns what is in force. */
uint16_t msix_set_source(struct msix *msix, unsigned source, uint16_t vector);
uint16_t msix_source(struct msix *msix, unsigned source);

/* Ties all sources to no vector, as a virtio reset does; the table stays. */
void msix_clear_sources(struct msix *msix);

/* Accesses to the table and the pending bits; off counts from the start of each. Anything may be asked for. */
uint64_t msix_table_read(struct msix *msix, uint64_t off, unsigned size);
void msix_table_write(struct msix *msix, uint64_t off, unsigned size, uint64_t value);
uint64_t msix_pba_read(struct msix *msix, uint64_t off, unsigned size);

/* To be called when configuration bytes [off, off + size) were written: looks at message control if it is among them. */
void msix_config_written(struct msix *msix, unsigned off, unsigned size);

#endif
