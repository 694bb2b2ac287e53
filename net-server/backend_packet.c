/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A socket whose datagrams are Ethernet frames (SOCK_SEQPACKET): what joins net-server to net-user. A frame is read whole
 * or not at all, so both ends outlive the processes that use them.
 */
#include <errno.h>
#include <sys/socket.h>

#include "backend.h"
#include "log.h"

static int packet_send(struct backend *b, unsigned pair, struct iovec *iov, int n)
{
	/* The header is the first vector by itself: tx.c sees to that. */
	if (backend_writev(b->fd[pair], iov + 1, n - 1) >= 0)
		return 0;
	return errno == ECONNRESET ? -EPIPE : -errno;
}

static ssize_t packet_receive(struct backend *b, unsigned pair, const struct iovec *iov, int n)
{
	ssize_t len = backend_readv(b->fd[pair], iov, n);

	if (len > 0)
		return len;
	/* A datagram of no bytes looks like the end, and nobody has a reason to send one. */
	return len == 0 || errno == ECONNRESET ? -EPIPE : -errno;
}

static const struct backend_ops packet_ops = {
	.name = "packet",
	.send = packet_send,
	.receive = packet_receive,
	.close = backend_close_fds,
};

int backend_open_packet(struct backend *b, int fd)
{
	socklen_t len = sizeof(int);
	int type = 0, err;

	if (b->pairs != 1) {
		log_error("--packet-fd has one queue, and --queues says %u", b->pairs);
		return -EINVAL;
	}
	err = backend_take_fd(fd, "packet-fd");
	if (err)
		return err;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET) {
		log_error("--packet-fd %d: must be a connected SOCK_SEQPACKET socket", fd);
		return -EINVAL;
	}
	b->ops = &packet_ops;
	b->name = "of --packet-fd";
	b->fd[0] = fd;
	return 0;
}
