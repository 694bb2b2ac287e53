/* SPDX-License-Identifier: Apache-2.0 */
/* Virtio-pci modern for the bare guest, and a virtio-blk driver: split queues, polled or by MSI-X interrupt. */
#ifndef PAYLOAD_VIRTIO_H
#define PAYLOAD_VIRTIO_H

#include "hw.h"

#define QUEUE_SIZE  64
#define VDEV_SLOTS  (QUEUE_SIZE / 4) /* requests of a queue at a time */
#define VDEV_QUEUES 4                /* of all disks together, at most */

#define BLK_F_FLUSH (1ull << 9) /* without it each write would have to be on the disk before it is done */
#define BLK_F_MQ    (1ull << 12)

#define BLK_IN     0
#define BLK_OUT    1
#define BLK_FLUSH  4
#define BLK_GET_ID 8

#define VIRTIO_NET 1
#define VIRTIO_BLK 2

#define FEATURE_VERSION_1 (1ull << 32)

#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4

/* A descriptor of a split ring (virtio 1.2 §2.7.5). */
struct vring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/* What the device is done with: the chain's head, and how much was written (virtio 1.2 §2.7.8). */
struct vring_used {
	uint32_t id, len;
};

#define USED_NO_NOTIFY 1

/* In front of a disk's request (virtio 1.2 §5.2.6). */
struct blk_header {
	uint32_t type, reserved;
	uint64_t sector;
};

/* The registers of one function (virtio 1.2 §4.1.4), as addresses. */
struct vdev {
	unsigned slot;
	uintptr_t common, notify, isr, device, msix;
	uint32_t notify_multiplier;
	uint64_t features; /* negotiated */
	uint64_t capacity; /* of a disk: sectors of 512 bytes, when it was found */
	unsigned queues;   /* of a disk that was started */
	unsigned before;   /* ... and of those that were started before it, and go on */
	uintptr_t kick[VDEV_QUEUES];
};

enum common_reg {
	COMMON_DEVICE_FEATURE_SELECT = 0x00,
	COMMON_DEVICE_FEATURE = 0x04,
	COMMON_DRIVER_FEATURE_SELECT = 0x08,
	COMMON_DRIVER_FEATURE = 0x0c,
	COMMON_CONFIG_MSIX = 0x10,
	COMMON_NUM_QUEUES = 0x12,
	COMMON_STATUS = 0x14,
	COMMON_CONFIG_GENERATION = 0x15,
	COMMON_QUEUE_SELECT = 0x16,
	COMMON_QUEUE_SIZE = 0x18,
	COMMON_QUEUE_MSIX = 0x1a,
	COMMON_QUEUE_ENABLE = 0x1c,
	COMMON_QUEUE_NOTIFY_OFF = 0x1e,
	COMMON_QUEUE_DESC = 0x20,
	COMMON_QUEUE_DRIVER = 0x28,
	COMMON_QUEUE_DEVICE = 0x30,
};

/* One ring, for vdev_set_queue. */
struct vdev_queue {
	unsigned index, size;
	int vector; /* MSI-X, -1 for none */
	const volatile void *desc, *driver, *device;
};

/* ---- any device (transport.c) ---- */

/* Finds the index'th function of a kind and its registers; false if there is none. */
bool vdev_find_kind(struct vdev *d, unsigned kind, unsigned index);

/* Resets and waits until the device says that it is done. */
void vdev_reset(struct vdev *d);

/* Resets and negotiates what is offered of the features wanted; false if the device refuses. Then each ring is set,
 * which gives the address to notify it at, 0 if the device has no such ring; then the device goes. */
bool vdev_negotiate(struct vdev *d, uint64_t wanted);
uintptr_t vdev_set_queue(struct vdev *d, const struct vdev_queue *q);
void vdev_go(struct vdev *d);

/* ---- a disk (virtio.c) ---- */

/* Finds the index'th virtio-blk function and its registers; false if there is none. */
bool vdev_find(struct vdev *d, unsigned index);

/* How large it is now. */
uint64_t vdev_capacity(const struct vdev *d);

/* Resets, negotiates and starts queue 0; with irq, MSI-X vector 0 is its interrupt. False if that can't be. */
bool vdev_start(struct vdev *d, bool irq);
/* The same with queues 0 to n - 1, at most VDEV_QUEUES. */
bool vdev_start_queues(struct vdev *d, bool irq, unsigned n);
/* The same beside a disk that was started: its queues, and so its slots, are those after that one's. */
bool vdev_start_beside(struct vdev *d, const struct vdev *first, unsigned n);

/* Queues one request for queue 0; several may be queued before the kick. The buffer is guest memory. */
void vdev_queue(unsigned type, uint64_t sector, void *buf, uint32_t len);
void vdev_kick(struct vdev *d);

/* The same out of order: the caller keeps track of which slots are in use; queue 0 has the first VDEV_SLOTS of them,
 * queue 1 the next, and so on. If a device is broken, vdev_reap may give back a slot that is in none, or
 * VDEV_SLOTS * VDEV_QUEUES; it is false if nothing is complete. */
void vdev_queue_slot(unsigned slot, unsigned type, uint64_t sector, void *buf, uint32_t len);
void vdev_kick_wanted(struct vdev *d); /* each queue with news, if the device has not said that it polls */
bool vdev_reap(unsigned *slot, bool *good);

/* Waits until all that was queued is complete, polling or sleeping; true if every status was OK. */
bool vdev_wait(bool irq);

#endif
