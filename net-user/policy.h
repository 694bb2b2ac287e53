/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who the guest may talk to.
 *
 * libslirp opens a socket of the host for whatever a frame asks for, so a frame that may not is stopped before it gets
 * there. What may always pass: ARP, DHCP, neighbour discovery, ping of the gateway, and every TCP segment that begins no
 * connection, as libslirp makes sockets for those that do only. What never may: addresses that mean this host but are not
 * the gateway (127.0.0.0/8, 0.0.0.0/8, ::1, mapped IPv4), those that libslirp takes for the gateway (255.255.255.255,
 * ff00::/8, the rest of the guest's IPv6 network), and the TFTP server that libslirp brings along.
 *
 * With --restrict on, the rest needs an --allow whose network has the destination. The guest's own network, where gateway
 * and name server stand for the host, counts only for entries that lie inside of it: 10.0.0.0/8 allows no connection to
 * the host's loopback at 10.0.2.2. Datagrams from a forwarded UDP port may also go to who sent some to it lately.
 */
#ifndef NET_USER_POLICY_H
#define NET_USER_POLICY_H

#include "clock.h"
#include "frame.h"
#include "options.h"

#define POLICY_PEERS 64 /* remembered correspondents of forwarded UDP ports, those heard last */
#define POLICY_PEER_NS                                                                                       \
	(240 * NS_PER_S) /* for so long after they were heard, as libslirp remembers a guest's own */

struct policy {
	const struct options *opts;
	struct policy_peer {
		uint8_t addr[4];
		uint16_t port, guest_port;
		uint64_t heard_ns; /* 0: nobody */
	} peer[POLICY_PEERS];
};

/* The IPv6 network of the guest, with gateway ::2 and name server ::3 in it. */
extern const struct in6_addr policy_net6;
#define POLICY_PREFIX6 64

void policy_init(struct policy *p, const struct options *opts);

/* Whether a whole frame of the guest may go on at clock_ns() now_ns. */
bool policy_allows(const struct policy *p, const struct frame *f, uint64_t now_ns);

/* Notes a frame for the guest: who wrote to a forwarded UDP port may be answered for a while. */
void policy_note(struct policy *p, const struct frame *f, uint64_t now_ns);

#endif
