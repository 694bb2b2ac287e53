/* SPDX-License-Identifier: Apache-2.0 */
/* What --net takes. */
#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mtu.h"
#include "num.h"
#include "options_priv.h"
#include "parse.h"
#include "usernet.h"

_Static_assert(VMCONF_WORDS_MAX <= USERNET_FORWARDS_MAX && VMCONF_WORDS_MAX <= USERNET_ALLOWS_MAX,
	       "net-user takes as many");

static int net_user(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	int on = parse_on_off(value);

	if (on <= 0)
		return vmconf_refuse(error, "user=\"%s\" is not possible; allowed: user, user=on", value);
	device->net.link = LINK_USER;
	return 0;
}

/* The name of an interface: what the kernel would take, but for patterns in which it fills in a number. */
static int interface(char name[VMCONF_TAP_MAX], const char *key, const char *value,
		     struct vmconf_error *error)
{
	size_t len = strlen(value);
	bool ok = len < VMCONF_TAP_MAX && strcmp(value, ".") != 0 && strcmp(value, "..") != 0;

	for (const char *p = value; *p; p++)
		ok &= isgraph((unsigned char)*p) && !strchr("/:%", *p);
	if (!ok)
		return vmconf_refuse(
		    error,
		    "%s=\"%s\" is not an interface's name: 1 to %d characters without / : %% and spaces", key,
		    value, VMCONF_TAP_MAX - 1);
	memcpy(name, value, len + 1);
	return 0;
}

static int net_tap(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	device->net.link = LINK_TAP;
	return interface(device->net.tap, "tap", value, error);
}

static int net_bridge(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return interface(device->net.bridge, "bridge", value, error);
}

static int stream(struct vmconf_device *device, const char *key, const char *value,
		  struct vmconf_error *error)
{
	if (strlen(value) > VMCONF_SOCKET_MAX)
		return vmconf_refuse(error, "%s=\"%s\" has %zu bytes; a socket's path can have %d", key,
				     value, strlen(value), VMCONF_SOCKET_MAX);
	return options_keep(&device->net.stream, value, error);
}

static int net_stream(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	device->net.link = LINK_STREAM;
	return stream(device, "stream", value, error);
}

static int net_listen(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	device->net.link = LINK_LISTEN;
	return stream(device, "listen", value, error);
}

static int net_mac(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	int err = parse_mac(value, device->net.mac);

	if (err == -ERANGE)
		return vmconf_refuse(
		    error, "mac=\"%s\" is a group's address; one with an even first byte is needed", value);
	if (err == -EADDRNOTAVAIL)
		return vmconf_refuse(
		    error, "mac=\"%s\" is nobody's address; one that is not all zeroes is needed", value);
	if (err)
		return vmconf_refuse(error, "mac=\"%s\" is not an address like 52:54:00:12:34:56", value);
	device->net.own_mac = true;
	return 0;
}

static int net_mtu(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	uint64_t v;

	if (parse_u64(value, MTU_MIN, MTU_MAX, &v))
		return vmconf_refuse(error, "mtu=\"%s\" is not a number from %d to %d", value, MTU_MIN,
				     MTU_MAX);
	device->net.mtu = (unsigned)v;
	return 0;
}

static int net_restrict(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	int on = parse_on_off(value);

	if (on < 0)
		return vmconf_refuse(error, "restrict=\"%s\" is not possible; allowed: on, off", value);
	device->net.restricted = on;
	return 0;
}

static int add_word(struct vmconf_words *words, const char *key, const char *value,
		    struct vmconf_error *error)
{
	if (words->n == VMCONF_WORDS_MAX)
		return vmconf_refuse(error, "%s=\"%s\" is one too many; at most %d are possible", key, value,
				     VMCONF_WORDS_MAX);
	words->word[words->n] = strdup(value);
	return words->word[words->n++] ? 0 : vmconf_refuse(error, "out of memory");
}

static int net_hostfwd(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return add_word(&device->net.forwards, "hostfwd", value, error);
}

static int net_allow(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return add_word(&device->net.allowed, "allow", value, error);
}

static int net_ipv6(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	int on = parse_on_off(value);

	if (on < 0)
		return vmconf_refuse(error, "ipv6=\"%s\" is not possible; allowed: on, off", value);
	device->net.ipv6 = on;
	return 0;
}

static int net_subnet(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return options_keep(&device->net.subnet, value, error);
}

