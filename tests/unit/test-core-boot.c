/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel loaders: well-formed kernels of each kind, and every malformed one refused with one line. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot.h"
#include "kernels.h"
#include "layout.h"
#include "ram.h"

#define IMAGE_SIZE 65536U

static struct ram *ram;
static uint8_t image[IMAGE_SIZE];
static size_t image_len;
static struct boot_entry entry;
static char err[256];
static const char *cmdline = "console=ttyS0";

static int make_file(const void *data, size_t len)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, data, len), (ssize_t)len);
	return fd;
}

static int load_with(int initrd)
{
	int fd = make_file(image, image_len), rc;
	struct boot_args args = { .ram = ram,
				  .kernel_fd = fd,
				  .initrd_fd = initrd,
				  .cmdline = cmdline,
				  .rsdp = LAYOUT_ACPI_START };

	err[0] = '\0';
	rc = boot_load(&args, &entry, err, sizeof(err));
	close(fd);
	cr_assert_eq(rc == 0, err[0] == '\0', "an error without a line, or the reverse: %d \"%s\"", rc, err);
	cr_assert_null(strchr(err, '\n'));
	return rc;
}

static int load(void)
{
	return load_with(-1);
}

static void set_up(void)
{
	cr_assert_eq(ram_new(64 * MIB, false, &ram), 0);
}

static void tear_down(void)
{
	ram_free(ram);
}

TestSuite(core_boot, .init = set_up, .fini = tear_down);

/* ---- bzImage ---- */

static struct setup_header *make_linux(void)
{
	memset(image, 0, sizeof(image));
	image_len = 16384;
	memset(image + 4 * 512, 0x5a, image_len - 4 * 512);
	return kernels_linux(image);
}

Test(core_boot, linux_gets_its_zero_page)
{
	static const char initrd[] = "an initrd";
	const struct boot_params *p;
	int fd = make_file(initrd, sizeof(initrd));

	make_linux();
	cr_assert_eq(load_with(fd), 0);
	close(fd);
	cr_assert_eq(entry.mode, BOOT_LONG64);
	cr_assert_eq(entry.rip, 16 * MIB + 0x200);
	cr_assert_eq(*(uint8_t *)ram_at(ram, 16 * MIB, 1), 0x5a);
	p = ram_at(ram, entry.rsi, sizeof(*p));
	cr_assert_not_null(p);
	cr_assert_eq(p->hdr.header, 0x53726448);
	cr_assert_eq(p->acpi_rsdp_addr, LAYOUT_ACPI_START);
	cr_assert_str_eq(ram_at(ram, p->hdr.cmd_line_ptr, 64), cmdline);
	cr_assert_eq(p->hdr.ramdisk_size, sizeof(initrd));
	cr_assert_arr_eq(ram_at(ram, p->hdr.ramdisk_image, sizeof(initrd)), initrd, sizeof(initrd));
	cr_assert_geq(p->e820_entries, 4);
	for (unsigned i = 1; i < p->e820_entries; i++)
		cr_assert_geq(p->e820_table[i].addr, p->e820_table[i - 1].addr + p->e820_table[i - 1].size);
	cr_assert_eq(*(uint64_t *)ram_at(ram, entry.cr3, 8) & 1, 1);
}

Test(core_boot, linux_goes_lower_when_ram_is_short)
{
	struct setup_header *h = make_linux();

	h->pref_address = 60 * MIB;
	cr_assert_eq(load(), 0);
	cr_assert_eq(entry.rip, LOAD_AT + 0x200);
	h->relocatable_kernel = 0;
	cr_assert_eq(load(), -ENOSPC);
}

