/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of the guest, looked at before libslirp sees them.
 *
 * libslirp has had its mistakes where packets are not what they say (CVE-2020-10756, CVE-2021-3592 to 3595), so lengths
 * are checked here first, and what nobody needs (options, extension headers, NC-SI, VLAN tags) does not come near it.
 * Checksums are left to it.
 */
#include "frame.h"

#include <netinet/in.h>

#define IP6_HEADER  40
#define ARP_PACKET  28
#define TCP_HEADER  20
#define UDP_HEADER  8
#define ICMP_HEADER 8

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_URG 0x20

uint16_t frame_checksum(const uint8_t *p, size_t len)
{
	uint32_t sum = 0;

	for (size_t i = 0; i + 1 < len; i += 2)
		sum += frame_get16(p + i);
	if (len & 1)
		sum += (uint32_t)p[len - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* The header after IP's, of which there are len bytes; false if it is cut short. */
static bool look_upper(struct frame *f, const uint8_t *p, size_t len)
{
	size_t header;

	switch (f->protocol) {
	case IPPROTO_TCP:
		if (len < TCP_HEADER)
			return false;
		header = (size_t)(p[12] >> 4) * 4;
		if (header < TCP_HEADER || header > len)
			return false;
		f->opens = (p[13] & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK | TCP_URG)) == TCP_SYN;
		break;
	case IPPROTO_UDP:
		if (len < UDP_HEADER || frame_get16(p + 4) < UDP_HEADER || frame_get16(p + 4) > len)
			return false;
		break;
	default:
		if (len < ICMP_HEADER)
			return false;
		f->type = p[0];
		return true;
	}
	f->src_port = frame_get16(p);
	f->dst_port = frame_get16(p + 2);
	return true;
}

static enum frame_kind look_ip4(struct frame *f, const uint8_t *p, size_t len)
{
	size_t total;
	uint16_t part;

	if (len < FRAME_IP4 || p[0] >> 4 != 4 || (p[0] & 15) < 5)
		return FRAME_MALFORMED;
	total = frame_get16(p + 2);
	if (total < (size_t)(p[0] & 15) * 4 || total > len)
		return FRAME_MALFORMED;
	if ((p[0] & 15) != 5)
		return FRAME_FOREIGN;
	f->len = FRAME_ETHER + total;
	f->protocol = p[9];
	f->src = p + 12;
	f->dst = p + 16;
	f->id = frame_get16(p + 4);
	part = frame_get16(p + 6);
	f->more = part & 0x2000;
	f->offset = (uint16_t)((part & 0x1fff) * 8);
	if (f->protocol != IPPROTO_TCP && f->protocol != IPPROTO_UDP && f->protocol != IPPROTO_ICMP)
		return FRAME_FOREIGN;
	if (f->more || f->offset)
		return FRAME_FRAGMENT;
	return look_upper(f, p + FRAME_IP4, total - FRAME_IP4) ? FRAME_IPV4 : FRAME_MALFORMED;
}

static enum frame_kind look_ip6(struct frame *f, const uint8_t *p, size_t len)
{
	size_t payload;

	if (len < IP6_HEADER || p[0] >> 4 != 6)
		return FRAME_MALFORMED;
	payload = frame_get16(p + 4);
	if (payload > len - IP6_HEADER)
		return FRAME_MALFORMED;
	f->len = FRAME_ETHER + IP6_HEADER + payload;
	f->protocol = p[6];
	f->src = p + 8;
	f->dst = p + 24;
	if (f->protocol != IPPROTO_TCP && f->protocol != IPPROTO_UDP && f->protocol != IPPROTO_ICMPV6)
		return FRAME_FOREIGN;
	return look_upper(f, p + IP6_HEADER, payload) ? FRAME_IPV6 : FRAME_MALFORMED;
}

struct frame frame_look(const uint8_t *data, size_t len)
{
	struct frame f = { .kind = FRAME_MALFORMED, .data = data, .len = len };

	if (len < FRAME_ETHER || len > FRAME_MAX + FRAME_ETHER)
		return f;
	switch (frame_get16(data + 12)) {
	case FRAME_ETH_4:
		f.kind = look_ip4(&f, data + FRAME_ETHER, len - FRAME_ETHER);
		break;
	case FRAME_ETH_6:
		f.kind = look_ip6(&f, data + FRAME_ETHER, len - FRAME_ETHER);
		break;
	case FRAME_ETH_RP:
		f.kind = len < FRAME_ETHER + ARP_PACKET ? FRAME_MALFORMED : FRAME_ARP;
		break;
	default:
		f.kind = FRAME_FOREIGN;
		break;
	}
	return f;
}
