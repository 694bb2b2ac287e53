/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation. The window for BARs is one range of the address space and belongs to the bus for good.
 * Within it an access is given to the device whose BAR registers, read at that moment, cover the address. So a
 * guest that moves a BAR, sizes it or switches decoding off changes nothing but the device's own words: no
 * table is republished and no vCPU waits for another. A guest that is half-way through the two words of a
 * 64-bit BAR may see the device at an odd place or nowhere, as on hardware. What the kernel must learn of a move
 * (ioeventfds) the device does later, on the main loop; until then its accesses come here as exits.
 *
 * Configuration words are atomics, written by compare and swap under a mask, so that accesses take no lock and
 * two processors that write different bytes of one word don't lose each other's.
 */
#include "pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "end.h"
#include "layout.h"
#include "num.h"
#include "space.h"

#define ECAM_BUS_SIZE   (1ULL << 20)
#define ECAM_SLOT_SHIFT 15
#define ECAM_FN_MASK    0x7000u
#define ECAM_OFF_MASK   0x0fffu

#define ADDR_ENABLE (1u << 31)
#define PORT_DATA   (LAYOUT_PORT_PCI_DATA - LAYOUT_PORT_PCI_ADDR)
#define PORT_RESET  (LAYOUT_PORT_RESET - LAYOUT_PORT_PCI_ADDR)
#define PORT_SIZE   8
#define RESET_CPU   0x04

struct pci_bus {
	struct space *pio, *mmio;
	struct end *end;
	struct pci_dev host;
	struct pci_dev *_Atomic slots[PCI_SLOTS];
	_Atomic uint32_t addr;         /* 0xcf8 */
	_Atomic uint8_t reset_control; /* 0xcf9 */
	_Atomic uint64_t config_accesses, bar_accesses, unclaimed;
};

static uint32_t size_mask(unsigned size)
{
	return size >= 4 ? UINT32_MAX : (1u << (size * 8)) - 1;
}

/* ---- a device's words ---- */

static void add_ids(struct pci_dev *dev, const struct pci_id *id)
{
	pci_dev_set(dev, PCI_VENDOR_ID, 2, id->vendor, 0);
	pci_dev_set(dev, PCI_DEVICE_ID, 2, id->device, 0);
	pci_dev_set(dev, PCI_CLASS_REVISION, 4, id->class << 8 | id->revision, 0);
	pci_dev_set(dev, PCI_SUBSYSTEM_VENDOR_ID, 2, id->subvendor, 0);
	pci_dev_set(dev, PCI_SUBSYSTEM_ID, 2, id->subdevice, 0);
}

