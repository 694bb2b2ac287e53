/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads a kernel into guest RAM by the protocol that its file calls for: Linux bzImage (64-bit boot protocol),
 * ELF with a PVH note, or multiboot 1 ELF with modules. Files are hostile: every size and offset is checked.
 * For set-up, before the guest runs: may block and allocate.
 */
#ifndef CORE_BOOT_H
#define CORE_BOOT_H

#include <stddef.h>
#include <stdint.h>

struct ram;

#define BOOT_CMDLINE_MAX 2047 /* what Linux takes on x86 */

struct boot_args {
	const struct ram *ram;
	int kernel_fd;
	int initrd_fd;       /* -1: none. For multiboot, the first and only module */
	const char *cmdline; /* never NULL */
	uint64_t rsdp;       /* where acpi_build put it */
};

enum boot_mode {
	BOOT_LONG64, /* paging on, identity map of the first 4 GiB */
	BOOT_PROT32, /* flat 32-bit segments, paging off */
};

/* What vCPU 0 starts with; registers not named are 0. */
struct boot_entry {
	enum boot_mode mode;
	uint64_t rip;
	uint64_t rax;
	uint64_t rbx;
	uint64_t rsi;
	uint64_t rsp;
	uint64_t gdt; /* of four entries: null, -, code 0x10, data 0x18 */
	uint64_t cr3; /* BOOT_LONG64 */
};

/* 0, or -errno with one line in err that says what is wrong with which file. */
int boot_load(const struct boot_args *args, struct boot_entry *entry, char *err, size_t err_size);

#endif
