/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's network as net-user makes it: from words. */
#include "usernet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "parse.h"

#define GATEWAY_HOST 2 /* of the network's addresses, where other programs of this kind have them, too */
#define DNS_HOST     3
#define GUEST_HOST   15

static struct in_addr member(const struct usernet *u, uint32_t number)
{
	return (struct in_addr) { .s_addr = htonl(ntohl(u->addr.s_addr) | number) };
}

static void place(struct usernet *u)
{
	u->gateway = member(u, GATEWAY_HOST);
	u->guest = member(u, GUEST_HOST);
}

void usernet_init(struct usernet *u)
{
	*u = (struct usernet) { .addr.s_addr = htonl(0x0a000200), .mask.s_addr = htonl(0xffffff00) };
	place(u);
}

/* "10.0.2.0/24", without bits beyond the prefix. */
int usernet_set_net(struct usernet *u, const char *value)
{
	const char *slash = strchr(value, '/');
	char addr[INET_ADDRSTRLEN];
	uint64_t prefix;

	if (!slash || (size_t)(slash - value) >= sizeof(addr) ||
	    parse_u64(slash + 1, USERNET_PREFIX_MIN, USERNET_PREFIX_MAX, &prefix))
		return -EINVAL;
	snprintf(addr, sizeof(addr), "%.*s", (int)(slash - value), value);
	if (inet_pton(AF_INET, addr, &u->addr) != 1)
		return -EINVAL;
	u->mask.s_addr = htonl(~0U << (32 - prefix));
	if (u->addr.s_addr & ~u->mask.s_addr)
		return -EINVAL;
	place(u);
	/* An address of no network, of this host, or of a group can't be the guest's. */
	return (ntohl(u->addr.s_addr) >> 24) - 1 < 223 && ntohl(u->addr.s_addr) >> 24 != 127 ? 0 : -EINVAL;
}

int usernet_set_dns(struct usernet *u, const char *value)
{
	u->dns_word = value;
	return inet_pton(AF_INET, value, &u->dns) == 1 ? 0 : -EINVAL;
}

int usernet_set_hostname(struct usernet *u, const char *value)
{
	size_t len = strlen(value);

	u->hostname = value;
	return len > 0 && len <= USERNET_HOSTNAME_MAX &&
		       strspn(value, "abcdefghijklmnopqrstuvwxyz"
				     "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") == len
		   ? 0
		   : -EINVAL;
}

/* ---- forwardings ---- */

/* "[ADDR]:PORT" of len bytes; no ADDR leaves *addr as it is. */
static int parse_end(const char *word, size_t len, struct in_addr *addr, uint16_t *port)
{
	char buf[INET_ADDRSTRLEN + 8], *colon;
	uint64_t number;

	if (len >= sizeof(buf))
		return -EINVAL;
	snprintf(buf, sizeof(buf), "%.*s", (int)len, word);
	colon = strrchr(buf, ':');
	if (!colon || parse_u64(colon + 1, 1, 65535, &number))
		return -EINVAL;
	*colon = '\0';
	if (*buf && inet_pton(AF_INET, buf, addr) != 1)
		return -EINVAL;
	*port = (uint16_t)number;
	return 0;
}

int usernet_parse_forward(const char *word, struct usernet_forward *out)
{
	const char *host = word + 4, *dash = strchr(word, '-');
	int err;

	/* Nobody but this host, unless said. */
	*out = (struct usernet_forward) { .word = word, .host.s_addr = htonl(INADDR_LOOPBACK) };
	if (strncmp(word, "tcp:", 4) && strncmp(word, "udp:", 4))
		return -EINVAL;
	out->udp = word[0] == 'u';
	if (!dash)
		return -EINVAL;
	err = parse_end(host, (size_t)(dash - host), &out->host, &out->host_port);
	return err ? err : parse_end(dash + 1, strlen(dash + 1), &out->guest, &out->guest_port);
}

int usernet_add_forward(struct usernet *u, const char *value)
{
	if (u->forwards == USERNET_FORWARDS_MAX)
		return -E2BIG;
	return usernet_parse_forward(value, &u->forward[u->forwards++]);
}

/* ---- destinations ---- */

/* "PORT" or "PORT-PORT". */
static int parse_ports(char *word, struct usernet_allow *out)
{
	char *dash = strchr(word, '-');
	uint64_t min, max;

	if (dash)
		*dash++ = '\0';
	if (parse_u64(word, 1, 65535, &min) || parse_u64(dash ? dash : word, min, 65535, &max))
		return -EINVAL;
	out->port_min = (uint16_t)min;
	out->port_max = (uint16_t)max;
	return 0;
}

