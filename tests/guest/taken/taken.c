/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a program of ours is taken over: sandbox_install, by which each stage of a confinement begins, is wrapped by the linker.
 *
 * Who has taken a process over needs not die of a forbidden call (docs/architecture.md, "A forbidden system call"): he keeps
 * the handler from its last step. Here that is a handler of ours in its place, put there while it is still allowed, which leaves
 * by a jump and not by a return, as some filters have no call for that. So one process can try everything, one after the other.
 */
#include "taken.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attack.h"
#include "bus.h"
#include "loop.h"
#include "num.h"
#include "clock.h"
#include "probe_try.h"
#include "sandbox.h"

#define LOOK_NS (5 * NS_PER_MS)

int __real_sandbox_install(const struct sandbox_filter *filter, bool all_threads);
int __wrap_sandbox_install(const struct sandbox_filter *filter, bool all_threads);
int __real_sandbox_set_trap(const struct sandbox_trap *trap);
int __wrap_sandbox_set_trap(const struct sandbox_trap *trap);
int __real_sandbox_anchor(const struct sandbox_anchor *a);
int __wrap_sandbox_anchor(const struct sandbox_anchor *a);
int __real_bus_dial(struct loop *loop, const char *path, const struct bus_ops *ops, void *arg,
		    struct bus **out);
int __wrap_bus_dial(struct loop *loop, const char *path, const struct bus_ops *ops, void *arg,
		    struct bus **out);
int __real_loop_run(struct loop *loop);
int __wrap_loop_run(struct loop *loop);

static struct taken_page *page;
static unsigned program;
static struct sigaction before; /* what handles a call that we did not make */
static _Thread_local sigjmp_buf
    *volatile catcher; /* system calls are no calls that come back here, for the compiler */

/* ---- a forbidden call ---- */

static void on_trap(int signal, siginfo_t *info, void *context)
{
	if (catcher)
		siglongjmp(*catcher, 1);
	if (before.sa_flags & SA_SIGINFO && before.sa_sigaction)
		before.sa_sigaction(signal, info, context);
	__builtin_trap();
}

static void set_handler(void)
{
	struct sigaction sa = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigaction(SIGSYS, &sa, &before);
}

int __wrap_sandbox_set_trap(const struct sandbox_trap *trap)
{
	int err = __real_sandbox_set_trap(trap);

	if (!err && page)
		set_handler();
	return err;
}

long taken_call(long nr, long a, long b, long c, long d, long e, long f)
{
	sigjmp_buf *volatile outer = catcher;
	sigjmp_buf here;
	long r;

	if (sigsetjmp(here, 0)) {
		catcher = outer;
		return -TAKEN_NR;
	}
	catcher = &here;
	r = syscall(nr, a, b, c, d, e, f);
	catcher = outer;
	return r < 0 ? -errno : r;
}

long taken_each_fd(long (*does)(int fd))
{
	long r, last = -EBADF;

	for (int fd = 0; fd < TAKEN_FDS; fd++) {
		r = does(fd);
		if (r >= 0)
			return r;
		if (r != -EBADF)
			last = r;
	}
	return last;
}

/* ---- trying everything ---- */

static int32_t judge(long r, bool is_task)
{
	if (r == -TAKEN_NR)
		return TAKEN_TRAPPED;
	if (is_task)
		return TAKEN_IS_TASK;
	return r < 0 ? (int32_t)r : TAKEN_WORKED;
}

/* An attempt of tests/support/probe_try.c, which makes its calls by itself. */
static long try_old(const struct probe_try *try)
{
	sigjmp_buf here;
	long r = -TAKEN_NR;

	if (!sigsetjmp(here, 0)) {
		catcher = &here;
		r = try->fn((pid_t)page->host_pid);
	}
	catcher = NULL;
	return r;
}

