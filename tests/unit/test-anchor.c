/* SPDX-License-Identifier: Apache-2.0 */
/* lib/sandbox/anchor: a death is told at once, but not before the kernel is through with what the dead one left to it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"
#include "fd.h"
#include "num.h"
#include "sandbox.h"

TestSuite(anchor, .timeout = 60);

#define REFUSED 77 /* sandbox_anchor returned */

/* What the tests and the processes that they make share. */
struct shared {
	atomic_bool done;    /* the kernel is through, drained may say */
	atomic_bool waiting; /* drained waits for that */
};

static struct shared *shared;
static int told;     /* the watcher's end */
static int life[2];  /* its writing end is held by the worker, and by the anchor only if that is wrong */
static pid_t anchor; /* as seen from here */
static void (*before_split)(void);

static const struct sandbox_rule drain[] = { { .nr = __NR_sched_yield, .why = "waits" }, { .why = NULL } };

static int wait_for_signal(void *arg)
{
	(void)arg;
	while (pause())
		;
	return 0;
}

static int end_with_3(void *arg)
{
	(void)arg;
	_exit(3);
}

static int crash(void *arg)
{
	(void)arg;
	signal(SIGSEGV, SIG_DFL);
	raise(SIGSEGV);
	_exit(0);
}

static bool yes(void *arg)
{
	(void)arg;
	return true;
}

static bool no(void *arg)
{
	(void)arg;
	return false;
}

static bool when_done(void *arg)
{
	(void)arg;
	atomic_store(&shared->waiting, true);
	while (!atomic_load(&shared->done))
		syscall(SYS_sched_yield);
	return true;
}

static bool forbidden_call(void *arg)
{
	(void)arg;
	return syscall(SYS_getuid) >= 0;
}

/* Starts a process 1 that splits. */
static void start(int (*work)(void *), bool (*drained)(void *))
{
	struct sandbox_anchor a = { .work = work, .drained = drained, .drain = drain };
	int pair[2], on = 1;

#ifdef BH_SANITIZE
	cr_skip_test("a sanitizer wants to know where the main thread's stack is");
#endif
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	cr_assert_eq(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)), 0);
	cr_assert_eq(pipe2(life, O_CLOEXEC), 0);
	anchor = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);
	if (anchor < 0)
		cr_skip_test("no namespaces can be made here");
	if (!anchor) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves none of them behind */
		a.fd = pair[1];
		close(life[0]);
		if (before_split)
			before_split();
		sandbox_anchor(&a);
		_exit(REFUSED);
	}
	told = pair[0];
	close(pair[1]);
	close(life[1]);
}

static void wait_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	cr_assert_eq(poll(&p, 1, 30000), 1);
}

/* The worker's pid, as its first word tells it. */
static pid_t worker_pid(void)
{
	char byte;
	pid_t pid;

	wait_readable(told);
	cr_assert_eq(fd_recv_pid(told, &byte, 1, &pid), 1);
	cr_assert_gt(pid, 0);
	cr_assert_neq(pid, anchor);
	return pid;
}

static void expect_death(int code, int status, int drained)
{
	struct sandbox_death death;
	pid_t pid;

	wait_readable(told);
	cr_assert_eq(fd_recv_pid(told, &death, sizeof(death), &pid), sizeof(death));
	cr_assert_eq(pid, anchor, "only the anchor can say it");
	cr_assert_eq(death.code, code);
	cr_assert_eq(death.status, status);
	cr_assert_eq(death.drained, drained);
}

static void expect_silence(void)
{
	char byte;
	pid_t pid;

	wait_readable(told);
	cr_assert_eq(fd_recv_pid(told, &byte, 1, &pid), 0);
}

/* Reaps the anchor; its status as of waitpid. */
static int anchor_status(void)
{
	int status;

	cr_assert_eq(waitpid(anchor, &status, 0), anchor);
	return status;
}

static void worker_is_gone(void)
{
	char byte;

	wait_readable(life[0]);
	cr_assert_eq(read(life[0], &byte, 1), 0);
}

static void share(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(shared, MAP_FAILED);
}

Test(anchor, tells_of_a_kill, .init = share)
{
	start(wait_for_signal, yes);
	cr_assert_eq(kill(worker_pid(), SIGKILL), 0);
	expect_death(CLD_KILLED, SIGKILL, 0);
	expect_death(CLD_KILLED, SIGKILL, 1);
	cr_assert_eq(WEXITSTATUS(anchor_status()), SANDBOX_SIGNALLED + SIGKILL);
}

