/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handing a device's rings to a back end: what the driver set up is checked once, at DRIVER_OK, so that no
 * back end ever refuses, or dies of, what a guest wrote. The in-flight region is made before the guest runs, large
 * enough for all rings, begun anew with each activation, and outlives every process that uses it.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clean.h"
#include "device_priv.h"
#include "fd.h"
#include "inflight.h"
#include "num.h"
#include "ram.h"

#define PROTOCOL_INFLIGHT 12          /* VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD */
#define PACKED_BASE       0x80008000u /* both indices 0, both wrap counters 1 (virtio 1.2 §2.8.1) */
#define USED_IDX_OFF      2

struct part {
	uint64_t addr, len, align;
};

static bool is_packed(const struct device *d)
{
	return d->act.features >> VIRTIO_F_RING_PACKED & 1;
}

/* The three parts of a ring (§2.7, §2.8). */
static void ring_parts(const struct virtio_pci_queue *q, bool packed, struct part parts[3])
{
	uint64_t n = q->size;

	parts[0] = (struct part) { q->desc, 16 * n, 16 };
	parts[1] = (struct part) { q->avail, packed ? 4 : 6 + 2 * n, packed ? 4 : 2 };
	parts[2] = (struct part) { q->used, packed ? 4 : 6 + 8 * n, 4 };
}

static bool ring_ok(const struct device *d, const struct virtio_pci_queue *q)
{
	struct part p[3];

	if (!is_packed(d) && !num_is_pow2(q->size))
		return false;
	ring_parts(q, is_packed(d), p);
	for (unsigned i = 0; i < 3; i++)
		if (p[i].addr % p[i].align || !ram_at(d->args.ram, p[i].addr, p[i].len))
			return false;
	for (unsigned i = 0; i < 3; i++)
		if (p[i].addr < p[(i + 1) % 3].addr + p[(i + 1) % 3].len &&
		    p[(i + 1) % 3].addr < p[i].addr + p[i].len)
			return false;
	return true;
}

int device_rings_take(struct device *d)
{
	struct activation *act = &d->act;

	for (unsigned i = 0; i < virtio_pci_queues(d->transport); i++) {
		if (!act->queues[i].enabled)
			continue;
		if (!ring_ok(d, &act->queues[i]))
			return -EINVAL;
		act->n_rings = i + 1;
		act->size_max = MAX(act->size_max, act->queues[i].size);
	}
	return 0;
}

void device_rings_drop(struct device *d)
{
	d->act = (struct activation) { .on = false };
	for (unsigned i = 0; i < d->args.backends; i++)
		d->backends[i].started = d->backends[i].inflight_used = false;
}

/* The device's index of a split ring as memory has it now: where a back end goes on. */
static uint16_t used_idx(const struct device *d, const struct virtio_pci_queue *q)
{
	const _Atomic uint16_t *idx = ram_at(d->args.ram, q->used + USED_IDX_OFF, sizeof(uint16_t));

	return *idx;
}

static uint32_t ring_base(const struct device *d, const struct virtio_pci_queue *q)
{
	return is_packed(d) ? PACKED_BASE : used_idx(d, q);
}

/* Whose queue is it, and is it in use? */
static bool serves(const struct backend *b, unsigned queue)
{
	return b->dev->act.queues[queue].enabled && device_backend_of(b->dev, queue) == b;
}

static void *inflight_part(const struct backend *b, unsigned queue)
{
	return b->inflight + queue * inflight_queue_bytes(b->dev->act.size_max, is_packed(b->dev));
}

const void *device_rings_inflight(const struct backend *b, unsigned queue)
{
	return b->inflight_used ? inflight_part(b, queue) : NULL;
}

/* Makes the queues' parts fit for rings that start with nothing in flight. */
static void init_inflight(struct backend *b)
{
	struct device *d = b->dev;

	memset(b->inflight, 0, b->inflight_size);
	for (unsigned i = 0; i < d->act.n_rings; i++)
		if (serves(b, i))
			inflight_init(inflight_part(b, i), d->act.queues[i].size, is_packed(d),
				      (uint16_t)ring_base(d, &d->act.queues[i]));
	b->inflight_used = true;
}

