/* SPDX-License-Identifier: Apache-2.0 */
/* The playing guest's devices: found, started in all ways that are right and some that are not, and asked to serve. */
#include "play.h"

#define STATUS_DRIVER 3
#define STATUS_OK     8
#define VENDOR_CAP    0x09
#define MSIX_CAP      0x11
#define WINDOW_TYPE   5

#define PATIENCE_MS 60000 /* for what takes milliseconds: a busy machine is no finding */

static uint64_t deadline(const struct play *p)
{
	return tsc() + p->khz * PATIENCE_MS;
}

static void find_caps(struct play_device *d)
{
	for (unsigned cap = pci_read(d->v.slot, 0x34) & 0xfc; cap;
	     cap = pci_read(d->v.slot, cap) >> 8 & 0xfc) {
		uint32_t head = pci_read(d->v.slot, cap);

		if ((head & 0xff) == MSIX_CAP)
			d->msix_cap = cap;
		else if ((head & 0xff) == VENDOR_CAP && head >> 24 == WINDOW_TYPE)
			d->window_cap = cap;
	}
}

void play_find(struct play *p)
{
	static const uint8_t kinds[] = { VIRTIO_BLK, VIRTIO_NET };

	for (unsigned k = 0; k < 2; k++)
		for (unsigned i = 0; p->n_devices < PLAY_DEVICES; i++) {
			struct play_device *d = &p->devices[p->n_devices];

			if (!vdev_find_kind(&d->v, kinds[k], i))
				break;
			d->kind = kinds[k];
			d->number = p->n_devices++;
			for (unsigned word = 0; word < 16; word++)
				d->header[word] = pci_read(d->v.slot, word * 4);
			d->base = d->header[4] & ~15u;
			find_caps(d);
		}
}

void play_restore(struct play_device *d)
{
	for (unsigned word = 4; word < 16; word++)
		pci_write(d->v.slot, word * 4, d->header[word]);
	pci_write(d->v.slot, 4, d->header[1]);
	pci_write(d->v.slot, d->msix_cap, 0x80000000u);
}

static bool reset(struct play *p, struct play_device *d)
{
	uint64_t end = deadline(p);

	MMIO_WRITE(uint8_t, d->v.common + COMMON_STATUS, 0);
	while (MMIO_READ(uint8_t, d->v.common + COMMON_STATUS))
		if (tsc() > end)
			return false;
	return true;
}

static uint64_t choose_features(struct play *p)
{
	uint64_t features = FEATURE_VERSION_1;

	if (play_one_in(p, 2))
		features |= FEATURE_PACKED;
	features |= play_one_in(p, 3)
			? 0
			: (uint64_t)play_roll(p) << 8 & 0x30ffff00; /* indirect and event index, too */
	return features | (play_one_in(p, 2) ? 0xffffff : play_roll(p) & 0xffffff);
}

/* An agreement on what was not offered, or without the steps before. */
static void disagree(struct play *p, struct play_device *d)
{
	MMIO_WRITE(uint32_t, d->v.common + COMMON_DRIVER_FEATURE_SELECT, play_pick(p, 3));
	MMIO_WRITE(uint32_t, d->v.common + COMMON_DRIVER_FEATURE, play_odd(p));
	MMIO_WRITE(uint8_t, d->v.common + COMMON_STATUS, (uint8_t)(STATUS_DRIVER | play_odd(p)));
}

/* Each in its place of the zones, but not always at the same one. */
static void place_lane(struct play *p, struct play_device *d, unsigned number)
{
	struct play_lane *l = &d->lanes[number];
	uint32_t index = d->number * PLAY_LANES + number;

	l->descs = PLAY_DESCS + index * PLAY_DESCS_EACH + 16 * play_pick(p, 64);
	l->tables = PLAY_DESCS + index * PLAY_DESCS_EACH + 0x2000;
	l->avail = PLAY_AVAIL + index * PLAY_RING_EACH + 4 * play_pick(p, 256);
	l->used = PLAY_USED + index * PLAY_RING_EACH + 4 * play_pick(p, 256);
	l->size = (uint16_t)(d->packed ? 8 + play_pick(p, PLAY_SIZE - 7) : 8u << play_pick(p, 6));
	if (play_wrong(p))
		l->size = (uint16_t)(1 + play_pick(p, 8));
	play_lane_clear(l, d->packed);
}

static void start_lane(struct play *p, struct play_device *d, unsigned number)
{
	struct play_lane *l = &d->lanes[number];
	struct vdev_queue q;

	place_lane(p, d, number);
	q = (struct vdev_queue) { .index = number,
				  .size = l->size,
				  .vector = play_one_in(p, 2) ? (int)number : -1,
				  .desc = (void *)(uintptr_t)l->descs,
				  .driver = (void *)(uintptr_t)l->avail,
				  .device = (void *)(uintptr_t)l->used };
	if (play_wrong(p))
		q.desc = (void *)(uintptr_t)(l->descs + play_pick(p, 32));
	if (play_wrong(p))
		q.driver = (void *)(uintptr_t)play_address(p);
	if (play_wrong(p))
		q.device = (void *)(uintptr_t)play_address(p);
	l->kick = vdev_set_queue(&d->v, &q);
	l->on = l->kick != 0;
}

