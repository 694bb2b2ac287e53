/* SPDX-License-Identifier: Apache-2.0 */
/* File descriptors: flags, whole reads and writes, and passing them over unix sockets. */
#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "clean.h"

static int set_flag(int fd, int get, int set, int flag, bool on)
{
	int flags = fcntl(fd, get, 0);

	if (flags < 0)
		return -errno;
	flags = on ? flags | flag : flags & ~flag;
	return fcntl(fd, set, flags) < 0 ? -errno : 0;
}

int fd_set_nonblock(int fd, bool on)
{
	return set_flag(fd, F_GETFL, F_SETFL, O_NONBLOCK, on);
}

int fd_set_cloexec(int fd, bool on)
{
	return set_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, on);
}

#define FROM_POSITION (-1) /* in place of an offset */

static int read_all(int fd, char *buf, size_t len, off_t off)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = off == FROM_POSITION ? read(fd, buf + done, len - done)
						 : pread(fd, buf + done, len - done, off + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		done += (size_t)n;
	}
	return 0;
}

static int write_all(int fd, const char *buf, size_t len, off_t off)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = off == FROM_POSITION ? write(fd, buf + done, len - done)
						 : pwrite(fd, buf + done, len - done, off + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	return 0;
}

int fd_read_full(int fd, void *buf, size_t len)
{
	return read_all(fd, buf, len, FROM_POSITION);
}

int fd_pread_full(int fd, void *buf, size_t len, off_t off)
{
	return off < 0 ? -EINVAL : read_all(fd, buf, len, off);
}

int fd_write_full(int fd, const void *buf, size_t len)
{
	return write_all(fd, buf, len, FROM_POSITION);
}

int fd_pwrite_full(int fd, const void *buf, size_t len, off_t off)
{
	return off < 0 ? -EINVAL : write_all(fd, buf, len, off);
}

int fd_check_unshrinkable(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS, 0);

	if (seals < 0)
		return -errno;
	return seals & F_SEAL_SHRINK ? 0 : -EPERM;
}

int fd_connect(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	CLEAN_FD int fd = -1;

	_Static_assert(sizeof(addr.sun_path) == FD_SOCKET_MAX + 1, "a path and its NUL");
	if (strlen(path) > FD_SOCKET_MAX)
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	return take_fd(&fd);
}

int fd_check_connected(int fd)
{
	struct sockaddr_un peer;
	socklen_t len = sizeof(peer), type_len = sizeof(int);
	int type = 0, err = fd_set_cloexec(fd, true);

	if (!err && (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) < 0 ||
		     getpeername(fd, (struct sockaddr *)&peer, &len) < 0))
		err = -errno;
	return err ? err : type == SOCK_STREAM ? 0 : -ESOCKTNOSUPPORT;
}

int fd_event_set(int fd)
{
	uint64_t one = 1;
	ssize_t n;

	do
		n = write(fd, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
	return n < 0 && errno != EAGAIN ? -errno : 0;
}

void fd_event_clear(int fd)
{
	uint64_t value;
	struct iovec iov = { &value, sizeof(value) };

	(void)!preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
}

ssize_t fd_send(int sock, const void *buf, size_t len, const int *fds, size_t nfds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(FD_PASS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = (void *)(uintptr_t)buf, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (nfds > FD_PASS_MAX)
		return -E2BIG;
	if (nfds) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	do
		n = sendmsg(sock, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* Moves what a message's control data carries into fds; closes what does not fit and says so. */
static int collect_fds(struct msghdr *msg, int *fds, size_t max, size_t *nfds)
{
	bool over = msg->msg_flags & MSG_CTRUNC;

	*nfds = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (*nfds < max) {
				fds[(*nfds)++] = fd;
			} else {
				close(fd);
				over = true;
			}
		}
	}
	if (!over)
		return 0;
	while (*nfds)
		close(fds[--*nfds]);
	return -E2BIG;
}

ssize_t fd_recv(int sock, void *buf, size_t len, int *fds, size_t max, size_t *nfds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(FD_PASS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof(control.bytes) };
	ssize_t n;
	int err;

	*nfds = 0;
	do
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	err = collect_fds(&msg, fds, max, nfds);
	return err ? err : n;
}

ssize_t fd_recv_pid(int sock, void *buf, size_t len, pid_t *pid)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof(control.bytes) };
	const struct cmsghdr *c;
	struct ucred sender;
	ssize_t n;

	*pid = 0;
	do
		n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	c = CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS &&
	    c->cmsg_len == CMSG_LEN(sizeof(sender))) {
		memcpy(&sender, CMSG_DATA(c), sizeof(sender));
		*pid = sender.pid;
	}
	return n;
}

int fd_sealed_memfd(const char *name, uint64_t size)
{
	CLEAN_FD int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	return take_fd(&fd);
}
