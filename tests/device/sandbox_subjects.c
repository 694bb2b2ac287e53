/* SPDX-License-Identifier: Apache-2.0 */
/* Every process with a sandbox, stage by stage, and what of it is its task and no escape. */
#include "sandbox_subjects.h"

#include <stdint.h>

#include "num.h"
#include "tables.h"

static const struct sandbox_rule *const common_one[] = {
	sandbox_table_runtime,   sandbox_table_loop,    sandbox_table_bus,
	sandbox_table_sockets,   sandbox_table_threads, sandbox_table_loop_setup,
	sandbox_table_bus_setup, sandbox_table_narrow,  NULL
};
static const struct sandbox_rule *const common_steady[] = { sandbox_table_runtime, sandbox_table_loop,
							    sandbox_table_bus, sandbox_table_sockets, NULL };

const struct probe_subject sandbox_subjects[] = {
	{ .name = "common tables", .one = common_one, .steady = common_steady, .limits = SANDBOX_LIMITS },
	{ .name = "blk-server",
	  .one = server_stage_one,
	  .one_more = blk_aio_stage_one,
	  .steady = server_steady_bus,
	  .steady_more = blk_aio_steady,
	  .thread = server_io,
	  .thread_more = blk_aio_io,
	  .limits = SANDBOX_LIMITS },
	{ .name = "blk-server with io_uring",
	  .one = server_stage_one,
	  .one_more = blk_uring_stage_one,
	  .steady = server_steady_bus,
	  .steady_more = blk_uring_steady,
	  .thread = server_io,
	  .thread_more = blk_uring_io,
	  .limits = SANDBOX_LIMITS },
	{ .name = "net-server",
	  .one = server_stage_one,
	  .one_more = net_stage_one,
	  .steady = server_steady_bus,
	  .steady_more = net_steady,
	  .thread = server_io,
	  .thread_more = net_io,
	  .limits = SANDBOX_LIMITS },
	{ .name = "blk-server by hand",
	  .one = server_stage_one,
	  .one_more = blk_aio_stage_one,
	  .steady = server_steady,
	  .steady_more = blk_aio_steady,
	  .limits = SANDBOX_LIMITS },
	{ .name = "blk-server with an NBD export",
	  .one = server_stage_one,
	  .one_more = blk_nbd_stage_one,
	  .steady = server_steady_bus,
	  .steady_more = blk_nbd_steady,
	  .thread = server_io,
	  .thread_more = blk_nbd_steady,
	  .limits = SANDBOX_LIMITS },
	{ .name = "nbd-dial",
	  .one = dial_stage_one,
	  .steady = dial_steady,
	  .host_network = true,
	  .tasks = (const char *const[]) { "make an internet socket",
					   "a forbidden call with its signal blocked", NULL },
	  .refused = (const char *const[]) { "open a file", "open a file of the host by ..",
					     "read /proc of the parent", NULL },
	  .limits = SANDBOX_LIMITS },
	{ .name = "net-user",
	  .one = user_stage_one,
	  .steady = user_steady_bus,
	  .thread = user_net,
	  .host_network = true,
	  .file = "/etc/group",
	  .tasks =
	      (const char *const[]) { "make an internet socket", "a forbidden call with its signal blocked",
				      "a foreign ioctl", NULL },
	  .refused = (const char *const[]) { "open a file", "open a file of the host by ..",
					     "read /proc of the parent", NULL },
	  .limits = SANDBOX_LIMITS },
	{ .name = "vmm-core",
	  .one = syscalls_stage_one,
	  .steady = syscalls_steady,
	  .thread = syscalls_vcpu,
	  .limits = SANDBOX_LIMITS },
	{ .name = "supervisor",
	  .steady = supervisor_steady,
	  .tasks = (const char *const[]) { "remove the bus socket", NULL },
	  .limits = SANDBOX_LIMITS },
	{ .name = "bulkhead image", .steady = supervisor_image, .limits = SANDBOX_LIMITS },
};
const size_t sandbox_subjects_n = ARRAY_SIZE(sandbox_subjects);
