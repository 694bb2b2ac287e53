/* SPDX-License-Identifier: Apache-2.0 */
/* The ACPI tables: reachable, summing to zero, the size they say, and what iasl thinks of them. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "acpi.h"
#include "layout.h"
#include "ram.h"
#include "temp_dir.h"

static struct ram *ram;
static uint64_t rsdp;

static void set_up(void)
{
	cr_assert_eq(ram_new(64ULL << 20, false, &ram), 0);
}

static void tear_down(void)
{
	ram_free(ram);
}

TestSuite(core_acpi, .init = set_up, .fini = tear_down);

static uint32_t u32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t u64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static void check_sum(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + p[i]);
	cr_assert_eq(sum, 0, "%.4s sums to %u", (const char *)p, sum);
}

/* The table of this signature, checked, or NULL. "DSDT" is found through the FADT. */
static const uint8_t *find_table(const char *signature)
{
	const uint8_t *r = ram_at(ram, rsdp, 36), *xsdt = ram_at(ram, u64(r + 24), 36);

	check_sum(r, 20);
	check_sum(r, 36);
	check_sum(xsdt, u32(xsdt + 4));
	for (uint32_t i = 36; i < u32(xsdt + 4); i += 8) {
		const uint8_t *t = ram_at(ram, u64(xsdt + i), 36);

		cr_assert_not_null(t);
		check_sum(t, u32(t + 4));
		if (!memcmp(t, "FACP", 4) && !strcmp(signature, "DSDT"))
			t = ram_at(ram, u64(t + 140), 36);
		if (!memcmp(t, signature, 4))
			return t;
	}
	return NULL;
}

Test(core_acpi, every_table_is_there_and_sums_to_zero)
{
	static const char *const names[] = { "FACP", "APIC", "MCFG", "DSDT" };

	cr_assert_eq(acpi_build(ram, 4, &rsdp), 0);
	cr_assert_eq(rsdp & 15, 0, "a guest looks for it on 16-byte boundaries");
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *t = find_table(names[i]);

		cr_assert_not_null(t, "%s", names[i]);
		check_sum(t, u32(t + 4));
	}
	cr_assert_eq(u64(find_table("MCFG") + 44), LAYOUT_ECAM_START);
	cr_assert_eq(u32(find_table("FACP") + 76), LAYOUT_PORT_PMTIMER);
}

static unsigned count_cpus(void)
{
	const uint8_t *t = find_table("APIC");
	unsigned n = 0;

	for (uint32_t at = 44; at < u32(t + 4); at += t[at + 1]) {
		cr_assert_neq(t[at + 1], 0);
		if (t[at] == 0) {
			cr_assert_eq(t[at + 3], n, "APIC ids in order");
			n++;
		}
	}
	return n;
}

Test(core_acpi, lists_every_processor)
{
	static const unsigned counts[] = { 1, 2, 64, LAYOUT_CPUS_MAX };

	for (unsigned i = 0; i < 4; i++) {
		cr_assert_eq(acpi_build(ram, counts[i], &rsdp), 0);
		cr_assert_eq(count_cpus(), counts[i]);
	}
	cr_assert_eq(acpi_build(ram, 0, &rsdp), -EINVAL);
	cr_assert_eq(acpi_build(ram, LAYOUT_CPUS_MAX + 1, &rsdp), -EINVAL);
}

static bool contains(const uint8_t *t, const void *bytes, size_t len)
{
	for (size_t i = 0; i + len <= u32(t + 4); i++) {
		if (!memcmp(t + i, bytes, len))
			return true;
	}
	return false;
}

/* dsdt.asl repeats numbers of layout.h: as little-endian bytes they stand in its resources. */
Test(core_acpi, dsdt_has_the_layouts_numbers)
{
	const uint32_t window[] = { LAYOUT_MMIO32_START, LAYOUT_MMIO32_START + LAYOUT_MMIO32_SIZE - 1 };
	const uint32_t ecam[] = { LAYOUT_ECAM_START, LAYOUT_ECAM_SIZE };
	const uint16_t com1[] = { LAYOUT_PORT_COM1, LAYOUT_PORT_COM1 };
	const uint16_t pvpanic[] = { LAYOUT_PORT_PVPANIC, LAYOUT_PORT_PVPANIC };
	const uint8_t *t;

	cr_assert_eq(acpi_build(ram, 1, &rsdp), 0);
	t = find_table("DSDT");
	cr_assert(contains(t, window, sizeof(window)));
	cr_assert(contains(t, ecam, sizeof(ecam)));
	cr_assert(contains(t, com1, sizeof(com1)));
	cr_assert(contains(t, pvpanic, sizeof(pvpanic)));
}

/* iasl's own checks find nothing to complain of in any table. */
/* Runs a shell command in a folder of its own, where the table of this signature is t.dat; its status. */
static int with_table(const char *signature, const char *command)
{
	char dir[100], cmd[600];
	const uint8_t *t = find_table(signature);
	FILE *f;
	int status;

	cr_assert(temp_dir_make(dir, sizeof(dir)));
	snprintf(cmd, sizeof(cmd), "%s/t.dat", dir);
	f = fopen(cmd, "w");
	cr_assert_not_null(f);
	cr_assert_eq(fwrite(t, 1, u32(t + 4), f), u32(t + 4));
	fclose(f);
	snprintf(cmd, sizeof(cmd), "cd %s && %s", dir, command);
	status = system(cmd);
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	cr_assert_eq(system(cmd), 0);
	return status;
}

static void disassemble(const char *signature)
{
	cr_assert_eq(
	    with_table(
		signature,
		"iasl -d t.dat >log 2>&1 && ! grep -iE 'error|warning|invalid|incorrect' log t.dsl >&2"),
	    0, "iasl complains of %s", signature);
}

Test(core_acpi, iasl_reads_every_table)
{
	if (system("iasl -v >/dev/null 2>&1") != 0)
		cr_skip_test("there is no iasl");
	cr_assert_eq(acpi_build(ram, 3, &rsdp), 0);
	disassemble("FACP");
	disassemble("APIC");
	disassemble("MCFG");
	disassemble("DSDT");
}

/* What the guest asks of PCI Express (UUID, revision, capabilities), and the buffer that it gets back. */
static void ask_osc(const char *uuid, unsigned revision, const char *answer)
{
	char cmd[400];

	snprintf(cmd, sizeof(cmd),
		 "acpiexec -b 'execute \\_SB.PCI0._OSC (%s) %u 3 (000000001F0000001D000000)' t.dat 2>&1 | "
		 "grep -q '0000: %s 00 00 00 1F 00 00 00 1D 00 00 00'",
		 uuid, revision, answer);
	cr_expect_eq(with_table("DSDT", cmd), 0, "%s, revision %u: not %s", uuid, revision, answer);
}

Test(core_acpi, the_guest_is_given_control_of_pci_express)
{
	if (system("acpiexec -v >/dev/null 2>&1") != 0)
		cr_skip_test("there is no acpiexec");
	cr_assert_eq(acpi_build(ram, 1, &rsdp), 0);
	ask_osc("5B4DDB33F71F1C4096577441C03DD766", 1, "00");
	ask_osc("5B4DDB33F71F1C4096577441C03DD766", 2, "08");
	ask_osc("5B4DDB33F71F1C4096577441C03DD767", 1, "04");
}
