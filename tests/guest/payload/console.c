/* SPDX-License-Identifier: Apache-2.0 */
/* The bare guest's serial line, its TAP reports, and PCI configuration by ports. */
#include "hw.h"

#define PORT_PMTIMER 0x608
#define PMTIMER_HZ   3579545u

static unsigned reports, failures;

void *memset(void *to, int byte, size_t n)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(n) : : "memory");
	return to;
}

void print(const char *text)
{
	for (; *text; text++) {
		while (!(in8(COM1 + 5) & 0x20))
			;
		out8(COM1, (uint8_t)*text);
	}
}

void print_u64(uint64_t value)
{
	char text[21], *p = text + 20;

	*p = '\0';
	do
		*--p = (char)('0' + value % 10);
	while (value /= 10);
	print(p);
}

void print_hex(uint64_t value)
{
	char text[17], *p = text + 16;

	*p = '\0';
	do
		*--p = "0123456789abcdef"[value & 15];
	while (value >>= 4);
	print(p);
}

void print_count(const char *name, uint64_t n)
{
	print(" ");
	print(name);
	print(" ");
	print_u64(n);
}

void report(bool ok, const char *what)
{
	print(ok ? "ok " : "not ok ");
	print_u64(++reports);
	print(" - ");
	print(what);
	print("\n");
	failures += !ok;
}

unsigned report_failures(void)
{
	return failures;
}

unsigned report_count(void)
{
	return reports;
}

bool has_byte(void)
{
	return in8(COM1 + 5) & 1;
}

uint8_t read_byte(void)
{
	while (!has_byte())
		;
	return in8(COM1);
}

uint64_t tsc_khz(void)
{
	uint32_t from = in32(PORT_PMTIMER), to;
	uint64_t begun = tsc();

	do
		to = in32(PORT_PMTIMER);
	while (to - from < PMTIMER_HZ / 5);
	return (tsc() - begun) * PMTIMER_HZ / (to - from) / 1000;
}

uint32_t pci_read(unsigned slot, unsigned off)
{
	out32(0xcf8, 0x80000000u | slot << 11 | (off & 0xfc));
	return in32(0xcfc);
}

void pci_write(unsigned slot, unsigned off, uint32_t value)
{
	out32(0xcf8, 0x80000000u | slot << 11 | (off & 0xfc));
	out32(0xcfc, value);
}
