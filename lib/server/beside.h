/* SPDX-License-Identifier: Apache-2.0 */
/* A program of ours beside a server that was started by hand: what a supervisor would start with it. */
#ifndef SERVER_BESIDE_H
#define SERVER_BESIDE_H

#include <stdbool.h>

struct beside {
	const char *program;     /* "net-user" */
	const char *option;      /* that needs it, for log lines: "--user" */
	const char *const *argv; /* ended by NULL */
	bool sandbox;
};

/* Starts it with the host's network and fd as its descriptor 3; it ends with the caller. Logs why not. 0 or -errno. */
int beside_start(const struct beside *beside, int fd, int *pidfd);

#endif