static int net_dns(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return options_keep(&device->net.dns, value, error);
}

static int net_hostname(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return options_keep(&device->net.hostname, value, error);
}

/* ---- limits ---- */

static int set_limit(struct vmconf_device *device, enum vmconf_limit limit, const char *value,
		     struct vmconf_error *error)
{
	uint64_t rate, burst;

	/* Bytes and packets have the same bounds. */
	if (quota_parse_pair(QUOTA_BPS, value, &rate, &burst))
		return vmconf_refuse(
		    error,
		    "%s=\"%s\" is not RATE[/BURST], numbers up to 1T a second and 4G at once "
		    "(suffixes K, M, G, T)",
		    vmconf_limit_names[limit], value);
	return options_keep(&device->net.limit[limit], value, error);
}

static int net_rx_bytes(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return set_limit(device, LIMIT_RX_BYTES, value, error);
}

static int net_rx_packets(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return set_limit(device, LIMIT_RX_PACKETS, value, error);
}

static int net_tx_bytes(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return set_limit(device, LIMIT_TX_BYTES, value, error);
}

static int net_tx_packets(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return set_limit(device, LIMIT_TX_PACKETS, value, error);
}

/* ---- the whole ---- */

enum {
	KEY_USER,
	KEY_TAP,
	KEY_STREAM,
	KEY_LISTEN,
	KEY_VHOST_USER,
	KEY_BRIDGE,
	KEY_HOSTFWD,
	KEY_RESTRICT,
	KEY_ALLOW,
	KEY_IPV6,
	KEY_NET,
	KEY_DNS,
	KEY_HOSTNAME,
	KEY_SPARE
};

static const struct options_key keys[] = {
	[KEY_USER] = { .key = "user", .parse = net_user, .flag = true },
	[KEY_TAP] = { .key = "tap", .parse = net_tap },
	[KEY_STREAM] = { .key = "stream", .parse = net_stream },
	[KEY_LISTEN] = { .key = "listen", .parse = net_listen },
	[KEY_VHOST_USER] = { .key = "vhost-user", .parse = options_vhost_user },
	[KEY_BRIDGE] = { .key = "bridge", .parse = net_bridge, .own = true },
	[KEY_HOSTFWD] = { .key = "hostfwd", .parse = net_hostfwd, .own = true, .repeats = true },
	[KEY_RESTRICT] = { .key = "restrict", .parse = net_restrict, .own = true },
	[KEY_ALLOW] = { .key = "allow", .parse = net_allow, .own = true, .repeats = true },
	[KEY_IPV6] = { .key = "ipv6", .parse = net_ipv6, .own = true },
	[KEY_NET] = { .key = "net", .parse = net_subnet, .own = true },
	[KEY_DNS] = { .key = "dns", .parse = net_dns, .own = true },
	[KEY_HOSTNAME] = { .key = "hostname", .parse = net_hostname, .own = true },
	[KEY_SPARE] = { .key = "spare", .parse = options_spare, .own = true },
	{ .key = "id", .parse = options_id },
	{ .key = "mac", .parse = net_mac },
	{ .key = "mtu", .parse = net_mtu, .own = true },
	{ .key = "queues", .parse = options_queues, .own = true },
	{ .key = "io-threads", .parse = options_io_threads, .own = true, .list = true },
	{ .key = "map", .parse = options_map, .own = true, .list = true },
	{ .key = "poll-max-us", .parse = options_poll_max, .own = true },
	{ .key = "rx-bytes", .parse = net_rx_bytes, .own = true },
	{ .key = "rx-packets", .parse = net_rx_packets, .own = true },
	{ .key = "tx-bytes", .parse = net_tx_bytes, .own = true },
	{ .key = "tx-packets", .parse = net_tx_packets, .own = true },
	{ .key = "restarts", .parse = options_device_restarts },
	{ .key = "on-failure", .parse = options_on_failure },
	{ .key = "hang-timeout", .parse = options_hang_timeout, .own = true },
	{ .key = NULL },
};

static const struct options_kind kind = {
	.name = "network port",
	.form = "user, tap=NAME, stream=SOCKET, listen=SOCKET or vhost-user=SOCKET, then [,KEY=VALUE...]",
	.bare = "a tap is tap=",
	.beside = "id, mac, restarts, on-failure",
	.keys = keys,
};