bool play_start(struct play *p, struct play_device *d)
{
	uint64_t features = choose_features(p);

	p->starts++;
	play_restore(d);
	if (!reset(p, d))
		return false;
	for (unsigned i = 0; i < PLAY_LANES; i++)
		d->lanes[i].on = false;
	if (play_wrong(p))
		disagree(p, d);
	if (!vdev_negotiate(&d->v, features))
		return false;
	d->packed = d->v.features & FEATURE_PACKED;
	d->indirect = d->v.features & 1ull << 28;
	for (unsigned i = 0; i < PLAY_LANES; i++)
		if (!play_wrong(p))
			start_lane(p, d, i);
	vdev_go(&d->v);
	return true;
}

/* ---- does it serve? ---- */

static bool taken(struct play *p, struct play_device *d, unsigned lane)
{
	uint64_t end = deadline(p);

	while (!play_take(d, &d->lanes[lane]))
		if (tsc() > end)
			return false;
	return true;
}

/* One request on the first ring. */
static bool disk_does(struct play *p, struct play_device *d, uint32_t type, uint64_t sector, uint32_t at,
		      uint32_t len)
{
	uint32_t header = at - 4096, status = header + 64;
	struct play_part parts[] = { { header, 16, false },
				     { at, len, type == BLK_IN },
				     { status, 1, true } };

	((uint32_t *)(uintptr_t)header)[0] = type;
	((uint32_t *)(uintptr_t)header)[1] = 0;
	((uint64_t *)(uintptr_t)header)[1] = sector;
	MMIO_WRITE(uint8_t, status, 0xff);
	play_put(p, d, &d->lanes[0], parts, 3);
	play_kick(d, 0);
	return taken(p, d, 0) && MMIO_READ(uint8_t, status) == 0;
}

static bool disk_serves(struct play *p, struct play_device *d)
{
	uint32_t words = 128 << play_pick(p, 4), at = PLAY_DATA + 4096 + (play_pick(p, 4000) << 12),
		 key = play_roll(p);
	uint32_t *out = (uint32_t *)(uintptr_t)at, *in = out + 4096;
	uint64_t sector = play_pick(p, 32000);

	for (unsigned i = 0; i < words; i++)
		out[i] = key + i * 2654435761u;
	memset(in, 0, words * 4);
	if (!disk_does(p, d, BLK_OUT, sector, at, words * 4) ||
	    !disk_does(p, d, BLK_IN, sector, at + 16384, words * 4))
		return false;
	for (unsigned i = 0; i < words; i++)
		if (in[i] != key + i * 2654435761u)
			return false;
	return true;
}

#define BUFFERS 4
#define BUFFER  16384 /* a frame that does not fit waits, and all behind it */

/* Whether one of the buffers has an answer to play_arp in it. */
static bool answered(uint32_t at)
{
	for (unsigned i = 0; i < BUFFERS; i++) {
		const volatile uint8_t *frame = (const volatile uint8_t *)(uintptr_t)(at + i * BUFFER + 12);

		if (frame[12] == 8 && frame[13] == 6 && frame[21] == 2)
			return true;
	}
	return false;
}

static void give_buffer(struct play *p, struct play_device *d, uint32_t at, unsigned number)
{
	struct play_part part = { at + number % BUFFERS * BUFFER, BUFFER, true };

	play_put(p, d, &d->lanes[0], &part, 1);
	play_kick(d, 0);
}

/* A frame may get lost with a process: it is sent again. And the other end may still have many for an earlier driver. */
static bool port_serves(struct play *p, struct play_device *d)
{
	uint32_t at = PLAY_DATA + (play_pick(p, 4000) << 12), frame = at + BUFFERS * BUFFER;
	uint64_t end = deadline(p), again = 0;
	unsigned given = 0;

	memset((void *)(uintptr_t)at, 0, BUFFERS * BUFFER);
	for (; given < BUFFERS && given * PLAY_TABLE + PLAY_TABLE <= d->lanes[0].size; given++)
		give_buffer(p, d, at, given);
	/* What comes at once may be the answer to an earlier one. */
	while (!again || !answered(at)) {
		if (tsc() > end)
			return false;
		if (tsc() > again) {
			struct play_part part = { frame, play_arp(d, frame), false };

			if (again && !taken(p, d, 1))
				return false;
			play_put(p, d, &d->lanes[1], &part, 1);
			play_kick(d, 1);
			again = tsc() + p->khz * 1000;
		}
		if (play_take(d, &d->lanes[0]))
			give_buffer(p, d, at, given++);
	}
	return taken(p, d, 1);
}

bool play_serves(struct play *p, struct play_device *d)
{
	return d->kind == VIRTIO_BLK ? disk_serves(p, d) : port_serves(p, d);
}
