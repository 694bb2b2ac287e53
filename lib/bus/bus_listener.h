/* SPDX-License-Identifier: Apache-2.0 */
/* Whoever connects to a unix socket. The loop's thread; nothing blocks. */
#ifndef BUS_LISTENER_H
#define BUS_LISTENER_H

#include <nng/nng.h>

#include "loop.h"

struct bus_listener;

/* Takes over the stream. The listener may be freed in it. */
typedef void (*bus_listener_fn)(void *arg, nng_stream *stream);

/*
 * Listens on the unix socket path with the permissions mode; a socket there that nobody listens on is replaced.
 * -ENAMETOOLONG, -EADDRINUSE if something else is there or somebody listens, -errno.
 */
int bus_listener_new(struct loop *loop, const char *path, unsigned mode, bus_listener_fn fn, void *arg,
		     struct bus_listener **out);
/* Removes the socket. NULL is ignored. */
void bus_listener_free(struct bus_listener *listener);

#endif
