/* SPDX-License-Identifier: Apache-2.0 */
/* vhost-user's framing: whole messages with their descriptors, over a stream socket that gives pieces. */
#include "vhost_msg.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "fd.h"

void vhost_msg_init(struct vhost_msg *msg, uint32_t request, uint32_t flags, size_t size)
{
	memset(msg, 0, sizeof(*msg));
	msg->hdr.request = request;
	msg->hdr.flags = VHOST_HDR_VERSION | flags;
	msg->hdr.size = (uint32_t)size;
}

void vhost_msg_drop_fds(struct vhost_msg *msg)
{
	for (size_t i = 0; i < msg->n_fds; i++) {
		if (msg->fds[i] >= 0)
			close(msg->fds[i]);
	}
	msg->n_fds = 0;
}

/* Reads up to len more bytes, gathering descriptors whichever part of the message they came with. */
static int recv_piece(int fd, struct vhost_transfer *in, size_t len)
{
	struct vhost_msg *msg = &in->msg;
	size_t got = 0;
	ssize_t n = fd_recv(fd, (char *)&msg->hdr + in->done, len, msg->fds + msg->n_fds,
			    VHOST_FDS_MAX - msg->n_fds, &got);

	msg->n_fds += got;
	if (n == 0)
		return in->done ? -ECONNRESET : -ENODATA;
	if (n < 0)
		return n == -EAGAIN ? 0 : (int)n;
	in->done += (size_t)n;
	return (int)n;
}

static int recv_step(int fd, struct vhost_transfer *in)
{
	const size_t head = sizeof(in->msg.hdr);
	int n;

	if (in->done == 0)
		vhost_msg_init(&in->msg, 0, 0, 0);
	while (in->done < head) {
		n = recv_piece(fd, in, head - in->done);
		if (n <= 0)
			return n;
	}
	if (in->msg.hdr.size > sizeof(in->msg.payload))
		return -EMSGSIZE;
	while (in->done < head + in->msg.hdr.size) {
		n = recv_piece(fd, in, head + in->msg.hdr.size - in->done);
		if (n <= 0)
			return n;
	}
	return 1;
}

int vhost_msg_recv(int fd, struct vhost_transfer *in)
{
	int err = recv_step(fd, in);

	if (err < 0)
		vhost_msg_drop_fds(&in->msg);
	return err;
}

int vhost_msg_send(int fd, struct vhost_transfer *out)
{
	const size_t len = sizeof(out->msg.hdr) + out->msg.hdr.size;

	while (out->done < len) {
		ssize_t n = fd_send(fd, (char *)&out->msg.hdr + out->done, len - out->done, out->msg.fds,
				    out->done ? 0 : out->msg.n_fds);

		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return (int)n;
		out->done += (size_t)n;
	}
	return 1;
}
