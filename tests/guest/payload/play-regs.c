/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Register accesses of the playing guest, of every width, on a boundary or not. What would end the machine (reset, power,
 * panic, debug exit) or hit the guest itself is bent here, byte by byte, as the core may take an access to pieces.
 */
#include "play.h"

#define WINDOW      0xc0000000u /* of BARs: 512 MiB */
#define WINDOW_SIZE 0x20000000u
#define ECAM        0xe0000000u
#define ECAM_SIZE   0x10000000u

#define BAR_SIZE   0x10000u
#define BAR_NOTIFY 0x3000u
#define BAR_MSIX   0x8000u

#define COM1_IER 1
#define COM1_FCR 2
#define COM1_LCR 3
#define COM1_MCR 4
#define COM1_LSR 5

uint32_t play_odd(struct play *p)
{
	uint32_t bit = 1u << play_pick(p, 32);

	switch (play_pick(p, 8)) {
	case 0:
		return 0;
	case 1:
		return 0xffffffffu;
	case 2:
		return bit - 1;
	case 3:
		return bit + 1;
	case 4:
		return bit;
	case 5:
		return play_pick(p, 300);
	default:
		return play_roll(p);
	}
}

uint64_t play_address(struct play *p)
{
	switch (play_pick(p, 10)) {
	case 0:
		return PLAY_END - play_pick(p, 64);
	case 1:
		return PLAY_END + play_pick(p, 4096);
	case 2:
		return WINDOW + (uint64_t)play_pick(p, WINDOW_SIZE);
	case 3:
		return 0xfee00000u;
	case 4:
		return (1ull << 32) - play_pick(p, 32);
	case 5:
		return 1ull << (32 + play_pick(p, 32));
	case 6:
		return ~0ull - play_pick(p, 4096);
	default:
		return PLAY_DATA + play_pick(p, PLAY_END - PLAY_DATA);
	}
}

/* ---- what must not be written ---- */

/* The low half of a ring's address: descriptors where we have them, what devices write to elsewhere behind the guest. */
static uint32_t harmless_address(unsigned reg, uint32_t v)
{
	if (v >= PLAY_END)
		return v;
	if (reg == COMMON_QUEUE_DESC)
		return PLAY_DESCS + v % (PLAY_AVAIL - PLAY_DESCS - PLAY_DESCS_EACH);
	return PLAY_USED + v % (PLAY_DATA - PLAY_USED);
}

/* A message's data: plain interrupts, with vectors that have a gate. */
static uint32_t harmless_message(uint32_t v)
{
	v &= ~0x600u;
	return v & 0xe0u ? v : v | 0x80u;
}

/* The value with which an access at that offset of a BAR is harmless. */
static uint64_t harmless(uint32_t off, unsigned size, uint64_t value)
{
	off %= BAR_SIZE;
	for (unsigned i = 0; i + 4 <= size; i++) {
		uint32_t reg = off + i, old = (uint32_t)(value >> i * 8), v = old;

		if (reg == COMMON_QUEUE_DESC || reg == COMMON_QUEUE_DRIVER || reg == COMMON_QUEUE_DEVICE)
			v = harmless_address(reg, v);
		else if (reg >= BAR_MSIX && reg % 16 == 8)
			v = harmless_message(v);
		value ^= (uint64_t)(v ^ old) << i * 8;
	}
	return value;
}

/* ---- accesses ---- */

static void mmio_write(struct play *p, uintptr_t at, unsigned size, uint64_t value)
{
	value = harmless((uint32_t)at, size, value);
	p->accesses++;
	if (size == 1)
		MMIO_WRITE(uint8_t, at, (uint8_t)value);
	else if (size == 2)
		MMIO_WRITE(uint16_t, at, (uint16_t)value);
	else if (size == 4)
		MMIO_WRITE(uint32_t, at, (uint32_t)value);
	else
		MMIO_WRITE(uint64_t, at, value);
}

static void mmio_read(struct play *p, uintptr_t at, unsigned size)
{
	p->accesses++;
	if (size == 1)
		(void)MMIO_READ(uint8_t, at);
	else if (size == 2)
		(void)MMIO_READ(uint16_t, at);
	else if (size == 4)
		(void)MMIO_READ(uint32_t, at);
	else
		(void)MMIO_READ(uint64_t, at);
}

