/* SPDX-License-Identifier: Apache-2.0 */
/* net-user before libslirp: what frames are, fragments into packets, and who may talk to whom. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "frame.h"
#include "num.h"
#include "policy.h"
#include "reasm.h"

#define SYN 0x02
#define ACK 0x10
#define NOW NS_PER_S

struct packet {
	uint8_t data[FRAME_ETHER + 65536];
	size_t len;
};

/* An IPv4 packet with len bytes after its header; offset in bytes. */
static void make_ip4(struct packet *p, uint8_t protocol, const char *dst, size_t len, unsigned offset,
		     bool more)
{
	uint8_t *ip = p->data + FRAME_ETHER;

	memset(p, 0, sizeof(*p));
	frame_put16(p->data + 12, FRAME_ETH_4);
	p->len = FRAME_ETHER + FRAME_IP4 + len;
	ip[0] = 0x45;
	frame_put16(ip + 2, (uint16_t)(FRAME_IP4 + len));
	frame_put16(ip + 4, 77);
	frame_put16(ip + 6, (uint16_t)(offset / 8 | (more ? 0x2000 : 0)));
	ip[8] = 64;
	ip[9] = protocol;
	inet_pton(AF_INET, "10.0.2.15", ip + 12);
	inet_pton(AF_INET, dst, ip + 16);
	frame_put16(ip + 10, frame_checksum(ip, FRAME_IP4));
}

/* The header of TCP, UDP or ICMP. */
static void put_upper(uint8_t *up, uint8_t protocol, uint16_t src_port, uint16_t dst_port, uint8_t flags)
{
	if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6) {
		up[0] = protocol == IPPROTO_ICMP ? 8 : 128;
		return;
	}
	frame_put16(up, src_port);
	frame_put16(up + 2, dst_port);
	if (protocol == IPPROTO_UDP)
		frame_put16(up + 4, 8);
	up[12] = protocol == IPPROTO_TCP ? 0x50 : 0;
	up[13] = protocol == IPPROTO_TCP ? flags : 0;
}

static struct frame make4(struct packet *p, uint8_t protocol, const char *dst, uint16_t src_port,
			  uint16_t dst_port, uint8_t flags)
{
	make_ip4(p, protocol, dst, protocol == IPPROTO_TCP ? 20 : 8, 0, false);
	put_upper(p->data + FRAME_ETHER + FRAME_IP4, protocol, src_port, dst_port, flags);
	return frame_look(p->data, p->len);
}

static struct frame make6(struct packet *p, uint8_t protocol, const char *dst, uint16_t dst_port)
{
	uint8_t *ip = p->data + FRAME_ETHER;
	size_t len = protocol == IPPROTO_TCP ? 20 : 8;

	memset(p, 0, sizeof(*p));
	frame_put16(p->data + 12, FRAME_ETH_6);
	p->len = FRAME_ETHER + 40 + len;
	ip[0] = 0x60;
	frame_put16(ip + 4, (uint16_t)len);
	ip[6] = protocol;
	inet_pton(AF_INET6, "fec0::15", ip + 8);
	inet_pton(AF_INET6, dst, ip + 24);
	put_upper(ip + 40, protocol, 1000, dst_port, SYN);
	return frame_look(p->data, p->len);
}

static struct options options(bool restricted)
{
	struct options o = { .restricted = restricted, .ipv6 = true };

	inet_pton(AF_INET, "10.0.2.0", &o.net.addr);
	inet_pton(AF_INET, "255.255.255.0", &o.net.mask);
	inet_pton(AF_INET, "10.0.2.2", &o.net.gateway);
	inet_pton(AF_INET, "10.0.2.3", &o.net.dns);
	inet_pton(AF_INET, "10.0.2.15", &o.net.guest);
	return o;
}

static void allow(struct options *o, const char *word)
{
	cr_assert_eq(usernet_add_allow(&o->net, word), 0, "%s", word);
}

/* ---- frames ---- */