/* Whether no bit beyond the prefix is set. */
static bool is_network(const struct usernet_allow *a)
{
	for (unsigned bit = a->prefix; bit < (a->family == AF_INET ? 32 : 128); bit++)
		if (a->addr[bit / 8] & (0x80 >> bit % 8))
			return false;
	return true;
}

/* "ADDR" or "ADDR/PREFIX". */
static int parse_cidr(char *word, struct usernet_allow *out)
{
	char *slash = strchr(word, '/');
	unsigned most = out->family == AF_INET ? 32 : 128;
	uint64_t prefix = most;

	if (slash)
		*slash++ = '\0';
	if (slash && parse_u64(slash, 0, most, &prefix))
		return -EINVAL;
	out->prefix = (unsigned)prefix;
	return inet_pton(out->family, word, out->addr) == 1 && is_network(out) ? 0 : -EINVAL;
}

static int parse_allow(const char *word, struct usernet_allow *out)
{
	char buf[INET6_ADDRSTRLEN + 32], *cidr = buf, *end, *ports = NULL;
	size_t len = strlen(word);

	*out = (struct usernet_allow) { .family = AF_INET, .port_max = 65535 };
	if (len >= sizeof(buf))
		return -EINVAL;
	memcpy(buf, word, len + 1);
	if (len > 4 && (!strcmp(buf + len - 4, "/tcp") || !strcmp(buf + len - 4, "/udp"))) {
		out->protocol = buf[len - 3] == 't' ? IPPROTO_TCP : IPPROTO_UDP;
		buf[len - 4] = '\0';
	}
	if (*buf == '[') {
		/* [2001:db8::/32] or [2001:db8::]/32, then perhaps :PORT */
		out->family = AF_INET6;
		cidr++;
		end = strchr(cidr, ']');
		if (!end)
			return -EINVAL;
		memmove(end, end + 1, strlen(end));
		ports = strchr(end, ':');
	} else {
		ports = strchr(buf, ':');
	}
	if (ports)
		*ports++ = '\0';
	if (ports && parse_ports(ports, out))
		return -EINVAL;
	return parse_cidr(cidr, out);
}

int usernet_add_allow(struct usernet *u, const char *value)
{
	if (u->allows == USERNET_ALLOWS_MAX)
		return -E2BIG;
	return parse_allow(value, &u->allow[u->allows++]);
}

/* ---- the whole ---- */

/* Whether an address can be one host's. */
static bool is_member(const struct usernet *u, struct in_addr addr)
{
	return (addr.s_addr & u->mask.s_addr) == u->addr.s_addr && addr.s_addr != u->addr.s_addr &&
	       addr.s_addr != (u->addr.s_addr | ~u->mask.s_addr);
}

bool usernet_is_same_port(const struct usernet_forward *a, const struct usernet_forward *b)
{
	return a->udp == b->udp && a->host.s_addr == b->host.s_addr && a->host_port == b->host_port;
}

/* NULL if forward i goes with those before it. */
static const char *check_forward(const struct usernet *u, unsigned i)
{
	const struct usernet_forward *f = &u->forward[i];

	if (!is_member(u, f->guest) || f->guest.s_addr == u->gateway.s_addr ||
	    f->guest.s_addr == u->dns.s_addr)
		return "the guest's address must be one of its network, and not the host's or the name "
		       "server's there";
	for (unsigned j = 0; j < i; j++)
		if (usernet_is_same_port(f, &u->forward[j]))
			return "that port of the host is forwarded already";
	return NULL;
}

int usernet_finish(struct usernet *u, struct usernet_fault *fault)
{
	if (!u->dns_word)
		u->dns = member(u, DNS_HOST);
	*fault = (struct usernet_fault) { "dns", u->dns_word,
					  "must be a free address of the guest's network, of which the host "
					  "has 2 and the guest 15" };
	if (!is_member(u, u->dns) || u->dns.s_addr == u->gateway.s_addr || u->dns.s_addr == u->guest.s_addr)
		return -EINVAL;
	for (unsigned i = 0; i < u->forwards; i++) {
		if (!u->forward[i].guest.s_addr)
			u->forward[i].guest = u->guest;
		*fault = (struct usernet_fault) { "hostfwd", u->forward[i].word, check_forward(u, i) };
		if (fault->why)
			return -EINVAL;
	}
	return 0;
}