/* Keys that go with one sort of link alone. */
static int check_link(const struct vmconf_device *device, const bool *given, struct vmconf_error *error)
{
	const struct vmconf_net *net = &device->net;
	static const struct {
		size_t key;
		enum vmconf_link link;
		const char *with;
	} only[] = {
		{ KEY_BRIDGE, LINK_TAP, "tap" },     { KEY_HOSTFWD, LINK_USER, "user" },
		{ KEY_RESTRICT, LINK_USER, "user" }, { KEY_ALLOW, LINK_USER, "user" },
		{ KEY_IPV6, LINK_USER, "user" },     { KEY_NET, LINK_USER, "user" },
		{ KEY_DNS, LINK_USER, "user" },      { KEY_HOSTNAME, LINK_USER, "user" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(only); i++)
		if (given[only[i].key] && net->link != only[i].link)
			return vmconf_refuse(error, "\"%s\" only goes with %s", keys[only[i].key].key,
					     only[i].with);
	if (device->queues > 1 && net->link != LINK_TAP && net->link != LINK_NONE)
		return vmconf_refuse(error,
				     "queues=\"%u\" only goes with tap; a socket has one pair of queues",
				     device->queues);
	if (net->allowed.n && !net->restricted)
		return vmconf_refuse(error,
				     "\"allow\" only goes with restrict=on; without it all is allowed");
	for (size_t i = 0; i < net->allowed.n && !net->ipv6; i++)
		if (*net->allowed.word[i] == '[')
			return vmconf_refuse(
			    error, "allow=\"%s\" only goes with ipv6=on; without it the guest has IPv4 alone",
			    net->allowed.word[i]);
	return 0;
}

static int take_word(struct usernet *u, int (*take)(struct usernet *, const char *), const char *key,
		     const char *word, const char *form, struct vmconf_error *error)
{
	return word && take(u, word) ? vmconf_refuse(error, "%s=\"%s\": must be %s", key, word, form) : 0;
}

/* All that user takes, as net-user will read it. */
static int check_user(const struct vmconf_net *net, struct vmconf_error *error)
{
	struct usernet_fault fault;
	struct usernet u;

	usernet_init(&u);
	if (take_word(&u, usernet_set_net, "net", net->subnet, USERNET_NET_FORM, error) ||
	    take_word(&u, usernet_set_dns, "dns", net->dns, USERNET_DNS_FORM, error) ||
	    take_word(&u, usernet_set_hostname, "hostname", net->hostname, USERNET_HOSTNAME_FORM, error))
		return -EINVAL;
	for (size_t i = 0; i < net->forwards.n; i++)
		if (take_word(&u, usernet_add_forward, "hostfwd", net->forwards.word[i], USERNET_FORWARD_FORM,
			      error))
			return -EINVAL;
	for (size_t i = 0; i < net->allowed.n; i++)
		if (take_word(&u, usernet_add_allow, "allow", net->allowed.word[i], USERNET_ALLOW_FORM,
			      error))
			return -EINVAL;
	if (usernet_finish(&u, &fault))
		return vmconf_refuse(error, "%s=\"%s\": %s", fault.key, fault.value, fault.why);
	return 0;
}

int options_net(struct vmconf_device *device, char *value, struct vmconf_error *error)
{
	bool given[OPTIONS_KEYS_MAX] = { false };
	int links, err = options_device(device, &kind, value, given, error);

	if (err)
		return err;
	links =
	    given[KEY_USER] + given[KEY_TAP] + given[KEY_STREAM] + given[KEY_LISTEN] + given[KEY_VHOST_USER];
	if (links != 1)
		return vmconf_refuse(error,
				     "%s; one of these is needed: user, tap=NAME, stream=SOCKET, "
				     "listen=SOCKET, vhost-user=SOCKET",
				     links ? "names more than one network" : "names no network");
	if (check_link(device, given, error) || check_user(&device->net, error))
		return -EINVAL;
	if (device->net.link == LINK_USER && !device->net.mtu)
		device->net.mtu = MTU_USER;
	/* The connection of one that waits would be the peer's second one, or take the place of the first. */
	if (device->net.link == LINK_STREAM && given[KEY_SPARE] && device->spare)
		return vmconf_refuse(error,
				     "spare=\"on\" does not go with stream: a peer has one connection");
	if (device->net.link == LINK_STREAM)
		device->spare = false;
	return options_place(device, error);
}
