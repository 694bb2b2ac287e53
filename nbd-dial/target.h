/* SPDX-License-Identifier: Apache-2.0 */
/* The NBD server's addresses, found once, and connections to it. */
#ifndef NBD_DIAL_TARGET_H
#define NBD_DIAL_TARGET_H

#include <sys/socket.h>

#include "nbd_uri.h"

#define TARGET_ADDRESSES 8

struct target {
	struct sockaddr_storage addr[TARGET_ADDRESSES];
	socklen_t len[TARGET_ADDRESSES];
	unsigned n;
};

/* Finds the addresses of a host. Logs why not. May block. 0 or -errno. */
int target_find(struct target *t, const struct nbd_uri *uri);

/* The one address of a server on this host, whose socket has this path as this process sees it. 0 or -errno. */
int target_set_path(struct target *t, const char *path);

/* Connects to the first that answers, within ms milliseconds all together. The socket, non-blocking, or -errno. Any thread. */
int target_connect(const struct target *t, int ms);

#endif