Test(user_frame, lengths_that_contradict_each_other_are_malformed)
{
	static struct packet p;
	struct frame f = make4(&p, IPPROTO_TCP, "1.2.3.4", 1, 2, SYN);
	uint8_t *ip = p.data + FRAME_ETHER;

	cr_assert_eq(f.kind, FRAME_IPV4);
	cr_assert(f.opens);
	cr_assert_eq(f.dst_port, 2);
	for (size_t len = 0; len < p.len; len++)
		cr_assert_eq(frame_look(p.data, len).kind, FRAME_MALFORMED, "%zu bytes", len);
	cr_assert_eq(frame_look(p.data, p.len + 6).len, p.len, "padding is left out");
	frame_put16(ip + 2, 19);
	cr_expect_eq(frame_look(p.data, p.len).kind, FRAME_MALFORMED, "total length below the header's");
	frame_put16(ip + 2, 39);
	cr_expect_eq(frame_look(p.data, p.len).kind, FRAME_MALFORMED, "a byte of TCP's header is missing");
	frame_put16(ip + 2, 40);
	ip[0] = 0x44;
	cr_expect_eq(frame_look(p.data, p.len).kind, FRAME_MALFORMED, "header of 16 bytes");
	ip[0] = 0x46;
	cr_expect_eq(frame_look(p.data, p.len).kind, FRAME_FOREIGN, "options");
	ip[0] = 0x65;
	cr_expect_eq(frame_look(p.data, p.len).kind, FRAME_MALFORMED, "another version");
	ip[0] = 0x45;
	ip[FRAME_IP4 + 12] = 0x40;
	cr_expect_eq(frame_look(p.data, p.len).kind, FRAME_MALFORMED, "a data offset of 16");
	ip[FRAME_IP4 + 12] = 0x60;
	cr_expect_eq(frame_look(p.data, p.len).kind, FRAME_MALFORMED, "a data offset past the end");
	ip[9] = 132;
	cr_expect_eq(frame_look(p.data, p.len).kind, FRAME_FOREIGN, "another protocol");
	frame_put16(p.data + 12, 0x88f8);
	cr_expect_eq(frame_look(p.data, p.len).kind, FRAME_FOREIGN, "NC-SI");
	make4(&p, IPPROTO_UDP, "1.2.3.4", 1, 2, 0);
	frame_put16(ip + FRAME_IP4 + 4, 9);
	cr_expect_eq(frame_look(p.data, p.len).kind, FRAME_MALFORMED, "UDP longer than its packet");
	f = make6(&p, IPPROTO_TCP, "2001:db8::1", 80);
	cr_expect_eq(f.kind, FRAME_IPV6);
	for (size_t len = 0; len < p.len; len++)
		cr_assert_eq(frame_look(p.data, len).kind, FRAME_MALFORMED, "IPv6, %zu bytes", len);
	ip[6] = 44;
	cr_expect_eq(frame_look(p.data, p.len).kind, FRAME_FOREIGN, "a fragment header");
}

/* ---- fragments ---- */

static enum reasm_result add(struct reasm *r, unsigned offset, size_t len, bool more, uint16_t id,
			     struct frame *whole)
{
	static struct packet p;
	struct frame f;
	unsigned evicted;

	make_ip4(&p, IPPROTO_UDP, "1.2.3.4", len, offset, more);
	frame_put16(p.data + FRAME_ETHER + 4, id);
	for (size_t i = 0; i < len; i++)
		p.data[FRAME_ETHER + FRAME_IP4 + i] = (uint8_t)(offset + i);
	f = frame_look(p.data, p.len);
	cr_assert_eq(f.kind, FRAME_FRAGMENT);
	return reasm_add(r, &f, clock_ns(), whole, &evicted);
}

Test(user_reasm, fragments_in_any_order_become_the_packet)
{
	static const unsigned order[][4] = { { 0, 1, 2, 3 }, { 3, 2, 1, 0 }, { 2, 0, 3, 1 } };
	struct frame whole;
	struct reasm *r;

	cr_assert_eq(reasm_new(&r), 0);
	for (size_t o = 0; o < ARRAY_SIZE(order); o++) {
		for (unsigned i = 0; i < 4; i++) {
			unsigned n = order[o][i];
			enum reasm_result result = add(r, n * 800, n == 3 ? 13 : 800, n < 3, 5, &whole);

			cr_assert_eq(result, i < 3 ? REASM_WAIT : REASM_DONE, "order %zu, part %u", o, n);
		}
		cr_assert_eq(whole.len, FRAME_ETHER + FRAME_IP4 + 2413);
		cr_assert_eq(frame_checksum(whole.data + FRAME_ETHER, FRAME_IP4), 0);
		for (unsigned i = 0; i < 2413; i++)
			cr_assert_eq(whole.data[FRAME_ETHER + FRAME_IP4 + i], (uint8_t)i);
	}
	reasm_free(r);
}

