/* SPDX-License-Identifier: Apache-2.0 */
/* The bare guest's virtio-blk driver. */
#include "virtio.h"

#define DESC_NEXT  1
#define DESC_WRITE 2

#define USED_NO_NOTIFY 1

#define STATUS_DRIVER 3
#define STATUS_OK     8
#define STATUS_DRV_OK 4

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

static struct desc descs[QUEUE_SIZE] __attribute__((aligned(4096)));
static volatile struct {
	uint16_t flags, idx, ring[QUEUE_SIZE];
} avail __attribute__((aligned(4096)));
static volatile struct {
	uint16_t flags, idx;
	struct {
		uint32_t id, len;
	} ring[QUEUE_SIZE];
} used __attribute__((aligned(4096)));

static struct {
	uint32_t type, reserved;
	uint64_t sector;
} headers[QUEUE_SIZE];
static volatile uint8_t statuses[QUEUE_SIZE];
static uint16_t queued, seen; /* requests queued and completed, modulo 2^16 */

/* Where BAR bar of the function lies. */
static uintptr_t bar_base(unsigned slot, unsigned bar)
{
	uint32_t lo = pci_read(slot, 0x10 + bar * 4);
	uint64_t base = lo & ~15u;

	if ((lo & 6) == 4)
		base |= (uint64_t)pci_read(slot, 0x14 + bar * 4) << 32;
	return base;
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

bool vdev_find(struct vdev *d, unsigned index)
{
	for (unsigned slot = 0; slot < 32; slot++) {
		if (pci_read(slot, 0) != 0x10421af4 || index--)
			continue;
		*d = (struct vdev) { .slot = slot };
		pci_write(slot, 4, pci_read(slot, 4) | 6);
		read_capabilities(d);
		if (!d->common || !d->notify || !d->device)
			return false;
		d->capacity = MMIO_READ(uint32_t, d->device) | (uint64_t)MMIO_READ(uint32_t, d->device + 4)
								   << 32;
		return true;
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

bool vdev_start(struct vdev *d, bool irq)
{
	vdev_reset(d);
	MMIO_WRITE(uint8_t, d->common + COMMON_STATUS, STATUS_DRIVER);
	/* VERSION_1, bit 32, is all that is needed. */
	MMIO_WRITE(uint32_t, d->common + COMMON_DRIVER_FEATURE_SELECT, 0);
	MMIO_WRITE(uint32_t, d->common + COMMON_DRIVER_FEATURE, 0);
	MMIO_WRITE(uint32_t, d->common + COMMON_DRIVER_FEATURE_SELECT, 1);
	MMIO_WRITE(uint32_t, d->common + COMMON_DRIVER_FEATURE, 1);
	MMIO_WRITE(uint8_t, d->common + COMMON_STATUS, STATUS_DRIVER | STATUS_OK);
	if (!(MMIO_READ(uint8_t, d->common + COMMON_STATUS) & STATUS_OK))
		return false;
	MMIO_WRITE(uint16_t, d->common + COMMON_CONFIG_MSIX, 0xffff);
	MMIO_WRITE(uint16_t, d->common + COMMON_QUEUE_SELECT, 0);
	MMIO_WRITE(uint16_t, d->common + COMMON_QUEUE_SIZE, QUEUE_SIZE);
	memset(descs, 0, sizeof(descs));
	avail.idx = used.idx = queued = seen = 0;
	avail.flags = irq ? 0 : 1;
	write64(d->common + COMMON_QUEUE_DESC, descs);
	write64(d->common + COMMON_QUEUE_DRIVER, &avail);
	write64(d->common + COMMON_QUEUE_DEVICE, &used);
	if (irq) {
		MMIO_WRITE(uint32_t, 0xfee000f0, 0x1ff); /* local APIC on */
		MMIO_WRITE(uint32_t, d->msix + 0, 0xfee00000);
		MMIO_WRITE(uint32_t, d->msix + 4, 0);
		MMIO_WRITE(uint32_t, d->msix + 8, 0x40);
		MMIO_WRITE(uint32_t, d->msix + 12, 0);
		MMIO_WRITE(uint16_t, d->common + COMMON_QUEUE_MSIX, 0);
		if (MMIO_READ(uint16_t, d->common + COMMON_QUEUE_MSIX) != 0)
			return false;
	}
	MMIO_WRITE(uint16_t, d->common + COMMON_QUEUE_ENABLE, 1);
	MMIO_WRITE(uint8_t, d->common + COMMON_STATUS, STATUS_DRIVER | STATUS_OK | STATUS_DRV_OK);
	return true;
}

void vdev_queue_slot(unsigned slot, unsigned type, uint64_t sector, void *buf, uint32_t len)
{
	unsigned d = slot * 4, next = d + (len ? 2 : 1);

	headers[slot].type = type;
	headers[slot].sector = sector;
	statuses[slot] = 0xff;
	descs[d] = (struct desc) { (uintptr_t)&headers[slot], 16, DESC_NEXT, (uint16_t)(d + 1) };
	if (len)
		descs[d + 1] =
		    (struct desc) { (uintptr_t)buf, len, DESC_NEXT | (type == BLK_OUT ? 0 : DESC_WRITE),
				    (uint16_t)(d + 2) };
	descs[next] = (struct desc) { (uintptr_t)&statuses[slot], 1, DESC_WRITE, 0 };
	avail.ring[queued % QUEUE_SIZE] = (uint16_t)d;
	queued++;
}

void vdev_queue(unsigned type, uint64_t sector, void *buf, uint32_t len)
{
	vdev_queue_slot(queued % VDEV_SLOTS, type, sector, buf, len);
}

void vdev_kick(struct vdev *d)
{
	__atomic_store_n(&avail.idx, queued, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	MMIO_WRITE(uint16_t, d->notify, 0);
}

void vdev_kick_wanted(struct vdev *d)
{
	__atomic_store_n(&avail.idx, queued, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(used.flags & USED_NO_NOTIFY))
		MMIO_WRITE(uint16_t, d->notify, 0);
}

bool vdev_reap(unsigned *slot, bool *good)
{
	if (__atomic_load_n(&used.idx, __ATOMIC_ACQUIRE) == seen)
		return false;
	*slot = used.ring[seen % QUEUE_SIZE].id / 4;
	if (*slot > VDEV_SLOTS)
		*slot = VDEV_SLOTS; /* no request of ours */
	*good = *slot < VDEV_SLOTS && !statuses[*slot];
	seen++;
	return true;
}

bool vdev_wait(bool irq)
{
	bool ok = true;

	while (seen != queued) {
		uint32_t before = irq_count[0];

		if (__atomic_load_n(&used.idx, __ATOMIC_ACQUIRE) == seen) {
			if (irq)
				wait_change(&irq_count[0], before);
			else
				__asm__ volatile("pause");
			continue;
		}
		ok &= !statuses[used.ring[seen % QUEUE_SIZE].id / 4];
		seen++;
	}
	return ok;
}
