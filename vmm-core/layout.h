/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's address map and interrupt lines: every fixed number that the models, the ACPI tables and the loaders share. */
#ifndef CORE_LAYOUT_H
#define CORE_LAYOUT_H

/* Physical memory. RAM lies below the hole and, what does not fit there, from 4 GiB up. */
#define LAYOUT_HOLE_START   0xc0000000ULL /* 3 GiB */
#define LAYOUT_HOLE_END     0x100000000ULL
#define LAYOUT_MMIO32_START 0xc0000000ULL /* window for PCI BARs: 512 MiB */
#define LAYOUT_MMIO32_SIZE  0x20000000ULL
#define LAYOUT_ECAM_START   0xe0000000ULL /* PCI configuration space, buses 0-255 */
#define LAYOUT_ECAM_SIZE    0x10000000ULL
#define LAYOUT_IOAPIC       0xfec00000ULL
#define LAYOUT_LAPIC        0xfee00000ULL
#define LAYOUT_KVM_IDENTITY 0xfeffc000ULL /* KVM's identity map page and, behind it, its TSS pages */
#define LAYOUT_KVM_TSS      0xfeffd000ULL

/* Low memory, used before the guest's kernel takes over. */
#define LAYOUT_BOOT_GDT 0x00000500ULL
#define LAYOUT_BOOT_PARAMS                                                                                   \
	0x00007000ULL /* zero page, or PVH start info and what it points to, or multiboot information */
#define LAYOUT_BOOT_STACK   0x00008ff0ULL
#define LAYOUT_BOOT_PML4    0x00009000ULL /* then one PDPT and four page directories: up to 0xf000 */
#define LAYOUT_CMDLINE      0x00020000ULL
#define LAYOUT_CMDLINE_SIZE 0x00010000ULL
#define LAYOUT_EBDA         0x0009fc00ULL /* end of conventional memory */
#define LAYOUT_ACPI_START   0x000e0000ULL /* RSDP and tables, in the area where BIOSes keep them */
#define LAYOUT_ACPI_SIZE    0x00020000ULL
#define LAYOUT_HIGH_START   0x00100000ULL /* 1 MiB: kernels are loaded from here on */

/* Port I/O. */
#define LAYOUT_PORT_RTC       0x70
#define LAYOUT_PORT_POST      0x80
#define LAYOUT_PORT_A         0x92
#define LAYOUT_PORT_DEBUGEXIT 0xf4
#define LAYOUT_PORT_COM1      0x3f8
#define LAYOUT_PORT_PVPANIC   0x505
#define LAYOUT_PORT_PM        0x600 /* PM1 status, enable, control; PM timer at +8 */
#define LAYOUT_PORT_PMTIMER   0x608
#define LAYOUT_PORT_PCI_ADDR  0xcf8
#define LAYOUT_PORT_RESET     0xcf9
#define LAYOUT_PORT_PCI_DATA  0xcfc

/* Interrupt lines (GSI). */
#define LAYOUT_GSI_COM1 4
#define LAYOUT_GSI_SCI  9
#define LAYOUT_GSI_MSI  24 /* first that is free for message-signalled interrupts */

#define LAYOUT_CPUS_MAX 240

#endif