void pci_dev_init(struct pci_dev *dev, const struct pci_id *id, const struct pci_dev_ops *ops, void *arg)
{
	*dev = (struct pci_dev) {
		.ops = ops, .arg = arg, .cap_next = PCI_STD_HEADER_SIZEOF, .cap_last = PCI_CAPABILITY_LIST
	};
	add_ids(dev, id);
	pci_dev_set(dev, PCI_COMMAND, 2, 0, PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	pci_dev_set(dev, PCI_CACHE_LINE_SIZE, 1, 0, 0xff);
	pci_dev_set(dev, PCI_INTERRUPT_LINE, 1, 0, 0xff);
}

void pci_dev_set(struct pci_dev *dev, unsigned off, unsigned size, uint32_t value, uint32_t writable)
{
	unsigned word = off / 4, shift = off % 4 * 8;
	uint32_t mask = size_mask(size) << shift;

	dev->config[word] = (dev->config[word] & ~mask) | (value << shift & mask);
	dev->writable[word] = (dev->writable[word] & ~mask) | (writable << shift & mask);
}

void pci_dev_add_bar(struct pci_dev *dev, unsigned bar, uint64_t size)
{
	unsigned off = PCI_BASE_ADDRESS_0 + bar * 4;
	uint64_t writable = ~(size - 1);

	dev->bar_size[bar] = size;
	pci_dev_set(dev, off, 4, PCI_BASE_ADDRESS_MEM_TYPE_64, (uint32_t)writable);
	pci_dev_set(dev, off + 4, 4, 0, (uint32_t)(writable >> 32));
	dev->writable[PCI_COMMAND / 4] |= PCI_COMMAND_MEMORY;
}

int pci_dev_add_cap(struct pci_dev *dev, uint8_t id, unsigned len)
{
	unsigned off = dev->cap_next;

	if (len < 2 || off + len > PCI_CONFIG_SIZE)
		return -ENOSPC;
	pci_dev_set(dev, dev->cap_last, 1, off, 0);
	pci_dev_set(dev, off, 1, id, 0);
	dev->config[PCI_STATUS / 4] |= (uint32_t)PCI_STATUS_CAP_LIST << 16;
	dev->cap_last = off + PCI_CAP_LIST_NEXT;
	dev->cap_next = (unsigned)num_align_up(off + len, 4);
	return (int)off;
}

uint32_t pci_dev_get(const struct pci_dev *dev, unsigned off, unsigned size)
{
	return dev->config[off / 4] >> (off % 4 * 8) & size_mask(size);
}

void pci_dev_store(struct pci_dev *dev, unsigned off, uint32_t value)
{
	dev->config[off / 4] = value;
}

uint64_t pci_dev_bar(const struct pci_dev *dev, unsigned bar)
{
	unsigned word = PCI_BASE_ADDRESS_0 / 4 + bar;
	uint64_t base;

	if (!(dev->config[PCI_COMMAND / 4] & PCI_COMMAND_MEMORY) || !dev->bar_size[bar])
		return PCI_UNMAPPED;
	base = (uint64_t)dev->config[word + 1] << 32 | dev->config[word];
	return base & ~(dev->bar_size[bar] - 1);
}

static void dev_write(struct pci_dev *dev, unsigned off, unsigned size, uint32_t value)
{
	unsigned word = off / 4, shift = off % 4 * 8;
	uint32_t mask = size_mask(size) << shift & dev->writable[word];
	uint32_t old = dev->config[word];

	while (
	    !atomic_compare_exchange_weak(&dev->config[word], &old, (old & ~mask) | (value << shift & mask)))
		;
}

/* ---- configuration accesses ---- */

static struct pci_dev *dev_for(struct pci_bus *bus, unsigned slot, unsigned off, unsigned size)
{
	bool whole = size == 1 || size == 2 || size == 4;

	if (slot >= PCI_SLOTS || !whole || off % size || off + size > PCI_CONFIG_SIZE)
		return NULL;
	return bus->slots[slot];
}

uint32_t pci_config_read(struct pci_bus *bus, unsigned slot, unsigned off, unsigned size)
{
	struct pci_dev *dev = dev_for(bus, slot, off, size);

	atomic_fetch_add_explicit(&bus->config_accesses, 1, memory_order_relaxed);
	if (!dev)
		return size_mask(size);
	if (dev->ops && dev->ops->config_reading)
		dev->ops->config_reading(dev->arg, off, size);
	return pci_dev_get(dev, off, size);
}

void pci_config_write(struct pci_bus *bus, unsigned slot, unsigned off, unsigned size, uint32_t value)
{
	struct pci_dev *dev = dev_for(bus, slot, off, size);

	atomic_fetch_add_explicit(&bus->config_accesses, 1, memory_order_relaxed);
	if (!dev)
		return;
	dev_write(dev, off, size, value);
	if (dev->ops && dev->ops->config_written)
		dev->ops->config_written(dev->arg, off, size);
}

static uint64_t ecam_read(void *owner, uint64_t off, unsigned size)
{
	if (off >= ECAM_BUS_SIZE || off & ECAM_FN_MASK)
		return UINT64_MAX;
	return pci_config_read(owner, (unsigned)(off >> ECAM_SLOT_SHIFT), off & ECAM_OFF_MASK, size);
}

static void ecam_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	if (off >= ECAM_BUS_SIZE || off & ECAM_FN_MASK)
		return;
	pci_config_write(owner, (unsigned)(off >> ECAM_SLOT_SHIFT), off & ECAM_OFF_MASK, size,
			 (uint32_t)value);
}

static const struct space_ops ecam_ops = { .read = ecam_read, .write = ecam_write, .max = 4 };

/* Which register 0xcfc + byte names now: false if the address is not enabled or not on bus 0, function 0. */
static bool port_target(struct pci_bus *bus, uint64_t byte, unsigned *slot, unsigned *off)
{
	uint32_t addr = bus->addr;

	*slot = addr >> 11 & 0x1f;
	*off = (addr & 0xfc) + (unsigned)byte;
	return (addr & ADDR_ENABLE) && !(addr & 0x00ff0700);
}

static uint64_t port_read(void *owner, uint64_t off, unsigned size)
{
	struct pci_bus *bus = owner;
	unsigned slot, reg;

	if (off >= PORT_DATA)
		return port_target(bus, off - PORT_DATA, &slot, &reg) ? pci_config_read(bus, slot, reg, size)
								      : UINT64_MAX;
	if (off == 0 && size == 4)
		return bus->addr;
	return off == PORT_RESET && size == 1 ? bus->reset_control : UINT64_MAX;
}

static void port_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_bus *bus = owner;
	unsigned slot, reg;

	if (off >= PORT_DATA) {
		if (port_target(bus, off - PORT_DATA, &slot, &reg))
			pci_config_write(bus, slot, reg, size, (uint32_t)value);
	} else if (off == 0 && size == 4) {
		bus->addr = (uint32_t)value;
	} else if (off == PORT_RESET && size == 1) {
		bus->reset_control = (uint8_t)(value & ~(uint64_t)RESET_CPU);
		if (value & RESET_CPU)
			end_post(bus->end, END_RESET, 0);
	}
}

static const struct space_ops port_ops = { .read = port_read, .write = port_write, .max = 4 };

/* ---- the window ---- */

