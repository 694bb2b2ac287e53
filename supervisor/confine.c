/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The supervisor's own sandbox. A seccomp filter is inherited over exec, so a process that starts others must either
 * allow all that they will need or not be the one that starts them: here it is the keeper that does (keeper.h), and
 * the filter can be narrow.
 */
#include "confine.h"

#include <cap-ng.h>
#include <errno.h>
#include <jansson.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "num.h"
#include "sandbox.h"
#include "tables.h"

#define ALLOW(call, reason)                                                                                  \
	{                                                                                                    \
		.nr = __NR_##call, .why = (reason)                                                           \
	}

static const struct sandbox_rule supervisor_table[] = {
	ALLOW(read, "log pipes, console, signals"),
	ALLOW(write, "console, log lines to stderr"),
	ALLOW(close, "sockets and pipes of a child that ended"),
	ALLOW(poll, "whether stderr would take a line"),
	ALLOW(sendto, "log lines to syslog"),
	ALLOW(sendmsg, "requests to the keeper, a device's socket to the core"),
	ALLOW(recvmsg, "answers of the keeper with pidfds"),
	ALLOW(socketpair, "the sockets between a new child and the core"),
	ALLOW(pipe2, "a new child's stderr"),
	ALLOW(accept4, "clients of the console's socket"),
	ALLOW(epoll_ctl, "watching a new child, what the console waits for"),
	ALLOW(unlink, "endpoints at the end, the console's socket"),
	ALLOW(wait4, "the keeper's end"),
	ALLOW(getpid, "log lines to syslog, status"),
	{ .nr = __NR_fcntl, .args = { { 1, SANDBOX_EQ, 3, 0 } }, .why = "F_GETFL of a new socket" },
	{ .nr = __NR_fcntl,
	  .args = { { 1, SANDBOX_EQ, 4, 0 } },
	  .why = "F_SETFL of a new socket: non-blocking" },
	{ .nr = __NR_ioctl,
	  .args = { { 1, SANDBOX_EQ, 0x5401, 0 } },
	  .why = "TCGETS: the terminal's settings" },
	{ .nr = __NR_ioctl,
	  .args = { { 1, SANDBOX_EQ, 0x5402, 0 } },
	  .why = "TCSETS: the terminal given back" },
	{ .why = NULL },
};

int confine_privileges(const char **what)
{
	*what = "dropping capabilities";
	capng_clear(CAPNG_SELECT_BOTH);
	if (capng_apply(CAPNG_SELECT_BOTH))
		return -EPERM;
	*what = "no_new_privs";
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	*what = "not to be dumped";
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
		return -errno;
	return 0;
}

int confine_calls(const char **what)
{
	static const struct sandbox_rule *const tables[] = { supervisor_table, sandbox_table_runtime,
							     sandbox_table_loop, sandbox_table_bus };
	struct sandbox_filter *filter;
	int err;

	*what = "compiling the system-call filter";
	json_object_seed(0); /* reads random bytes, once; later it could not */
	err = sandbox_compile(tables, ARRAY_SIZE(tables), &filter);
	if (err)
		return err;
	*what = "installing the system-call filter";
	err = sandbox_install(filter, true);
	sandbox_filter_free(filter);
	return err;
}
