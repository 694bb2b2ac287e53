/* SPDX-License-Identifier: Apache-2.0 */
/* What the command line says. */
#ifndef NET_USER_OPTIONS_H
#define NET_USER_OPTIONS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "child_options.h"

#define OPTIONS_FORWARDS_MAX 64
#define OPTIONS_ALLOWS_MAX   64

/* --hostfwd: connections or datagrams to a port of the host go to the guest. */
struct forward {
	const char *word; /* as given */
	bool udp;
	struct in_addr host, guest; /* guest 0: the one that DHCP gives */
	uint16_t host_port, guest_port;
};

/* --allow: a destination that a restricted guest may begin to talk to. */
struct allow {
	int family;
	uint8_t addr[16]; /* 4 bytes of it for AF_INET */
	unsigned prefix;
	uint16_t port_min, port_max; /* 0 and 65535: any, and ping */
	uint8_t protocol;            /* IPPROTO_TCP, IPPROTO_UDP, or 0: any */
};

struct options {
	struct child_options common;
	int packet_fd;
	bool restricted;
	bool ipv6;
	unsigned mtu;
	const char *hostname; /* or NULL */
	/* The guest's network and who is who in it. */
	struct in_addr net, mask, gateway, dns, guest;
	const char *dns_word; /* --dns, or NULL */
	struct forward forward[OPTIONS_FORWARDS_MAX];
	unsigned forwards;
	struct allow allow[OPTIONS_ALLOWS_MAX];
	unsigned allows;
};

/* Fills *opts. -1 to go on, else the exit status: 0 after --help, 2 after an error, which is logged. */
int options_parse(int argc, char **argv, struct options *opts);

/* The single parts; 0 or -errno. */
int options_parse_forward(const char *word, struct forward *out);
int options_parse_allow(const char *word, struct allow *out);

#endif
