/* SPDX-License-Identifier: Apache-2.0 */
/* Frames over a SOCK_SEQPACKET socket. */
#include "wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fd.h"

#define SEND_BUFFER (1 << 20) /* asked for; the host's limit may be lower */

int wire_init(struct wire *w, int fd)
{
	int type = 0, size = SEND_BUFFER, err;
	socklen_t len = sizeof(type);

	w->fd = fd;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return -errno;
	if (type != SOCK_SEQPACKET)
		return -ESOCKTNOSUPPORT;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	err = fd_set_cloexec(fd, true);
	return err;
}

void wire_fini(struct wire *w)
{
	for (; w->count; w->count--)
		free(w->queue[w->first++ % WIRE_QUEUE_FRAMES].data);
}

ssize_t wire_receive(struct wire *w, void *buf, size_t size, bool *none)
{
	ssize_t n = recv(w->fd, buf, size, MSG_DONTWAIT | MSG_TRUNC);

	*none = n < 0 && (errno == EAGAIN || errno == EINTR);
	return n >= 0 ? n : *none ? 0 : -errno;
}

/* Hands a frame to the socket. False if it has to wait. */
static bool hand_over(struct wire *w, const void *data, size_t len)
{
	if (send(w->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return true;
	if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM || errno == EINTR)
		return false;
	w->gone = w->gone || errno == EPIPE || errno == ECONNRESET;
	w->dropped++;
	return true;
}

void wire_flush(struct wire *w)
{
	while (w->count) {
		struct wire_frame *f = &w->queue[w->first % WIRE_QUEUE_FRAMES];

		if (!hand_over(w, f->data, f->len))
			return;
		free(f->data);
		w->bytes -= f->len;
		w->first++;
		w->count--;
	}
}

void wire_send(struct wire *w, const void *data, size_t len)
{
	struct wire_frame *f = &w->queue[(w->first + w->count) % WIRE_QUEUE_FRAMES];

	if (!w->count && hand_over(w, data, len))
		return;
	if (w->count == WIRE_QUEUE_FRAMES || w->bytes + len > WIRE_QUEUE_BYTES || !(f->data = malloc(len))) {
		w->dropped++;
		return;
	}
	memcpy(f->data, data, len);
	f->len = len;
	w->bytes += len;
	w->count++;
}