Test(user_reasm, fault_33_fragments_that_make_no_sense_are_dropped)
{
	struct frame whole;
	struct reasm *r;

	cr_assert_eq(reasm_new(&r), 0);
	cr_expect_eq(add(r, 0, 801, true, 1, &whole), REASM_DROP, "an odd length before the end");
	cr_expect_eq(add(r, 8, 0, true, 1, &whole), REASM_DROP, "nothing");
	cr_expect_eq(add(r, 65528, 8, false, 1, &whole), REASM_DROP, "past 65535 bytes (ping of death)");
	cr_expect_eq(add(r, 0, 800, true, 2, &whole), REASM_WAIT);
	cr_expect_eq(add(r, 792, 800, true, 2, &whole), REASM_DROP, "an overlap");
	cr_expect_eq(add(r, 800, 8, false, 2, &whole), REASM_WAIT, "what it was a part of is gone");
	cr_expect_eq(add(r, 0, 800, true, 3, &whole), REASM_WAIT);
	cr_expect_eq(add(r, 0, 800, true, 3, &whole), REASM_DROP, "the same twice");
	cr_expect_eq(add(r, 800, 8, false, 4, &whole), REASM_WAIT);
	cr_expect_eq(add(r, 808, 8, true, 4, &whole), REASM_DROP, "beyond the last");
	cr_expect_eq(add(r, 1600, 8, true, 6, &whole), REASM_WAIT);
	cr_expect_eq(add(r, 800, 8, false, 6, &whole), REASM_DROP, "a last one that is not");
	reasm_free(r);
}

Test(user_reasm, fault_33_a_flood_of_first_fragments_costs_bounded_memory)
{
	struct frame whole;
	struct reasm *r;

	cr_assert_eq(reasm_new(&r), 0);
	for (unsigned id = 0; id < 50000; id++)
		cr_assert_eq(add(r, 0, 1480, true, (uint16_t)id, &whole), REASM_WAIT);
	cr_assert_eq(add(r, 1480, 5, false, (uint16_t)49999, &whole), REASM_DONE, "the newest is there");
	cr_assert_eq(add(r, 1480, 5, false, (uint16_t)(49999 - REASM_SLOTS), &whole), REASM_WAIT,
		     "an old one is not");
	reasm_free(r);
}

/* ---- policy ---- */

struct destination {
	const char *dst;
	uint8_t protocol;
	uint16_t port;
	bool allowed;
};

static void expect4(struct policy *policy, const struct destination *cases, size_t n)
{
	static struct packet p;

	for (size_t i = 0; i < n; i++) {
		struct frame f = make4(&p, cases[i].protocol, cases[i].dst, 1000, cases[i].port, SYN);

		cr_expect_eq(policy_allows(policy, &f, NOW), cases[i].allowed, "%s:%u, %u", cases[i].dst,
			     cases[i].port, cases[i].protocol);
	}
}

static void expect6(struct policy *policy, const struct destination *cases, size_t n)
{
	static struct packet p;

	for (size_t i = 0; i < n; i++) {
		struct frame f = make6(&p, cases[i].protocol, cases[i].dst, cases[i].port);

		cr_expect_eq(policy_allows(policy, &f, NOW), cases[i].allowed, "%s:%u, %u", cases[i].dst,
			     cases[i].port, cases[i].protocol);
	}
}

