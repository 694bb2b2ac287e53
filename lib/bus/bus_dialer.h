/* SPDX-License-Identifier: Apache-2.0 */
/* Connects to a unix socket, trying until somebody listens there. The loop's thread; nothing blocks. */
#ifndef BUS_DIALER_H
#define BUS_DIALER_H

#include <nng/nng.h>

#include "loop.h"

struct bus_dialer;

/* Takes over the stream. The dialer may be freed in it. */
typedef void (*bus_dialer_fn)(void *arg, nng_stream *stream);

/* -ENAMETOOLONG, -ENOMEM. */
int bus_dialer_new(struct loop *loop, const char *path, bus_dialer_fn fn, void *arg, struct bus_dialer **out);
/* NULL is ignored. */
void bus_dialer_free(struct bus_dialer *dialer);

/* Tries until it can call fn, once: at first at once, later each time after a longer pause, up to a second. */
void bus_dialer_dial(struct bus_dialer *dialer);
/* The pauses begin anew: who was connected to is who was looked for. */
void bus_dialer_settled(struct bus_dialer *dialer);

#endif
