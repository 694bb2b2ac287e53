/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's network as net-user makes it: the values that say how it is to be, of which its options and the supervisor's
 * --net are made, and what of them goes together. So the supervisor refuses before anything starts what net-user would.
 */
#ifndef BASE_USERNET_H
#define BASE_USERNET_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#define USERNET_FORWARDS_MAX 64
#define USERNET_ALLOWS_MAX   64
#define USERNET_PREFIX_MIN   8
#define USERNET_PREFIX_MAX   27 /* so that the guest's address is in it */
#define USERNET_HOSTNAME_MAX 63

/* What each value must be, for people. */
#define USERNET_NET_FORM                                                                                     \
	"an IPv4 network like 10.0.2.0/24: 8 to 27 bits, the others 0, and none of 0.0.0.0/8, 127.0.0.0/8 "  \
	"and 224.0.0.0/3"
#define USERNET_DNS_FORM      "an IPv4 address"
#define USERNET_HOSTNAME_FORM "a host name: 1 to 63 of a-z A-Z 0-9 - ."
#define USERNET_FORWARD_FORM                                                                                 \
	"tcp|udp:[ADDR]:PORT-[GUESTADDR]:PORT with IPv4 addresses (ADDR: 127.0.0.1 if empty) "               \
	"and ports from 1 to 65535"
#define USERNET_ALLOW_FORM                                                                                   \
	"CIDR[:PORT[-PORT]][/tcp|udp] in numbers (ports 1 to 65535), IPv6 as [ADDR/PREFIX], no bit set "     \
	"past the prefix"

/* Connections or datagrams to a port of the host go to the guest. */
struct usernet_forward {
	const char *word; /* as given */
	bool udp;
	struct in_addr host, guest; /* guest 0: the one that DHCP gives, until usernet_finish */
	uint16_t host_port, guest_port;
};

/* A destination that a restricted guest may begin to talk to. */
struct usernet_allow {
	int family;
	uint8_t addr[16]; /* 4 bytes of it for AF_INET */
	unsigned prefix;
	uint16_t port_min, port_max; /* 0 and 65535: any, and ping */
	uint8_t protocol;            /* IPPROTO_TCP, IPPROTO_UDP, or 0: any */
};

struct usernet {
	struct in_addr addr, mask, gateway, dns,
	    guest;            /* who is who; without a dns_word dns is from usernet_finish on */
	const char *dns_word; /* as given, or NULL */
	const char *hostname; /* or NULL */
	struct usernet_forward forward[USERNET_FORWARDS_MAX];
	unsigned forwards;
	struct usernet_allow allow[USERNET_ALLOWS_MAX];
	unsigned allows;
};

/* What does not go with the rest; why completes a line that begins with the value. */
struct usernet_fault {
	const char *key, *value, *why;
};

/* 10.0.2.0/24, of which nothing is said. */
void usernet_init(struct usernet *u);

/* Each takes one value, which is kept by reference. 0, or -EINVAL, or -E2BIG for one too many. */
int usernet_set_net(struct usernet *u, const char *value);
int usernet_set_dns(struct usernet *u, const char *value);
int usernet_set_hostname(struct usernet *u, const char *value);
int usernet_add_forward(struct usernet *u, const char *value);
int usernet_add_allow(struct usernet *u, const char *value);

/* Fills in what was not said. -EINVAL and *fault if values don't go together. */
int usernet_finish(struct usernet *u, struct usernet_fault *fault);

/* A single forwarding; 0 or -EINVAL. */
int usernet_parse_forward(const char *word, struct usernet_forward *out);

/* Whether two want the same port of the host. */
bool usernet_is_same_port(const struct usernet_forward *a, const struct usernet_forward *b);

#endif