static unsigned width(struct play *p)
{
	return 1u << play_pick(p, 4);
}

static uint64_t any64(struct play *p)
{
	return play_odd(p) | (uint64_t)play_odd(p) << 32;
}

static void port_write(struct play *p, uint32_t port, unsigned size, uint32_t value)
{
	p->accesses++;
	if (size == 1)
		out8((uint16_t)port, (uint8_t)value);
	else if (size == 2)
		out16((uint16_t)port, (uint16_t)value);
	else
		out32((uint16_t)port, value);
}

static void port_read(struct play *p, uint32_t port, unsigned size)
{
	p->accesses++;
	if (size == 1)
		(void)in8((uint16_t)port);
	else if (size == 2)
		(void)in16((uint16_t)port);
	else
		(void)in32((uint16_t)port);
}

/* ---- the registers of a device ---- */

static struct play_device *any_device(struct play *p)
{
	return &p->devices[play_pick(p, p->n_devices)];
}

/* A register of the common structure as drivers write it, in no order. */
static void common_register(struct play *p)
{
	static const struct {
		uint8_t off, size;
	} regs[] = { { 0x00, 4 }, { 0x08, 4 }, { 0x0c, 4 }, { 0x10, 2 }, { 0x16, 2 }, { 0x16, 2 },
		     { 0x18, 2 }, { 0x1a, 2 }, { 0x1c, 2 }, { 0x20, 4 }, { 0x24, 4 }, { 0x28, 4 },
		     { 0x2c, 4 }, { 0x30, 4 }, { 0x34, 4 }, { 0x14, 1 } };
	static const uint8_t status[] = { 1, 2, 3, 3, 8, 11, 11, 15, 15, 15, 128 };
	struct play_device *d = any_device(p);
	unsigned i = play_pick(p, 16);
	uint32_t value = play_one_in(p, 2) ? play_odd(p) : play_pick(p, 4);

	if (regs[i].off == COMMON_STATUS)
		value = play_one_in(p, 12) ? 0 : status[play_pick(p, 11)];
	else if (regs[i].off == COMMON_QUEUE_SIZE && !play_one_in(p, 4))
		value = 1u << play_pick(p, 9);
	else if (regs[i].off >= COMMON_QUEUE_DESC && regs[i].off % 8 == 0)
		value &= ~15u;
	else if (regs[i].off > COMMON_QUEUE_DESC && !play_one_in(p, 8))
		value = 0;
	if (play_one_in(p, 3))
		mmio_read(p, d->v.common + regs[i].off, regs[i].size);
	mmio_write(p, d->v.common + regs[i].off, regs[i].size, value);
}

/* A place in the BAR: near where something is, mostly. */
static uint32_t place(struct play *p)
{
	static const uint32_t base[] = { 0, 0, 0x1000, 0x2000, 0x3000, 0x8000, 0xc000 };

	return play_one_in(p, 4) ? play_pick(p, BAR_SIZE - 8) : base[play_pick(p, 7)] + play_pick(p, 0x60);
}

static void bar_register(struct play *p)
{
	struct play_device *d = any_device(p);
	unsigned size = width(p);
	uintptr_t at = d->base + place(p);

	if (!play_one_in(p, 4))
		at &= ~(uintptr_t)(size - 1);
	if (play_one_in(p, 2))
		mmio_read(p, at, size);
	else
		mmio_write(p, at, size, any64(p));
}

static void notify(struct play *p)
{
	struct play_device *d = any_device(p);
	uint32_t queue = play_one_in(p, 4) ? play_pick(p, 300) : play_pick(p, PLAY_LANES);

	mmio_write(p, d->base + BAR_NOTIFY + queue * 4, play_one_in(p, 2) ? 2 : width(p), any64(p));
}