Test(core_boot, linux_refuses_what_is_malformed)
{
	struct setup_header *h = make_linux();

	h->boot_flag = 0;
	cr_assert_eq(load(), -ENOEXEC);
	h = make_linux();
	h->version = 0x0205;
	cr_assert_eq(load(), -ENOEXEC);
	h = make_linux();
	h->xloadflags = 0;
	cr_assert_eq(load(), -ENOEXEC);
	h = make_linux();
	h->kernel_alignment = 3;
	cr_assert_eq(load(), -EINVAL);
	h = make_linux();
	h->kernel_alignment = 1U << 31;
	h->pref_address = 0;
	cr_assert_eq(load(), -ENOSPC);
	h = make_linux();
	h->init_size = UINT32_MAX;
	cr_assert_eq(load(), -ENOSPC);
	h = make_linux();
	h->relocatable_kernel = 0;
	h->pref_address = UINT64_MAX - 4096;
	cr_assert_neq(load(), 0);
	h->pref_address = 0; /* over the loader's own pages */
	cr_assert_eq(load(), -EEXIST);
	h = make_linux();
	h->setup_sects = 255;
	cr_assert_eq(load(), -ENODATA);
}

Test(core_boot, truncated_files_of_every_length_are_refused)
{
	make_linux();
	for (image_len = 0; image_len < 4 * 512 + 0x200; image_len += 97)
		cr_assert_neq(load(), 0, "%zu bytes were taken", image_len);
}

Test(core_boot, long_command_line_is_refused)
{
	static char line[70000];

	memset(line, 'x', sizeof(line) - 1);
	cmdline = line;
	make_linux();
	cr_assert_eq(load(), -E2BIG);
	line[2048] = '\0';
	cr_assert_eq(load(), -E2BIG);
	line[2047] = '\0';
	cr_assert_eq(load(), 0);
}

Test(core_boot, initrd_that_does_not_fit_is_refused)
{
	int fd = memfd_create("initrd", MFD_CLOEXEC);

	make_linux();
	cr_assert_eq(ftruncate(fd, 63 * (off_t)MIB), 0);
	cr_assert_eq(load_with(fd), -ENOSPC);
	cr_assert_eq(ftruncate(fd, (off_t)1 << 60), 0);
	cr_assert_eq(load_with(fd), -ENOSPC);
	cr_assert_eq(ftruncate(fd, 0), 0);
	cr_assert_eq(load_with(fd), -ENODATA);
	close(fd);
}

/* ---- ELF ---- */

static struct kernels_elf *make_elf(bool pvh)
{
	memset(image, 0, sizeof(image));
	image_len = 16384;
	memset(image + 4096, 0xc3, 4096);
	return kernels_elf(image, pvh);
}

Test(core_boot, pvh_gets_its_start_info)
{
	const uint32_t *info;

	make_elf(true);
	cr_assert_eq(load(), 0);
	cr_assert_eq(entry.mode, BOOT_PROT32);
	cr_assert_eq(entry.rip, LOAD_AT + 0x20);
	info = ram_at(ram, entry.rbx, 56);
	cr_assert_eq(info[0], 0x336ec578);
	cr_assert_eq(info[1], 1);
	cr_assert_str_eq(ram_at(ram, info[6], 64), cmdline);
	cr_assert_eq(info[8], LAYOUT_ACPI_START);
	cr_assert_geq(info[12], 4);
	cr_assert_eq(*(uint8_t *)ram_at(ram, LOAD_AT + 4095, 1), 0xc3);
	cr_assert_eq(*(uint8_t *)ram_at(ram, LOAD_AT + 4096, 1), 0);
}

Test(core_boot, pvh_refuses_an_entry_outside_its_segments)
{
	struct kernels_elf *e = make_elf(true);

	e->note.entry = LOAD_AT + 8191;
	cr_assert_eq(load(), 0);
	e->note.entry = LOAD_AT + 8192;
	cr_assert_eq(load(), -ENOEXEC);
	e->note.entry = 0;
	cr_assert_eq(load(), -ENOEXEC);
	e->note.entry = LAYOUT_BOOT_PARAMS;
	cr_assert_eq(load(), -ENOEXEC);
	e->note.entry = UINT32_MAX;
	cr_assert_eq(load(), -ENOEXEC);
}

Test(core_boot, multiboot_gets_its_information_and_module)
{
	static const char module[] = "module";
	int fd = make_file(module, sizeof(module));
	const uint32_t *info, *mod;

	make_elf(false);
	cr_assert_eq(load_with(fd), 0);
	close(fd);
	cr_assert_eq(entry.rip, LOAD_AT + 0x10);
	cr_assert_eq(entry.rax, 0x2badb002);
	info = ram_at(ram, entry.rbx, 88);
	cr_assert_eq(info[0] & 0x4d, 0x4d); /* memory, command line, modules, map */
	cr_assert_str_eq(ram_at(ram, info[4], 64), "kernel console=ttyS0");
	cr_assert_eq(info[5], 1);
	mod = ram_at(ram, info[6], 16);
	cr_assert_eq(mod[1] - mod[0], sizeof(module));
	cr_assert_str_eq(ram_at(ram, mod[0], sizeof(module)), module);
}

