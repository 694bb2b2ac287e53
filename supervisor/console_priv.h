/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a console, shared by its files. */
#ifndef SUPERVISOR_CONSOLE_PRIV_H
#define SUPERVISOR_CONSOLE_PRIV_H

#include <stdint.h>

#include "console.h"

#define RING_SIZE 65536U

struct ring {
	uint32_t head, len;
	char bytes[RING_SIZE];
};

/* A descriptor and what it is watched for. */
struct end {
	int fd;
	uint32_t events;
	struct loop_fd *watch;
	bool always; /* epoll can't watch it (a regular file): it never waits */
};

struct console {
	enum vmconf_console kind;
	struct loop *loop;
	struct end core, in, out, listener; /* in is unused where out reads, too */
	int slave_fd;                       /* our own copy, so that the pty has a reader to the kernel */
	bool lossy;                         /* forget the oldest rather than wait for a reader */
	bool both_ways;                     /* out is read as well */
	bool terminal, escaped;
	struct termios settings;
	char where[VMCONF_SOCKET_MAX + 1];
	char *socket_path;
	void (*on_quit)(void *arg);
	void *arg;
	struct ring to_user, to_guest;
};

#endif
