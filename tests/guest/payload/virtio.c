/* SPDX-License-Identifier: Apache-2.0 */
/* The bare guest's virtio-blk driver. */
#include "virtio.h"

#define USED_NO_NOTIFY 1

static struct vring_desc descs[QUEUE_SIZE] __attribute__((aligned(4096)));
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

bool vdev_find(struct vdev *d, unsigned index)
{
	if (!vdev_find_kind(d, VIRTIO_BLK, index))
		return false;
	d->capacity = MMIO_READ(uint32_t, d->device) | (uint64_t)MMIO_READ(uint32_t, d->device + 4) << 32;
	return true;
}

bool vdev_start(struct vdev *d, bool irq)
{
	struct vdev_queue q = {
		.size = QUEUE_SIZE, .vector = irq ? 0 : -1, .desc = descs, .driver = &avail, .device = &used
	};

	if (!vdev_negotiate(d, FEATURE_VERSION_1))
		return false;
	memset(descs, 0, sizeof(descs));
	avail.idx = used.idx = queued = seen = 0;
	avail.flags = irq ? 0 : 1;
	if (!vdev_set_queue(d, &q))
		return false;
	vdev_go(d);
	return true;
}

void vdev_queue_slot(unsigned slot, unsigned type, uint64_t sector, void *buf, uint32_t len)
{
	unsigned d = slot * 4, next = d + (len ? 2 : 1);

	headers[slot].type = type;
	headers[slot].sector = sector;
	statuses[slot] = 0xff;
	descs[d] = (struct vring_desc) { (uintptr_t)&headers[slot], 16, DESC_NEXT, (uint16_t)(d + 1) };
	if (len)
		descs[d + 1] =
		    (struct vring_desc) { (uintptr_t)buf, len, DESC_NEXT | (type == BLK_OUT ? 0 : DESC_WRITE),
					  (uint16_t)(d + 2) };
	descs[next] = (struct vring_desc) { (uintptr_t)&statuses[slot], 1, DESC_WRITE, 0 };
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
