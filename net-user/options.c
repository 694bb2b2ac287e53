/* SPDX-License-Identifier: Apache-2.0 */
/* The command line. */
#include "options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "mtu.h"
#include "num.h"
#include "option.h"
#include "parse.h"

#define GATEWAY_HOST 2 /* of the network's addresses, where other programs of this kind have them, too */
#define DNS_HOST     3
#define GUEST_HOST   15
#define PREFIX_MIN   8
#define PREFIX_MAX   27 /* so that GUEST_HOST fits */

static int set_packet_fd(void *arg, const char *value)
{
	return option_fd(value, &((struct options *)arg)->packet_fd);
}

static int set_restrict(void *arg, const char *value)
{
	return option_switch(value, &((struct options *)arg)->restricted);
}

static int set_ipv6(void *arg, const char *value)
{
	return option_switch(value, &((struct options *)arg)->ipv6);
}

static int set_mtu(void *arg, const char *value)
{
	return option_number(value, MTU_MIN, MTU_MAX, &((struct options *)arg)->mtu);
}

static int set_hostname(void *arg, const char *value)
{
	size_t len = strlen(value);

	((struct options *)arg)->hostname = value;
	return len > 0 && len <= 63 &&
		       strspn(value, "abcdefghijklmnopqrstuvwxyz"
				     "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") == len
		   ? 0
		   : -EINVAL;
}

static struct in_addr member(const struct options *o, uint32_t number)
{
	return (struct in_addr) { .s_addr = htonl(ntohl(o->net.s_addr) | number) };
}

/* "10.0.2.0/24", without bits beyond the prefix. */
static int set_net(void *arg, const char *value)
{
	struct options *o = arg;
	const char *slash = strchr(value, '/');
	char addr[INET_ADDRSTRLEN];
	uint64_t prefix;

	if (!slash || (size_t)(slash - value) >= sizeof(addr) ||
	    parse_u64(slash + 1, PREFIX_MIN, PREFIX_MAX, &prefix))
		return -EINVAL;
	snprintf(addr, sizeof(addr), "%.*s", (int)(slash - value), value);
	if (inet_pton(AF_INET, addr, &o->net) != 1)
		return -EINVAL;
	o->mask.s_addr = htonl(~0U << (32 - prefix));
	if (o->net.s_addr & ~o->mask.s_addr)
		return -EINVAL;
	/* An address of no network, of this host, or of a group can't be the guest's. */
	return (ntohl(o->net.s_addr) >> 24) - 1 < 223 && ntohl(o->net.s_addr) >> 24 != 127 ? 0 : -EINVAL;
}

