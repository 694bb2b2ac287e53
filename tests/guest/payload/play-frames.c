/* SPDX-License-Identifier: Apache-2.0 */
/* Frames that the playing guest sends: to the gateway in user mode and its services, mostly with right sums. */
#include "frame.h"
#include "play.h"

#define HEADER    12 /* of offloads */
#define ETHERNET  14
#define IP        (HEADER + ETHERNET)
#define IP_HEADER 20

enum { ICMP = 1, TCP = 6, UDP = 17 };

/* The header of offloads and the Ethernet one: to all, from us. */
static uint8_t *begin(const struct play_device *d, uint32_t at, uint32_t type)
{
	uint8_t *frame = (uint8_t *)(uintptr_t)at;

	memset(frame, 0, HEADER + ETHERNET + 64);
	memset(frame + HEADER, 0xff, 6);
	for (unsigned i = 0; i < 6; i++)
		frame[HEADER + 6 + i] = MMIO_READ(uint8_t, d->v.device + i);
	put16(frame + HEADER + 12, type);
	return frame;
}

uint32_t play_arp(struct play_device *d, uint32_t at)
{
	static const uint8_t ask[8] = { 0, 1, 8, 0, 6, 4, 0, 1 }, me[4] = { 10, 0, 2, 15 },
			     who[4] = { 10, 0, 2, 2 };
	uint8_t *frame = begin(d, at, 0x0806);

	memcpy(frame + IP, ask, 8);
	memcpy(frame + IP + 8, frame + HEADER + 6, 6);
	memcpy(frame + IP + 14, me, 4);
	memcpy(frame + IP + 24, who, 4);
	return HEADER + 60;
}

static void fill_udp(struct play *p, uint8_t *at, uint32_t len)
{
	static const uint16_t ports[] = { 53, 67, 69, 7, 123, 4000 };
	uint32_t port = ports[play_pick(p, 6)];

	put16(at, port == 67 ? 68 : 1024 + play_pick(p, 9));
	put16(at + 2, port);
	put16(at + 4, len);
	put16(at + 6, 0);
	if (port == 67 && len > 8 + 244) { /* a DHCP message with options at random */
		memset(at + 8, 0, 236);
		at[8] = 1, at[9] = 1, at[10] = 6;
		put16(at + 8 + 236, 0x6382);
		put16(at + 8 + 238, 0x5363);
		at[8 + 240] = 53, at[8 + 241] = 1, at[8 + 242] = (uint8_t)play_pick(p, 9);
	}
}

static void fill_tcp(struct play *p, uint8_t *ip, uint8_t *at, uint32_t len)
{
	put16(at, 1024 + play_pick(p, 9));
	put16(at + 2, play_one_in(p, 2) ? 80 : play_roll(p));
	at[12] = play_one_in(p, 8) ? (uint8_t)play_roll(p) : 0x50;
	at[13] = play_one_in(p, 2) ? 2 : (uint8_t)play_roll(p);
	put16(at + 16, 0);
	put16(at + 16, ~sum16(at, len, sum16(ip + 12, 8, TCP + len)));
}

static uint32_t packet(struct play *p, struct play_device *d, uint32_t at)
{
	static const uint8_t protocols[] = { ICMP, TCP, UDP, UDP };
	uint8_t *frame = begin(d, at, 0x0800), *ip = frame + IP, *load = ip + IP_HEADER;
	uint32_t len = 20 + play_pick(p, play_one_in(p, 4) ? 4000 : 600);
	uint8_t protocol = protocols[play_pick(p, 4)];

	for (uint32_t i = 0; i < len; i += 4)
		*(uint32_t *)(void *)(load + i) = play_roll(p);
	ip[0] = play_wrong(p) ? (uint8_t)play_roll(p) : 0x45;
	put16(ip + 2, play_wrong(p) ? play_odd(p) : IP_HEADER + len);
	put16(ip + 4, play_pick(p, 4));
	put16(ip + 6, play_one_in(p, 4) ? (play_pick(p, 2) << 13 | play_pick(p, 64)) : 0); /* fragments */
	ip[8] = 64;
	ip[9] = play_wrong(p) ? (uint8_t)play_roll(p) : protocol;
	put16(ip + 10, 0);
	ip[12] = ip[16] = 10, ip[14] = ip[18] = 2, ip[15] = 15;
	ip[19] = play_one_in(p, 2) ? 2 : (uint8_t)play_roll(p);
	put16(ip + 10, ~sum16(ip, IP_HEADER, 0));
	if (protocol == ICMP) {
		load[0] = play_one_in(p, 4) ? (uint8_t)play_roll(p) : 8;
		load[1] = 0;
		put16(load + 2, 0);
		put16(load + 2, ~sum16(load, len, 0));
	} else if (protocol == TCP) {
		fill_tcp(p, ip, load, len);
	} else {
		fill_udp(p, load, len);
	}
	return IP + IP_HEADER + len;
}

uint32_t play_frame(struct play *p, struct play_device *d, uint32_t at)
{
	uint8_t *frame = (uint8_t *)(uintptr_t)at;
	uint32_t len = play_one_in(p, 4) ? play_arp(d, at) : packet(p, d, at);

	/* The header of offloads, and any byte. */
	if (play_wrong(p))
		for (unsigned i = 0; i < HEADER; i++)
			frame[i] = play_one_in(p, 2) ? 0 : (uint8_t)play_roll(p);
	if (play_wrong(p))
		for (unsigned n = 1 + play_pick(p, 8); n--;)
			frame[play_pick(p, len)] = (uint8_t)play_roll(p);
	return play_wrong(p) ? 1 + play_pick(p, len) : len;
}
