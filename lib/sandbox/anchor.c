/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process whose address space outlives it.
 *
 * Theory of operation. The kernel ends a process's aio contexts with its address space, and that takes two RCU grace
 * periods, tens of milliseconds in which nobody is told of the death. So process 1 of the namespaces, the anchor, shares
 * its memory with a child, the worker, which is the process that everybody knows. When the worker dies the memory stays,
 * its descriptors are closed and the anchor is woken at once, which says on a socket how it died. No thread can submit
 * anything from then on; the anchor asks the device whether the kernel has finished all that was submitted, says so, and
 * only then ends and takes the contexts with it. The successor need not wait for that. If the anchor can't tell it says
 * no more: its own end, for which the kernel waits as it always did, tells the same later. That end is also the worker's,
 * as process 1's is that of all.
 *
 * The two share the C library's data, too, thread-local data included. The worker is the one that goes on with it; the
 * anchor makes nothing but system calls that succeed (a failing one would write the worker's errno), and none at
 * all between its start and the worker's death but the one that waits. Its own filter allows these and no other.
 *
 * Who takes the worker over can write the anchor's stack, and so have it do whatever it may. So the worker does nothing
 * before the anchor has given up its descriptors and capabilities and is under its filter.
 */
#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox_priv.h"

#define STACK_BYTES (8UL << 20) /* of the worker's first thread; taken as it is used */
#define GUARD_BYTES 4096UL

static const struct sandbox_rule anchor_table[] = {
	{ .nr = __NR_waitid, .why = "the worker's end" },
	{ .nr = __NR_sendto, .why = "to tell of it" },
	{ .nr = __NR_exit_group, .why = "its own end" },
	{ .nr = __NR_restart_syscall, .why = "waiting, when it was stopped and continued" },
	{ .why = NULL },
};

/* What the two processes begin with, on the anchor's stack. */
struct split {
	const struct sandbox_anchor *a;
	_Atomic bool retired;
};

/* The worker's first word goes with its credentials, which tell its process id outside. */
static int worker(void *arg)
{
	struct split *split = arg;
	const struct sandbox_anchor *a = split->a;

	while (!atomic_load(&split->retired))
		sched_yield(); /* a few microseconds; if it fails, its end is ours */
	send(a->fd, "", 1, MSG_NOSIGNAL);
	close(a->fd);
	exit(a->work(a->arg));
}

/* As the anchor, which has all capabilities in its namespaces until here: keeps the socket and nothing else. */
static bool retire(int fd, const struct sandbox_filter *filter)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { { 0 } };

	return !close_range(0, (unsigned)fd - 1, 0) && !close_range((unsigned)fd + 1, ~0U, 0) &&
	       !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !syscall(SYS_capset, &head, none) &&
	       !sandbox_install(filter, false);
}

__attribute__((noreturn)) static void anchor(struct split *split, const struct sandbox_filter *filter,
					     pid_t pid)
{
	const struct sandbox_anchor *a = split->a;
	siginfo_t info = { 0 };
	struct sandbox_death death;

	if (!retire(a->fd, filter))
		_exit(SANDBOX_ANCHOR_FAILED);
	atomic_store(&split->retired, true);
	if (waitid(P_PID, (id_t)pid, &info, WEXITED))
		_exit(SANDBOX_ANCHOR_FAILED);
	death = (struct sandbox_death) { .code = info.si_code, .status = info.si_status };
	send(a->fd, &death, sizeof(death), MSG_NOSIGNAL);
	death.drained = a->drained(a->arg);
	if (death.drained)
		send(a->fd, &death, sizeof(death), MSG_NOSIGNAL);
	_exit(death.code == CLD_EXITED ? death.status : SANDBOX_SIGNALLED + death.status);
}

/* The upper end of a new stack, or NULL. */
static char *make_stack(void)
{
	char *low = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);

	if (low == MAP_FAILED || mprotect(low, GUARD_BYTES, PROT_NONE))
		return NULL;
	return low + STACK_BYTES;
}

int sandbox_anchor(const struct sandbox_anchor *a)
{
	const struct sandbox_rule *tables[] = { anchor_table, a->drain };
	struct split split = { .a = a, .retired = false };
	struct sandbox_filter *filter = NULL;
	char *stack = make_stack();
	pid_t pid;
	int err;

	if (getpid() != 1)
		return -EPERM;
	if (!stack)
		return -ENOMEM;
	err = sandbox_compile(tables, 2, &filter);
	if (err)
		return err;
	/* The C library's note of its thread's id becomes the worker's. */
	pid = clone(worker, stack, CLONE_VM | SIGCHLD | (tid_address() ? CLONE_CHILD_SETTID : 0), &split,
		    NULL, NULL, tid_address());
	if (pid < 0)
		return -errno;
	anchor(&split, filter, pid);
}
