/* SPDX-License-Identifier: Apache-2.0 */
/* The window's system calls, beyond those that every server needs, with the reason for each: it is a front end, too. */
#include "syscalls.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "tables.h"

static const struct sandbox_rule steady[] = {
	{ .nr = __NR_socketpair,
	  .args = { { .index = 0, .op = SANDBOX_EQ, .value = AF_UNIX } },
	  .why = "the channel for requests of the device's server" },
	SANDBOX_FCNTL(F_DUPFD_CLOEXEC, 0, "descriptors queued for the device's server"),
	{ .why = NULL },
};

const struct sandbox_rule *const window_stage_one[] = { steady, NULL };
const struct sandbox_rule *const window_steady[] = { steady, NULL };
const struct sandbox_rule *const window_io[] = { NULL };