static int set_dns(void *arg, const char *value)
{
	struct options *o = arg;

	o->dns_word = value;
	return inet_pton(AF_INET, value, &o->dns) == 1 ? 0 : -EINVAL;
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

int options_parse_forward(const char *word, struct forward *out)
{
	const char *host = word + 4, *dash = strchr(word, '-');
	int err;

	/* Nobody but this host, unless said. */
	*out = (struct forward) { .word = word, .host.s_addr = htonl(INADDR_LOOPBACK) };
	if (strncmp(word, "tcp:", 4) && strncmp(word, "udp:", 4))
		return -EINVAL;
	out->udp = word[0] == 'u';
	if (!dash)
		return -EINVAL;
	err = parse_end(host, (size_t)(dash - host), &out->host, &out->host_port);
	return err ? err : parse_end(dash + 1, strlen(dash + 1), &out->guest, &out->guest_port);
}

static int set_hostfwd(void *arg, const char *value)
{
	struct options *o = arg;

	if (o->forwards == OPTIONS_FORWARDS_MAX)
		return -E2BIG;
	return options_parse_forward(value, &o->forward[o->forwards++]) ? -EINVAL : 1;
}

/* ---- destinations ---- */

/* "PORT" or "PORT-PORT". */
static int parse_ports(char *word, struct allow *out)
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
static bool is_network(const struct allow *a)
{
	for (unsigned bit = a->prefix; bit < (a->family == AF_INET ? 32 : 128); bit++)
		if (a->addr[bit / 8] & (0x80 >> bit % 8))
			return false;
	return true;
}

/* "ADDR" or "ADDR/PREFIX". */
static int parse_cidr(char *word, struct allow *out)
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

int options_parse_allow(const char *word, struct allow *out)
{
	char buf[INET6_ADDRSTRLEN + 32], *cidr = buf, *end, *ports = NULL;
	size_t len = strlen(word);

	*out = (struct allow) { .family = AF_INET, .port_max = 65535 };
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

static int set_allow(void *arg, const char *value)
{
	struct options *o = arg;

	if (o->allows == OPTIONS_ALLOWS_MAX)
		return -E2BIG;
	return options_parse_allow(value, &o->allow[o->allows++]) ? -EINVAL : 1;
}

/* ---- the table ---- */

static const struct server_option table[] = {
	{ "packet-fd", "N", "Exchange frames on this inherited SOCK_SEQPACKET socket.",
	  "a descriptor from 3 to 1023", set_packet_fd },
	{ "hostfwd", "RULE", "Forward a port: tcp|udp:[ADDR]:PORT-[GUESTADDR]:PORT.",
	  "tcp|udp:[ADDR]:PORT-[GUESTADDR]:PORT (ADDR: 127.0.0.1 if empty), at most 64 times", set_hostfwd },
	{ "restrict", "on|off", "Let the guest talk to allowed destinations only (off).", "on or off",
	  set_restrict },
	{ "allow", "DEST", "A destination for a restricted guest: CIDR[:PORT[-PORT]][/tcp|udp].",
	  "CIDR[:PORT[-PORT]][/tcp|udp], IPv6 as [ADDR/PREFIX], at most 64 times", set_allow },
	{ "net", "CIDR", "Network of the guest (10.0.2.0/24).",
	  "an IPv4 network and its prefix from 8 to 27, like 10.0.2.0/24", set_net },
	{ "dns", "ADDR", "Address at which the guest sees the host's name server (10.0.2.3).",
	  "an IPv4 address", set_dns },
	{ "ipv6", "on|off", "Offer IPv6, too (off).", "on or off", set_ipv6 },
	{ "hostname", "NAME", "Name that DHCP gives the guest.", "a host name of at most 63 characters",
	  set_hostname },
	{ "mtu", "BYTES", "Largest IP packet sent to the guest (1500).", "a number from 576 to 65521",
	  set_mtu },
	{ .name = NULL },
};

/* What only makes sense together. */
static int check(struct options *o)
{
	if (o->packet_fd < 0) {
		log_error("--packet-fd is needed");
		return 2;
	}
	if (o->allows && !o->restricted) {
		log_error("--allow needs --restrict on");
		return 2;
	}
	if (o->dns_word && ((o->dns.s_addr & o->mask.s_addr) != o->net.s_addr ||
			    o->dns.s_addr == o->gateway.s_addr || o->dns.s_addr == o->guest.s_addr)) {
		log_error("--dns %s: must be a free address of the guest's network", o->dns_word);
		return 2;
	}
	for (unsigned i = 0; i < o->forwards; i++) {
		struct forward *f = &o->forward[i];

		if (!f->guest.s_addr)
			f->guest = o->guest;
		if ((f->guest.s_addr & o->mask.s_addr) == o->net.s_addr &&
		    f->guest.s_addr != o->gateway.s_addr && f->guest.s_addr != o->dns.s_addr)
			continue;
		log_error("--hostfwd %s: the guest's address must be one of its network", f->word);
		return 2;
	}
	return -1;
}

int options_parse(int argc, char **argv, struct options *opts)
{
	const struct option_set set = {
		.program = "net-user",
		.summary = "connect a guest to the host's network without privileges",
		.usage = "--packet-fd N",
		.table = { { table, opts, false }, { child_option_table, &opts->common, false } },
	};
	int status;

	*opts = (struct options) { .packet_fd = -1,
				   .common = { .id = "user", .sandbox = true, .flight_fd = -1 },
				   .mtu = 1500,
				   .net.s_addr = htonl(0x0a000200),
				   .mask.s_addr = htonl(0xffffff00) };
	status = option_parse(argc, argv, &set);
	if (status >= 0)
		return status;
	opts->gateway = member(opts, GATEWAY_HOST);
	opts->guest = member(opts, GUEST_HOST);
	if (!opts->dns_word)
		opts->dns = member(opts, DNS_HOST);
	return check(opts);
}
