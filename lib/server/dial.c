/* SPDX-License-Identifier: Apache-2.0 */
/* Asks nbd-dial for connections. */
#include "dial.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "num.h"

int dial_open(struct dial *d, int fd)
{
	int pair[2];

	*d = (struct dial) { .fd = fd, .mine = -1, .its = -1 };
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	d->mine = pair[0];
	d->its = pair[1];
	return 0;
}

void dial_close(struct dial *d)
{
	if (d->mine >= 0)
		close(d->mine);
	if (d->its >= 0)
		close(d->its);
	d->mine = d->its = -1;
}

int dial_ask(struct dial *d, enum dial_what what, unsigned slot)
{
	struct dial_question question = { .what = what, .slot = slot, .id = ++d->id };
	ssize_t n = fd_send(d->fd, &question, sizeof(question), &d->its, 1);

	return n < 0 ? (int)n : 0;
}

int dial_keep(struct dial *d, unsigned slot, int connection)
{
	struct dial_question question = { .what = DIAL_KEEP, .slot = slot };
	int fds[] = { d->its, connection };
	ssize_t n = fd_send(d->fd, &question, sizeof(question), fds, ARRAY_SIZE(fds));

	return n < 0 ? (int)n : 0;
}

bool dial_is_new(struct dial *d)
{
	bool is = false;
	uint8_t byte;

	/* At the end it is over. */
	while (recv(d->fd, &byte, sizeof(byte), MSG_DONTWAIT) > 0)
		is = true;
	return is;
}

int dial_take(struct dial *d, int *fd)
{
	struct dial_answer answer;
	size_t nfds = 0;

	*fd = -1;
	for (;;) {
		ssize_t n = fd_recv(d->mine, &answer, sizeof(answer), fd, 1, &nfds);

		if (n <= 0)
			return n < 0 ? (int)n : -EAGAIN;
		if (n == sizeof(answer) && answer.id == d->id && (answer.err < 0 || nfds == 1))
			break;
		if (nfds)
			close(*fd); /* an answer that came too late */
		*fd = -1;
		nfds = 0;
	}
	if (!answer.err)
		return 0;
	if (nfds)
		close(*fd);
	*fd = -1;
	/* A server on this host whose queue is full is no answer that has yet to come. */
	if (answer.err == -EAGAIN)
		return -EBUSY;
	return answer.err < -4095 ? -EPROTO : answer.err;
}

int dial_await(struct dial *d, int ms, int *fd)
{
	uint64_t now = clock_ns(), end = now + (uint64_t)ms * NS_PER_MS;
	struct pollfd p = { .fd = d->mine, .events = POLLIN };

	for (; now < end; now = clock_ns()) {
		int err = dial_take(d, fd);

		if (err != -EAGAIN)
			return err;
		poll(&p, 1, (int)((end - now) / NS_PER_MS) + 1);
	}
	return -ETIMEDOUT;
}
