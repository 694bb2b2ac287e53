/* SPDX-License-Identifier: Apache-2.0 */
/* lib/sandbox/trap: a process tells of the forbidden call that it dies of, and dies whether it can tell or not. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"
#include "num.h"
#include "sandbox.h"
#include "tables.h"
#include "thread.h"

TestSuite(sandbox_trap, .timeout = 60);

#define END                                                                                                  \
	{                                                                                                    \
		0                                                                                            \
	}
#define SURVIVED   7
#define NO_INSTALL 99

static const struct sandbox_rule base[] = {
	{ .nr = __NR_exit_group, .why = "end" },
	{ .nr = __NR_rt_sigreturn, .why = "end" },
	{ .nr = __NR_rt_sigprocmask, .why = "blocks signals" },
	{ .nr = __NR_getpid, .why = "signals itself" },
	{ .nr = __NR_kill, .why = "signals itself" },
	{ .nr = __NR_futex, .why = "waits for a thread" },
#ifdef BH_SANITIZE
	{ .nr = __NR_sigaltstack, .why = "what a sanitizer does before a call that does not return" },
#endif
	END
};
static const struct sandbox_rule writing[] = { { .nr = __NR_write, .why = "the line" }, END };

/* What the child left behind, in memory shared with it. */
struct left {
	_Atomic int notes;
	int nr;
	uint32_t arch;
	char thread[32];
};

static struct left *left;
static char said[512]; /* on standard error */

static void note(void *arg, int nr, uint32_t arch, const char *thread)
{
	struct left *l = arg;

	l->notes++;
	l->nr = nr;
	l->arch = arch;
	strncpy(l->thread, thread, sizeof(l->thread) - 1);
}

__attribute__((noreturn)) static void end(int status)
{
	for (;;)
		syscall(SYS_exit_group, status);
}

/* A child that does act under a filter of base and more (NULL: nothing more): its signal negative, or its status. */
static int run(void (*act)(void), const struct sandbox_rule *more)
{
	const struct sandbox_rule *tables[] = { base, more };
	const struct sandbox_trap trap = { .prefix = "test[x]: ", .note = note, .arg = left };
	struct sandbox_filter *filter = NULL;
	int ends[2], status;
	ssize_t n, len = 0;
	pid_t pid;

#ifdef BH_SANITIZE_THREAD
	cr_skip_test("the thread sanitizer holds signals back");
#endif
	cr_assert_eq(sandbox_compile(tables, more ? 2 : 1, &filter), 0);
	memset(left, 0, sizeof(*left));
	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		dup2(ends[1], STDERR_FILENO);
		thread_set_name("tester");
		if (sandbox_set_trap(&trap) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
		    sandbox_install(filter, true))
			end(NO_INSTALL);
		act();
		end(SURVIVED);
	}
	close(ends[1]);
	while ((n = read(ends[0], said + len, sizeof(said) - 1 - (size_t)len)) > 0)
		len += n;
	said[len] = '\0';
	close(ends[0]);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	sandbox_filter_free(filter);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void share(void)
{
	left = mmap(NULL, sizeof(*left), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(left, MAP_FAILED);
}

static void call_socket(void)
{
	syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
}

Test(sandbox_trap, tells_number_architecture_and_thread, .init = share)
{
	cr_expect_eq(run(call_socket, writing), -SIGSYS);
	cr_expect_eq(left->notes, 1);
	cr_expect_eq(left->nr, __NR_socket);
	cr_expect_eq(left->arch, AUDIT_ARCH_X86_64);
	cr_expect_str_eq(left->thread, "tester");
	cr_expect_str_eq(said, "test[x]: forbidden system call 41, architecture 0xc000003e, thread tester\n");
}

static void call_x32(void)
{
	syscall(0x40000000 | __NR_getpid);
}

Test(sandbox_trap, tells_of_an_x32_call, .init = share)
{
	cr_expect_eq(run(call_x32, writing), -SIGSYS);
	cr_expect_eq(left->nr, 0x40000000 | __NR_getpid);
	cr_expect_eq(left->arch, AUDIT_ARCH_X86_64);
}

/* getpid of the 32-bit interface; its number, 20, is writev of the native one. */
static void call_32(void)
{
	long n = 20;

	__asm__ volatile("int $0x80" : "+a"(n) : : "memory", "r8", "r9", "r10", "r11");
}

static void call_32_unfiltered(void)
{
	long n = 20;

	__asm__ volatile("int $0x80" : "+a"(n) : : "memory", "r8", "r9", "r10", "r11");
	end(n > 0 ? SURVIVED : 1);
}

Test(sandbox_trap, tells_of_a_call_by_the_32_bit_interface, .init = share)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		call_32_unfiltered();
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != SURVIVED)
		cr_skip_test("this kernel has no 32-bit system calls");
	cr_expect_eq(run(call_32, writing), -SIGSYS);
	cr_expect_eq(left->notes, 1);
	cr_expect_eq(left->nr, 20);
	cr_expect_eq(left->arch, AUDIT_ARCH_I386);
	cr_expect(strstr(said, "system call 20, architecture 0x40000003,"), "%s", said);
}

