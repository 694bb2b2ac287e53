/* SPDX-License-Identifier: Apache-2.0 */
/* Who the guest may talk to: the decision for one frame. */
#include "policy.h"

#include <arpa/inet.h>
#include <string.h>

#define PORT_DHCP     67
#define PORT_TFTP     69
#define PORT_DHCP6    547
#define GATEWAY6      2 /* hosts of policy_net6, as net.c has them */
#define DNS6          3
#define NEIGHBOUR_MIN 133 /* ICMPv6: router solicitation to ... */
#define NEIGHBOUR_MAX 136 /* ... neighbour advertisement */

const struct in6_addr policy_net6 = { .s6_addr = { 0xfe, 0xc0 } };

void policy_init(struct policy *p, const struct options *opts)
{
	*p = (struct policy) { .opts = opts };
}

static bool has_prefix(const uint8_t *addr, const uint8_t *net, unsigned prefix)
{
	unsigned bytes = prefix / 8, bits = prefix % 8;

	if (memcmp(addr, net, bytes) != 0)
		return false;
	return !bits || !((addr[bytes] ^ net[bytes]) >> (8 - bits));
}

static unsigned prefix_of(struct in_addr mask)
{
	return (unsigned)__builtin_popcount(mask.s_addr);
}

/* Whether entry a allows dst. The guest's network is open only to entries inside of it. */
static bool matches(const struct usernet_allow *a, int family, const uint8_t *dst, const uint8_t *own,
		    unsigned own_prefix)
{
	if (a->family != family || !has_prefix(dst, a->addr, a->prefix))
		return false;
	return a->prefix >= own_prefix || !has_prefix(dst, own, own_prefix);
}

static bool is_listed(const struct options *o, int family, const struct frame *f)
{
	const uint8_t *own =
	    family == AF_INET ? (const uint8_t *)&o->net.addr : (const uint8_t *)&policy_net6;
	unsigned own_prefix = family == AF_INET ? prefix_of(o->net.mask) : POLICY_PREFIX6;
	bool ports = f->protocol == IPPROTO_TCP || f->protocol == IPPROTO_UDP;

	for (unsigned i = 0; i < o->net.allows; i++) {
		const struct usernet_allow *a = &o->net.allow[i];

		if (!matches(a, family, f->dst, own, own_prefix) ||
		    (a->protocol && a->protocol != f->protocol))
			continue;
		if (ports ? f->dst_port >= a->port_min && f->dst_port <= a->port_max
			  : !a->port_min && a->port_max == 65535)
			return true;
	}
	return false;
}

static bool is_peer(const struct policy_peer *peer, const uint8_t *addr, uint16_t port, uint16_t guest_port)
{
	return peer->heard_ns && peer->port == port && peer->guest_port == guest_port &&
	       !memcmp(peer->addr, addr, sizeof(peer->addr));
}

/* Whether f answers somebody who wrote to a forwarded port, and not too long ago. */
static bool is_answer(const struct policy *p, const struct frame *f, uint64_t now_ns)
{
	if (f->protocol != IPPROTO_UDP)
		return false;
	for (size_t i = 0; i < POLICY_PEERS; i++)
		if (is_peer(&p->peer[i], f->dst, f->dst_port, f->src_port))
			return now_ns - p->peer[i].heard_ns <= POLICY_PEER_NS;
	return false;
}

static bool allows_ip4(const struct policy *p, const struct frame *f, uint64_t now_ns)
{
	static const uint8_t everybody[4] = { 255, 255, 255, 255 };
	const struct options *o = p->opts;
	bool gateway = !memcmp(f->dst, &o->net.gateway, 4), all = !memcmp(f->dst, everybody, 4);

	if (f->protocol == IPPROTO_UDP && f->dst_port == PORT_DHCP && (gateway || all))
		return true;
	if (f->dst[0] == 127 || f->dst[0] == 0)
		return false;
	if (f->protocol == IPPROTO_UDP && f->dst_port == PORT_TFTP && gateway)
		return false;
	/* libslirp takes everybody for the gateway. */
	if (all)
		return false;
	if (!o->restricted || (f->protocol == IPPROTO_TCP && !f->opens))
		return true;
	if (f->protocol == IPPROTO_ICMP && (gateway || !memcmp(f->dst, &o->net.dns, 4)))
		return true;
	return is_answer(p, f, now_ns) || is_listed(o, AF_INET, f);
}

