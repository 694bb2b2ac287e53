/* SPDX-License-Identifier: Apache-2.0 */
/* The machine as the bare guest sees it from ring 3: ports, registers in memory, time, the serial line, sleep. */
#ifndef PAYLOAD_HW_H
#define PAYLOAD_HW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COM1 0x3f8

extern volatile uint32_t irq_count[16]; /* interrupts taken, per MSI-X vector */

static inline void out8(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void out16(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void out32(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint16_t in16(uint16_t port)
{
	uint16_t v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

/* Plain moves only: an emulator knows them all. */
#define MMIO_READ(type, addr)         (*(volatile const type *)(uintptr_t)(addr))
#define MMIO_WRITE(type, addr, value) (*(volatile type *)(uintptr_t)(addr) = (value))

static inline uint64_t tsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

/* Sleeps until *word is no longer old; an interrupt must change it. */
static inline void wait_change(volatile const uint32_t *word, uint32_t old)
{
	while (*word == old)
		__asm__ volatile("hlt" : : "D"(word), "S"(old) : "memory");
}

/* xorshift64; the state is never 0 */
static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state >> 32;
}

/* Shell's sort, the smallest first. */
static inline void sort_times(uint64_t *times, unsigned n)
{
	for (unsigned gap = n / 2; gap; gap /= 2)
		for (unsigned i = gap; i < n; i++)
			for (unsigned j = i; j >= gap && times[j - gap] > times[j]; j -= gap) {
				uint64_t t = times[j];

				times[j] = times[j - gap];
				times[j - gap] = t;
			}
}

/* Ends the guest; the host's exit status is value × 2 + 1. */
__attribute__((noreturn)) static inline void debug_exit(uint8_t value)
{
	for (;;)
		out8(0xf4, value);
}

/* console.c */
void *memset(void *to, int byte, size_t n);
void *memcpy(void *to, const void *from, size_t n);
void print(const char *text);
void print_u64(uint64_t value);
void print_hex(uint64_t value);
void print_count(const char *name, uint64_t n); /* " name n" */
/* Prints one TAP line; a failure is remembered. */
void report(bool ok, const char *what);
unsigned report_failures(void);
unsigned report_count(void);
/* The next byte that the host sends on the serial line, and whether there is one. */
uint8_t read_byte(void);
bool has_byte(void);

/* Cycles a millisecond, measured against the ACPI timer for a fifth of a second. */
uint64_t tsc_khz(void);

/* The legacy 0xcf8 mechanism; width 1, 2 or 4. */
uint32_t pci_read(unsigned slot, unsigned off);
void pci_write(unsigned slot, unsigned off, uint32_t value);

#endif
