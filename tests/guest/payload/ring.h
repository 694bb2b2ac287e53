/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A split ring as its driver sees it, with event index if that was negotiated (virtio 1.2 §2.7). The caller says what the
 * descriptors are and which of them are in use; nothing is asked for by interrupt but in ring_sleep.
 */
#ifndef PAYLOAD_RING_H
#define PAYLOAD_RING_H

#include "virtio.h"

#define RING_SIZE 256

#define RING_F_INDIRECT  (1ull << 28)
#define RING_F_EVENT_IDX (1ull << 29)

struct ring {
	struct vring_desc desc[RING_SIZE] __attribute__((aligned(4096)));
	volatile struct {
		uint16_t flags, idx, ring[RING_SIZE], used_event;
	} avail __attribute__((aligned(64)));
	volatile struct {
		uint16_t flags, idx;
		struct vring_used ring[RING_SIZE];
		uint16_t avail_event;
	} used __attribute__((aligned(64)));
	uintptr_t doorbell;
	uint16_t index;
	uint16_t added, shown, seen; /* put in; of these published; taken back; modulo 2^16 */
	bool event_idx;
};

/* Makes it the device's index'th ring, between vdev_negotiate and vdev_go; with irq, MSI-X vector 0 is its interrupt. */
bool ring_set(struct ring *r, struct vdev *d, unsigned index, bool irq);

/* Puts a descriptor in; the device sees it after ring_publish, which notifies the device if it asked for that. */
void ring_offer(struct ring *r, uint16_t id);
void ring_publish(struct ring *r);

/* How many more entries the device has used than were taken back (by increasing seen). */
uint16_t ring_used(const struct ring *r);

/* Asks the device of each ring for an interrupt and sleeps, unless something is used already. */
void ring_sleep(struct ring *rings, unsigned count);

#endif