/* Mostly a message that arrives, so that masks and moves have something to hold back. */
static void msix(struct play *p)
{
	struct play_device *d = any_device(p);
	uintptr_t entry = d->base + BAR_MSIX + play_pick(p, 6) * 16;
	unsigned what = play_pick(p, 8);
	bool right = !play_one_in(p, 4);

	if (what == 0)
		mmio_write(p, entry, 4, right ? 0xfee00000u : play_odd(p));
	else if (what == 1)
		mmio_write(p, entry + 4, 4, right ? 0 : play_odd(p));
	else if (what == 2)
		mmio_write(p, entry + 8, 4, right ? 0x40 + play_pick(p, 16) : play_odd(p));
	else if (what < 5)
		mmio_write(p, entry + 12, 4, right ? play_pick(p, 2) : play_odd(p));
	else if (what == 5)
		mmio_write(p, entry + 8 * play_pick(p, 2), 8, any64(p));
	else if (what == 6)
		mmio_read(p, d->base + 0xc000 + play_pick(p, 16), width(p));
	else
		mmio_write(p, d->v.common + (play_one_in(p, 4) ? COMMON_CONFIG_MSIX : COMMON_QUEUE_MSIX), 2,
			   right ? play_pick(p, 6) : play_odd(p));
	if (play_one_in(p, 4)) /* all of them, on and off */
		pci_write(d->v.slot, d->msix_cap,
			  play_one_in(p, 2) ? 0x80000000u : play_roll(p) & 0xc0000000u);
}

/* Read and write without an instruction for each: the emulator's way with strings. */
static void strings(struct play *p)
{
	struct play_device *d = any_device(p);
	uintptr_t at = d->base + place(p), to = PLAY_DATA + play_pick(p, 4096);
	uint64_t count = 1 + play_pick(p, 40);
	static const uint16_t ports[] = { 0xcfc, 0xcf8, 0x3fd, 0x608, 0x600, 0x71, 0x505 };

	p->accesses += count;
	if (play_one_in(p, 2))
		__asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(ports[play_pick(p, 7)]) : "memory");
	else
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(at), "+c"(count) : : "memory");
}

/* ---- configuration space ---- */

/* The window into the BAR: a write to its data is one to wherever the words before it point. */
static void through_window(struct play *p, struct play_device *d)
{
	uint32_t off = place(p), size = play_one_in(p, 8) ? play_odd(p) : 1u << play_pick(p, 3);
	uint32_t value = play_odd(p);

	if (!play_one_in(p, 4) && size)
		off -= off % size;
	p->accesses += 5;
	value = (uint32_t)harmless(off, 4, value);
	pci_write(d->v.slot, d->window_cap + 4, play_one_in(p, 8) ? play_odd(p) : 0);
	pci_write(d->v.slot, d->window_cap + 8, off);
	pci_write(d->v.slot, d->window_cap + 12, size);
	if (play_one_in(p, 2))
		(void)pci_read(d->v.slot, d->window_cap + 16);
	else
		pci_write(d->v.slot, d->window_cap + 16, value);
}

/* True if these bytes are of a window into a BAR, which through_window has to itself. */
static bool in_window(const struct play *p, unsigned slot, unsigned off, unsigned size)
{
	for (unsigned i = 0; i < p->n_devices; i++)
		if (p->devices[i].v.slot == slot && off < p->devices[i].window_cap + 20u &&
		    off + size > p->devices[i].window_cap)
			return true;
	return false;
}

/* Of any slot, with a device or without; what is written is put back at the next turn. */
static void config(struct play *p)
{
	unsigned slot = play_one_in(p, 4) ? play_pick(p, 32) : any_device(p)->v.slot;
	unsigned off = play_one_in(p, 3) ? 4 + play_pick(p, 0x40) : play_pick(p, 256), size = width(p) & 7;
	bool write = play_one_in(p, 2);
	uintptr_t ecam = ECAM + (slot << 15) + off;

	size = size ? size : 4;
	if (play_one_in(p, 8))
		ecam += play_pick(p, 2) ? play_pick(p, 8) << 12 : play_pick(p, 16) << 8;
	else if (!play_one_in(p, 4))
		off -= off % size, ecam -= ecam % size;
	if (write && in_window(p, slot, off & 0xfcu, 8))
		return;
	if (play_one_in(p, 2)) {
		if (write)
			mmio_write(p, ecam, size, any64(p));
		else
			mmio_read(p, ecam, width(p));
		return;
	}
	out32(0xcf8, (play_one_in(p, 16) ? play_roll(p) & 0x7fffffffu : 0x80000000u) | slot << 11 |
			 (off & 0xfc) | (play_one_in(p, 16) ? play_pick(p, 0x2000) << 8 & 0x00ff0700u : 0));
	if (write)
		port_write(p, 0xcfc + (off & 3), size, play_odd(p));
	else
		port_read(p, 0xcfc + (off & 3), size);
}

