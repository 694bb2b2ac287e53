/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor's system calls, with the reason for each. */
#include "syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "tables.h"

#define ALLOW(call, reason)                                                                                  \
	{                                                                                                    \
		.nr = __NR_##call, .why = (reason)                                                           \
	}

/* An open file's flags, a terminal's settings; the numbers are the kernel's. */
#define ALLOW_ARG(call, index, value, reason)                                                                \
	{                                                                                                    \
		.nr = __NR_##call, .args = { { index, SANDBOX_EQ, value, 0 } }, .why = (reason)              \
	}

/* What lib/bus needs of nng on the side that listens; sandbox_table_bus is for those who dial, and may connect. */
static const struct sandbox_rule listener_table[] = {
	ALLOW(epoll_wait, "nng's poller"),
	ALLOW(accept, "children that dial the bus, clients of ctl, events and the console's socket"),
	ALLOW(getsockopt, "who it is that dialled"),
	ALLOW(readv, "receive a message"),
	ALLOW(sendmsg, "send a message; log lines to syslog"),
	ALLOW(shutdown, "end a connection"),
	ALLOW(getrandom, "nng: where a new connection's deadlines are kept"),
	ALLOW(unlink, "endpoints at the end, the console's socket"),
	ALLOW(chmod, "an endpoint: whether anybody may connect"),
	ALLOW_ARG(prctl, 0, PR_SET_NAME, "a thread that the filter finds not named yet"),
	SANDBOX_FCNTL(F_SETFD, 0, "accepted sockets: close on exec"),
	{ .why = NULL },
};

struct sandbox_rule supervisor_abort[] = {
	ALLOW(gettid, "abort: who"),
	{ .nr = __NR_tgkill,
	  .args = { { 0, SANDBOX_EQ, 0, 0 }, { 2, SANDBOX_EQ, SIGABRT, 0 } },
	  .why = "abort: this process, no other" },
	{ .why = NULL },
};

static const struct sandbox_rule supervisor_table[] = {
	ALLOW(read, "signals, lines of children, the console's input, nng's wake-ups"),
	ALLOW(rt_sigreturn, "threads go on after setresuid, by which this filter awaited them"),
	ALLOW(close, "sockets and pipes of a child that ended"),
	ALLOW(poll, "whether stderr would take a line"),
	ALLOW(recvmsg, "answers of the keeper with pidfds"),
	ALLOW(socketpair, "the sockets between a new child and the core"),
	ALLOW(pipe2, "a new child's stderr"),
	ALLOW(wait4, "the keeper's end"),
	ALLOW(getpid, "log lines to syslog, status"),
	SANDBOX_FCNTL(F_GETFL, 0, "a new socket's flags"),
	SANDBOX_FCNTL(F_SETFL, O_NONBLOCK, "a new socket is not to block"),
	ALLOW_ARG(ioctl, 1, TCGETS, "the terminal's settings"),
	ALLOW_ARG(ioctl, 1, TCSETS, "the terminal given back"),
	{ .why = NULL },
};

const struct sandbox_rule *const supervisor_steady[] = { supervisor_table,   listener_table,
							 supervisor_abort,   sandbox_table_runtime,
							 sandbox_table_loop, NULL };

static const struct sandbox_rule image_table[] = {
	ALLOW(pread64, "the image's tables"),
	ALLOW(pwrite64, "the same, when it is reverted"),
	ALLOW(lseek, "its length"),
	ALLOW(fdatasync, "what stands there comes before what refers to it"),
	ALLOW_ARG(fallocate, 1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		  "clusters that nothing refers to"),
	ALLOW(write, "what there is to say"),
	{ .why = NULL },
};

const struct sandbox_rule *const supervisor_image[] = { image_table, sandbox_table_runtime, NULL };