Test(user_policy, an_unrestricted_guest_may_reach_all_but_what_means_this_host)
{
	static struct packet p;
	struct options o = options(false);
	struct policy policy;
	struct frame f;
	static const struct destination cases[] = {
		{ "1.2.3.4", IPPROTO_TCP, 80, true },          { "10.0.2.2", IPPROTO_TCP, 22, true },
		{ "10.0.2.3", IPPROTO_UDP, 53, true },         { "1.2.3.4", IPPROTO_ICMP, 0, true },
		{ "127.0.0.1", IPPROTO_TCP, 22, false },       { "127.9.9.9", IPPROTO_UDP, 53, false },
		{ "0.0.0.0", IPPROTO_TCP, 22, false },         { "255.255.255.255", IPPROTO_UDP, 67, true },
		{ "255.255.255.255", IPPROTO_UDP, 53, false }, { "255.255.255.255", IPPROTO_TCP, 22, false },
		{ "255.255.255.255", IPPROTO_ICMP, 0, false }, { "10.0.2.2", IPPROTO_UDP, 69, false },
		{ "255.255.255.255", IPPROTO_UDP, 69, false },
	};

	static const struct destination cases6[] = {
		{ "fec0::2", IPPROTO_TCP, 22, true },           { "fec0::3", IPPROTO_UDP, 53, true },
		{ "fec0::4", IPPROTO_TCP, 22, false },          { "fec0::1:2", IPPROTO_TCP, 22, false },
		{ "fec0::1", IPPROTO_UDP, 53, false },          { "ff02::1", IPPROTO_TCP, 22, false },
		{ "ff02::1", IPPROTO_UDP, 53, false },          { "ff05::1", IPPROTO_UDP, 53, false },
		{ "ff02::1", IPPROTO_ICMPV6, 0, false },        { "fec0::2", IPPROTO_ICMPV6, 0, true },
		{ "ff02::1:2", IPPROTO_UDP, 547, true },        { "::1", IPPROTO_TCP, 22, false },
		{ "::ffff:127.0.0.1", IPPROTO_TCP, 22, false }, { "::127.0.0.1", IPPROTO_TCP, 22, false },
	};

	policy_init(&policy, &o);
	expect4(&policy, cases, ARRAY_SIZE(cases));
	expect6(&policy, cases6, ARRAY_SIZE(cases6));
	f = make6(&p, IPPROTO_TCP, "2001:db8::1", 22);
	cr_expect(policy_allows(&policy, &f, NOW));
	o.ipv6 = false;
	cr_expect_not(policy_allows(&policy, &f, NOW));
}

Test(user_policy, a_restricted_guest_reaches_what_is_listed)
{
	struct options o = options(true);
	struct policy policy;
	static const struct destination cases[] = {
		{ "192.0.2.1", IPPROTO_TCP, 443, true },         { "192.0.2.1", IPPROTO_TCP, 444, false },
		{ "192.0.2.1", IPPROTO_UDP, 443, false },        { "192.0.2.1", IPPROTO_ICMP, 0, false },
		{ "192.0.3.1", IPPROTO_TCP, 443, false },        { "198.51.100.7", IPPROTO_UDP, 5000, true },
		{ "198.51.100.7", IPPROTO_TCP, 5010, true },     { "198.51.100.7", IPPROTO_TCP, 5011, false },
		{ "198.51.100.8", IPPROTO_TCP, 5000, false },    { "10.1.0.1", IPPROTO_TCP, 22, true },
		{ "10.1.0.1", IPPROTO_ICMP, 0, true },           { "10.0.2.2", IPPROTO_TCP, 22, false },
		{ "10.0.2.2", IPPROTO_TCP, 8080, true },         { "10.0.2.3", IPPROTO_UDP, 53, false },
		{ "10.0.2.2", IPPROTO_ICMP, 0, true },           { "10.0.2.2", IPPROTO_UDP, 67, true },
		{ "10.0.2.9", IPPROTO_TCP, 22, false },          { "255.255.255.255", IPPROTO_UDP, 67, true },
		{ "255.255.255.255", IPPROTO_UDP, 8080, false }, { "127.0.0.1", IPPROTO_TCP, 443, false },
	};

	static const struct destination cases6[] = {
		{ "2001:db8::1", IPPROTO_TCP, 80, true },
		{ "2001:db9::1", IPPROTO_TCP, 80, false },
		{ "fec0::2", IPPROTO_TCP, 80, false },
		{ "2001:db8::1", IPPROTO_TCP, 81, false },
	};

	allow(&o, "192.0.2.0/24:443/tcp");
	allow(&o, "198.51.100.7:5000-5010");
	allow(&o, "10.0.0.0/8");
	allow(&o, "10.0.2.2:8080");
	allow(&o, "127.0.0.0/8");
	allow(&o, "[2001:db8::/32]:80/tcp");
	policy_init(&policy, &o);
	expect4(&policy, cases, ARRAY_SIZE(cases));
	expect6(&policy, cases6, ARRAY_SIZE(cases6));
}

