/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare guest plays at random: registers, rings and interrupt settings, mostly right and now and then wrong, in steps of
 * which each depends on the seed and its number alone (with what the devices did before, as far as that was the same). Steps go in
 * turns: a turn begins with all devices reset and started anew, and mostly with a request to each of them that has to be
 * served, and then goes on with the same rings.
 *
 * The guest must not hit itself, or what is found would be its own fault. So all that a device may take for an address lies
 * behind the guest, in PLAY_START and up, or where there is no RAM; and nothing that a device writes is ever read as a
 * descriptor with other than harmless contents: rings, descriptors and data have zones of their own.
 */
#ifndef PAYLOAD_PLAY_H
#define PAYLOAD_PLAY_H

#include "virtio.h"

#define PLAY_DEVICES 8
#define PLAY_LANES   4   /* rings of one device that are played with */
#define PLAY_SIZE    256 /* descriptors of a ring, at most */
#define PLAY_TABLE   8   /* descriptors of an indirect table */

#define PLAY_START 0x01000000u /* 16 MiB; the guest itself ends below */
#define PLAY_DESCS 0x01000000u /* a lane each: a ring of descriptors and as many indirect tables */
#define PLAY_AVAIL 0x01800000u /* written by us only */
#define PLAY_USED  0x01a00000u /* written by devices */
#define PLAY_DATA  0x01c00000u /* up to the end of RAM */
#define PLAY_END   0x04000000u /* 64 MiB, what the guest has */

#define PLAY_DESCS_EACH 0x10000u
#define PLAY_RING_EACH  0x2000u

#define FEATURE_PACKED (1ull << 34)

struct play_options {
	uint32_t seed;
	uint32_t from, steps; /* the first one, and how many; from counts from the beginning of its turn */
};

/* A ring as we fill it. */
struct play_lane {
	uint32_t descs, tables, avail, used; /* addresses */
	uint16_t size, next, seen;           /* next: descriptor, split; seen: packed, the next used one */
	uint16_t added;                      /* requests, modulo 2^16 */
	uint16_t length[PLAY_SIZE];          /* of the chain that begins there */
	uint16_t out;                        /* packed: descriptors that are the device's */
	bool wrap, seen_wrap, on;
	uintptr_t kick;
};

struct play_device {
	struct vdev v;
	unsigned kind, number;
	uint32_t header[16]; /* of configuration space, as the guest found it */
	uint32_t base;       /* of BAR 0 */
	unsigned msix_cap, window_cap;
	bool packed, indirect;
	struct play_lane lanes[PLAY_LANES];
};

/* What a step goes by: numbers of its own, and how wrong it may be. */
struct play {
	const struct play_options *o;
	uint64_t random;
	unsigned mischief; /* one decision of so many is wrong; 0: none */
	uint64_t khz;
	struct play_device devices[PLAY_DEVICES];
	unsigned n_devices;
	/* Figures. */
	uint64_t requests, wrong, starts, served, accesses;
};

static inline uint32_t play_roll(struct play *p)
{
	return (uint32_t)next_random(&p->random);
}

/* 0 to n - 1 */
static inline uint32_t play_pick(struct play *p, uint32_t n)
{
	return play_roll(p) % n;
}

static inline bool play_one_in(struct play *p, uint32_t n)
{
	return !play_pick(p, n);
}

static inline bool play_wrong(struct play *p)
{
	bool wrong = p->mischief && play_one_in(p, p->mischief);

	p->wrong += wrong;
	return wrong;
}

/* An address that is no harm to the guest: in the zone of data, at its end, or where there is no RAM. */
uint64_t play_address(struct play *p);
/* A number of an odd kind: 0, 1, a power of two and its neighbours, all ones, any. */
uint32_t play_odd(struct play *p);

/* ---- play.c ---- */

/* Plays, and reports on the serial line: "!ready", then "play: step N" every so many, "!played" at the end, and it returns when
 * the host says 'q'. The first device, started anew, is left in *first, as it was if there is none. */
void play_run(const struct play_options *o, struct vdev *first);

/* ---- devices (play-device.c) ---- */

/* Looks for the virtio functions and remembers how they were found. */
void play_find(struct play *p);
/* Puts the header of configuration space and the MSI-X capability back, wherever the device was moved to. */
void play_restore(struct play_device *d);
/* That, a reset, and a start with features, sizes and addresses at random; false if the device does not take them. */
bool play_start(struct play *p, struct play_device *d);
/* Asks for something that has to be answered; false if it is not, in the time that a restart may take. */
bool play_serves(struct play *p, struct play_device *d);

/* ---- registers (play-regs.c) ---- */

/* One access at random to a register of a device, its MSI-X, configuration space, the window of BARs or the platform. */
void play_registers(struct play *p);
/* The serial line as the guest prints on it, whatever was written there. */
void play_console(void);

/* ---- rings (play-rings.c) ---- */

/* Some parts of a request, of which each is read or written by the device. */
struct play_part {
	uint64_t addr;
	uint32_t len;
	bool write;
};

/* Makes a ring empty. */
void play_lane_clear(struct play_lane *l, bool packed);
/* Puts a chain in and shows it to the device; where its first descriptor is. */
uint16_t play_put(struct play *p, struct play_device *d, struct play_lane *l, const struct play_part *parts,
		  unsigned n);
/* Takes what the device has done; false if there was nothing. */
bool play_take(struct play_device *d, struct play_lane *l);
void play_kick(struct play_device *d, unsigned lane);
/* Some requests, or a ring that is spoiled. */
void play_ring(struct play *p);

/* ---- frames (play-frames.c) ---- */

/* A frame of a kind that the other end may answer, with the header of offloads in front, at that address; its length. */
uint32_t play_frame(struct play *p, struct play_device *d, uint32_t at);
/* The request that net-user answers: who has 10.0.2.2. */
uint32_t play_arp(struct play_device *d, uint32_t at);

#endif
