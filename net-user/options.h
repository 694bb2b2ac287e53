/* SPDX-License-Identifier: Apache-2.0 */
/* What the command line says. */
#ifndef NET_USER_OPTIONS_H
#define NET_USER_OPTIONS_H

#include <stdbool.h>

#include "child_options.h"
#include "usernet.h"

struct options {
	struct child_options common;
	int packet_fd;
	bool restricted;
	bool ipv6;
	unsigned mtu;
	struct usernet net;
};

/* Fills *opts. -1 to go on, else the exit status: 0 after --help, 2 after an error, which is logged. */
int options_parse(int argc, char **argv, struct options *opts);

#endif
