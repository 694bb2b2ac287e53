/* SPDX-License-Identifier: Apache-2.0 */
/* Loading a kernel: which loader, and what all of them share. */
#include "boot.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "boot_priv.h"
#include "fd.h"
#include "layout.h"
#include "num.h"
#include "ram.h"

#define PAGE 4096U

int boot_fail(struct boot *b, int rc, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(b->err, b->err_size, fmt, ap);
	va_end(ap);
	return rc;
}

int boot_read_kernel(struct boot *b, uint64_t off, void *buf, uint64_t len, const char *what)
{
	uint64_t end;
	int rc;

	if (!num_add(off, len, &end) || end > b->kernel_size)
		return boot_fail(b, -ENODATA, "kernel: %s lies beyond the end of the file (%llu bytes)", what,
				 (unsigned long long)b->kernel_size);
	rc = fd_pread_full(b->args->kernel_fd, buf, len, (off_t)off);
	if (rc)
		return boot_fail(b, rc, "kernel: reading %s: %s", what, strerror(-rc));
	return 0;
}

int boot_claim(struct boot *b, uint64_t gpa, uint64_t len, const char *what)
{
	if (!ram_at(b->args->ram, gpa, len))
		return boot_fail(b, -ENOSPC,
				 "kernel: %s needs %#llx bytes at %#llx, where the guest has no RAM", what,
				 (unsigned long long)len, (unsigned long long)gpa);
	for (unsigned i = 0; i < b->claims; i++) {
		const struct boot_claim *c = &b->claim[i];

		if (gpa < c->end && gpa + len > c->start)
			return boot_fail(b, -EEXIST, "kernel: %s at %#llx overlaps the %s", what,
					 (unsigned long long)gpa, c->what);
	}
	if (b->claims == BOOT_CLAIMS_MAX)
		return boot_fail(b, -E2BIG, "kernel: more than %d parts to load", BOOT_CLAIMS_MAX);
	b->claim[b->claims++] = (struct boot_claim) { .start = gpa, .end = gpa + len, .what = what };
	return 0;
}

int boot_load_kernel(struct boot *b, uint64_t off, uint64_t gpa, uint64_t filled, uint64_t len,
		     const char *what)
{
	int rc = boot_claim(b, gpa, len, what);

	if (rc || !filled)
		return rc;
	return boot_read_kernel(b, off, ram_at(b->args->ram, gpa, filled), filled, what);
}

/* The highest place of size bytes below limit that nothing has claimed, or 0. */
static uint64_t find_room(const struct boot *b, uint64_t size, uint64_t limit)
{
	uint64_t top = MIN(limit, ram_low_end(b->args->ram));
	bool moved = true;

	while (moved && top >= size && top - size >= LAYOUT_HIGH_START) {
		uint64_t start = num_align_down(top - size, PAGE);

		moved = false;
		for (unsigned i = 0; i < b->claims; i++) {
			const struct boot_claim *c = &b->claim[i];

			if (start < c->end && start + size > c->start) {
				top = c->start;
				moved = true;
			}
		}
		if (!moved)
			return start >= LAYOUT_HIGH_START ? start : 0;
	}
	return 0;
}

int boot_load_initrd(struct boot *b, uint64_t limit, uint64_t *gpa)
{
	int rc;

	*gpa = 0;
	if (!b->initrd_size)
		return 0;
	*gpa = find_room(b, b->initrd_size, limit);
	if (!*gpa)
		return boot_fail(b, -ENOSPC, "initrd: %llu bytes do not fit into the guest's RAM",
				 (unsigned long long)b->initrd_size);
	rc = boot_claim(b, *gpa, b->initrd_size, "initrd");
	if (rc)
		return rc;
	rc = fd_pread_full(b->args->initrd_fd, ram_at(b->args->ram, *gpa, b->initrd_size), b->initrd_size, 0);
	if (rc)
		return boot_fail(b, rc, "initrd: reading: %s", strerror(-rc));
	return 0;
}