static void call_in_handler_is_forbidden(void)
{
	call_socket();
}

Test(sandbox_trap, dies_though_its_handler_may_not_write, .init = share)
{
	cr_expect_eq(run(call_in_handler_is_forbidden, NULL), -SIGSYS);
	cr_expect_eq(left->notes, 1, "what was noted before is kept");
	cr_expect_str_eq(said, "");
}

static void call_with_signal_blocked(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	call_socket();
}

Test(sandbox_trap, dies_with_the_signal_blocked, .init = share)
{
	cr_expect_eq(run(call_with_signal_blocked, writing), -SIGSYS);
	cr_expect_eq(left->notes, 0);
}

static void call_without_stack(void)
{
	__asm__ volatile("mov $41, %%eax\n\t"
			 "mov $2, %%edi\n\t"
			 "mov $1, %%esi\n\t"
			 "xor %%edx, %%edx\n\t"
			 "xor %%esp, %%esp\n\t"
			 "syscall\n\t"
			 "mov $231, %%eax\n\t" /* exit_group(7): it lived on */
			 "mov $7, %%edi\n\t"
			 "syscall"
			 :
			 :
			 : "rax", "rdi", "rsi", "rdx", "rcx", "r11", "memory");
}

Test(sandbox_trap, dies_without_a_stack_for_the_handler, .init = share)
{
	int result;

#ifdef BH_SANITIZE
	cr_skip_test("a sanitizer handles the fault on a stack of its own");
#endif
	result = run(call_without_stack, writing);
	cr_expect(result == -SIGSEGV || result == -SIGSYS, "%d", result);
	cr_expect_eq(left->notes, 0);
}

static void send_itself_the_signal(void)
{
	kill(getpid(), SIGSYS);
}

Test(sandbox_trap, a_signal_that_somebody_sent_is_no_call, .init = share)
{
	cr_expect_eq(run(send_itself_the_signal, writing), SURVIVED);
	cr_expect_eq(left->notes, 0);
}

static void die_by_number(void)
{
	syscall(SANDBOX_CALL_DIE);
}

Test(sandbox_trap, the_last_call_kills_without_a_handler, .init = share)
{
	cr_expect_eq(run(die_by_number, writing), -SIGSYS);
	cr_expect_eq(left->notes, 0, "it went through the handler");
}

Test(sandbox_trap, no_table_may_allow_the_last_call)
{
	static const struct sandbox_rule table[] = { { .nr = SANDBOX_CALL_DIE, .why = "t" }, END };
	const struct sandbox_rule *tables[] = { table };
	struct sandbox_filter *filter = NULL;

	cr_expect_eq(sandbox_compile(tables, 1, &filter), -EINVAL);
}

