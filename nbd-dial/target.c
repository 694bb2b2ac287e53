/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD server's addresses and connections to it. A connection whose other end has gone silent is given up by the kernel
 * after about as long as a server is waited for, however little is sent over it.
 */
#include "target.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "log.h"
#include "num.h"

#define IDLE_S     10
#define INTERVAL_S 5
#define PROBES     3
#define UNACKED_MS 25000

int target_find(struct target *t, const struct nbd_uri *uri)
{
	/* There is no /etc/hosts in the sandbox. */
	const char *host = strcmp(uri->host, "localhost") ? uri->host : NULL;
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
	int err = getaddrinfo(host, uri->port, &hints, &list);

	if (err) {
		log_error("--uri: the address of %s can't be found: %s", uri->host, gai_strerror(err));
		return -EHOSTUNREACH;
	}
	for (const struct addrinfo *a = list; a && t->n < TARGET_ADDRESSES; a = a->ai_next) {
		if (a->ai_addrlen > sizeof(t->addr[0]))
			continue;
		memcpy(&t->addr[t->n], a->ai_addr, a->ai_addrlen);
		t->len[t->n++] = a->ai_addrlen;
	}
	freeaddrinfo(list);
	return t->n ? 0 : -EHOSTUNREACH;
}

int target_set_path(struct target *t, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path));
	memcpy(&t->addr[0], &addr, sizeof(addr));
	t->len[0] = sizeof(addr);
	t->n = 1;
	return 0;
}

static int set_option(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int set_options(int fd)
{
	int err = set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);

	if (!err)
		err = set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	if (!err)
		err = set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, IDLE_S);
	if (!err)
		err = set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, INTERVAL_S);
	if (!err)
		err = set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, PROBES);
	return err ? err : set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKED_MS);
}

/* Waits for a connection that was begun. */
static int finish(int fd, uint64_t end)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	socklen_t len = sizeof(int);
	int err = 0;

	for (uint64_t now = clock_ns(); now < end; now = clock_ns()) {
		if (poll(&p, 1, (int)((end - now) / NS_PER_MS) + 1) <= 0)
			continue;
		return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 ? -errno : -err;
	}
	return -ETIMEDOUT;
}

static int connect_to(const struct sockaddr_storage *addr, socklen_t len, uint64_t end)
{
	CLEAN_FD int fd = socket(addr->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int err;

	if (fd < 0)
		return -errno;
	err = addr->ss_family == AF_UNIX ? 0 : set_options(fd);
	if (!err && connect(fd, (const struct sockaddr *)addr, len) < 0)
		err = errno == EINPROGRESS ? finish(fd, end) : -errno;
	return err ? err : take_fd(&fd);
}

int target_connect(const struct target *t, int ms)
{
	uint64_t end = clock_ns() + (uint64_t)ms * NS_PER_MS;
	int fd = -EHOSTUNREACH;

	for (unsigned i = 0; i < t->n && fd < 0; i++)
		fd = connect_to(&t->addr[i], t->len[i], end);
	return fd;
}
