/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-boot: vmm-core's kernel loaders: a bzImage, an ELF with a PVH note, a multiboot ELF, of which some bytes are others,
 * or any file. What is loaded leaves an entry in RAM; what is refused, one line.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot.h"
#include "layout.h"
#include "ram.h"

#include "fuzz.h"
#include "kernels.h"

#define FILE_MAX  16384U
#define PATCH_MAX 64

static struct ram *ram;
static int kernel_fd = -1, initrd_fd = -1;
static uint8_t file[FILE_MAX];
static size_t file_len;

static void make_linux(void)
{
	struct setup_header *h = kernels_linux(file);

	file_len = 4 * 512 + 4096;
	h->pref_address = 4 * MIB;
	h->init_size = MIB;
}

/* With a second segment. */
static void make_elf(bool pvh)
{
	struct kernels_elf *e = kernels_elf(file, pvh);

	file_len = 12288;
	e->h.e_phnum = 3;
	e->p[2] = e->p[1];
	e->p[1] = e->p[0];
	e->p[1].p_vaddr = e->p[1].p_paddr = LOAD_AT + 8192;
}

static void make_file(struct input *in)
{
	uint8_t how = in_u8(in), patches = 0;

	memset(file, 0, sizeof(file));
	switch (how % 4) {
	case 0:
		make_linux();
		break;
	case 1:
		make_elf(true);
		break;
	case 2:
		make_elf(false);
		break;
	default:
		file_len = MIN(in->left, (size_t)FILE_MAX);
		in_bytes(in, file, file_len);
		break;
	}
	while (in->left && patches++ < PATCH_MAX) {
		/* Mostly where headers are. */
		uint8_t where = in_u8(in), len = 1U << (where & 3);
		size_t at = how % 4 == 0 ? 0x1f0 : 0;

		at += where & 4 ? in_u16(in) : in_u8(in) * (where & 8 ? 4U : 1U);
		if (where & 0x80)
			file_len = in_below(in, FILE_MAX + 1);
		if (at + len <= FILE_MAX)
			in_bytes(in, file + at, len);
	}
	if (how & 4) { /* a multiboot header that is right about its sum */
		uint32_t *m = ((struct kernels_elf *)(void *)file)->multiboot;

		m[2] = 0U - m[0] - m[1];
	}
}

static void set_up(void)
{
	MUST(ram_new(RAM_SIZE_MIN, false, &ram) == 0);
	kernel_fd = memfd_create("kernel", MFD_CLOEXEC);
	initrd_fd = memfd_create("initrd", MFD_CLOEXEC);
	MUST(kernel_fd >= 0 && initrd_fd >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };
	struct boot_entry entry;
	char err[160] = "";
	uint8_t how;
	int rc;

	if (!ram)
		set_up();
	how = in_u8(&in);
	make_file(&in);
	MUST(ftruncate(kernel_fd, (off_t)file_len) == 0);
	MUST(pwrite(kernel_fd, file, file_len, 0) == (ssize_t)file_len);
	MUST(ftruncate(initrd_fd, how & 2 ? (off_t)1 << how % 40 : 4096) == 0);
	rc = boot_load(&(struct boot_args) { .ram = ram,
					     .kernel_fd = kernel_fd,
					     .initrd_fd = how & 1 ? initrd_fd : -1,
					     .cmdline = how & 4 ? "" : "console=ttyS0",
					     .rsdp = LAYOUT_ACPI_START },
		       &entry, err, sizeof(err));
	MUST((rc == 0) == (err[0] == '\0') && rc <= 0 && !strchr(err, '\n'));
	if (!rc) {
		MUST(ram_at(ram, entry.rip, 1) && ram_at(ram, entry.gdt, 32));
		MUST(entry.mode == BOOT_PROT32 || ram_at(ram, entry.cr3, 4096));
	}
	return 0;
}
