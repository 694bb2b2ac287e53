/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system calls of nbd-dial, with the reason for each. It may make connections, and neither send nor receive on them: what
 * it sends are answers with descriptors, by sendmsg. The host's name is looked up in stage one and never again.
 */
#include "syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "tables.h"

static const struct sandbox_rule steady[] = {
	{ .nr = __NR_socket,
	  .args = SANDBOX_SOCKET(AF_UNIX, SOCK_STREAM, 0),
	  .why = "a connection to a server on this host" },
	{ .nr = __NR_socket,
	  .args = SANDBOX_SOCKET(AF_INET, SOCK_STREAM, 0),
	  .why = "a connection to a server elsewhere" },
	{ .nr = __NR_socket, .args = SANDBOX_SOCKET(AF_INET6, SOCK_STREAM, 0), .why = "the same" },
	{ .nr = __NR_connect, .why = "the same" },
	{ .nr = __NR_setsockopt,
	  .args = SANDBOX_OPTION(IPPROTO_TCP, TCP_NODELAY),
	  .why = "requests go at once" },
	{ .nr = __NR_setsockopt,
	  .args = SANDBOX_OPTION(SOL_SOCKET, SO_KEEPALIVE),
	  .why = "a server that is gone" },
	{ .nr = __NR_setsockopt, .args = SANDBOX_OPTION(IPPROTO_TCP, TCP_KEEPIDLE), .why = "the same" },
	{ .nr = __NR_setsockopt, .args = SANDBOX_OPTION(IPPROTO_TCP, TCP_KEEPINTVL), .why = "the same" },
	{ .nr = __NR_setsockopt, .args = SANDBOX_OPTION(IPPROTO_TCP, TCP_KEEPCNT), .why = "the same" },
	{ .nr = __NR_setsockopt, .args = SANDBOX_OPTION(IPPROTO_TCP, TCP_USER_TIMEOUT), .why = "the same" },
	{ .nr = __NR_poll, .why = "waiting for a connection" },
	{ .nr = __NR_getsockopt, .args = SANDBOX_OPTION(SOL_SOCKET, SO_ERROR), .why = "what became of it" },
	{ .nr = __NR_shutdown, .why = "a connection is over, whoever still has it" },
	{ .nr = __NR_close, .why = "a connection is over" },
	{ .nr = __NR_rseq, .why = "a worker that the filter finds not started yet" },
	{ .nr = __NR_set_robust_list, .why = "the same" },
	{ .why = NULL },
};

/* getaddrinfo's; the C library copes with what is refused. */
static const struct sandbox_rule resolver[] = {
	{ .nr = __NR_openat,
	  .args = { { .index = 2, .op = SANDBOX_EQ, .value = O_RDONLY | O_CLOEXEC } },
	  .why = "/etc/resolv.conf; there is no other file" },
	{ .nr = __NR_newfstatat, .why = "whether it is there" },
	{ .nr = __NR_fstat, .why = "the same in other versions of the C library" },
	{ .nr = __NR_read, .why = "what stands there" },
	{ .nr = __NR_lseek, .why = "the same" },
	{ .nr = __NR_uname, .why = "this host's own domain" },
	{ .nr = __NR_getrandom, .why = "numbers of questions" },
	{ .nr = __NR_socket,
	  .refuse = EACCES,
	  .args = SANDBOX_SOCKET(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE),
	  .why = "whether there are addresses of both kinds" },
	{ .nr = __NR_socket,
	  .args = SANDBOX_SOCKET(AF_INET, SOCK_DGRAM, 0),
	  .why = "a question to a name server; which of several addresses is nearest" },
	{ .nr = __NR_socket, .args = SANDBOX_SOCKET(AF_INET6, SOCK_DGRAM, 0), .why = "the same" },
	{ .nr = __NR_setsockopt,
	  .args = SANDBOX_OPTION(IPPROTO_IP, IP_RECVERR),
	  .why = "a question to a name server" },
	{ .nr = __NR_setsockopt, .args = SANDBOX_OPTION(IPPROTO_IPV6, IPV6_RECVERR), .why = "the same" },
	{ .nr = __NR_sendmmsg, .why = "questions to a name server" },
	{ .nr = __NR_sendto, .why = "the same" },
	{ .nr = __NR_recvfrom, .why = "its answers" },
	{ .nr = __NR_getsockname, .why = "which of several addresses is nearest" },
	{ .nr = __NR_ioctl,
	  .args = { { .index = 1, .op = SANDBOX_EQ, .value = FIONREAD } },
	  .why = "the size of an answer" },
	{ .why = NULL },
};

const struct sandbox_rule *const dial_stage_one[] = {
	sandbox_table_runtime,
	sandbox_table_loop,
	sandbox_table_bus,
	sandbox_table_sockets,
	sandbox_table_threads,
	sandbox_table_loop_setup,
	sandbox_table_bus_setup,
	sandbox_table_narrow,
	sandbox_table_no_files,
	steady,
	resolver,
	NULL,
};

const struct sandbox_rule *const dial_steady[] = {
	sandbox_table_runtime, sandbox_table_loop, sandbox_table_bus, sandbox_table_sockets, steady, NULL,
};
