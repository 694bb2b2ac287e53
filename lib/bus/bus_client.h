/* SPDX-License-Identifier: Apache-2.0 */
/* A connection for who has no loop: every call blocks until it is done, or until end_ns. */
#ifndef BUS_CLIENT_H
#define BUS_CLIENT_H

#include "bus_wire.h"

struct bus_client;

/* Connects. -ENOENT or -ECONNREFUSED if nobody listens on path, -ENAMETOOLONG, -ETIMEDOUT. */
int bus_client_open(const char *path, size_t recv_max, uint64_t end_ns, struct bus_client **out);
/* NULL is ignored. */
void bus_client_close(struct bus_client *client);

/* -EPIPE if the other side is gone, -ETIMEDOUT. m stays the caller's. */
int bus_client_send(struct bus_client *client, const struct bus_wire_message *m, uint64_t end_ns);

/* The next message, valid until the next call. -EPIPE, -ETIMEDOUT; -EMSGSIZE if it is too long, for ever. */
int bus_client_receive(struct bus_client *client, uint64_t end_ns, const uint8_t **data, size_t *len);

#endif