/* The device and BAR that decode [addr, addr + size) at this moment. */
static struct pci_dev *window_find(struct pci_bus *bus, uint64_t addr, unsigned size, unsigned *bar,
				   uint64_t *off)
{
	for (unsigned s = 0; s < PCI_SLOTS; s++) {
		struct pci_dev *dev = bus->slots[s];

		for (unsigned b = 0; dev && b < PCI_BARS; b++) {
			uint64_t base;

			if (!dev->bar_size[b])
				continue;
			base = pci_dev_bar(dev, b);
			if (base == PCI_UNMAPPED || addr < base || addr - base > dev->bar_size[b] - size)
				continue;
			*bar = b;
			*off = addr - base;
			return dev;
		}
	}
	return NULL;
}

static uint64_t window_read(void *owner, uint64_t off, unsigned size)
{
	struct pci_bus *bus = owner;
	unsigned bar;
	uint64_t bar_off;
	struct pci_dev *dev = window_find(bus, LAYOUT_MMIO32_START + off, size, &bar, &bar_off);

	atomic_fetch_add_explicit(dev ? &bus->bar_accesses : &bus->unclaimed, 1, memory_order_relaxed);
	return dev ? dev->ops->bar_read(dev->arg, bar, bar_off, size) : UINT64_MAX;
}

static void window_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	struct pci_bus *bus = owner;
	unsigned bar;
	uint64_t bar_off;
	struct pci_dev *dev = window_find(bus, LAYOUT_MMIO32_START + off, size, &bar, &bar_off);

	atomic_fetch_add_explicit(dev ? &bus->bar_accesses : &bus->unclaimed, 1, memory_order_relaxed);
	if (dev)
		dev->ops->bar_write(dev->arg, bar, bar_off, size, value);
}

static const struct space_ops window_ops = { .read = window_read, .write = window_write, .max = 8 };

/* ---- the bus ---- */

int pci_bus_new(struct space *pio, struct space *mmio, struct end *end, struct pci_bus **out)
{
	/* An identity that guests know as a virtual machine's host bridge and have no quirks for. */
	static const struct pci_id host_id = { .vendor = 0x8086, .device = 0x0d57, .class = 0x060000 };
	struct pci_bus *bus = calloc(1, sizeof(*bus));
	const struct space_range port = { LAYOUT_PORT_PCI_ADDR, PORT_SIZE, &port_ops, bus };
	const struct space_range ecam = { LAYOUT_ECAM_START, LAYOUT_ECAM_SIZE, &ecam_ops, bus };
	const struct space_range window = { LAYOUT_MMIO32_START, LAYOUT_MMIO32_SIZE, &window_ops, bus };
	int r;

	if (!bus)
		return -ENOMEM;
	bus->pio = pio;
	bus->mmio = mmio;
	bus->end = end;
	pci_dev_init(&bus->host, &host_id, NULL, NULL);
	bus->slots[0] = &bus->host;

	r = space_add(pio, &port);
	if (r < 0)
		goto free_bus;
	r = space_add(mmio, &ecam);
	if (r < 0)
		goto del_port;
	r = space_add(mmio, &window);
	if (r < 0)
		goto del_ecam;
	*out = bus;
	return 0;

del_ecam:
	space_remove(mmio, LAYOUT_ECAM_START);
del_port:
	space_remove(pio, LAYOUT_PORT_PCI_ADDR);
free_bus:
	free(bus);
	return r;
}

void pci_bus_free(struct pci_bus *bus)
{
	if (!bus)
		return;
	space_remove(bus->mmio, LAYOUT_MMIO32_START);
	space_remove(bus->mmio, LAYOUT_ECAM_START);
	space_remove(bus->pio, LAYOUT_PORT_PCI_ADDR);
	free(bus);
}

int pci_bus_attach(struct pci_bus *bus, unsigned slot, struct pci_dev *dev)
{
	struct pci_dev *none = NULL;

	if (slot == 0 || slot >= PCI_SLOTS)
		return -ERANGE;
	return atomic_compare_exchange_strong(&bus->slots[slot], &none, dev) ? 0 : -EBUSY;
}

void pci_bus_detach(struct pci_bus *bus, unsigned slot)
{
	bus->slots[slot] = NULL;
}

int pci_bus_assign(struct pci_bus *bus)
{
	uint64_t next = LAYOUT_MMIO32_START;

	for (unsigned s = 1; s < PCI_SLOTS; s++) {
		struct pci_dev *dev = bus->slots[s];

		for (unsigned b = 0; dev && b < PCI_BARS; b++) {
			uint64_t size = dev->bar_size[b];

			if (!size)
				continue;
			next = num_align_up(next, size);
			if (next + size > LAYOUT_MMIO32_START + LAYOUT_MMIO32_SIZE)
				return -ENOSPC;
			pci_config_write(bus, s, PCI_BASE_ADDRESS_0 + b * 4, 4, (uint32_t)next);
			pci_config_write(bus, s, PCI_BASE_ADDRESS_0 + b * 4 + 4, 4, (uint32_t)(next >> 32));
			next += size;
		}
		if (dev)
			pci_config_write(bus, s, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	}
	return 0;
}

void pci_get_stats(const struct pci_bus *bus, struct pci_stats *out)
{
	*out = (struct pci_stats) { .config_accesses = bus->config_accesses,
				    .bar_accesses = bus->bar_accesses,
				    .unclaimed = bus->unclaimed };
}
