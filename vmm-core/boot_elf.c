/* SPDX-License-Identifier: Apache-2.0 */
/* ELF kernels, 32 or 64 bits: loading their segments, and finding which protocol they want to be entered by. */
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot_priv.h"
#include "clean.h"
#include "layout.h"
#include "num.h"

#define HEADERS_MAX    64
#define NOTES_MAX      (64U << 10)
#define NOTE_PVH_ENTRY 18 /* XEN_ELFNOTE_PHYS32_ENTRY */
#define NOTE_OWNER     "Xen"
#define NO_ENTRY       UINT64_MAX

/* What both classes of ELF come to. */
struct image {
	uint64_t entry, phoff;
	unsigned phentsize, phnum;
	bool is_64;
};

struct segment {
	uint32_t type;
	uint64_t off, vaddr, paddr, filesz, memsz;
};

static int read_image(struct boot *b, struct image *img)
{
	unsigned char ident[EI_NIDENT];
	Elf64_Ehdr h64;
	Elf32_Ehdr h32;
	int rc = boot_read_kernel(b, 0, ident, sizeof(ident), "the ELF header");

	if (rc)
		return rc;
	if (ident[EI_DATA] != ELFDATA2LSB || (ident[EI_CLASS] != ELFCLASS64 && ident[EI_CLASS] != ELFCLASS32))
		return boot_fail(b, -ENOEXEC, "kernel: is no little-endian ELF file of 32 or 64 bits");
	img->is_64 = ident[EI_CLASS] == ELFCLASS64;
	if (img->is_64) {
		rc = boot_read_kernel(b, 0, &h64, sizeof(h64), "the ELF header");
		if (rc)
			return rc;
		*img = (struct image) { h64.e_entry, h64.e_phoff, h64.e_phentsize, h64.e_phnum, true };
	} else {
		rc = boot_read_kernel(b, 0, &h32, sizeof(h32), "the ELF header");
		if (rc)
			return rc;
		*img = (struct image) { h32.e_entry, h32.e_phoff, h32.e_phentsize, h32.e_phnum, false };
	}
	if (img->phentsize != (img->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
		return boot_fail(b, -ENOEXEC, "kernel: ELF program headers of %u bytes", img->phentsize);
	if (!img->phnum || img->phnum > HEADERS_MAX)
		return boot_fail(b, -ENOEXEC, "kernel: %u ELF program headers, must be 1 to %d", img->phnum,
				 HEADERS_MAX);
	return 0;
}

static int read_segment(struct boot *b, const struct image *img, unsigned i, struct segment *s)
{
	uint64_t off;
	Elf64_Phdr p64;
	Elf32_Phdr p32;
	int rc;

	if (!num_add(img->phoff, (uint64_t)i * img->phentsize, &off))
		return boot_fail(b, -ENOEXEC,
				 "kernel: its ELF program headers lie beyond the end of the file");
	if (img->is_64) {
		rc = boot_read_kernel(b, off, &p64, sizeof(p64), "the ELF program headers");
		if (!rc)
			*s = (struct segment) { p64.p_type,  p64.p_offset, p64.p_vaddr,
						p64.p_paddr, p64.p_filesz, p64.p_memsz };
	} else {
		rc = boot_read_kernel(b, off, &p32, sizeof(p32), "the ELF program headers");
		if (!rc)
			*s = (struct segment) { p32.p_type,  p32.p_offset, p32.p_vaddr,
						p32.p_paddr, p32.p_filesz, p32.p_memsz };
	}
	return rc;
}

static int load_segment(struct boot *b, const struct segment *s)
{
	if (s->type != PT_LOAD || !s->memsz)
		return 0;
	if (s->filesz > s->memsz)
		return boot_fail(b, -ENOEXEC,
				 "kernel: an ELF segment has more bytes in the file than in memory");
	return boot_load_kernel(b, s->off, s->paddr, s->filesz, s->memsz, "ELF segment");
}

/* Walks the notes for Xen's entry point; a malformed note ends the walk. */
static uint64_t find_pvh_note(const uint8_t *notes, uint64_t len)
{
	uint64_t at = 0;

	while (len - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		uint64_t name, desc;

		memcpy(&n, notes + at, sizeof(n));
		name = at + sizeof(n);
		desc = name + num_align_up(n.n_namesz, 4);
		at = desc + num_align_up(n.n_descsz, 4);
		if (at > len)
			return NO_ENTRY;
		if (n.n_type == NOTE_PVH_ENTRY && n.n_namesz == sizeof(NOTE_OWNER) &&
		    !memcmp(notes + name, NOTE_OWNER, sizeof(NOTE_OWNER)) && n.n_descsz >= 4) {
			uint32_t entry;

			memcpy(&entry, notes + desc, sizeof(entry));
			return entry;
		}
	}
	return NO_ENTRY;
}

static int read_notes(struct boot *b, const struct segment *s, uint64_t *entry)
{
	CLEAN_FREE uint8_t *notes = NULL;
	int rc;

	if (s->type != PT_NOTE || !s->filesz || *entry != NO_ENTRY)
		return 0;
	if (s->filesz > NOTES_MAX)
		return boot_fail(b, -E2BIG, "kernel: %llu bytes of ELF notes, at most %u are taken",
				 (unsigned long long)s->filesz, NOTES_MAX);
	notes = malloc(s->filesz);
	if (!notes)
		return boot_fail(b, -ENOMEM, "kernel: no memory for its ELF notes");
	rc = boot_read_kernel(b, s->off, notes, s->filesz, "the ELF notes");
	if (!rc)
		*entry = find_pvh_note(notes, s->filesz);
	return rc;
}

/* Multiboot's entry is physical; some linkers give the ELF header a virtual one, which its segment translates. */
static uint64_t physical_entry(uint64_t entry, const struct segment *s, uint64_t found)
{
	if (s->type == PT_LOAD && entry >= s->vaddr && entry - s->vaddr < s->memsz)
		return s->paddr + (entry - s->vaddr);
	return found;
}

/* Whether at lies in what was claimed from the first-th part on. */
static bool is_loaded(const struct boot *b, unsigned first, uint64_t at)
{
	for (unsigned i = first; i < b->claims; i++)
		if (at >= b->claim[i].start && at < b->claim[i].end)
			return true;
	return false;
}

int boot_elf(struct boot *b)
{
	const unsigned first = b->claims;
	uint64_t pvh = NO_ENTRY, entry = NO_ENTRY;
	struct image img = { 0 };
	struct segment s = { 0 };
	uint32_t flags;
	int rc = read_image(b, &img);

	if (rc)
		return rc;
	for (unsigned i = 0; i < img.phnum; i++) {
		rc = read_segment(b, &img, i, &s);
		if (!rc)
			rc = load_segment(b, &s);
		if (!rc)
			rc = read_notes(b, &s, &pvh);
		if (rc)
			return rc;
		entry = physical_entry(img.entry, &s, entry);
	}
	b->entry->mode = BOOT_PROT32;
	b->entry->rsp = LAYOUT_BOOT_STACK;
	if (pvh != NO_ENTRY && !is_loaded(b, first, pvh))
		return boot_fail(b, -ENOEXEC, "kernel: the entry point of its PVH note lies in no segment");
	if (pvh != NO_ENTRY)
		return boot_pvh_enter(b, (uint32_t)pvh);
	rc = boot_multiboot_find(b, &flags);
	if (rc)
		return boot_fail(b, rc,
				 "kernel: is an ELF file with neither a PVH note nor a multiboot header");
	if (entry > UINT32_MAX)
		return boot_fail(b, -ENOEXEC, "kernel: its ELF entry point lies in no segment below 4 GiB");
	return boot_multiboot_enter(b, flags, (uint32_t)entry);
}
