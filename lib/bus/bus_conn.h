/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection that carries messages: nng's byte stream over a unix socket, each message behind its length (4 bytes, big
 * endian). All functions are for the loop's thread; nng's threads only post to the loop. None waits for the peer but
 * bus_conn_flush, and bus_conn_free waits for a callback of nng's that is under way.
 */
#ifndef BUS_CONN_H
#define BUS_CONN_H

#include <nng/nng.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus_wire.h"
#include "loop.h"

#define BUS_CONN_SEND_MAX 64 /* messages that may wait to be sent */

struct bus_conn;

/* The connection may be freed in each of these. */
struct bus_conn_ops {
	/* A message came; data is valid during the call. */
	void (*message)(void *arg, struct bus_conn *conn, const uint8_t *data, size_t len);
	/* It is over, for the peer is gone or announced too long a message; all that came before was handed over. */
	void (*ended)(void *arg, struct bus_conn *conn);
};

/* Takes over stream, even if this fails. A message of more than recv_max bytes ends it. Hands over nothing yet. */
int bus_conn_new(struct loop *loop, nng_stream *stream, size_t recv_max, const struct bus_conn_ops *ops,
		 void *arg, struct bus_conn **out);
/* Closes at once: what was not sent is lost. NULL is ignored. */
void bus_conn_free(struct bus_conn *conn);

/* Whether messages are handed over. While they are not, they wait here, as many as the largest message has bytes; who sends
 * more is hung up on. */
void bus_conn_read(struct bus_conn *conn, bool on);

/* Sends a message, or has it wait. Takes over m unless it fails: -EAGAIN if too many wait, -EPIPE. */
int bus_conn_send(struct bus_conn *conn, struct bus_wire_message *m);

/* Waits until all has left this process; -ETIMEDOUT, or -EPIPE. For last words: nothing is read meanwhile. */
int bus_conn_flush(struct bus_conn *conn, uint64_t end_ns);

#endif
