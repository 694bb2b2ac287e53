/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio-pci modern for the bare guest: a function's registers, negotiation, queues (virtio 1.2 §3.1.1, §4.1). */
#include "virtio.h"

#define STATUS_DRIVER 3
#define STATUS_OK     8
#define STATUS_DRV_OK 4
#define MSIX_NONE     0xffff

/* Where BAR bar of the function lies. */
static uintptr_t bar_base(unsigned slot, unsigned bar)
{
	uint32_t lo = pci_read(slot, 0x10 + bar * 4);
	uint64_t base = lo & ~15u;

	if ((lo & 6) == 4)
		base |= (uint64_t)pci_read(slot, 0x14 + bar * 4) << 32;
	return base;
}

/* Gives the function's memory BARs a place, between all RAM of a small machine and its interrupt controllers, where the
 * firmware, as QEMU's smallest does, has left that to the system. */
static void place_bars(unsigned slot)
{
	static uint32_t next = 0xe0000000u;

	for (unsigned off = 0x10; off < 0x28; off += 4) {
		uint32_t old = pci_read(slot, off), size;
		bool wide = (old & 7) == 4;

		if (!(old & 1) && !(old & ~15u) && (!wide || !pci_read(slot, off + 4))) {
			pci_write(slot, off, 0xfffffff0u);
			size = ~(pci_read(slot, off) & ~15u) + 1;
			next = size ? (next + size - 1) & ~(size - 1) : next;
			pci_write(slot, off, size ? next : 0);
			next += size;
		}
		off += wide ? 4 : 0;
	}
}

static void read_capabilities(struct vdev *d)
{
	for (unsigned cap = pci_read(d->slot, 0x34) & 0xfc; cap; cap = pci_read(d->slot, cap) >> 8 & 0xfc) {
		uint32_t head = pci_read(d->slot, cap);
		uintptr_t base;

		if ((head & 0xff) == 0x11) { /* MSI-X */
			uint32_t table = pci_read(d->slot, cap + 4);

			d->msix = bar_base(d->slot, table & 7) + (table & ~7u);
			pci_write(d->slot, cap, (head & 0x0000ffff) | 0x80000000);
			continue;
		}
		if ((head & 0xff) != 9 || (head >> 24) > 4)
			continue;
		base = bar_base(d->slot, pci_read(d->slot, cap + 4) & 0xff) + pci_read(d->slot, cap + 8);
		switch (head >> 24) {
		case 1:
			d->common = base;
			break;
		case 2:
			d->notify = base;
			d->notify_multiplier = pci_read(d->slot, cap + 16);
			break;
		case 3:
			d->isr = base;
			break;
		default:
			d->device = base;
		}
	}
}

bool vdev_find_kind(struct vdev *d, unsigned kind, unsigned index)
{
	for (unsigned slot = 0; slot < 32; slot++) {
		if (pci_read(slot, 0) != (0x10400000u + (kind << 16) | 0x1af4) || index--)
			continue;
		*d = (struct vdev) { .slot = slot };
		place_bars(slot);
		pci_write(slot, 4, pci_read(slot, 4) | 6);
		read_capabilities(d);
		return d->common && d->notify && d->device;
	}
	return false;
}

void vdev_reset(struct vdev *d)
{
	MMIO_WRITE(uint8_t, d->common + COMMON_STATUS, 0);
	while (MMIO_READ(uint8_t, d->common + COMMON_STATUS))
		;
}

static void write64(uintptr_t reg, const volatile void *address)
{
	MMIO_WRITE(uint32_t, reg, (uint32_t)(uintptr_t)address);
	MMIO_WRITE(uint32_t, reg + 4, (uint32_t)((uintptr_t)address >> 32));
}

bool vdev_negotiate(struct vdev *d, uint64_t wanted)
{
	vdev_reset(d);
	MMIO_WRITE(uint8_t, d->common + COMMON_STATUS, STATUS_DRIVER);
	d->features = 0;
	for (unsigned half = 0; half < 2; half++) {
		uint32_t offered, taken;

		MMIO_WRITE(uint32_t, d->common + COMMON_DEVICE_FEATURE_SELECT, half);
		offered = MMIO_READ(uint32_t, d->common + COMMON_DEVICE_FEATURE);
		taken = offered & (uint32_t)(wanted >> 32 * half);
		MMIO_WRITE(uint32_t, d->common + COMMON_DRIVER_FEATURE_SELECT, half);
		MMIO_WRITE(uint32_t, d->common + COMMON_DRIVER_FEATURE, taken);
		d->features |= (uint64_t)taken << 32 * half;
	}
	MMIO_WRITE(uint8_t, d->common + COMMON_STATUS, STATUS_DRIVER | STATUS_OK);
	MMIO_WRITE(uint16_t, d->common + COMMON_CONFIG_MSIX, MSIX_NONE);
	return MMIO_READ(uint8_t, d->common + COMMON_STATUS) & STATUS_OK;
}

static bool set_vector(struct vdev *d, unsigned vector)
{
	uintptr_t entry = d->msix + vector * 16;

	MMIO_WRITE(uint32_t, 0xfee000f0, 0x1ff); /* local APIC on */
	MMIO_WRITE(uint32_t, entry + 0, 0xfee00000);
	MMIO_WRITE(uint32_t, entry + 4, 0);
	MMIO_WRITE(uint32_t, entry + 8, 0x40 + vector);
	MMIO_WRITE(uint32_t, entry + 12, 0);
	MMIO_WRITE(uint16_t, d->common + COMMON_QUEUE_MSIX, (uint16_t)vector);
	return MMIO_READ(uint16_t, d->common + COMMON_QUEUE_MSIX) == vector;
}

uintptr_t vdev_set_queue(struct vdev *d, const struct vdev_queue *q)
{
	MMIO_WRITE(uint16_t, d->common + COMMON_QUEUE_SELECT, (uint16_t)q->index);
	if (MMIO_READ(uint16_t, d->common + COMMON_QUEUE_SIZE) < q->size)
		return 0;
	MMIO_WRITE(uint16_t, d->common + COMMON_QUEUE_SIZE, (uint16_t)q->size);
	write64(d->common + COMMON_QUEUE_DESC, q->desc);
	write64(d->common + COMMON_QUEUE_DRIVER, q->driver);
	write64(d->common + COMMON_QUEUE_DEVICE, q->device);
	if (q->vector >= 0 && !set_vector(d, (unsigned)q->vector))
		return 0;
	MMIO_WRITE(uint16_t, d->common + COMMON_QUEUE_ENABLE, 1);
	return d->notify + d->notify_multiplier * MMIO_READ(uint16_t, d->common + COMMON_QUEUE_NOTIFY_OFF);
}

void vdev_go(struct vdev *d)
{
	MMIO_WRITE(uint8_t, d->common + COMMON_STATUS, STATUS_DRIVER | STATUS_OK | STATUS_DRV_OK);
}
