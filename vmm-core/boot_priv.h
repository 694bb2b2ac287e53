/* SPDX-License-Identifier: Apache-2.0 */
/* Between the loaders: reading a hostile file into RAM, who occupies which part of RAM, and the memory map. */
#ifndef CORE_BOOT_PRIV_H
#define CORE_BOOT_PRIV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "boot.h"

#define BOOT_CLAIMS_MAX 128
#define BOOT_E820_MAX   8

#define E820_RAM      1
#define E820_RESERVED 2

struct boot_claim {
	uint64_t start, end;
	const char *what;
};

struct boot_e820 {
	uint64_t addr, size;
	uint32_t type;
};

/* One load under way. */
struct boot {
	const struct boot_args *args;
	struct boot_entry *entry;
	char *err;
	size_t err_size;
	uint64_t kernel_size, initrd_size; /* of the files; 0 without initrd */
	struct boot_claim claim[BOOT_CLAIMS_MAX];
	unsigned claims;
};

/* Writes the error line and returns rc. */
__attribute__((format(printf, 3, 4))) int boot_fail(struct boot *b, int rc, const char *fmt, ...);

/* Exactly len bytes of the kernel at off into buf; -ENODATA where the file is too short. what is for the error. */
int boot_read_kernel(struct boot *b, uint64_t off, void *buf, uint64_t len, const char *what);

/* Takes [gpa, gpa + len) of RAM for what: -ENOSPC if it is not all RAM, -EEXIST if it is taken. */
int boot_claim(struct boot *b, uint64_t gpa, uint64_t len, const char *what);

/* Claims len bytes at gpa and reads filled of them from the kernel at off; the rest stays zero, as fresh RAM is. */
int boot_load_kernel(struct boot *b, uint64_t off, uint64_t gpa, uint64_t filled, uint64_t len,
		     const char *what);

/* Puts the initrd as high as it goes below limit (exclusive) and RAM's end; *gpa is 0 if there is none. */
int boot_load_initrd(struct boot *b, uint64_t limit, uint64_t *gpa);

/* Puts the command line at LAYOUT_CMDLINE, prefix first. */
int boot_put_cmdline(struct boot *b, const char *prefix, uint64_t max);

/* The flat GDT that both entry modes use. */
int boot_put_gdt(struct boot *b);

/* RAM and what lies in it that is none; how many entries. */
unsigned boot_memory_map(const struct ram *ram, struct boot_e820 map[BOOT_E820_MAX]);

/* The loaders. boot_elf is given the ELF's first bytes and decides between PVH and multiboot. */
int boot_linux(struct boot *b);
int boot_elf(struct boot *b);

/* Where the multiboot 1 header lies in the kernel file and its flags; -ENOENT if there is none. */
int boot_multiboot_find(struct boot *b, uint32_t *flags);
int boot_multiboot_enter(struct boot *b, uint32_t flags, uint32_t entry);
int boot_pvh_enter(struct boot *b, uint32_t entry);

#endif
