/* SPDX-License-Identifier: Apache-2.0 */
/* What a process that a person started needs around it: a socket to listen on, and a guardian outside of its sandbox. */
#ifndef SERVER_LISTEN_H
#define SERVER_LISTEN_H

#include <stdbool.h>

#define LISTEN_SOCKETS_MAX 16

/* Binds and listens, in place of a stale socket; logs why not. The descriptor or -errno. */
int listen_open(const char *path);

struct listen_guard {
	const char *path[LISTEN_SOCKETS_MAX]; /* sockets to remove at the end, then NULL */
	bool sandboxed;
	bool host_network; /* sandbox.h: sandbox_fork */
};

/*
 * Splits off the process that does the work, in namespaces of its own if sandboxed. In the child it returns 0
 * and *life reads end-of-file once the child is to end. The parent stays outside as its guardian: it ends it
 * on SIGTERM or SIGINT, removes the sockets, and never returns but with an error, which is logged.
 */
int listen_guard(const struct listen_guard *guard, int *life);

#endif
