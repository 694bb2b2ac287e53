/* SPDX-License-Identifier: Apache-2.0 */
/* The command line. */
#include "options.h"

#include "log.h"
#include "mtu.h"
#include "option.h"

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

/* ---- what usernet.c knows ---- */

static int set_hostname(void *arg, const char *value)
{
	return usernet_set_hostname(&((struct options *)arg)->net, value);
}

static int set_net(void *arg, const char *value)
{
	return usernet_set_net(&((struct options *)arg)->net, value);
}

static int set_dns(void *arg, const char *value)
{
	return usernet_set_dns(&((struct options *)arg)->net, value);
}

static int set_hostfwd(void *arg, const char *value)
{
	int err = usernet_add_forward(&((struct options *)arg)->net, value);

	return err ? err : 1;
}

static int set_allow(void *arg, const char *value)
{
	int err = usernet_add_allow(&((struct options *)arg)->net, value);

	return err ? err : 1;
}

/* ---- the table ---- */

static const struct server_option table[] = {
	{ "packet-fd", "N", "Exchange frames on this inherited SOCK_SEQPACKET socket.",
	  "a descriptor from 3 to 1023", set_packet_fd },
	{ "hostfwd", "RULE", "Forward a port: tcp|udp:[ADDR]:PORT-[GUESTADDR]:PORT.",
	  USERNET_FORWARD_FORM ", at most 64 times", set_hostfwd },
	{ "restrict", "on|off", "Let the guest talk to allowed destinations only (off).", "on or off",
	  set_restrict },
	{ "allow", "DEST", "A destination for a restricted guest: CIDR[:PORT[-PORT]][/tcp|udp].",
	  USERNET_ALLOW_FORM ", at most 64 times", set_allow },
	{ "net", "CIDR", "Network of the guest (10.0.2.0/24).", USERNET_NET_FORM, set_net },
	{ "dns", "ADDR", "Address at which the guest sees the host's name server (10.0.2.3).",
	  USERNET_DNS_FORM, set_dns },
	{ "ipv6", "on|off", "Offer IPv6, too (off).", "on or off", set_ipv6 },
	{ "hostname", "NAME", "Name that DHCP gives the guest.", USERNET_HOSTNAME_FORM, set_hostname },
	{ "mtu", "BYTES", "Largest IP packet sent to the guest (1500).", "a number from 576 to 65521",
	  set_mtu },
	{ .name = NULL },
};

/* What only makes sense together. */
static int check(struct options *o)
{
	struct usernet_fault fault;

	if (o->packet_fd < 0) {
		log_error("--packet-fd is needed");
		return 2;
	}
	if (o->net.allows && !o->restricted) {
		log_error("--allow needs --restrict on");
		return 2;
	}
	if (usernet_finish(&o->net, &fault)) {
		log_error("--%s %s: %s", fault.key, fault.value, fault.why);
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
				   .mtu = 1500 };
	usernet_init(&opts->net);
	status = option_parse(argc, argv, &set);
	return status >= 0 ? status : check(opts);
}
