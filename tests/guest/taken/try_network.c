/* SPDX-License-Identifier: Apache-2.0 */
/* To reach a network, the host itself, and sockets of others. */
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "try.h"

#define FAMILIES 46

/* Sockets of some families and all types: the first that can be had. */
static long any_socket(bool (*wanted)(int family), const int *types, size_t n)
{
	long r = -EAFNOSUPPORT;

	for (int family = 0; family < FAMILIES; family++)
		for (size_t t = 0; wanted(family) && t < n; t++) {
			r = CALL(SYS_socket, family, types[t], 0);
			if (r >= 0)
				return r;
			if (r == -EINVAL)
				r = -EAFNOSUPPORT; /* nothing of that kind there */
		}
	return r;
}

static bool is_inet(int family)
{
	return family == AF_INET || family == AF_INET6;
}

static bool is_foreign(int family)
{
	return family != AF_UNIX && !is_inet(family);
}

static long inet_socket(const struct taken_page *page)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM };

	(void)page;
	return any_socket(is_inet, types, ARRAY_SIZE(types));
}

static long raw_socket(const struct taken_page *page)
{
	static const int types[] = { SOCK_RAW, SOCK_PACKET };

	(void)page;
	return any_socket(is_inet, types, ARRAY_SIZE(types));
}

static long foreign_socket(const struct taken_page *page)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_RDM, SOCK_SEQPACKET };

	(void)page;
	return any_socket(is_foreign, types, ARRAY_SIZE(types));
}

/* Of which the kernel loads the code for whoever asks. */
static long rare_socket(const struct taken_page *page)
{
	static const struct {
		int type, protocol;
	} rare[] = { { SOCK_STREAM, 262 /* MPTCP */ },
		     { SOCK_STREAM, 132 /* SCTP */ },
		     { SOCK_SEQPACKET, 132 },
		     { 6 /* SOCK_DCCP */, 33 },
		     { SOCK_DGRAM, 136 /* UDPLITE */ } };
	long r = -EPROTONOSUPPORT;

	(void)page;
	for (size_t i = 0; i < ARRAY_SIZE(rare) && r < 0; i++)
		r = CALL(SYS_socket, AF_INET, rare[i].type, rare[i].protocol);
	return r;
}

/* ---- the host's listeners ---- */

static long connect_new(int family, const void *addr, size_t len)
{
	long fd = CALL(SYS_socket, family, SOCK_STREAM, 0), r;

	if (fd < 0)
		return fd;
	r = CALL(SYS_connect, fd, addr, len);
	CALL(SYS_close, fd);
	return r;
}

static long loopback(const struct taken_page *page)
{
	const struct sockaddr_in addr = { .sin_family = AF_INET,
					  .sin_port = htons((uint16_t)page->tcp_port),
					  .sin_addr = { htonl(INADDR_LOOPBACK) } };

	return connect_new(AF_INET, &addr, sizeof(addr));
}

static size_t unix_address(struct sockaddr_un *addr, const char *path, bool abstract)
{
	*addr = (struct sockaddr_un) { .sun_family = AF_UNIX };
	snprintf(addr->sun_path + abstract, sizeof(addr->sun_path) - abstract, "%s", path);
	return offsetof(struct sockaddr_un, sun_path) + abstract + strlen(addr->sun_path + abstract) +
	       !abstract;
}

static long connect_unix(const char *path, bool abstract)
{
	struct sockaddr_un addr;
	size_t len = unix_address(&addr, path, abstract);

	return connect_new(AF_UNIX, &addr, len);
}

static long abstract(const struct taken_page *page)
{
	return connect_unix(page->abstract, true);
}

static long by_path(const struct taken_page *page)
{
	return connect_unix(page->socket, false);
}

static long neighbour(const struct taken_page *page)
{
	return connect_unix(page->neighbour, false);
}

static long above_bus(const struct taken_page *page)
{
	(void)page;
	return connect_unix("/bus/../../ctl", false);
}

