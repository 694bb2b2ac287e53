/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of each kind that vmm-core loads, well-formed and empty, for a caller who then changes what it likes. */
#ifndef SUPPORT_KERNELS_H
#define SUPPORT_KERNELS_H

#include <asm/bootparam.h>
#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MIB     (1ULL << 20)
#define LOAD_AT (2 * MIB)

/* Writes the header of a bzImage into file, which is zero: four sectors, and then the kernel. */
static inline struct setup_header *kernels_linux(uint8_t *file)
{
	struct setup_header *h = (void *)(file + 0x1f1);

	h->setup_sects = 3;
	h->boot_flag = 0xaa55;
	h->jump = 0x66eb; /* the header ends at 0x268 */
	h->header = 0x53726448;
	h->version = 0x020f;
	h->loadflags = LOADED_HIGH;
	h->xloadflags = XLF_KERNEL_64;
	h->relocatable_kernel = 1;
	h->kernel_alignment = 2 * MIB;
	h->pref_address = 16 * MIB;
	h->init_size = 8 * MIB;
	h->initrd_addr_max = 0x7fffffff;
	h->cmdline_size = 2047;
	return h;
}

struct kernels_elf {
	Elf64_Ehdr h;
	Elf64_Phdr p[4];
	struct {
		Elf64_Nhdr n;
		char name[4];
		uint32_t entry;
	} note;
	uint32_t multiboot[8];
};

/* Writes those of an ELF into file, which is zero: one page to load, at 4096, and with pvh a note, else multiboot's header. */
static inline struct kernels_elf *kernels_elf(uint8_t *file, bool pvh)
{
	struct kernels_elf *e = (void *)file;

	memcpy(e->h.e_ident, ELFMAG, SELFMAG);
	e->h.e_ident[EI_CLASS] = ELFCLASS64;
	e->h.e_ident[EI_DATA] = ELFDATA2LSB;
	e->h.e_entry = LOAD_AT + 0x10;
	e->h.e_phoff = offsetof(struct kernels_elf, p);
	e->h.e_phentsize = sizeof(Elf64_Phdr);
	e->h.e_phnum = 2;
	e->p[0] = (Elf64_Phdr) { .p_type = PT_LOAD,
				 .p_offset = 4096,
				 .p_vaddr = LOAD_AT,
				 .p_paddr = LOAD_AT,
				 .p_filesz = 4096,
				 .p_memsz = 8192 };
	e->p[1] = (Elf64_Phdr) { .p_type = pvh ? PT_NOTE : PT_NULL,
				 .p_offset = offsetof(struct kernels_elf, note),
				 .p_filesz = sizeof(e->note),
				 .p_memsz = sizeof(e->note) };
	e->note.n = (Elf64_Nhdr) { .n_namesz = 4, .n_descsz = 4, .n_type = 18 };
	memcpy(e->note.name, "Xen", 4);
	e->note.entry = LOAD_AT + 0x20;
	if (!pvh) {
		e->multiboot[0] = 0x1badb002;
		e->multiboot[1] = 3;
		e->multiboot[2] = 0U - 0x1badb002U - 3U;
	}
	return e;
}

#endif