Test(core_boot, multiboot_refuses_what_it_can_not_offer)
{
	struct kernels_elf *e = make_elf(false);

	e->multiboot[1] = 4; /* video mode */
	e->multiboot[2] = 0U - 0x1badb002U - 4U;
	cr_assert_eq(load(), -ENOTSUP);
	e->multiboot[2]++;
	cr_assert_eq(load(), -ENOENT);
	e = make_elf(false);
	e->h.e_entry = LOAD_AT + 8192;
	cr_assert_eq(load(), -ENOEXEC);
}

Test(core_boot, elf_refuses_what_is_malformed)
{
	struct kernels_elf *e = make_elf(true);

	e->h.e_ident[EI_DATA] = ELFDATA2MSB;
	cr_assert_eq(load(), -ENOEXEC);
	e = make_elf(true);
	e->h.e_phentsize = 0;
	cr_assert_eq(load(), -ENOEXEC);
	e = make_elf(true);
	e->h.e_phnum = 65535;
	cr_assert_eq(load(), -ENOEXEC);
	e = make_elf(true);
	e->h.e_phoff = UINT64_MAX - 10;
	cr_assert_neq(load(), 0);
	e = make_elf(true);
	e->p[0].p_filesz = UINT64_MAX;
	cr_assert_neq(load(), 0);
	e = make_elf(true);
	e->p[0].p_memsz = e->p[0].p_filesz - 1; /* all in the file, yet more than there is room for */
	cr_assert_eq(load(), -ENOEXEC);
	e = make_elf(true);
	e->p[0].p_filesz = e->p[0].p_memsz = UINT64_MAX;
	cr_assert_eq(load(), -ENOSPC);
	e = make_elf(true);
	e->p[0].p_offset = UINT64_MAX - 100;
	cr_assert_eq(load(), -ENODATA);
	e = make_elf(true);
	e->p[0].p_paddr = UINT64_MAX - 100;
	cr_assert_eq(load(), -ENOSPC);
	e = make_elf(true);
	e->p[0].p_paddr = LAYOUT_BOOT_PARAMS;
	cr_assert_eq(load(), -EEXIST);
	e = make_elf(true);
	e->p[0].p_paddr = LAYOUT_ACPI_START;
	cr_assert_eq(load(), -EEXIST);
	e = make_elf(true);
	e->p[2] = e->p[0];
	e->h.e_phnum = 3;
	cr_assert_eq(load(), -EEXIST);
	e = make_elf(true);
	e->p[1].p_filesz = 1U << 20;
	cr_assert_eq(load(), -E2BIG);
}

Test(core_boot, malformed_notes_are_no_entry_point)
{
	struct kernels_elf *e = make_elf(true);

	e->note.n.n_namesz = UINT32_MAX;
	cr_assert_eq(load(), -ENOENT);
	e = make_elf(true);
	e->note.n.n_descsz = UINT32_MAX;
	cr_assert_eq(load(), -ENOENT);
	e = make_elf(true);
	e->note.n.n_descsz = 0;
	cr_assert_eq(load(), -ENOENT);
	e = make_elf(true);
	e->p[1].p_filesz = 15;
	cr_assert_eq(load(), -ENOENT);
}

/* Random damage to each kind: refused or loaded, never a fault, never a byte outside RAM. */
Test(core_boot, random_damage_is_survived)
{
	unsigned seed = 4711;

	for (unsigned i = 0; i < 600; i++) {
		if (i % 3 == 0)
			make_linux();
		else
			make_elf(i % 3 == 1);
		for (unsigned k = 0; k < 1 + i % 5; k++)
			image[(unsigned)rand_r(&seed) % (i % 3 ? 300 : 0x280)] = (uint8_t)rand_r(&seed);
		load();
	}
}