/* ---- threads ---- */

static int wake[2];
static sem_t started;

static void *other_thread(void *arg)
{
	char byte;

	(void)arg;
	thread_set_name("other");
	sem_post(&started);
	while (syscall(SYS_read, wake[0], &byte, 1) != 1)
		;
	call_socket();
	end(SURVIVED);
}

static void have_another_thread_call(void)
{
	if (syscall(SYS_write, wake[1], "", 1) != 1)
		end(NO_INSTALL);
	for (;;)
		syscall(SYS_pause);
}

/* The thread is there before the filter; the whole process dies, not the thread alone. */
Test(sandbox_trap, tells_of_another_thread, .init = share)
{
	static const struct sandbox_rule more[] = { { .nr = __NR_read, .why = "t" },
						    { .nr = __NR_write, .why = "t" },
						    { .nr = __NR_pause, .why = "t" },
						    { .nr = __NR_restart_syscall, .why = "t" },
						    END };
	const struct sandbox_rule *tables[] = { base, more };
	const struct sandbox_trap trap = { .prefix = "", .note = note, .arg = left };
	struct sandbox_filter *filter = NULL;
	pthread_t thread;
	int status;
	pid_t pid;

#ifdef BH_SANITIZE
	cr_skip_test("a sanitizer's own threads would be killed first");
#endif
	cr_assert_eq(sandbox_compile(tables, 2, &filter), 0);
	cr_assert_eq(pipe(wake), 0);
	pid = fork();
	if (pid == 0) {
		thread_set_name("main");
		sem_init(&started, 0, 0);
		if (pthread_create(&thread, NULL, other_thread, NULL) || sandbox_set_trap(&trap))
			end(NO_INSTALL);
		while (sem_wait(&started) < 0)
			;
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || sandbox_install(filter, true))
			end(NO_INSTALL);
		have_another_thread_call();
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	sandbox_filter_free(filter);
	cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "status %#x", status);
	cr_expect_eq(left->nr, __NR_socket);
	cr_expect_str_eq(left->thread, "other");
}

/* ---- the tables leave the handler alone ---- */

Test(sandbox_trap, tables_allow_no_other_handler, .init = share)
{
	static const struct sandbox_rule *const all[] = {
		sandbox_table_runtime,   sandbox_table_loop,    sandbox_table_bus,
		sandbox_table_sockets,   sandbox_table_threads, sandbox_table_loop_setup,
		sandbox_table_bus_setup, sandbox_table_narrow,
	};

	for (size_t t = 0; t < ARRAY_SIZE(all); t++)
		for (const struct sandbox_rule *r = all[t]; r->why; r++) {
			if (r->nr != __NR_rt_sigaction)
				continue;
			cr_expect_eq(r->args[0].op, SANDBOX_EQ);
			cr_expect_eq(r->args[0].index, 0);
			cr_expect_neq(r->args[0].value, SIGSYS);
		}
}

/* ---- names ---- */

Test(sandbox_trap, calls_have_names)
{
	static const struct {
		int nr;
		uint32_t arch;
		const char *text;
	} calls[] = {
		{ __NR_socket, AUDIT_ARCH_X86_64, "socket (41, x86_64)" },
		{ 20, AUDIT_ARCH_I386, "getpid (20, i386)" },
		{ 0x40000000 | __NR_getpid, AUDIT_ARCH_X86_64, "getpid (1073741863, x32)" },
		{ 9999, AUDIT_ARCH_X86_64, "unknown (9999, x86_64)" },
		{ -1, AUDIT_ARCH_X86_64, "unknown (-1, x86_64)" },
		{ 41, 0xdeadbeef, "unknown (41, 0xdeadbeef)" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		char text[64];

		sandbox_describe_call(calls[i].nr, calls[i].arch, text, sizeof(text));
		cr_expect_str_eq(text, calls[i].text);
	}
}