/* BARs moved and sized, decoding off and on, two over each other. */
static void move_bar(struct play *p)
{
	struct play_device *d = any_device(p);
	uint32_t to = WINDOW + (play_pick(p, WINDOW_SIZE) & ~(BAR_SIZE - 1));

	p->accesses++;
	switch (play_pick(p, 6)) {
	case 0:
		pci_write(d->v.slot, 0x10, 0xffffffffu);
		break;
	case 1:
		pci_write(d->v.slot, 0x14, play_one_in(p, 2) ? 0 : play_odd(p));
		break;
	case 2:
		pci_write(d->v.slot, 0x10, any_device(p)->base);
		break;
	case 3:
		pci_write(d->v.slot, 0x10, play_one_in(p, 2) ? play_odd(p) : to);
		break;
	case 4:
		pci_write(d->v.slot, 4, play_roll(p) & 0xffff);
		break;
	default:
		pci_write(d->v.slot, 0x14, 0);
		pci_write(d->v.slot, 0x10, d->base);
		pci_write(d->v.slot, 4, 6);
	}
}

/* ---- the rest of the machine ---- */

/* The byte as it may be written to that port. */
static uint8_t harmless_byte(uint32_t port, uint8_t byte)
{
	switch (port) {
	case 0x64: /* reset */
		return byte == 0xfe ? 0xff : byte;
	case 0x92:
	case 0x505: /* panic */
		return byte & 0xfe;
	case 0xcf9:
		return byte & 0xfb;
	case 0x605: /* off; asleep in another way is harmless */
		return (byte & 0x3c) == 0x34 ? byte & 0xdf : byte;
	default:
		return byte;
	}
}

static void platform_port(struct play *p)
{
	static const uint16_t bases[] = { 0x60,  0x64,  0x70,  0x92,  0x3f8, 0x3f8,
					  0x505, 0x600, 0x604, 0x608, 0xcf8 };
	uint32_t port = bases[play_pick(p, 11)] + play_pick(p, 8), value = play_odd(p), to = 0;
	unsigned size = 1u << play_pick(p, 3);

	if (play_one_in(p, 8)) /* where nobody is */
		port = 0x1000 + play_pick(p, 0xe000);
	if (play_one_in(p, 2)) {
		port_read(p, port, size);
		return;
	}
	for (unsigned i = 0; i < size; i++) {
		to |= (uint32_t)harmless_byte(port + i, (uint8_t)(value >> i * 8)) << i * 8;
		/* What is behind the address of configuration space has its own step, and 0x61 is the kernel's. */
		if ((port + i >= 0xcfc && port + i < 0xd00) || port + i == 0x61)
			return;
	}
	if (port >= 0xcf8 && port < 0xcfc && size == 4)
		to &= 0x7fffffffu;
	port_write(p, port, size, to);
}

/* Memory that is none: the window where no BAR is, behind RAM, the end of the space. */
static void nowhere(struct play *p)
{
	uint32_t at = WINDOW + play_pick(p, WINDOW_SIZE);

	if (play_one_in(p, 3))
		at = ECAM + play_pick(p, ECAM_SIZE);
	else if (play_one_in(p, 3))
		at = PLAY_END + play_pick(p, WINDOW - PLAY_END - 8);
	if (at >= ECAM && (at - ECAM) >> 20 == 0) /* bus 0 has its own step */
		at += 1u << 20;
	if (play_one_in(p, 2))
		mmio_read(p, at, width(p));
	else
		mmio_write(p, at, width(p), any64(p));
}

void play_registers(struct play *p)
{
	unsigned what = play_pick(p, 32);

	if (what < 9)
		common_register(p);
	else if (what < 15)
		bar_register(p);
	else if (what < 18)
		notify(p);
	else if (what < 23)
		msix(p);
	else if (what < 26)
		config(p);
	else if (what < 27)
		through_window(p, any_device(p));
	else if (what < 28)
		move_bar(p);
	else if (what < 29)
		strings(p);
	else if (what < 31)
		platform_port(p);
	else
		nowhere(p);
}

void play_console(void)
{
	while (!(in8(COM1 + COM1_LSR) & 0x40))
		;
	out8(COM1 + COM1_LCR, 3);
	out8(COM1 + COM1_IER, 0);
	out8(COM1 + COM1_MCR, 3);
	out8(COM1 + COM1_FCR, 1);
}