static long try_new(const struct taken_try *try)
{
	const long *a = try->arg;

	return try->fn ? try->fn(page) : taken_call(try->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* What of those is a program's task. */
static bool is_old_task(const struct probe_try *try, enum taken_stage stage)
{
	static const char *const tasks[] = { "make an internet socket", "a foreign ioctl" };

	if (stage == TAKEN_ONE &&
	    (try->set_up || (program == TAKEN_BLK && !strcmp(try->name, "make an io_uring"))))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(tasks); i++)
		if (program & (TAKEN_USER | TAKEN_DIAL) && !strcmp(try->name, tasks[i]))
			return true;
	return false;
}

static _Thread_local size_t number; /* of the next attempt */

static void note(enum taken_stage stage, size_t i, const char *name, int32_t outcome)
{
	for (size_t c = 0; c < TAKEN_NAME - 1 && name[c]; c++)
		page->name[i][c] = name[c];
	atomic_store(&page->outcome[stage][i], outcome);
}

static void try_table(enum taken_stage stage, const struct taken_table *table)
{
	for (size_t t = 0; t < table->n && number < TAKEN_TRIES; t++, number++) {
		const struct taken_try *try = &table->try[t];
		bool task = try->task & program || (try->set_up && stage == TAKEN_ONE);

		if (try->steady && stage == TAKEN_ONE)
			continue;
		note(stage, number, try->name, TAKEN_RUNNING);
		note(stage, number, try->name, judge(try_new(try), task));
	}
}

static void try_all(enum taken_stage stage)
{
	const struct taken_table *const tables[] = { &taken_files, &taken_network, &taken_processes,
						     &taken_kernel, &taken_memory };
	uint32_t bit = 1U << stage;

	if (!page || !(atomic_fetch_and(&page->stages, ~bit) & bit))
		return;
	number = 0;
	for (size_t i = 0; i < probe_tries_count && number < TAKEN_TRIES; i++, number++) {
		const struct probe_try *try = &probe_tries[i];

		if (try->deadly)
			continue;
		note(stage, number, try->name, TAKEN_RUNNING);
		note(stage, number, try->name, judge(try_old(try), is_old_task(try, stage)));
	}
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
		try_table(stage, tables[i]);
	atomic_fetch_or(&page->done, bit);
}

/* ---- where the process is in its life ---- */

static bool entered, narrowed;

int __wrap_sandbox_install(const struct sandbox_filter *filter, bool all_threads)
{
	int err = __real_sandbox_install(filter, all_threads);

	if (err)
		return err;
	if (!all_threads) {
		try_all(entered ? TAKEN_THREAD : TAKEN_ANCHOR);
		return 0;
	}
	try_all(entered ? TAKEN_STEADY : TAKEN_ONE);
	narrowed = entered;
	entered = true;
	return 0;
}

static struct loop_timer *look_timer;
static struct attack attack = { .vhost = -1 };

int __wrap_sandbox_anchor(const struct sandbox_anchor *a)
{
	attack.anchor = (struct sandbox_anchor *)(uintptr_t)a;
	return __real_sandbox_anchor(a);
}

int __wrap_bus_dial(struct loop *loop, const char *path, const struct bus_ops *ops, void *arg,
		    struct bus **out)
{
	int err = __real_bus_dial(loop, path, ops, arg, out);

	attack.bus = err ? NULL : *out;
	return err;
}

/* On the main loop: there may be something to try by now, or to do. */
static void look(void *arg)
{
	uint32_t ms = narrowed ? atomic_exchange(&page->attack_ms, 0) : 0;

	(void)arg;
	if (narrowed) {
		try_all(TAKEN_SERVES);
		atomic_store(&page->serves, 1);
	}
	if (ms) {
		attack.end_ns = clock_ns() + ms * NS_PER_MS;
		attack_do(page->attack, &attack);
	}
	loop_arm_timer(look_timer, clock_ns() + LOOK_NS);
}

/* The first loop that is run by the thread that the process began with is the main one. */
int __wrap_loop_run(struct loop *loop)
{
	if (page && !strcmp(loop_name(loop), "main") && !look_timer &&
	    !loop_add_timer(loop, look, NULL, &look_timer))
		loop_arm_timer(look_timer, clock_ns() + LOOK_NS);
	return __real_loop_run(loop);
}

/* ---- the beginning ---- */

static void list_fds(void)
{
	size_t len = 0;

	for (int fd = 0; fd < TAKEN_FDS && len < sizeof(page->fds) - 300; fd++) {
		char path[32], target[256];
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		if (n > 0)
			len += (size_t)snprintf(page->fds + len, sizeof(page->fds) - len, "%d %.*s\n", fd,
						(int)n, target);
	}
}

static unsigned program_of(const char *name)
{
	static const struct {
		const char *name;
		unsigned program;
	} programs[] = {
		{ "blk-server", TAKEN_BLK }, { "net-server", TAKEN_NET }, { "net-user", TAKEN_USER },
		{ "nbd-dial", TAKEN_DIAL },  { "vmm-core", TAKEN_CORE },
	};

	for (size_t i = 0; i < ARRAY_SIZE(programs); i++)
		if (!strcmp(name, programs[i].name))
			return programs[i].program;
	return 0;
}

/* Before main. Nothing is left open. */
__attribute__((constructor)) static void begin(int argc, char **argv)
{
	const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL, *id = NULL, *vhost = NULL;
	struct taken_page *found;
	uint32_t nobody = 0;
	char path[512];
	int fd;

	for (int i = 1; i + 1 < argc; i++)
		if (!strcmp(argv[i], "--id"))
			id = argv[i + 1];
		else if (!strcmp(argv[i], "--vhost-fd"))
			vhost = argv[i + 1];
	if (!slash || !id)
		return;
	snprintf(path, sizeof(path), "%s.%s.page", argv[0], id);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	found = mmap(NULL, sizeof(*found), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (found == MAP_FAILED || !atomic_compare_exchange_strong(&found->claimed, &nobody, 1))
		return;
	page = found;
	program = program_of(slash + 1);
	attack.vhost = vhost ? atoi(vhost) : -1;
	list_fds();
	set_handler();
}
