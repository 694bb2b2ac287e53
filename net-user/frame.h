/* SPDX-License-Identifier: Apache-2.0 */
/* What an Ethernet frame of the guest holds, as far as it must be known before libslirp may see it. */
#ifndef NET_USER_FRAME_H
#define NET_USER_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_MAX    65535 /* of what crosses the socket */
#define FRAME_ETHER  14    /* bytes of an Ethernet header */
#define FRAME_IP4    20    /* bytes of an IPv4 header without options */
#define FRAME_ETH_4  0x0800
#define FRAME_ETH_6  0x86dd
#define FRAME_ETH_RP 0x0806
#define FRAME_ECHO6  128 /* ICMPv6's type of a ping */

enum frame_kind {
	FRAME_MALFORMED, /* lengths that contradict each other, too short for what it says it is */
	FRAME_FOREIGN,   /* a protocol that there is nobody for here; IPv4 options are one */
	FRAME_ARP,
	FRAME_IPV4,
	FRAME_FRAGMENT, /* a part of an IPv4 packet */
	FRAME_IPV6,
};

struct frame {
	enum frame_kind kind;
	const uint8_t *data;
	size_t len;               /* without padding */
	uint8_t protocol;         /* IPPROTO_TCP, _UDP, _ICMP or _ICMPV6; FRAME_FRAGMENT: anything */
	const uint8_t *src, *dst; /* 4 or 16 bytes */
	uint16_t src_port, dst_port;
	bool opens;      /* TCP: begins a connection */
	uint8_t type;    /* ICMP and ICMPv6 */
	uint16_t id;     /* FRAME_FRAGMENT: of the packet, ... */
	uint16_t offset; /* ... where in its payload this part belongs, ... */
	bool more;       /* ... and whether others follow */
};

/* Looks at len bytes, which the result points into. Whole packets have sound lengths down to the header of TCP, UDP or
 * ICMP afterwards. */
struct frame frame_look(const uint8_t *data, size_t len);

static inline uint16_t frame_get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline void frame_put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* The Internet checksum of len bytes. */
uint16_t frame_checksum(const uint8_t *p, size_t len);

#endif