static long control(const struct taken_page *page)
{
	char path[sizeof(page->neighbour)];
	size_t len = strlen(page->neighbour), slashes = 0;

	/* RUN/NAME/DEVICE/bus: the machine's own endpoint is two levels above. */
	memcpy(path, page->neighbour, len + 1);
	while (len && slashes < 2)
		slashes += path[--len] == '/';
	memcpy(path + len, "/ctl", 5);
	return connect_unix(path, false);
}

static long datagram(const struct taken_page *page)
{
	struct sockaddr_un addr;
	struct iovec iov = { .iov_base = (char[]) { "x" }, .iov_len = 1 };
	struct msghdr msg = { .msg_name = &addr,
			      .msg_namelen = (socklen_t)unix_address(&addr, page->abstract, true),
			      .msg_iov = &iov,
			      .msg_iovlen = 1 };
	long fd = CALL(SYS_socket, AF_UNIX, SOCK_DGRAM, 0), r;

	if (fd < 0)
		return fd;
	r = CALL(SYS_sendmsg, fd, &msg, 0);
	CALL(SYS_close, fd);
	/* A stream listens there: to be told so is to have found it. */
	return r == -EPROTOTYPE ? 0 : r;
}

static long listen_there(const struct taken_page *page)
{
	struct sockaddr_un addr;
	size_t len = unix_address(&addr, "/bus/x", false);
	long fd = CALL(SYS_socket, AF_UNIX, SOCK_STREAM, 0), r;

	(void)page;
	if (fd < 0)
		return fd;
	r = CALL(SYS_bind, fd, &addr, len);
	CALL(SYS_close, fd);
	return r;
}

static long listen_inet(const struct taken_page *page)
{
	const struct sockaddr_in addr = { .sin_family = AF_INET };
	long fd = CALL(SYS_socket, AF_INET, SOCK_STREAM, 0), r;

	(void)page;
	if (fd < 0)
		return fd;
	r = CALL(SYS_bind, fd, &addr, sizeof(addr));
	if (r >= 0)
		r = CALL(SYS_listen, fd, 1);
	CALL(SYS_close, fd);
	return r;
}

EACH(set_interface, SYS_ioctl, fd, 0x8914 /* SIOCSIFFLAGS */, (char[64]) { 0 })
EACH(make_bridge, SYS_ioctl, fd, 0x89a0 /* SIOCBRADDBR */, "x")
EACH(attach_program, SYS_setsockopt, fd, SOL_SOCKET, 26 /* SO_ATTACH_FILTER */, (char[16]) { 0 }, 16)
EACH(force_mark, SYS_setsockopt, fd, SOL_SOCKET, 36 /* SO_MARK */, &(int) { 1 }, sizeof(int))
EACH(steer_tap, SYS_ioctl, fd, 0x800454e0 /* TUNSETSTEERINGEBPF */, &(int) { -1 })
EACH(rename_tap, SYS_ioctl, fd, 0x400454ca /* TUNSETIFF */, (char[40]) { 0 })
EACH(keep_tap, SYS_ioctl, fd, 0x400454cb /* TUNSETPERSIST */, 1)

static const struct taken_try tries[] = {
	BY("make an internet socket of any kind", inet_socket, .task = TAKEN_USER | TAKEN_DIAL),
	BY("make a raw socket", raw_socket),
	BY("make a socket of a rare protocol", rare_socket),
	BY("make a socket of any other family", foreign_socket),
	BY("connect to the host's loopback", loopback, .task = TAKEN_USER | TAKEN_DIAL),
	BY("connect to an abstract socket", abstract),
	BY("connect to a socket of the host by its path", by_path),
	BY("connect to another device's bus", neighbour),
	BY("connect to the machine's control endpoint", control),
	BY("connect to what is above the bus", above_bus),
	BY("send a datagram to an abstract socket", datagram),
	BY("listen beside the bus", listen_there),
	BY("listen on a port", listen_inet),
	BY("change a network interface", set_interface),
	BY("make a bridge", make_bridge),
	BY("put a program into a socket", attach_program),
	BY("mark packets", force_mark),
	BY("put a program into the tap", steer_tap),
	BY("rename the tap", rename_tap),
	BY("keep the tap", keep_tap),
};

TABLE(taken_network);