/* Groups, and addresses of the guest's network that are nobody's. */
static bool means_host6(const uint8_t *dst)
{
	static const uint8_t zero[7];
	const uint8_t *host = dst + POLICY_PREFIX6 / 8;

	if (dst[0] == 0xff)
		return true;
	return has_prefix(dst, policy_net6.s6_addr, POLICY_PREFIX6) &&
	       (memcmp(host, zero, sizeof(zero)) != 0 || (host[7] != GATEWAY6 && host[7] != DNS6));
}

static bool allows_ip6(const struct policy *p, const struct frame *f)
{
	static const uint8_t none[16], mapped[16] = { [10] = 0xff, [11] = 0xff };
	bool local = has_prefix(f->dst, policy_net6.s6_addr, POLICY_PREFIX6) || f->dst[0] == 0xff ||
		     (f->dst[0] == 0xfe && (f->dst[1] & 0xc0) == 0x80);

	if (!p->opts->ipv6)
		return false;
	if (f->protocol == IPPROTO_ICMPV6 && f->type >= NEIGHBOUR_MIN && f->type <= NEIGHBOUR_MAX)
		return true;
	/* ::1, :: and what embeds an IPv4 address. */
	if (!memcmp(f->dst, none, 12) || !memcmp(f->dst, mapped, 12))
		return false;
	if (f->protocol == IPPROTO_UDP && local && f->dst_port == PORT_DHCP6)
		return true;
	if (f->protocol == IPPROTO_UDP && local && f->dst_port == PORT_TFTP)
		return false;
	/* libslirp takes all nodes, and whoever is not the name server in the guest's network, for the gateway. */
	if (f->protocol == IPPROTO_ICMPV6 ? f->type == FRAME_ECHO6 && f->dst[0] == 0xff : means_host6(f->dst))
		return false;
	if (!p->opts->restricted || (f->protocol == IPPROTO_TCP && !f->opens))
		return true;
	if (f->protocol == IPPROTO_ICMPV6 && local)
		return true;
	return is_listed(p->opts, AF_INET6, f);
}

bool policy_allows(const struct policy *p, const struct frame *f, uint64_t now_ns)
{
	switch (f->kind) {
	case FRAME_ARP:
		return true;
	case FRAME_IPV4:
		return allows_ip4(p, f, now_ns);
	case FRAME_IPV6:
		return allows_ip6(p, f);
	case FRAME_MALFORMED:
	case FRAME_FOREIGN:
	case FRAME_FRAGMENT:
	default:
		return false;
	}
}

static bool is_forwarded(const struct options *o, const struct frame *f)
{
	for (unsigned i = 0; i < o->net.forwards; i++)
		if (o->net.forward[i].udp && o->net.forward[i].guest_port == f->dst_port)
			return true;
	return false;
}

void policy_note(struct policy *p, const struct frame *f, uint64_t now_ns)
{
	struct policy_peer *peer = &p->peer[0];

	if (!p->opts->restricted || f->kind != FRAME_IPV4 || f->protocol != IPPROTO_UDP)
		return;
	if (!is_forwarded(p->opts, f))
		return;
	/* Its own place, or that of who was heard longest ago. */
	for (size_t i = 0; i < POLICY_PEERS; i++) {
		if (is_peer(&p->peer[i], f->src, f->src_port, f->dst_port)) {
			p->peer[i].heard_ns = now_ns;
			return;
		}
		if (p->peer[i].heard_ns < peer->heard_ns)
			peer = &p->peer[i];
	}
	memcpy(peer->addr, f->src, sizeof(peer->addr));
	peer->port = f->src_port;
	peer->guest_port = f->dst_port;
	peer->heard_ns = now_ns;
}
