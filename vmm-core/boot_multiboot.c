/* SPDX-License-Identifier: Apache-2.0 */
/* Entry by multiboot 1 (the Multiboot Specification 0.6.96, sections 3.1 to 3.3), of ELF files. */
#include <errno.h>
#include <string.h>

#include "boot_priv.h"
#include "layout.h"
#include "num.h"
#include "ram.h"

#define HEADER_SEARCH 8192U
#define HEADER_MAGIC  0x1badb002U
#define LOADER_MAGIC  0x2badb002U
#define FLAG_ALIGN    (1U << 0) /* modules on page boundaries: ours always are */
#define FLAG_MEMORY   (1U << 1)
#define FLAGS_MUST    0xffffU /* a set bit here that a loader does not know must stop it */
#define INFO_MEMORY   (1U << 0)
#define INFO_CMDLINE  (1U << 2)
#define INFO_MODULES  (1U << 3)
#define INFO_MEMMAP   (1U << 6)
#define INFO_NAME     (1U << 9)
/* By custom the first word of the command line is the kernel's name; a descriptor has none. */
#define KERNEL_WORD "kernel "

struct mb_info {
	uint32_t flags;
	uint32_t mem_lower, mem_upper; /* KiB below 640 KiB, and from 1 MiB on */
	uint32_t boot_device;
	uint32_t cmdline;
	uint32_t mods_count, mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr;
	uint32_t config_table;
	uint32_t boot_loader_name;
};

struct mb_module {
	uint32_t start, end;
	uint32_t string;
	uint32_t reserved;
};

struct mb_memory {
	uint32_t size; /* of the rest of the entry */
	uint64_t addr;
	uint64_t len;
	uint32_t type;
} __attribute__((packed));

struct mb {
	struct mb_info info;
	struct mb_module module;
	struct mb_memory memory[BOOT_E820_MAX];
	char name[16];
};

int boot_multiboot_find(struct boot *b, uint32_t *flags)
{
	uint8_t head[HEADER_SEARCH];
	uint64_t len = MIN(b->kernel_size, sizeof(head));
	int rc = boot_read_kernel(b, 0, head, len, "the multiboot header");

	if (rc)
		return rc;
	for (uint64_t at = 0; at + 12 <= len; at += 4) {
		uint32_t word[3];

		memcpy(word, head + at, sizeof(word));
		if (word[0] == HEADER_MAGIC && word[0] + word[1] + word[2] == 0) {
			*flags = word[1];
			return 0;
		}
	}
	return -ENOENT;
}

static void put_memory_map(struct boot *b, struct mb *mb)
{
	struct boot_e820 map[BOOT_E820_MAX];
	unsigned n = boot_memory_map(b->args->ram, map);

	for (unsigned i = 0; i < n; i++)
		mb->memory[i] = (struct mb_memory) {
			.size = sizeof(mb->memory[i]) - sizeof(mb->memory[i].size),
			.addr = map[i].addr,
			.len = map[i].size,
			.type = map[i].type,
		};
	mb->info.mmap_length = n * (uint32_t)sizeof(mb->memory[0]);
	mb->info.mmap_addr = LAYOUT_BOOT_PARAMS + offsetof(struct mb, memory);
	mb->info.mem_lower = LAYOUT_EBDA >> 10;
	mb->info.mem_upper = (uint32_t)((ram_low_end(b->args->ram) - LAYOUT_HIGH_START) >> 10);
	mb->info.flags |= INFO_MEMORY | INFO_MEMMAP;
}

int boot_multiboot_enter(struct boot *b, uint32_t flags, uint32_t entry)
{
	struct mb *mb = ram_at(b->args->ram, LAYOUT_BOOT_PARAMS, sizeof(*mb));
	uint64_t initrd;
	int rc;

	if (flags & FLAGS_MUST & ~(FLAG_ALIGN | FLAG_MEMORY))
		return boot_fail(b, -ENOTSUP,
				 "kernel: its multiboot header asks for %#x, which is not offered",
				 flags & FLAGS_MUST & ~(FLAG_ALIGN | FLAG_MEMORY));
	rc = boot_load_initrd(b, LAYOUT_HOLE_START, &initrd);
	if (rc)
		return rc;
	rc = boot_put_cmdline(b, KERNEL_WORD, BOOT_CMDLINE_MAX);
	if (rc)
		return rc;
	memset(mb, 0, sizeof(*mb));
	mb->info.flags = INFO_CMDLINE | INFO_NAME | INFO_MODULES;
	mb->info.cmdline = LAYOUT_CMDLINE;
	mb->info.mods_count = initrd != 0;
	mb->info.mods_addr = LAYOUT_BOOT_PARAMS + offsetof(struct mb, module);
	mb->module.start = (uint32_t)initrd;
	mb->module.end = (uint32_t)(initrd + b->initrd_size);
	mb->module.string = LAYOUT_CMDLINE;
	mb->info.boot_loader_name = LAYOUT_BOOT_PARAMS + offsetof(struct mb, name);
	memcpy(mb->name, "bulkhead", sizeof("bulkhead"));
	put_memory_map(b, mb);
	b->entry->rip = entry;
	b->entry->rax = LOADER_MAGIC;
	b->entry->rbx = LAYOUT_BOOT_PARAMS;
	return boot_put_gdt(b);
}
