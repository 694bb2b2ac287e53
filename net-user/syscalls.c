/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system calls of net-user, with the reason for each.
 *
 * This is the one process that may open sockets, so its filters look at what for. The steady filter is for all threads;
 * the bus, on other threads, redials a unix socket under it. The network's thread, where libslirp meets the guest's frames,
 * then takes a narrower one: Internet sockets only, of the three kinds that libslirp makes, and no name but /etc/resolv.conf
 * to open, as nothing else is there. (Which file and which address a call names a filter can't see; policy.c and the empty
 * root do that.) It does without munmap, as main.c has malloc take no mapping for each large block.
 */
#include "syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "tables.h"

/* What libslirp does with sockets that it has. */
static const struct sandbox_rule traffic[] = {
	{ .nr = __NR_connect, .why = "connections of the guest" },
	{ .nr = __NR_accept, .why = "connections to forwarded ports" },
	{ .nr = __NR_recvfrom, .why = "frames of the guest; data from the network" },
	{ .nr = __NR_recvmsg, .why = "ICMP errors for datagrams that the guest sent" },
	{ .nr = __NR_sendto, .why = "frames for the guest; data to the network" },
	{ .nr = __NR_setsockopt, .args = SANDBOX_OPTION(SOL_SOCKET, SO_REUSEADDR), .why = "each TCP socket" },
	{ .nr = __NR_setsockopt, .args = SANDBOX_OPTION(SOL_SOCKET, SO_OOBINLINE), .why = "each TCP socket" },
	{ .nr = __NR_setsockopt, .args = SANDBOX_OPTION(IPPROTO_TCP, TCP_NODELAY), .why = "each TCP socket" },
	{ .nr = __NR_setsockopt, .args = SANDBOX_OPTION(IPPROTO_IP, IP_TTL), .why = "the guest's hop limit" },
	{ .nr = __NR_setsockopt, .args = SANDBOX_OPTION(IPPROTO_IPV6, IPV6_UNICAST_HOPS), .why = "the same" },
	{ .nr = __NR_setsockopt, .args = SANDBOX_OPTION(IPPROTO_IP, IP_RECVERR), .why = "ICMP errors" },
	{ .nr = __NR_setsockopt, .args = SANDBOX_OPTION(IPPROTO_IPV6, IPV6_RECVERR), .why = "ICMP errors" },
	{ .nr = __NR_getsockopt,
	  .args = SANDBOX_OPTION(SOL_SOCKET, SO_ERROR),
	  .why = "why a connection ended" },
	{ .nr = __NR_getpeername, .why = "whether a connection came about" },
	SANDBOX_FCNTL(F_GETFL, 0, "a new socket becomes non-blocking"),
	SANDBOX_FCNTL(F_GETFL, O_NONBLOCK, "the same, whatever the third argument holds"),
	SANDBOX_FCNTL(F_SETFL, O_NONBLOCK, "the same"),
	{ .nr = __NR_ioctl,
	  .args = { { .index = 1, .op = SANDBOX_EQ, .value = FIONREAD } },
	  .why = "size of the next datagram" },
	{ .nr = __NR_ioctl,
	  .args = { { .index = 1, .op = SANDBOX_EQ, .value = SIOCGIFINDEX } },
	  .why = "the interface of a name server like fe80::1%eth0" },
	{ .nr = __NR_shutdown, .why = "one direction of a connection ends" },
	{ .nr = __NR_close, .why = "a connection is over" },
	{ .nr = __NR_openat,
	  .args = { { .index = 2, .op = SANDBOX_EQ, .value = O_RDONLY } },
	  .why = "/etc/resolv.conf, when it changed" },
	{ .nr = __NR_read, .why = "what stands there" },
	{ .nr = __NR_newfstatat, .why = "whether it changed" },
	{ .why = NULL },
};

/* Internet sockets as the network's thread may have them. libslirp tries a raw one where ping sockets are not allowed. */
static const struct sandbox_rule sockets[] = {
	{ .nr = __NR_socket, .args = SANDBOX_SOCKET(AF_INET, SOCK_STREAM, 0), .why = "TCP" },
	{ .nr = __NR_socket, .args = SANDBOX_SOCKET(AF_INET, SOCK_DGRAM, 0), .why = "UDP" },
	{ .nr = __NR_socket, .args = SANDBOX_SOCKET(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), .why = "ping" },
	{ .nr = __NR_socket, .args = SANDBOX_SOCKET(AF_INET6, SOCK_STREAM, 0), .why = "TCP" },
	{ .nr = __NR_socket, .args = SANDBOX_SOCKET(AF_INET6, SOCK_DGRAM, 0), .why = "UDP" },
	{ .nr = __NR_socket, .args = SANDBOX_SOCKET(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6), .why = "ping" },
	{ .nr = __NR_socket,
	  .refuse = EACCES,
	  .args = SANDBOX_SOCKET(AF_INET, SOCK_RAW, IPPROTO_ICMP),
	  .why = "what libslirp tries when there is no ping socket" },
	{ .nr = __NR_socket,
	  .refuse = EACCES,
	  .args = SANDBOX_SOCKET(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6),
	  .why = "the same" },
	{ .nr = __NR_socket,
	  .refuse = EACCES,
	  .args = SANDBOX_SOCKET(AF_UNIX, SOCK_DGRAM, 0),
	  .why = "what the C library tries first to ask for an interface; it goes on with AF_INET" },
	{ .why = NULL },
};

/* What the filter of all threads allows beyond that. */
static const struct sandbox_rule others[] = {
	{ .nr = __NR_seccomp, .args = SANDBOX_INSTALL(0), .why = "the network thread's own filter" },
	{ .why = NULL },
};

/* That thread's runtime: one arena, no thread started or ended, no signal but those that kill. */
static const struct sandbox_rule runtime[] = {
	{ .nr = __NR_futex, .why = "locks" },
	{ .nr = __NR_mmap,
	  .args = SANDBOX_MMAP(MAP_PRIVATE | MAP_ANONYMOUS),
	  .why = "heap, where brk can't grow: anonymous, never executable" },
	{ .nr = __NR_mremap, .refuse = ENOMEM, .why = "realloc then copies" },
	{ .nr = __NR_brk, .why = "heap" },
	{ .nr = __NR_restart_syscall, .why = "a timed wait goes on after SIGSTOP and SIGCONT" },
	{ .nr = __NR_clock_gettime, .why = "the clock, where the vDSO can't read the host's clock source" },
	{ .nr = __NR_exit_group, .why = "end of the process" },
	{ .why = NULL },
};

const struct sandbox_rule *const user_stage_one[] = {
	sandbox_table_runtime,
	sandbox_table_loop,
	sandbox_table_bus,
	sandbox_table_threads,
	sandbox_table_loop_setup,
	sandbox_table_bus_setup,
	sandbox_table_narrow,
	sandbox_table_no_files,
	traffic,
	sockets,
	others,
	NULL,
};

const struct sandbox_rule *const user_steady[] = {
	sandbox_table_runtime,
	sandbox_table_loop,
	sandbox_table_no_files,
	traffic,
	sockets,
	others,
	runtime,
	NULL,
};

const struct sandbox_rule *const user_steady_bus[] = {
	sandbox_table_runtime,
	sandbox_table_loop,
	sandbox_table_bus,
	sandbox_table_no_files,
	traffic,
	sockets,
	others,
	runtime,
	NULL,
};

const struct sandbox_rule *const user_net[] = {
	runtime, sandbox_table_loop, sandbox_table_no_files, traffic, sockets, NULL
};
