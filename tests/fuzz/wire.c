/* SPDX-License-Identifier: Apache-2.0 */
/* The connection, descriptors, and messages by hand. */
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fd.h"

#define LOOKED_AT 128 /* more than an input has open: descriptors are given out lowest first */

static int fds[8];
static unsigned at_first;

static void make(void)
{
	int pipes[2], pair[2];

	MUST(pipe(pipes) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	fds[0] = fd_sealed_memfd("ram", WIRE_RAM);
	fds[1] = eventfd(0, EFD_NONBLOCK);
	fds[2] = fd_sealed_memfd("small", 100);
	fds[3] = memfd_create("open", MFD_CLOEXEC); /* it may shrink */
	fds[4] = pipes[0];
	fds[5] = pair[0];
	fds[6] = eventfd(0, 0);
	fds[7] = open("/dev/null", O_RDWR);
	for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
		MUST(fds[i] >= 0);
	MUST(ftruncate(fds[3], WIRE_RAM) == 0);
}

int wire_fd(unsigned kind)
{
	if (!fds[0])
		make();
	return fds[kind % ARRAY_SIZE(fds)];
}

static unsigned count_open(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < LOOKED_AT; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

int wire_begin(struct loop **loop, int *sock)
{
	int pair[2];

	wire_fd(0);
	at_first = count_open();
	MUST(loop_new("fuzz", loop) == 0);
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	*sock = pair[0];
	return pair[1];
}

void wire_end(struct loop *loop)
{
	loop_free(loop);
	MUST(count_open() == at_first);
}

void wire_send(int sock, const struct vhost_msg *msg, size_t len, const int *with, unsigned n)
{
	ssize_t sent = fd_send(sock, &msg->hdr, len, with, n);

	MUST(sent >= 0 || sent == -EAGAIN || sent == -EPIPE || sent == -ECONNRESET);
}

bool wire_receive(int sock, struct vhost_msg *msg, int *fd)
{
	struct vhost_transfer t = { .done = 0 };
	int got = vhost_msg_recv(sock, &t);

	*fd = -1;
	if (got != 1) {
		vhost_msg_drop_fds(&t.msg);
		return false;
	}
	*msg = t.msg;
	if (msg->n_fds) {
		*fd = msg->fds[0];
		msg->fds[0] = -1;
	}
	vhost_msg_drop_fds(msg);
	return true;
}
