/* SPDX-License-Identifier: Apache-2.0 */
/* net-server's system calls, beyond those that every server needs, with the reason for each. */
#include "syscalls.h"

#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

static const struct sandbox_rule io[] = {
	{ .nr = __NR_read, .why = "small frames of the backend, to be copied into guest memory" },
	{ .nr = __NR_readv, .why = "large ones, into guest memory" },
	{ .nr = __NR_writev, .why = "frames of the guest to the backend" },
	{ .why = NULL },
};

static const struct sandbox_rule steady[] = {
	{ .nr = __NR_accept4, .why = "who connects to the socket of --listen-fd" },
	{ .nr = __NR_ioctl,
	  .args = { { .index = 1, .op = SANDBOX_EQ, .value = TUNSETOFFLOAD } },
	  .why = "which frames the driver takes unfinished" },
	{ .nr = __NR_ioctl,
	  .args = { { .index = 1, .op = SANDBOX_EQ, .value = TUNSETQUEUE } },
	  .why = "how many of the tap's queues the driver uses" },
	{ .nr = __NR_ioctl,
	  .args = { { .index = 1, .op = SANDBOX_EQ, .value = TUNGETIFF } },
	  .why = "whether one that refuses to change is so already" },
	{ .why = NULL },
};

const struct sandbox_rule *const net_stage_one[] = { io, steady, NULL };
const struct sandbox_rule *const net_steady[] = { io, steady, NULL };
const struct sandbox_rule *const net_io[] = { io, NULL };
