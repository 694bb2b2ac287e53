/* SPDX-License-Identifier: Apache-2.0 */
/* Linux bzImage by the 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"). */
#include <asm/bootparam.h>
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "boot_priv.h"
#include "layout.h"
#include "num.h"
#include "ram.h"

#define SECTOR           512U
#define HEADER_OFF       0x1f1U
#define HEADER_MAGIC     0x53726448U /* "HdrS" */
#define VERSION_MIN      0x020c      /* the first with xloadflags */
#define ENTRY64_OFF      0x200U
#define LOADER_UNDEFINED 0xff
#define PAGE_SIZE_2M     (2ULL << 20)
#define PTE_PRESENT_RW   0x3ULL
#define PTE_LARGE        0x80ULL
#define TABLE            4096U

static_assert(sizeof(struct boot_params) == 4096, "the zero page is a page");

static int read_header(struct boot *b, struct setup_header *h)
{
	int rc = boot_read_kernel(b, HEADER_OFF, h, sizeof(*h), "the setup header");

	if (rc)
		return boot_fail(b, -ENOEXEC, "kernel: is neither a bzImage nor an ELF file");
	if (h->boot_flag != 0xaa55 || h->header != HEADER_MAGIC)
		return boot_fail(b, -ENOEXEC, "kernel: is neither a bzImage nor an ELF file");
	if (h->version < VERSION_MIN || !(h->xloadflags & XLF_KERNEL_64) || !(h->loadflags & LOADED_HIGH))
		return boot_fail(b, -ENOEXEC,
				 "kernel: is a bzImage without a 64-bit entry point (protocol %u.%u)",
				 h->version >> 8, h->version & 0xff);
	if (h->relocatable_kernel && !num_is_pow2(h->kernel_alignment))
		return boot_fail(b, -EINVAL, "kernel: its alignment %#x is no power of two",
				 h->kernel_alignment);
	return 0;
}

/* Puts the kernel where it prefers or, if there is too little RAM for that, as low as it may be. */
static int load_image(struct boot *b, const struct setup_header *h)
{
	uint64_t skip = (uint64_t)(h->setup_sects ? h->setup_sects : 4) * SECTOR + SECTOR;
	uint64_t where = h->pref_address, length, need;

	if (skip >= b->kernel_size)
		return boot_fail(b, -ENODATA, "kernel: ends before its protected-mode part");
	length = b->kernel_size - skip;
	need = MAX(length, (uint64_t)h->init_size);
	if (length <= ENTRY64_OFF)
		return boot_fail(b, -ENODATA, "kernel: ends before its 64-bit entry point");
	if (h->relocatable_kernel && (where < LAYOUT_HIGH_START || !ram_at(b->args->ram, where, need)))
		where = num_align_up(LAYOUT_HIGH_START, h->kernel_alignment);
	if (where >= LAYOUT_HOLE_START)
		return boot_fail(b, -EINVAL, "kernel: wants to be loaded at %#llx, above 3 GiB",
				 (unsigned long long)where);
	b->entry->rip = where + ENTRY64_OFF;
	return boot_load_kernel(b, skip, where, length, need, "kernel image");
}

static int put_params(struct boot *b, const struct setup_header *h, uint64_t initrd)
{
	struct boot_params *p = ram_at(b->args->ram, LAYOUT_BOOT_PARAMS, sizeof(*p));
	struct boot_e820 map[BOOT_E820_MAX];
	size_t header_len;

	memset(p, 0, sizeof(*p));
	/* The header's own length stands in the jump at its offset 0x201. Fields that this kernel lacks stay 0. */
	header_len = MIN((size_t)((h->jump >> 8) + 0x202U - HEADER_OFF), sizeof(*h));
	memcpy(&p->hdr, h, header_len);
	p->hdr.type_of_loader = LOADER_UNDEFINED;
	p->hdr.cmd_line_ptr = LAYOUT_CMDLINE;
	p->hdr.ramdisk_image = (uint32_t)initrd;
	p->hdr.ramdisk_size = (uint32_t)b->initrd_size;
	p->acpi_rsdp_addr = b->args->rsdp;
	p->e820_entries = (uint8_t)boot_memory_map(b->args->ram, map);
	for (unsigned i = 0; i < p->e820_entries; i++) {
		p->e820_table[i].addr = map[i].addr;
		p->e820_table[i].size = map[i].size;
		p->e820_table[i].type = map[i].type;
	}
	b->entry->rsi = LAYOUT_BOOT_PARAMS;
	return 0;
}

/* An identity map of the first 4 GiB in 2 MiB pages: one PML4, one PDPT, four page directories. */
static void put_page_tables(struct boot *b)
{
	uint64_t *pml4 = ram_at(b->args->ram, LAYOUT_BOOT_PML4, 6 * TABLE);
	uint64_t *pdpt = pml4 + TABLE / 8, *pd = pdpt + TABLE / 8;

	memset(pml4, 0, 2 * (size_t)TABLE);
	pml4[0] = (LAYOUT_BOOT_PML4 + TABLE) | PTE_PRESENT_RW;
	for (uint64_t i = 0; i < 4; i++)
		pdpt[i] = (LAYOUT_BOOT_PML4 + (2 + i) * TABLE) | PTE_PRESENT_RW;
	for (uint64_t i = 0; i < 4 * TABLE / 8; i++)
		pd[i] = i * PAGE_SIZE_2M | PTE_PRESENT_RW | PTE_LARGE;
	b->entry->cr3 = LAYOUT_BOOT_PML4;
}

int boot_linux(struct boot *b)
{
	struct setup_header h;
	uint64_t initrd;
	int rc = read_header(b, &h);

	if (rc)
		return rc;
	rc = load_image(b, &h);
	if (rc)
		return rc;
	rc = boot_load_initrd(b, (uint64_t)h.initrd_addr_max + 1, &initrd);
	if (rc)
		return rc;
	rc = boot_put_cmdline(b, "", MIN(h.cmdline_size, (uint32_t)BOOT_CMDLINE_MAX));
	if (rc)
		return rc;
	rc = put_params(b, &h, initrd);
	if (rc)
		return rc;
	b->entry->mode = BOOT_LONG64;
	b->entry->rsp = LAYOUT_BOOT_STACK;
	put_page_tables(b);
	return boot_put_gdt(b);
}
