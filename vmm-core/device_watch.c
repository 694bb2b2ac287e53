/* SPDX-License-Identifier: Apache-2.0 */
/* What the watch (watch.h) is shown of a device's rings, and what follows from what it finds. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>

#include "clean.h"
#include "device_priv.h"
#include "flight.h"
#include "num.h"
#include "ram.h"
#include "watch.h"

static void on_hung(void *arg, unsigned queue, uint64_t stalled_ns, const char *reason)
{
	struct backend *b = arg;
	struct device *d = b->dev;

	d->stats.hung++;
	if (d->args.ops->hung)
		d->args.ops->hung(d->args.arg, d, queue, stalled_ns, reason);
}

static void on_stalled(void *arg, unsigned queue, uint64_t stalled_ns, const char *reason)
{
	struct backend *b = arg;
	struct device *d = b->dev;

	d->stats.stalled++;
	if (d->args.ops->stalled)
		d->args.ops->stalled(d->args.arg, d, queue, stalled_ns, reason);
}

/* No successor can go on from such rings. */
static void on_broken(void *arg, unsigned queue, const char *reason)
{
	struct backend *b = arg;

	(void)queue;
	b->dev->act.broken = true;
	device_break(b->dev);
	device_lose(b, reason);
}

/* Whether nobody owes the completion of what is in the ring: it waits to be filled, or the features name no such ring. */
static bool waits(const struct device *d, unsigned i)
{
	const struct device_kind *kind = d->args.kind;
	bool many = kind->queues_off && d->act.features >> kind->queues_feature & 1;
	unsigned sets = many ? virtio_pci_queues(d->transport) / kind->rings_each : 1;

	if (i >= sets * kind->rings_each)
		return i > sets * kind->rings_each || !(d->act.features & kind->control);
	return kind->buffer_rings >> i % kind->rings_each & 1;
}

static void show_ring(const struct backend *b, unsigned i, struct watch_ring *out)
{
	const struct device *d = b->dev;
	const struct virtio_pci_queue *q = &d->act.queues[i];

	*out = (struct watch_ring) {
		.size = q->size,
		.packed = d->act.features >> VIRTIO_F_RING_PACKED & 1,
		.event_idx = d->act.features >> VIRTIO_RING_F_EVENT_IDX & 1,
		.desc = ram_at(d->args.ram, q->desc, 1),
		.avail = ram_at(d->args.ram, q->avail, 1),
		.used = ram_at(d->args.ram, q->used, 1),
		.inflight = device_rings_inflight(b, i),
		.kick = virtio_pci_kick_fd(d->transport, i),
		.health = b->flight ? flight_queue(b->flight, d->args.first_ring + i) : NULL,
		.before = b->before ? flight_queue(b->before, i) : NULL,
		.slow = d->args.kind->slow,
	};
	/* Where a packed ring stands, nothing but the region tells. */
	if ((out->packed && !out->inflight) || waits(d, i))
		out->size = 0;
}

int device_watch_start(struct backend *b)
{
	static const struct watch_ops ops = { .hung = on_hung, .broken = on_broken, .stalled = on_stalled };
	struct device *d = b->dev;
	CLEAN_FREE struct watch_ring *rings = NULL;

	if (!d->args.watch || !d->args.hang_timeout_ns || d->act.signalled)
		return 0;
	rings = calloc(MAX(d->act.n_rings, 1u), sizeof(*rings));
	if (!rings)
		return -ENOMEM;
	for (unsigned i = 0; i < d->act.n_rings; i++)
		if (d->act.queues[i].enabled && device_backend_of(d, i) == b)
			show_ring(b, i, &rings[i]);
	return watch_add(d->args.watch, d->args.hang_timeout_ns, rings, d->act.n_rings, &ops, b, &b->watched);
}

void device_watch_stop(struct backend *b)
{
	watch_remove(b->watched);
	b->watched = NULL;
}
