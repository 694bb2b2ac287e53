/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system calls that several processes share.
 *
 * How they were found: strace of small programs, then the C library's and nng's sources for the rare paths that
 * a trace does not meet (a full backlog, an interrupted wait, a clock that the vDSO can't read). Two principles:
 * no executable memory ever, and no new process ever. Starting a thread goes through clone, whose flags a filter
 * can see; clone3 hides them in memory and is therefore refused with ENOSYS, whereupon glibc uses clone.
 *
 * What is not there, though a trace or the sources have it somewhere:
 *	rt_sigreturn	no handler returns, but for vmm-core's and that of the C library's setresuid in the supervisor. A frame
 *			that is made up would set every register. SIGSYS that somebody sends, who could send SIGKILL, kills.
 *	mprotect	once the threads exist: malloc has one arena (sandbox_tame_malloc), which grows by brk, or else by mmap;
 *			it is the heaps of other arenas that are made accessible as they grow
 *	madvise		where no thread ends and nothing is mapped: malloc_trim and an arena's end would, which are not there
 *	getsockopt	when nng redials: connect() to a unix socket gives EAGAIN where it would have to wait, never EINPROGRESS
 */
#include "tables.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define THREAD_FLAGS                                                                                         \
	(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |   \
	 CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID)

const struct sandbox_rule sandbox_table_runtime[] = {
	{ .nr = __NR_futex, .why = "locks, condition variables, joining threads" },
	{ .nr = __NR_mmap,
	  .args = SANDBOX_MMAP(MAP_PRIVATE | MAP_ANONYMOUS),
	  .why = "heap and stacks: anonymous, never executable" },
	{ .nr = __NR_munmap, .why = "heap: giving back" },
	{ .nr = __NR_mremap, .refuse = ENOMEM, .why = "heap: realloc then copies a large block" },
	{ .nr = __NR_madvise,
	  .refuse = EINVAL,
	  .why = "heap: malloc may be told to ask for huge pages, and does without" },
	{ .nr = __NR_brk, .why = "heap" },
	{ .nr = __NR_rt_sigprocmask, .why = "start and end of a thread" },
	{ .nr = __NR_clock_gettime, .why = "the clock, where the vDSO can't read the host's clock source" },
	{ .nr = __NR_exit_group, .why = "end of the process" },
	{ 0 },
};

const struct sandbox_rule sandbox_table_loop[] = {
	{ .nr = __NR_epoll_pwait2, .why = "wait for events, with a deadline in nanoseconds" },
	{ .nr = __NR_epoll_ctl, .why = "change what is waited for" },
	{ .nr = __NR_write, .why = "call and wake-up eventfds, log lines" },
	{ .nr = __NR_restart_syscall,
	  .why = "a timed wait for something else than the loop's events goes on after SIGSTOP and SIGCONT" },
	{ 0 },
};

const struct sandbox_rule sandbox_table_bus[] = {
	{ .nr = __NR_epoll_wait, .why = "nng's poller" },
	{ .nr = __NR_epoll_ctl, .why = "nng's poller" },
	{ .nr = __NR_read, .why = "nng's poller: its wake-up eventfd" },
	{ .nr = __NR_write, .why = "nng's poller: waking it, and the loop that a message is posted to" },
	{ .nr = __NR_readv, .why = "receive a message" },
	{ .nr = __NR_sendmsg, .why = "send a message" },
	{ .nr = __NR_socket,
	  .args = SANDBOX_SOCKET(AF_UNIX, SOCK_STREAM, 0),
	  .why = "redial; /bus holds the only socket there is" },
	{ .nr = __NR_connect, .why = "redial" },
	SANDBOX_FCNTL(F_SETFL, O_NONBLOCK, "redial: non-blocking"),
	SANDBOX_FCNTL(F_SETFD, 0, "redial: close-on-exec"),
	{ .nr = __NR_shutdown, .why = "end a connection" },
	{ .nr = __NR_close, .why = "end a connection" },
	{ .nr = __NR_getrandom, .why = "nng: where a new connection's deadlines are kept" },
	{ .nr = __NR_set_robust_list, .why = "an nng thread that the filter finds not started yet" },
	{ .nr = __NR_rseq, .why = "an nng thread that the filter finds not started yet" },
	{ .nr = __NR_prctl,
	  .args = { { .index = 0, .op = SANDBOX_EQ, .value = PR_SET_NAME } },
	  .why = "an nng thread that the filter finds not named yet" },
	{ 0 },
};

const struct sandbox_rule sandbox_table_sockets[] = {
	{ .nr = __NR_recvmsg, .why = "messages with descriptors" },
	{ .nr = __NR_sendmsg, .why = "messages with descriptors" },
	{ .nr = __NR_close, .why = "descriptors that came with a message" },
	{ 0 },
};

const struct sandbox_rule sandbox_table_threads[] = {
	{ .nr = __NR_clone,
	  .args = { { .index = 0, .op = SANDBOX_EQ, .value = THREAD_FLAGS } },
	  .why = "start a thread, and nothing but a thread" },
	{ .nr = __NR_clone3, .refuse = ENOSYS, .why = "glibc then uses clone, whose flags can be checked" },
	{ .nr = __NR_set_robust_list, .why = "start of a thread" },
	{ .nr = __NR_rseq, .why = "start of a thread" },
	/* SIGCANCEL and SIGSETXID, which <signal.h> does not name. No other: the handler of SIGSYS is to stay. */
	{ .nr = __NR_rt_sigaction,
	  .args = { { .index = 0, .op = SANDBOX_EQ, .value = 32 } },
	  .why = "the first thread: glibc's own signals" },
	{ .nr = __NR_rt_sigaction,
	  .args = { { .index = 0, .op = SANDBOX_EQ, .value = 33 } },
	  .why = "the first thread: glibc's own signals" },
	{ .nr = __NR_prctl,
	  .args = { { .index = 0, .op = SANDBOX_EQ, .value = PR_SET_NAME } },
	  .why = "name of a thread" },
	{ .nr = __NR_mprotect,
	  .args = { { .index = 2, .op = SANDBOX_MASKED, .mask = PROT_EXEC } },
	  .why = "a thread's stack, all but its guard; never executable" },
	{ .nr = __NR_gettid, .why = "thread ids for statistics" },
	{ .nr = __NR_madvise, .why = "an ended thread's stack is given back" },
	{ .nr = __NR_exit, .why = "end of a thread" },
	{ 0 },
};

const struct sandbox_rule sandbox_table_loop_setup[] = {
	{ .nr = __NR_epoll_create1, .why = "make a loop" },
	{ .nr = __NR_eventfd2, .why = "make an event notifier" },
	{ 0 },
};

const struct sandbox_rule sandbox_table_bus_setup[] = {
	{ .nr = __NR_epoll_create1, .why = "nng's poller" },
	{ .nr = __NR_eventfd2, .why = "nng's poller" },
	/* Whatever stands in the register of the argument that it does not take. */
	SANDBOX_FCNTL(F_GETFL, 0, "nng's poller: its eventfd"),
	SANDBOX_FCNTL(F_GETFL, O_NONBLOCK, "nng's poller: its eventfd"),
	{ .nr = __NR_openat,
	  .refuse = ENOENT,
	  .why = "nng asks /sys and /proc for the number of processors" },
	{ .nr = __NR_sched_getaffinity, .why = "nng: the number of processors, when /sys is not there" },
	{ 0 },
};

#define NO_FILE(flags, reason)                                                                               \
	{                                                                                                    \
		.nr = __NR_openat, .refuse = ENOENT,                                                         \
		.args = { { .index = 2, .op = SANDBOX_EQ, .value = (flags) } }, .why = (reason)              \
	}

const struct sandbox_rule sandbox_table_no_files[] = {
	NO_FILE(O_RDONLY, "what nng and the C library look for"),
	NO_FILE(O_RDONLY | O_CLOEXEC, "the number of processors, when nng starts"),
	NO_FILE(O_RDWR, "names of nng's threads"),
	NO_FILE(O_RDWR | O_CLOEXEC, "the same in other versions of the C library"),
	{ 0 },
};

const struct sandbox_rule sandbox_table_narrow[] = {
	{ .nr = __NR_seccomp,
	  .args = SANDBOX_INSTALL(SECCOMP_FILTER_FLAG_TSYNC),
	  .why = "install the steady filter" },
	{ 0 },
};