Test(user_policy, a_restricted_guest_answers_who_asked)
{
	static struct packet p;
	struct options o = options(true);
	struct policy policy;
	struct frame f;

	cr_assert_eq(usernet_add_forward(&o.net, "udp::5353-:53"), 0);
	policy_init(&policy, &o);
	f = make4(&p, IPPROTO_TCP, "192.0.2.1", 22, 40000, ACK);
	cr_expect(policy_allows(&policy, &f, NOW), "TCP that begins nothing makes no socket");
	f = make4(&p, IPPROTO_TCP, "192.0.2.1", 22, 40000, SYN);
	cr_expect_not(policy_allows(&policy, &f, NOW));
	f = make4(&p, IPPROTO_UDP, "192.0.2.1", 53, 4444, 0);
	cr_expect_not(policy_allows(&policy, &f, NOW), "nobody asked yet");
	f = make4(&p, IPPROTO_UDP, "10.0.2.15", 4444, 53, 0);
	inet_pton(AF_INET, "192.0.2.1", p.data + FRAME_ETHER + 12);
	policy_note(&policy, &f, NOW);
	f = make4(&p, IPPROTO_UDP, "192.0.2.1", 53, 4444, 0);
	cr_expect(policy_allows(&policy, &f, NOW), "an answer");
	f = make4(&p, IPPROTO_UDP, "192.0.2.1", 54, 4444, 0);
	cr_expect_not(policy_allows(&policy, &f, NOW), "from another port");
	f = make4(&p, IPPROTO_UDP, "192.0.2.1", 53, 4445, 0);
	cr_expect_not(policy_allows(&policy, &f, NOW), "to another port");
	f = make4(&p, IPPROTO_UDP, "192.0.2.2", 53, 4444, 0);
	cr_expect_not(policy_allows(&policy, &f, NOW), "to somebody else");
}

/* A datagram of number i's to the forwarded port, and whether it may be answered. */
static void hear(struct policy *policy, unsigned i, uint64_t now_ns)
{
	static struct packet p;
	struct frame f = make4(&p, IPPROTO_UDP, "10.0.2.15", (uint16_t)(4000 + i), 53, 0);

	inet_pton(AF_INET, "192.0.2.1", p.data + FRAME_ETHER + 12);
	policy_note(policy, &f, now_ns);
}

static bool may_answer(const struct policy *policy, unsigned i, uint64_t now_ns)
{
	static struct packet p;
	struct frame f = make4(&p, IPPROTO_UDP, "192.0.2.1", 53, (uint16_t)(4000 + i), 0);

	return policy_allows(policy, &f, now_ns);
}

Test(user_policy, who_was_not_heard_for_long_is_forgotten)
{
	struct options o = options(true);
	struct policy policy;

	cr_assert_eq(usernet_add_forward(&o.net, "udp::5353-:53"), 0);
	policy_init(&policy, &o);
	hear(&policy, 0, NOW);
	cr_expect(may_answer(&policy, 0, NOW + POLICY_PEER_NS));
	cr_expect_not(may_answer(&policy, 0, NOW + POLICY_PEER_NS + 1));
	cr_expect_not(may_answer(&policy, 0, NOW + POLICY_PEER_NS + 2), "answers keep nobody");
	hear(&policy, 0, NOW + NS_PER_S);
	cr_expect(may_answer(&policy, 0, NOW + NS_PER_S + POLICY_PEER_NS));
}

Test(user_policy, only_so_many_are_remembered_those_heard_last)
{
	struct options o = options(true);
	struct policy policy;

	cr_assert_eq(usernet_add_forward(&o.net, "udp::5353-:53"), 0);
	policy_init(&policy, &o);
	for (unsigned i = 0; i < POLICY_PEERS; i++)
		hear(&policy, i, NOW + i);
	hear(&policy, 0, NOW + POLICY_PEERS);
	hear(&policy, POLICY_PEERS, NOW + POLICY_PEERS + 1);
	for (unsigned i = 0; i <= POLICY_PEERS; i++)
		cr_expect_eq(may_answer(&policy, i, NOW + POLICY_PEERS + 2), i != 1, "number %u", i);
}