bool device_rings_can_track(const struct backend *b)
{
	return b->info.protocol_features >> PROTOCOL_INFLIGHT & 1;
}

/*
 * A region in use is handed on. Without one, a split ring can be gone on with from the used index, as long as
 * requests are finished in order; a packed ring can't, because its state lies in the process that died.
 */
static int prepare_inflight(struct backend *b)
{
	bool able = device_rings_can_track(b);

	/* A driver may go live without any: a region for none is a mistake to every back end, and nothing can be in flight. */
	if (!b->dev->act.n_rings)
		return 0;
	if (b->inflight_used)
		return able ? 0 : -EPROTONOSUPPORT;
	if (b->started)
		return is_packed(b->dev) ? -EPROTONOSUPPORT : 0;
	if (able)
		init_inflight(b);
	return 0;
}

int device_rings_make_inflight(struct backend *b)
{
	size_t each = MAX(inflight_queue_bytes(VIRTIO_PCI_QUEUE_SIZE_MAX, false),
			  inflight_queue_bytes(VIRTIO_PCI_QUEUE_SIZE_MAX, true));
	size_t size = num_align_up(each * virtio_pci_queues(b->dev->transport), 4096);
	CLEAN_FD int fd = fd_sealed_memfd("inflight", size);
	void *map;

	if (fd < 0)
		return fd;
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	b->inflight = map;
	b->inflight_size = size;
	b->inflight_fd = take_fd(&fd);
	return 0;
}

void device_rings_free_inflight(struct backend *b)
{
	if (b->inflight)
		munmap(b->inflight, b->inflight_size);
	if (b->inflight_fd >= 0)
		close(b->inflight_fd);
	b->inflight = NULL;
	b->inflight_fd = -1;
}

static uint64_t user_addr(const struct device *d, uint64_t gpa)
{
	return (uint64_t)(uintptr_t)ram_at(d->args.ram, gpa, 1);
}

static void fill_rings(const struct backend *b, struct vhost_fe_ring *rings)
{
	const struct device *d = b->dev;

	for (unsigned i = 0; i < d->act.n_rings; i++) {
		const struct virtio_pci_queue *q = &d->act.queues[i];

		if (!serves(b, i))
			continue;
		rings[i] = (struct vhost_fe_ring) {
			.size = q->size,
			.desc = user_addr(d, q->desc),
			.avail = user_addr(d, q->avail),
			.used = user_addr(d, q->used),
			.used_gpa = q->used,
			.base = ring_base(d, q),
			.kick = virtio_pci_kick_fd(d->transport, i),
			.call = virtio_pci_call_fd(d->transport, i),
			.err = d->err_fd,
		};
	}
}

int device_rings_start(struct backend *b, vhost_fe_done_fn done)
{
	struct device *d = b->dev;
	struct mem_region regions[RAM_REGIONS_MAX];
	unsigned n = ram_regions(d->args.ram, regions);
	const int fds[RAM_REGIONS_MAX] = { ram_fd(d->args.ram), ram_fd(d->args.ram) };
	CLEAN_FREE struct vhost_fe_ring *rings = calloc(MAX(d->act.n_rings, 1u), sizeof(*rings));
	struct vhost_fe_start start;
	int r;

	if (!rings)
		return -ENOMEM;
	r = prepare_inflight(b);
	if (r < 0)
		return r;
	fill_rings(b, rings);
	start = (struct vhost_fe_start) {
		.features =
		    d->act.features & b->info.features, /* what we offer beside them is not its affair */
		.regions = regions,
		.fds = fds,
		.n_regions = n,
		.inflight_fd = b->inflight_used ? b->inflight_fd : -1,
		.inflight_size = b->inflight_size,
		.inflight_queues = (uint16_t)d->act.n_rings,
		.inflight_queue_size = d->act.size_max,
		.rings = rings,
		.n_rings = d->act.n_rings,
	};
	r = vhost_fe_start(b->fe, &start, done, b);
	if (r == 0)
		b->tainted = b->started = true;
	return r;
}