int boot_put_cmdline(struct boot *b, const char *prefix, uint64_t max)
{
	size_t before = strlen(prefix), len = strlen(b->args->cmdline);
	char *at = ram_at(b->args->ram, LAYOUT_CMDLINE, before + len + 1);

	if (len > max || !at)
		return boot_fail(b, -E2BIG, "command line: %zu characters, this kernel takes %llu", len,
				 (unsigned long long)max);
	memcpy(at, prefix, before);
	memcpy(at + before, b->args->cmdline, len + 1);
	return 0;
}

int boot_put_gdt(struct boot *b)
{
	bool is_long = b->entry->mode == BOOT_LONG64;
	/* Null, unused, code (64-bit or flat 32-bit), flat data. */
	const uint64_t gdt[] = { 0, 0, is_long ? 0x00af9b000000ffffULL : 0x00cf9b000000ffffULL,
				 0x00cf93000000ffffULL };

	memcpy(ram_at(b->args->ram, LAYOUT_BOOT_GDT, sizeof(gdt)), gdt, sizeof(gdt));
	b->entry->gdt = LAYOUT_BOOT_GDT;
	return 0;
}

unsigned boot_memory_map(const struct ram *ram, struct boot_e820 map[BOOT_E820_MAX])
{
	unsigned n = 0;

	map[n++] = (struct boot_e820) { 0, LAYOUT_EBDA, E820_RAM };
	map[n++] = (struct boot_e820) { LAYOUT_EBDA, LAYOUT_HIGH_START - LAYOUT_EBDA, E820_RESERVED };
	map[n++] = (struct boot_e820) { LAYOUT_HIGH_START, ram_low_end(ram) - LAYOUT_HIGH_START, E820_RAM };
	map[n++] = (struct boot_e820) { LAYOUT_ECAM_START, LAYOUT_ECAM_SIZE, E820_RESERVED };
	map[n++] = (struct boot_e820) { LAYOUT_KVM_IDENTITY, 4 * PAGE, E820_RESERVED };
	if (ram_high_end(ram) > LAYOUT_HOLE_END)
		map[n++] =
		    (struct boot_e820) { LAYOUT_HOLE_END, ram_high_end(ram) - LAYOUT_HOLE_END, E820_RAM };
	return n;
}

/* What the guest's first kilobytes hold before the kernel takes over. */
static int claim_fixed(struct boot *b)
{
	int rc = boot_claim(b, 0, LAYOUT_CMDLINE + LAYOUT_CMDLINE_SIZE, "boot loader's own data");

	return rc ? rc : boot_claim(b, LAYOUT_EBDA, LAYOUT_HIGH_START - LAYOUT_EBDA, "BIOS area");
}

static int file_size(struct boot *b, int fd, const char *what, uint64_t *size)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return boot_fail(b, -errno, "%s: %s", what, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return boot_fail(b, -EINVAL, "%s: is not a regular file", what);
	if (st.st_size <= 0)
		return boot_fail(b, -ENODATA, "%s: is empty", what);
	*size = (uint64_t)st.st_size;
	return 0;
}

int boot_load(const struct boot_args *args, struct boot_entry *entry, char *err, size_t err_size)
{
	struct boot b = { .args = args, .entry = entry, .err = err, .err_size = err_size };
	unsigned char magic[4];
	int rc;

	*entry = (struct boot_entry) { 0 };
	rc = file_size(&b, args->kernel_fd, "kernel", &b.kernel_size);
	if (!rc && args->initrd_fd >= 0)
		rc = file_size(&b, args->initrd_fd, "initrd", &b.initrd_size);
	if (!rc)
		rc = boot_read_kernel(&b, 0, magic, sizeof(magic), "its first bytes");
	if (!rc)
		rc = claim_fixed(&b);
	if (rc)
		return rc;
	return memcmp(magic, "\177ELF", 4) == 0 ? boot_elf(&b) : boot_linux(&b);
}