Test(anchor, tells_of_a_crash, .init = share)
{
	start(crash, yes);
	worker_pid();
	expect_death(CLD_KILLED, SIGSEGV, 0);
	expect_death(CLD_KILLED, SIGSEGV, 1);
	cr_assert_eq(WEXITSTATUS(anchor_status()), SANDBOX_SIGNALLED + SIGSEGV);
}

Test(anchor, tells_of_an_end, .init = share)
{
	start(end_with_3, yes);
	worker_pid();
	expect_death(CLD_EXITED, 3, 0);
	expect_death(CLD_EXITED, 3, 1);
	cr_assert_eq(WEXITSTATUS(anchor_status()), 3);
}

Test(anchor, is_silent_if_it_cannot_tell, .init = share)
{
	start(wait_for_signal, no);
	cr_assert_eq(kill(worker_pid(), SIGKILL), 0);
	expect_death(CLD_KILLED, SIGKILL, 0);
	expect_silence();
	cr_assert_eq(WEXITSTATUS(anchor_status()), SANDBOX_SIGNALLED + SIGKILL);
}

/* FAULTS 48: nobody takes the dead one's place before the kernel has done what it was given. */
Test(anchor, f48_says_nothing_before_the_kernel_is_through, .init = share)
{
	struct pollfd p;

	start(wait_for_signal, when_done);
	cr_assert_eq(kill(worker_pid(), SIGKILL), 0);
	worker_is_gone(); /* the anchor holds none of its descriptors */
	expect_death(CLD_KILLED, SIGKILL, 0);
	while (!atomic_load(&shared->waiting))
		sched_yield();
	p = (struct pollfd) { .fd = told, .events = POLLIN };
	cr_assert_eq(poll(&p, 1, 0), 0);
	atomic_store(&shared->done, true);
	expect_death(CLD_KILLED, SIGKILL, 1);
	anchor_status();
}

Test(anchor, takes_the_worker_with_it, .init = share)
{
	int status;

	start(wait_for_signal, yes);
	worker_pid();
	cr_assert_eq(kill(anchor, SIGKILL), 0);
	worker_is_gone();
	expect_silence();
	status = anchor_status();
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

Test(anchor, may_do_nothing_else, .init = share)
{
	int status;

	start(wait_for_signal, forbidden_call);
	cr_assert_eq(kill(worker_pid(), SIGKILL), 0);
	expect_death(CLD_KILLED, SIGKILL, 0);
	expect_silence();
	status = anchor_status();
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

static int status_of_anchor; /* its /proc/PID/status */

static int look_at_anchor(void *arg)
{
	char text[4096];
	ssize_t n = read(status_of_anchor, text, sizeof(text) - 1);

	(void)arg;
	text[n < 0 ? 0 : n] = '\0';
	_exit(strstr(text, "\nCapEff:\t0000000000000000\n") && strstr(text, "\nSeccomp:\t2\n") ? 0 : 1);
}

/* In the process that is to split: something that takes it long to give up. */
static void burden(void)
{
	struct rlimit files = { .rlim_cur = 0 };
	unsigned last = 0;

	status_of_anchor = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = MIN(files.rlim_max, 20000);
	setrlimit(RLIMIT_NOFILE, &files);
	for (int fd = 0; fd >= 0; fd = fcntl(status_of_anchor, F_DUPFD_CLOEXEC, 0))
		last = MAX(last, (unsigned)fd);
	close_range(last - 8, last, 0); /* for what sandbox_anchor opens */
}

/* Whoever takes the worker over writes the anchor's memory: what that may do must not be much by then. */
Test(anchor, is_harmless_before_the_worker_begins, .init = share)
{
	before_split = burden;
	for (int i = 0; i < 10; i++) { /* a race, so more than once */
		start(look_at_anchor, yes);
		worker_pid();
		expect_death(CLD_EXITED, 0, 0);
		expect_death(CLD_EXITED, 0, 1);
		cr_assert_eq(WEXITSTATUS(anchor_status()), 0);
		close(told);
		close(life[0]);
	}
}

Test(anchor, is_for_process_1_only)
{
	const struct sandbox_anchor a = { .fd = 0, .work = end_with_3, .drained = yes, .drain = drain };

	cr_assert_eq(sandbox_anchor(&a), -EPERM);
}
