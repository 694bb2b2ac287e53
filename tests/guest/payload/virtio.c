/* SPDX-License-Identifier: Apache-2.0 */
/* The bare guest's virtio-blk driver. */
#include "virtio.h"

/* One split ring and what its requests need. */
static struct ring {
	struct vring_desc descs[QUEUE_SIZE] __attribute__((aligned(4096)));
	volatile struct {
		uint16_t flags, idx, ring[QUEUE_SIZE];
	} avail __attribute__((aligned(4096)));
	volatile struct {
		uint16_t flags, idx;
		struct vring_used ring[QUEUE_SIZE];
	} used __attribute__((aligned(4096)));
	struct blk_header headers[QUEUE_SIZE];
	volatile uint8_t statuses[QUEUE_SIZE];
	uint16_t queued, seen; /* requests queued and completed, modulo 2^16 */
} rings[VDEV_QUEUES];

uint64_t vdev_capacity(const struct vdev *d)
{
	uint8_t generation;
	uint64_t sectors;

	do {
		generation = MMIO_READ(uint8_t, d->common + COMMON_CONFIG_GENERATION);
		sectors = MMIO_READ(uint32_t, d->device) | (uint64_t)MMIO_READ(uint32_t, d->device + 4) << 32;
	} while (MMIO_READ(uint8_t, d->common + COMMON_CONFIG_GENERATION) != generation);
	return sectors;
}

bool vdev_find(struct vdev *d, unsigned index)
{
	if (!vdev_find_kind(d, VIRTIO_BLK, index))
		return false;
	d->capacity = vdev_capacity(d);
	return true;
}

bool vdev_start(struct vdev *d, bool irq)
{
	return vdev_start_queues(d, irq, 1);
}

static bool start(struct vdev *d, bool irq, unsigned n)
{
	struct ring *r = &rings[d->before];

	d->queues = 0;
	if (n > VDEV_QUEUES - d->before || !vdev_negotiate(d, FEATURE_VERSION_1 | (n > 1 ? BLK_F_MQ : 0)))
		return false;
	memset(r, 0, (VDEV_QUEUES - d->before) * sizeof(*r));
	for (unsigned i = 0; i < n; i++, r++) {
		struct vdev_queue q = { .index = i,
					.size = QUEUE_SIZE,
					.vector = irq ? (int)i : -1,
					.desc = r->descs,
					.driver = &r->avail,
					.device = &r->used };

		r->avail.flags = irq ? 0 : 1;
		d->kick[i] = vdev_set_queue(d, &q);
		if (!d->kick[i])
			return false;
	}
	d->queues = n;
	vdev_go(d);
	return true;
}

bool vdev_start_queues(struct vdev *d, bool irq, unsigned n)
{
	d->before = 0;
	return start(d, irq, n);
}

bool vdev_start_beside(struct vdev *d, const struct vdev *first, unsigned n)
{
	d->before = first->before + first->queues;
	return start(d, false, n);
}

void vdev_queue_slot(unsigned slot, unsigned type, uint64_t sector, void *buf, uint32_t len)
{
	struct ring *r = &rings[slot / VDEV_SLOTS];
	unsigned i = slot % VDEV_SLOTS, d = i * 4, next = d + (len ? 2 : 1);

	r->headers[i].type = type;
	r->headers[i].sector = sector;
	r->statuses[i] = 0xff;
	r->descs[d] = (struct vring_desc) { (uintptr_t)&r->headers[i], 16, DESC_NEXT, (uint16_t)(d + 1) };
	if (len)
		r->descs[d + 1] =
		    (struct vring_desc) { (uintptr_t)buf, len, DESC_NEXT | (type == BLK_OUT ? 0 : DESC_WRITE),
					  (uint16_t)(d + 2) };
	r->descs[next] = (struct vring_desc) { (uintptr_t)&r->statuses[i], 1, DESC_WRITE, 0 };
	r->avail.ring[r->queued % QUEUE_SIZE] = (uint16_t)d;
	r->queued++;
}

void vdev_queue(unsigned type, uint64_t sector, void *buf, uint32_t len)
{
	vdev_queue_slot(rings[0].queued % VDEV_SLOTS, type, sector, buf, len);
}

/* Whether there is something that the device was not shown. */
static bool show(struct ring *r)
{
	if (r->avail.idx == r->queued)
		return false;
	__atomic_store_n(&r->avail.idx, r->queued, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return true;
}

void vdev_kick(struct vdev *d)
{
	show(&rings[0]);
	MMIO_WRITE(uint16_t, d->kick[0], 0);
}

void vdev_kick_wanted(struct vdev *d)
{
	for (unsigned q = 0; q < d->queues; q++) {
		struct ring *r = &rings[d->before + q];

		if (show(r) && !(r->used.flags & USED_NO_NOTIFY))
			MMIO_WRITE(uint16_t, d->kick[q], (uint16_t)q);
	}
}

static bool reap(struct ring *r, unsigned *slot, bool *good)
{
	unsigned i;

	if (__atomic_load_n(&r->used.idx, __ATOMIC_ACQUIRE) == r->seen)
		return false;
	i = r->used.ring[r->seen % QUEUE_SIZE].id / 4;
	r->seen++;
	*slot = i < VDEV_SLOTS ? (unsigned)(r - rings) * VDEV_SLOTS + i
			       : VDEV_SLOTS * VDEV_QUEUES; /* no request of ours */
	*good = i < VDEV_SLOTS && !r->statuses[i];
	return true;
}

bool vdev_reap(unsigned *slot, bool *good)
{
	for (unsigned q = 0; q < VDEV_QUEUES; q++)
		if (reap(&rings[q], slot, good))
			return true;
	return false;
}

bool vdev_wait(bool irq)
{
	struct ring *r = &rings[0];
	bool ok = true;

	while (r->seen != r->queued) {
		uint32_t before = irq_count[0];

		if (__atomic_load_n(&r->used.idx, __ATOMIC_ACQUIRE) == r->seen) {
			if (irq)
				wait_change(&irq_count[0], before);
			else
				__asm__ volatile("pause");
			continue;
		}
		ok &= !r->statuses[r->used.ring[r->seen % QUEUE_SIZE].id / 4];
		r->seen++;
	}
	return ok;
}
