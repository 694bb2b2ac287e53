/* SPDX-License-Identifier: Apache-2.0 */
/* The bare guest's virtio-net driver. */
#include "net.h"

#define RX 0
#define TX 1

/* A frame under way to the device; its number is its descriptor's. */
struct slot {
	struct vring_desc table[NET_PARTS] __attribute__((aligned(16)));
	uint8_t buffer[NET_PARTS];
	unsigned buffers; /* received ones, which go back to the receive ring */
};

static struct ring rings[2];
static struct slot slots[NET_RING];
static uint16_t free_slots[NET_RING];
static unsigned free_count;
static uint8_t buffers[NET_RING][NET_BUFFER] __attribute__((aligned(4096)));
static bool indirect, mergeable;

static void give_buffer(unsigned n)
{
	rings[RX].desc[n] = (struct vring_desc) { (uintptr_t)buffers[n], NET_BUFFER, DESC_WRITE, 0 };
	ring_offer(&rings[RX], (uint16_t)n);
}

bool net_start(struct vdev *d, bool irq)
{
	uint64_t wanted = NET_F_CSUM | NET_F_GUEST_CSUM | NET_F_MAC | NET_F_GUEST_TSO4 | NET_F_HOST_TSO4 |
			  NET_F_MRG_RXBUF | NET_F_STATUS | RING_F_INDIRECT | RING_F_EVENT_IDX |
			  FEATURE_VERSION_1;

	if (!vdev_find_kind(d, VIRTIO_NET, 0) || !vdev_negotiate(d, wanted))
		return false;
	indirect = d->features & RING_F_INDIRECT;
	mergeable = d->features & NET_F_MRG_RXBUF;
	if (!ring_set(&rings[RX], d, RX, irq) || !ring_set(&rings[TX], d, TX, false))
		return false;
	free_count = 0;
	for (unsigned n = 0; n < NET_RING; n++) {
		free_slots[free_count++] = (uint16_t)n;
		give_buffer(n);
	}
	vdev_go(d);
	net_publish();
	return true;
}

void net_publish(void)
{
	ring_publish(&rings[RX]);
	ring_publish(&rings[TX]);
}

bool net_send(const struct net_frame *f)
{
	unsigned n;

	if (!free_count || !f->parts || f->parts > NET_PARTS || (f->parts > 1 && !indirect))
		return false;
	n = free_slots[--free_count];
	slots[n].buffers = f->received ? f->parts : 0;
	for (unsigned i = 0; i < f->parts; i++) {
		slots[n].buffer[i] = f->buffer[i];
		slots[n].table[i] =
		    (struct vring_desc) { (uintptr_t)f->part[i].at, f->part[i].len,
					  i + 1 < f->parts ? DESC_NEXT : 0, (uint16_t)(i + 1) };
	}
	rings[TX].desc[n] = slots[n].table[0];
	if (f->parts > 1)
		rings[TX].desc[n] =
		    (struct vring_desc) { (uintptr_t)slots[n].table, f->parts * sizeof(struct vring_desc),
					  DESC_INDIRECT, 0 };
	ring_offer(&rings[TX], (uint16_t)n);
	return true;
}

unsigned net_reclaim(void)
{
	struct ring *r = &rings[TX];
	uint16_t there = ring_used(r);
	unsigned count = 0;

	for (; count < there && free_count < NET_RING; r->seen++, count++) {
		unsigned n = r->used.ring[r->seen % NET_RING].id % NET_RING;

		for (unsigned i = 0; i < slots[n].buffers; i++)
			give_buffer(slots[n].buffer[i]);
		slots[n].buffers = 0;
		free_slots[free_count++] = (uint16_t)n;
	}
	/* Half a ring ahead of what is seen, so that no interrupt is asked for. */
	r->avail.used_event = (uint16_t)(r->seen + 0x8000);
	return count;
}

unsigned net_under_way(void)
{
	return NET_RING - free_count;
}

int net_receive(struct net_frame *f)
{
	struct ring *r = &rings[RX];
	uint16_t there = ring_used(r);
	unsigned parts;

	if (!there)
		return 0;
	f->received = true;
	f->parts = f->len = 0;
	parts = mergeable
		    ? ((struct net_header *)(void *)buffers[r->used.ring[r->seen % NET_RING].id % NET_RING])
			  ->num_buffers
		    : 1;
	if (!parts || parts > NET_PARTS || parts > there)
		return -1;
	for (; f->parts < parts; f->parts++, r->seen++) {
		uint32_t id = r->used.ring[r->seen % NET_RING].id, len = r->used.ring[r->seen % NET_RING].len;

		if (id >= NET_RING || !len || len > NET_BUFFER)
			return -1;
		f->buffer[f->parts] = (uint8_t)id;
		f->part[f->parts] = (struct net_part) { buffers[id], len };
		f->len += len;
	}
	if (f->len <= NET_HEADER + 14)
		return -1;
	f->len -= NET_HEADER;
	return 1;
}

void net_drop(const struct net_frame *f)
{
	for (unsigned i = 0; i < f->parts; i++)
		give_buffer(f->buffer[i]);
}

void net_sleep(void)
{
	ring_sleep(&rings[RX], 1);
}
