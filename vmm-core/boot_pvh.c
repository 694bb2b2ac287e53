/* SPDX-License-Identifier: Apache-2.0 */
/* Entry by PVH: 32-bit protected mode with the start info in ebx (Xen's public x86/HVM start info, version 1). */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "boot_priv.h"
#include "layout.h"
#include "ram.h"

#define START_MAGIC 0x336ec578U

struct start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modlist;
	uint64_t cmdline;
	uint64_t rsdp;
	uint64_t memmap;
	uint32_t memmap_entries;
	uint32_t reserved;
};

struct start_module {
	uint64_t addr;
	uint64_t size;
	uint64_t cmdline;
	uint64_t reserved;
};

struct start_memory {
	uint64_t addr;
	uint64_t size;
	uint32_t type;
	uint32_t reserved;
};

/* All of it, as it lies at LAYOUT_BOOT_PARAMS. */
struct start {
	struct start_info info;
	struct start_module module;
	struct start_memory memory[BOOT_E820_MAX];
};

static_assert(sizeof(struct start_info) == 56, "start info of version 1");
static_assert(sizeof(struct start) <= LAYOUT_BOOT_STACK - LAYOUT_BOOT_PARAMS - 2048, "stack is left");

int boot_pvh_enter(struct boot *b, uint32_t entry)
{
	struct start *start = ram_at(b->args->ram, LAYOUT_BOOT_PARAMS, sizeof(*start));
	struct boot_e820 map[BOOT_E820_MAX];
	uint64_t initrd;
	int rc = boot_load_initrd(b, LAYOUT_HOLE_START, &initrd);

	if (rc)
		return rc;
	rc = boot_put_cmdline(b, "", BOOT_CMDLINE_MAX);
	if (rc)
		return rc;
	memset(start, 0, sizeof(*start));
	start->info = (struct start_info) {
		.magic = START_MAGIC,
		.version = 1,
		.nr_modules = initrd != 0,
		.modlist = initrd ? LAYOUT_BOOT_PARAMS + offsetof(struct start, module) : 0,
		.cmdline = LAYOUT_CMDLINE,
		.rsdp = b->args->rsdp,
		.memmap = LAYOUT_BOOT_PARAMS + offsetof(struct start, memory),
		.memmap_entries = boot_memory_map(b->args->ram, map),
	};
	start->module = (struct start_module) { .addr = initrd, .size = b->initrd_size };
	for (unsigned i = 0; i < start->info.memmap_entries; i++)
		start->memory[i] =
		    (struct start_memory) { .addr = map[i].addr, .size = map[i].size, .type = map[i].type };
	b->entry->rip = entry;
	b->entry->rbx = LAYOUT_BOOT_PARAMS;
	return boot_put_gdt(b);
}
