/* SPDX-License-Identifier: Apache-2.0 */
/* To reach other processes, to become more than one, and to outlive an end. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include "try.h"

static char bytes[64];
static const struct iovec here = { .iov_base = bytes, .iov_len = 8 };

/* The supervisor, by the number that it has outside, and every number of these namespaces but our own. */
static long each_process(const struct taken_page *page, long (*does)(long pid))
{
	long r = does((long)page->host_pid);

	for (long pid = 1; pid < 32 && r < 0; pid++)
		r = does(pid);
	return r;
}

#define EACH_PROCESS(name, ...) EACH_OF(name, long pid, each_process(page, name##_of), __VA_ARGS__)

EACH_PROCESS(signal_any, SYS_kill, pid, 0)
EACH_PROCESS(signal_thread, SYS_tkill, pid, 0)
EACH_PROCESS(queue_signal, SYS_rt_sigqueueinfo, pid, SIGTERM, bytes)
EACH_PROCESS(open_pidfd, SYS_pidfd_open, pid, 0)
EACH_PROCESS(trace, SYS_ptrace, PTRACE_SEIZE, pid, 0, 0)
EACH_PROCESS(attach, SYS_ptrace, PTRACE_ATTACH, pid, 0, 0)
EACH_PROCESS(read_memory, SYS_process_vm_readv, pid, &here, 1, &here, 1, 0)
EACH_PROCESS(write_memory, SYS_process_vm_writev, pid, &here, 1, &here, 1, 0)
EACH_PROCESS(compare, SYS_kcmp, pid, pid, 0, 0, 0)
EACH_PROCESS(limit, SYS_prlimit64, pid, RLIMIT_NOFILE, 0, bytes)
EACH_PROCESS(renice, SYS_setpriority, PRIO_PROCESS, pid, 19)
EACH_PROCESS(slow_io, SYS_ioprio_set, 1, pid, 3 << 13)
EACH_PROCESS(real_time, SYS_sched_setscheduler, pid, SCHED_FIFO,
	     &(struct sched_param) { .sched_priority = 1 })
EACH(steal_fd, SYS_pidfd_getfd, fd, 0, 0)
EACH(signal_fd, SYS_pidfd_send_signal, fd, 0, 0, 0)
EACH(enter_any, SYS_setns, fd, 0)

/* Threads of our own process are no others. */
static long pin_others(const struct taken_page *page)
{
	static const unsigned long all = ~0UL;

	return CALL(SYS_sched_setaffinity, page->host_pid, sizeof(all), &all);
}

/* A new process, or thread, ends at once. */
static long split(long nr, long flags)
{
	long r = nr == SYS_clone ? CALL(SYS_clone, flags | SIGCHLD) : CALL(nr);

	if (r == 0)
		for (;;)
			CALL(SYS_exit_group, 0);
	return r;
}

static long fork_it(const struct taken_page *page)
{
	(void)page;
	return split(SYS_fork, 0);
}

static long fork_untied(const struct taken_page *page)
{
	(void)page;
	return split(SYS_clone, CLONE_PARENT);
}

static long clone_into(const struct taken_page *page)
{
	static const int flags[] = { CLONE_NEWUSER, CLONE_NEWNS,  CLONE_NEWPID,   CLONE_NEWNET,
				     CLONE_NEWIPC,  CLONE_NEWUTS, CLONE_NEWCGROUP };
	long r = -EPERM;

	(void)page;
	for (size_t i = 0; i < ARRAY_SIZE(flags) && r < 0; i++)
		r = split(SYS_clone, flags[i]);
	return r;
}

static long unshare_any(const struct taken_page *page)
{
	static const int flags[] = { CLONE_NEWUSER, CLONE_NEWNS,  CLONE_NEWPID,    CLONE_NEWNET,
				     CLONE_NEWIPC,  CLONE_NEWUTS, CLONE_NEWCGROUP, 0x80 /* CLONE_NEWTIME */ };
	long r = -EPERM;

	(void)page;
	for (size_t i = 0; i < ARRAY_SIZE(flags) && r < 0; i++)
		r = CALL(SYS_unshare, flags[i]);
	return r;
}

/* As they are called: handler, flags, restorer, mask. */
static const uint64_t ignored[4] = { 1 /* SIG_IGN */ };

static const struct taken_try tries[] = {
	BY("signal any process", signal_any),
	PLAIN("signal all processes", kill, ARGS(-1, 0), ),
	BY("signal a thread", signal_thread),
	BY("queue a signal", queue_signal),
	BY("open a process", open_pidfd),
	BY("trace any process", trace),
	BY("attach to any process", attach),
	PLAIN("be traced", ptrace, ARGS(PTRACE_TRACEME, 0, 0, 0), ),
	BY("read any process's memory", read_memory),
	BY("write to any process's memory", write_memory),
	BY("compare processes", compare),
	BY("read or set any process's limits", limit),
	BY("change any process's priority", renice),
	BY("change any process's I/O priority", slow_io),
	BY("run before all others", real_time),
	BY("move the supervisor to other processors", pin_others),
	BY("steal a descriptor", steal_fd),
	BY("signal by a descriptor", signal_fd),
	BY("enter any namespace", enter_any),
	BY("make namespaces for a child", clone_into),
	BY("make namespaces", unshare_any),
	BY("become two", fork_it),
	BY("become two, the other one nobody's child", fork_untied),
	PLAIN("leave the session", setsid, ARGS(0), ),
	PLAIN("leave the process group", setpgid, ARGS(0, 0), ),
	PLAIN("live on without the parent", prctl, ARGS(PR_SET_PDEATHSIG, 0, 0, 0, 0), ),
	PLAIN("be the parent of orphans", prctl, ARGS(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), ),
	PLAIN("let anybody trace", prctl, ARGS(PR_SET_PTRACER, -1, 0, 0, 0), ),
	PLAIN("ignore the end", rt_sigaction, ARGS(SIGTERM, PTR(ignored), 0, 8), .steady = true),
	PLAIN("ignore SIGSYS", rt_sigaction, ARGS(SIGSYS, PTR(ignored), 0, 8), ),
	PLAIN("wake later", timer_create, ARGS(0, 0, PTR(bytes)), ),
	PLAIN("raise the limit of descriptors", setrlimit,
	      ARGS(RLIMIT_NOFILE, PTR(&((const struct rlimit) { 1 << 20, 1 << 20 }))), ),
	PLAIN("have core dumps", setrlimit,
	      ARGS(RLIMIT_CORE, PTR(&((const struct rlimit) { -1UL, -1UL }))), ),
	PLAIN("make a message queue", mq_open, ARGS(PTR("x"), 0102, 0600, 0), ),
	PLAIN("make a semaphore", semget, ARGS(0, 1, 0600), ),
	PLAIN("make a queue", msgget, ARGS(0, 0600), ),
};

TABLE(taken_processes);
