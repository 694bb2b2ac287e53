/* SPDX-License-Identifier: Apache-2.0 */
/* What the command line of a child that is no vhost-user server says beside its own options. */
#ifndef SERVER_CHILD_OPTIONS_H
#define SERVER_CHILD_OPTIONS_H

#include <stdbool.h>

#include "option.h"

/* The program sets the defaults. */
struct child_options {
	const char *id;
	const char *bus; /* directory, or NULL */
	bool sandbox;
	bool sandbox_log; /* its filters forbid nothing, the kernel logs */
	int flight_fd;    /* -1: none */
};

/* The last of its tables, for a struct child_options: --help and --version are in it. */
extern const struct server_option child_option_table[];

struct flight;

/* The memory of its flight recorder: the supervisor's, or without one its own. Logs why not. 0 or -errno. */
int child_open_flight(const struct child_options *o, struct flight **flight);

#endif
