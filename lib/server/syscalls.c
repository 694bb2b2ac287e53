/* SPDX-License-Identifier: Apache-2.0 */
/* System calls that every server needs, with the reason for each. */
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "server_priv.h"
#include "tables.h"

static const struct sandbox_rule steady[] = {
	{ .nr = __NR_mmap,
	  .args = SANDBOX_MMAP(MAP_SHARED),
	  .why = "memory regions of the front end and its in-flight region, never executable" },
	{ .nr = __NR_munmap, .why = "memory regions that the front end took back" },
	{ .nr = __NR_madvise, .why = "memory regions are left out of core dumps" },
	SANDBOX_FCNTL(F_GET_SEALS, 0, "an in-flight region that the front end sent: can it shrink?"),
	SANDBOX_FCNTL(F_GETFL, 0, "state of a descriptor that the front end sent"),
	SANDBOX_FCNTL(F_SETFL, O_NONBLOCK, "kick eventfds are made non-blocking"),
	{ .nr = __NR_newfstatat,
	  .args = { { .index = 3, .op = SANDBOX_MASKED, .value = AT_EMPTY_PATH, .mask = AT_EMPTY_PATH } },
	  .why = "size of a memory region's file, as glibc's fstat asks for it" },
	{ .nr = __NR_fstat, .why = "the same, as other versions of glibc do" },
	{ .nr = __NR_seccomp, .args = SANDBOX_INSTALL(0), .why = "the I/O threads' own, narrower filter" },
	{ .nr = __NR_exit, .why = "end of an I/O thread or a worker" },
	{ .nr = __NR_rseq, .why = "threads that were started a moment before this filter" },
	{ .nr = __NR_set_robust_list, .why = "the same" },
	{ .why = NULL },
};

/* What the bus may ask for, and only it. */
static const struct sandbox_rule steady_told[] = {
	{ .nr = __NR_sched_setaffinity, .why = "the processors of an I/O thread, as it is told" },
	{ .why = NULL },
};

/* With a socket of its own. Front ends come and go, and may be QEMU, which has the back end make the in-flight region. */
static const struct sandbox_rule steady_by_hand[] = {
	{ .nr = __NR_accept4, .why = "the next front end on the socket that is bound already" },
	{ .nr = __NR_memfd_create, .why = "the in-flight region for a front end that asks for one" },
	{ .nr = __NR_ftruncate, .why = "its size" },
	SANDBOX_FCNTL(F_ADD_SEALS, 0, "its size is sealed"),
	{ .why = NULL },
};

const struct sandbox_rule *const server_stage_one[] = {
	sandbox_table_runtime,
	sandbox_table_loop,
	sandbox_table_bus,
	sandbox_table_sockets,
	sandbox_table_threads,
	sandbox_table_loop_setup,
	sandbox_table_bus_setup,
	sandbox_table_narrow,
	steady,
	steady_told,
	steady_by_hand,
	NULL,
};

const struct sandbox_rule *const server_steady[] = {
	sandbox_table_runtime, sandbox_table_loop, sandbox_table_sockets, steady, steady_by_hand, NULL,
};

const struct sandbox_rule *const server_steady_bus[] = {
	sandbox_table_runtime,
	sandbox_table_loop,
	sandbox_table_sockets,
	sandbox_table_bus,
	steady,
	steady_told,
	NULL,
};

const struct sandbox_rule *const server_steady_both[] = {
	sandbox_table_runtime,
	sandbox_table_loop,
	sandbox_table_sockets,
	sandbox_table_bus,
	steady,
	steady_told,
	steady_by_hand,
	NULL,
};

/* What meets the guest's bytes: the runtime, the loop, and eventfds that the front end replaced. Nothing of it reads:
 * kicks and wake-ups are watched edge-triggered. And only epoll_pwait2 has a deadline here, which ends when the process is
 * stopped and continued: the other waits, which would be restarted, are the main thread's. */
static const struct sandbox_rule io[] = {
	{ .nr = __NR_madvise, .why = "the stack of a thread that ends is given back" },
	{ .nr = __NR_epoll_pwait2, .why = "wait for events, with a deadline in nanoseconds" },
	{ .nr = __NR_epoll_ctl, .why = "change what is waited for" },
	{ .nr = __NR_write, .why = "call and wake-up eventfds, log lines" },
	{ .nr = __NR_close, .why = "eventfds of a ring that stopped" },
	{ .nr = __NR_exit, .why = "end of the thread" },
	{ .why = NULL },
};

const struct sandbox_rule *const server_io[] = { sandbox_table_runtime, io, NULL };
