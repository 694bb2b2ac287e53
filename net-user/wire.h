/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket to net-server: one datagram for each frame, either way.
 *
 * Back-pressure. What the other end does not read yet is kept here, up to a bound; wire_is_full says from the first such
 * frame on that nothing more should be fetched from the host's sockets, whose senders TCP then holds back. Past the bound
 * frames are dropped and counted, as any network does. The other end may die and another take its place on the same
 * socket: both ends are held by whoever started them, and nothing here notices.
 */
#ifndef NET_USER_WIRE_H
#define NET_USER_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define WIRE_QUEUE_FRAMES 1024
#define WIRE_QUEUE_BYTES  (2U << 20)

struct wire {
	int fd;
	struct wire_frame {
		uint8_t *data;
		size_t len;
	} queue[WIRE_QUEUE_FRAMES];
	unsigned first, count;
	size_t bytes;
	bool gone;        /* the other end is closed for good */
	uint64_t dropped; /* frames for the guest that found no room */
};

/* Takes fd, which is checked: -ENOTSOCK, -ESOCKTNOSUPPORT. */
int wire_init(struct wire *w, int fd);
void wire_fini(struct wire *w);

/* The next frame into buf of size bytes: its length (more than size: it is longer than that and cut), 0 for an empty
 * datagram or none, with *none telling which. -errno: the other end is gone. */
ssize_t wire_receive(struct wire *w, void *buf, size_t size, bool *none);

void wire_send(struct wire *w, const void *data, size_t len);

/* Sends what waits, as far as the socket takes it. */
void wire_flush(struct wire *w);

static inline bool wire_is_full(const struct wire *w)
{
	return w->count > 0;
}

#endif
