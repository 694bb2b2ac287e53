/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/sandbox/filter: what a compiled table lets through and what it kills.
 *
 * Each attempt runs in a child of its own, by raw system calls only, so that it also works in sanitizer builds.
 * getppid takes no arguments, so it can be called with any six and does no harm.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"
#include "num.h"
#include "sandbox.h"
#include "tables.h"

#define END                                                                                                  \
	{                                                                                                    \
		0                                                                                            \
	}
#define SURVIVED   0
#define NO_INSTALL 99

static const struct sandbox_rule base[] = {
	{ .nr = __NR_exit_group, .why = "end" },
	{ .nr = __NR_rt_sigreturn, .why = "end" },
#ifdef BH_SANITIZE
	{ .nr = __NR_sigaltstack, .why = "what a sanitizer does before a call that does not return" },
#endif
	END
};

struct call {
	long nr;
	uint64_t args[6];
};

static struct sandbox_filter *compile(const struct sandbox_rule *table)
{
	const struct sandbox_rule *tables[] = { base, table };
	struct sandbox_filter *filter = NULL;

	cr_assert_eq(sandbox_compile(tables, 2, &filter), 0);
	return filter;
}

/* Ends a child without the exit handlers of whatever was linked in. */
__attribute__((noreturn)) static void end(int status)
{
	for (;;)
		syscall(SYS_exit_group, status);
}

/* Makes call under filter: SURVIVED, an errno that it failed with, or -SIGSYS. */
static int attempt(const struct sandbox_filter *filter, const struct call *call)
{
	pid_t pid = fork();
	int status;
	long n;

	cr_assert_geq(pid, 0);
	if (pid == 0) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || sandbox_install(filter, false))
			end(NO_INSTALL);
		n = syscall(call->nr, call->args[0], call->args[1], call->args[2], call->args[3],
			    call->args[4], call->args[5]);
		end(n < 0 ? errno : SURVIVED);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status))
		return -WTERMSIG(status);
	cr_assert_neq(WEXITSTATUS(status), NO_INSTALL);
	return WEXITSTATUS(status);
}

static int attempt_arg(const struct sandbox_rule *table, unsigned index, uint64_t value)
{
	struct sandbox_filter *filter = compile(table);
	struct call call = { .nr = __NR_getppid };
	int result;

	call.args[index] = value;
	result = attempt(filter, &call);
	sandbox_filter_free(filter);
	return result;
}

Test(sandbox_filter, unlisted_call_kills)
{
	static const struct sandbox_rule table[] = { { .nr = __NR_getppid, .why = "t" }, END };
	struct sandbox_filter *filter = compile(table);

	cr_assert_eq(attempt(filter, &(struct call) { .nr = __NR_getppid }), SURVIVED);
	cr_assert_eq(attempt(filter, &(struct call) { .nr = __NR_getuid }), -SIGSYS);
	cr_assert_eq(attempt(filter, &(struct call) { .nr = 10000 }), -SIGSYS);
	sandbox_filter_free(filter);
}

Test(sandbox_filter, equal)
{
	static const struct sandbox_rule table[] = {
		{ .nr = __NR_getppid,
		  .args = { { .index = 5, .op = SANDBOX_EQ, .value = 0x100000007 } },
		  .why = "t" },
		END
	};

	cr_assert_eq(attempt_arg(table, 5, 0x100000007), SURVIVED);
	cr_assert_eq(attempt_arg(table, 5, 7), -SIGSYS);
	cr_assert_eq(attempt_arg(table, 5, 0x100000008), -SIGSYS);
}

Test(sandbox_filter, not_equal)
{
	static const struct sandbox_rule table[] = {
		{ .nr = __NR_getppid, .args = { { .index = 0, .op = SANDBOX_NE, .value = 7 } }, .why = "t" },
		END
	};

	cr_assert_eq(attempt_arg(table, 0, 8), SURVIVED);
	cr_assert_eq(attempt_arg(table, 0, 7), -SIGSYS);
}

Test(sandbox_filter, at_most)
{
	static const struct sandbox_rule table[] = {
		{ .nr = __NR_getppid, .args = { { .index = 1, .op = SANDBOX_LE, .value = 7 } }, .why = "t" },
		END
	};

	cr_assert_eq(attempt_arg(table, 1, 0), SURVIVED);
	cr_assert_eq(attempt_arg(table, 1, 7), SURVIVED);
	cr_assert_eq(attempt_arg(table, 1, 8), -SIGSYS);
	cr_assert_eq(attempt_arg(table, 1, 0x100000000), -SIGSYS);
}

Test(sandbox_filter, masked)
{
	static const struct sandbox_rule table[] = {
		{ .nr = __NR_getppid,
		  .args = { { .index = 2, .op = SANDBOX_MASKED, .mask = 6, .value = 2 } },
		  .why = "t" },
		END
	};

	cr_assert_eq(attempt_arg(table, 2, 2), SURVIVED);
	cr_assert_eq(attempt_arg(table, 2, 0xfff3), SURVIVED);
	cr_assert_eq(attempt_arg(table, 2, 6), -SIGSYS);
	cr_assert_eq(attempt_arg(table, 2, 0), -SIGSYS);
}

Test(sandbox_filter, all_arguments_of_a_rule_must_match)
{
	static const struct sandbox_rule table[] = {
		{ .nr = __NR_getppid,
		  .args = { { .index = 0, .op = SANDBOX_EQ, .value = 1 },
			    { .index = 1, .op = SANDBOX_EQ, .value = 2 },
			    { .index = 2, .op = SANDBOX_LE, .value = 3 } },
		  .why = "t" },
		END
	};
	struct sandbox_filter *filter = compile(table);

	cr_assert_eq(attempt(filter, &(struct call) { __NR_getppid, { 1, 2, 3 } }), SURVIVED);
	cr_assert_eq(attempt(filter, &(struct call) { __NR_getppid, { 1, 2, 4 } }), -SIGSYS);
	cr_assert_eq(attempt(filter, &(struct call) { __NR_getppid, { 1, 3, 3 } }), -SIGSYS);
	cr_assert_eq(attempt(filter, &(struct call) { __NR_getppid, { 2, 2, 3 } }), -SIGSYS);
	sandbox_filter_free(filter);
}

Test(sandbox_filter, refused_call_fails_with_its_errno)
{
	static const struct sandbox_rule table[] = { { .nr = __NR_getppid, .refuse = ENOSYS, .why = "t" },
						     END };
	const struct sandbox_rule *tables[] = { table };
	struct sandbox_filter *filter = compile(table);

	cr_assert_eq(attempt(filter, &(struct call) { .nr = __NR_getppid }), ENOSYS);
	sandbox_filter_free(filter);
	cr_assert_eq(sandbox_count(tables, 1), 0);
}

Test(sandbox_filter, a_refusal_with_conditions_is_one_more_alternative)
{
	static const struct sandbox_rule table[] = {
		{ .nr = __NR_getppid, .args = { { .op = SANDBOX_EQ, .value = 1 } }, .why = "allowed" },
		{ .nr = __NR_getppid,
		  .refuse = EACCES,
		  .args = { { .op = SANDBOX_EQ, .value = 2 } },
		  .why = "refused" },
		{ .nr = __NR_getppid,
		  .refuse = EPERM,
		  .args = { { .op = SANDBOX_EQ, .value = 1 } },
		  .why = "void: it is allowed" },
		{ .nr = __NR_getppid, .refuse = EIO, .why = "void: some of it is allowed" },
		END,
	};
	const struct sandbox_rule *tables[] = { table };
	struct sandbox_filter *filter = compile(table);

	cr_assert_eq(attempt(filter, &(struct call) { __NR_getppid, { 1 } }), SURVIVED);
	cr_assert_eq(attempt(filter, &(struct call) { __NR_getppid, { 2 } }), EACCES);
	cr_assert_eq(attempt(filter, &(struct call) { __NR_getppid, { 3 } }), -SIGSYS);
	sandbox_filter_free(filter);
	cr_assert_eq(sandbox_count(tables, 1), 1);
}

Test(sandbox_filter, rules_that_cannot_be_had_are_refused)
{
	static const struct sandbox_rule bad[][3] = {
		{ { .nr = __NR_getppid,
		    .args = { { .index = 0, .op = SANDBOX_NE, .value = 1 },
			      { .index = 0, .op = SANDBOX_NE, .value = 2 } },
		    .why = "one argument twice" },
		  END },
		{ { .nr = __NR_getppid,
		    .args = { { .index = 0, .op = SANDBOX_EQ } },
		    .why = "on one argument" },
		  { .nr = __NR_getppid, .args = { { .index = 1, .op = SANDBOX_EQ } }, .why = "on another" },
		  END },
		{ { .nr = __NR_getppid, .args = { { .index = 0, .op = SANDBOX_EQ } }, .why = "one operator" },
		  { .nr = __NR_getppid, .args = { { .index = 0, .op = SANDBOX_LE } }, .why = "another" },
		  END },
		{ { .nr = __NR_getppid, .args = { { .op = SANDBOX_LE, .value = 1 } }, .why = "two bounds" },
		  { .nr = __NR_getppid, .args = { { .op = SANDBOX_LE, .value = 2 } }, .why = "the other" },
		  END },
		{ { .nr = __NR_getppid,
		    .refuse = EPERM,
		    .args = { { .index = 0, .op = SANDBOX_EQ } },
		    .why = "refused on one argument" },
		  { .nr = __NR_getppid,
		    .args = { { .index = 1, .op = SANDBOX_EQ } },
		    .why = "allowed on another" },
		  END },
		{ { .nr = __NR_getppid, .args = { { .index = 6, .op = SANDBOX_EQ } }, .why = "7th" }, END },
		{ { .nr = __NR_getppid, .args = { { .op = SANDBOX_MASKED + 1 } }, .why = "operator" }, END },
		{ { .nr = __NR_getppid,
		    .args = { { .op = SANDBOX_MASKED, .mask = 1, .value = 2 } },
		    .why = "never true" },
		  END },
		{ { .nr = -1, .why = "no call" }, END },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const struct sandbox_rule *tables[] = { bad[i] };
		struct sandbox_filter *filter = NULL;

		cr_expect_eq(sandbox_compile(tables, 1, &filter), -EINVAL, "%s", bad[i][0].why);
		cr_expect_null(filter);
	}
}

Test(sandbox_filter, log_only_forbids_nothing)
{
	static const struct sandbox_rule table[] = {
		{ .nr = __NR_getppid, .args = { { .op = SANDBOX_EQ, .value = 1 } }, .why = "t" },
		{ .nr = __NR_getpgrp, .refuse = EACCES, .why = "refused" },
		END
	};
	struct sandbox_filter *filter = compile(table);

	cr_assert_eq(attempt(filter, &(struct call) { .nr = __NR_getuid }), -SIGSYS);
	sandbox_filter_free(filter);
	sandbox_log_only();
	filter = compile(table);
	cr_expect_eq(attempt(filter, &(struct call) { .nr = __NR_getuid }), SURVIVED);
	cr_expect_eq(attempt(filter, &(struct call) { __NR_getppid, { 2 } }), SURVIVED);
	cr_expect_eq(attempt(filter, &(struct call) { .nr = __NR_getpgrp }), EACCES);
	cr_expect_eq(attempt(filter, &(struct call) { .nr = SANDBOX_CALL_DIE }), -SIGSYS);
	sandbox_filter_free(filter);
}

/* ---- random tables against the definition ---- */

static const uint64_t values[] = { 0, 1, 2, 3, 4, 7, 8, 0xffffffff, 0x100000000, 0x100000001, UINT64_MAX };

static uint64_t pick(void)
{
	return values[(size_t)rand() % ARRAY_SIZE(values)];
}

/* One shape for the alternatives of a table: which arguments, how. Only a lone rule has all operators. */
static void random_shape(struct sandbox_rule *rule, bool alone)
{
	static const uint8_t ops[] = { SANDBOX_EQ, SANDBOX_MASKED, SANDBOX_NE, SANDBOX_LE };
	int n = rand() % (SANDBOX_ARGS_MAX + 1), first = rand() % 3;

	*rule = (struct sandbox_rule) { .nr = __NR_getppid, .why = "random" };
	for (int i = 0; i < n; i++) {
		rule->args[i].index = (uint8_t)(first + i);
		rule->args[i].op = ops[rand() % (alone ? 4 : 2)];
		rule->args[i].mask = pick();
	}
}

static void random_values(struct sandbox_rule *rule)
{
	for (int i = 0; i < SANDBOX_ARGS_MAX; i++) {
		rule->args[i].value = pick();
		if (rule->args[i].op == SANDBOX_MASKED)
			rule->args[i].value &= rule->args[i].mask;
	}
}

static bool arg_matches(const struct sandbox_arg *arg, const uint64_t *args)
{
	uint64_t v = args[arg->index];

	switch ((enum sandbox_op)arg->op) {
	case SANDBOX_EQ:
		return v == arg->value;
	case SANDBOX_NE:
		return v != arg->value;
	case SANDBOX_LE:
		return v <= arg->value;
	case SANDBOX_MASKED:
		return (v & arg->mask) == arg->value;
	case SANDBOX_ANY:
	default:
		return true;
	}
}

static bool table_allows(const struct sandbox_rule *rule, const uint64_t *args)
{
	for (; rule->why; rule++) {
		bool all = true;

		for (size_t i = 0; i < SANDBOX_ARGS_MAX; i++)
			all = all && arg_matches(&rule->args[i], args);
		if (all)
			return true;
	}
	return false;
}

Test(sandbox_filter, random_tables_mean_what_they_say)
{
	int kills = 0, passes = 0;

	srand(20);
	for (int round = 0; round < 150; round++) {
		struct sandbox_rule table[5] = { 0 };
		struct sandbox_filter *filter;
		int n;

		/* Up to three alternatives, the first one twice, or with one that covers it. */
		n = 1 + rand() % 3;
		random_shape(&table[0], n == 1);
		for (int i = n - 1; i >= 0; i--) {
			table[i] = table[0];
			random_values(&table[i]);
		}
		table[n] = table[0];
		if (n == 1)
			table[n].args[rand() % SANDBOX_ARGS_MAX].op = SANDBOX_ANY;
		filter = compile(table);
		for (int i = 0; i < 4; i++) {
			struct call call = { .nr = __NR_getppid };
			bool allowed;

			for (int a = 0; a < 6; a++)
				call.args[a] = pick();
			allowed = table_allows(table, call.args);
			cr_assert_eq(attempt(filter, &call), allowed ? SURVIVED : -SIGSYS,
				     "round %d call %d: expected %s", round, i, allowed ? "pass" : "kill");
			*(allowed ? &passes : &kills) += 1;
		}
		sandbox_filter_free(filter);
	}
	cr_expect_gt(kills, 50);
	cr_expect_gt(passes, 50);
}

/* ---- architectures ---- */

static int end_of(pid_t pid)
{
	int status;

	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* getpid of the 32-bit interface, whose number 20 is writev of the native one. */
static long getpid_32(void)
{
	long n = 20;

	__asm__ volatile("int $0x80" : "+a"(n) : : "memory", "r8", "r9", "r10", "r11");
	return n;
}

static int attempt_foreign(const struct sandbox_filter *filter)
{
	pid_t pid = fork();

	if (pid == 0) {
		if (filter && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || sandbox_install(filter, false)))
			end(NO_INSTALL);
		end(getpid_32() > 0 ? SURVIVED : 1);
	}
	return end_of(pid);
}

Test(sandbox_filter, foreign_architecture_kills)
{
	static const struct sandbox_rule table[] = { { .nr = __NR_writev, .why = "has the foreign number" },
						     { .nr = __NR_getpid, .why = "is the foreign call" },
						     END };
	struct sandbox_filter *filter = compile(table);

	/* Number 20 of the native interface is allowed, so only the check of the architecture can kill. */
	cr_assert_eq(attempt(filter, &(struct call) { .nr = 20, .args = { -1ULL } }), EBADF);
	if (attempt_foreign(NULL) != SURVIVED)
		cr_skip_test("this kernel has no 32-bit system calls");
	cr_assert_eq(attempt_foreign(filter), -SIGSYS);
	sandbox_filter_free(filter);
}

Test(sandbox_filter, x32_numbers_kill)
{
	static const struct sandbox_rule table[] = { { .nr = __NR_getppid, .why = "t" }, END };
	struct sandbox_filter *filter = compile(table);

	cr_assert_eq(attempt(filter, &(struct call) { .nr = 0x40000000 | __NR_getppid }), -SIGSYS);
	sandbox_filter_free(filter);
}

/* ---- threads ---- */

static int wake_pipe[2];

static void *other_thread(void *arg)
{
	char byte;

	(void)arg;
	while (syscall(SYS_read, wake_pipe[0], &byte, 1) != 1)
		;
	syscall(SYS_getppid);
	end(SURVIVED);
}

/* A thread that was there before the filter calls what the filter forbids. */
static int other_thread_under(const struct sandbox_filter *filter, bool all_threads)
{
	pthread_t thread;
	pid_t pid;

	cr_assert_eq(pipe(wake_pipe), 0);
	pid = fork();
	if (pid == 0) {
		if (pthread_create(&thread, NULL, other_thread, NULL) ||
		    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || sandbox_install(filter, all_threads))
			end(NO_INSTALL);
		syscall(SYS_write, wake_pipe[1], "", 1);
		for (;;)
			syscall(SYS_pause);
	}
	return end_of(pid);
}

Test(sandbox_filter, thread_sync_covers_threads_that_exist)
{
	static const struct sandbox_rule table[] = { { .nr = __NR_read, .why = "t" },
						     { .nr = __NR_write, .why = "t" },
						     { .nr = __NR_pause, .why = "t" },
						     { .nr = __NR_restart_syscall, .why = "t" },
						     END };
	struct sandbox_filter *filter;

#ifdef BH_SANITIZE
	cr_skip_test("a sanitizer's own threads would be killed first");
#endif
	filter = compile(table);
	cr_assert_eq(other_thread_under(filter, true), -SIGSYS);
	cr_assert_eq(other_thread_under(filter, false), SURVIVED);
	sandbox_filter_free(filter);
}

/* ---- the common tables ---- */

static const struct {
	const char *name;
	const struct sandbox_rule *table;
	size_t max;
} common[] = {
	{ "runtime", sandbox_table_runtime, 7 },
	{ "loop", sandbox_table_loop, 4 },
	{ "bus", sandbox_table_bus, 16 },
	{ "sockets", sandbox_table_sockets, 3 },
	{ "threads", sandbox_table_threads, 9 },
	{ "loop_setup", sandbox_table_loop_setup, 2 },
	{ "bus_setup", sandbox_table_bus_setup, 5 },
	{ "narrow", sandbox_table_narrow, 1 },
};

Test(sandbox_filter, common_tables_stay_small_and_give_reasons)
{
	for (size_t i = 0; i < ARRAY_SIZE(common); i++) {
		const struct sandbox_rule *tables[] = { common[i].table };

		cr_expect_leq(sandbox_count(tables, 1), common[i].max, "%s", common[i].name);
		for (const struct sandbox_rule *rule = common[i].table; rule->why; rule++)
			cr_expect_neq(rule->why[0], '\0', "%s: call %d", common[i].name, rule->nr);
	}
}

Test(sandbox_filter, common_tables_allow_no_executable_memory_and_no_process)
{
	const struct sandbox_rule *tables[ARRAY_SIZE(common) + 1];
	struct sandbox_filter *filter = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(common); i++)
		tables[i] = common[i].table;
	tables[ARRAY_SIZE(common)] = base;
	cr_assert_eq(sandbox_compile(tables, ARRAY_SIZE(tables), &filter), 0);
	cr_expect_eq(attempt(filter, &(struct call) { __NR_mmap, { 0, 4096, 3, 0x22, -1ULL } }), SURVIVED);
	cr_expect_eq(attempt(filter, &(struct call) { __NR_mmap, { 0, 4096, 7, 0x22, -1ULL } }), -SIGSYS);
	cr_expect_eq(attempt(filter, &(struct call) { __NR_mmap, { 0, 4096, 1, 2, 0 } }), -SIGSYS);
	cr_expect_eq(attempt(filter, &(struct call) { __NR_mprotect, { 0, 0, 3 } }), SURVIVED);
	cr_expect_eq(attempt(filter, &(struct call) { __NR_mprotect, { 0, 0, 5 } }), -SIGSYS);
	cr_expect_eq(attempt(filter, &(struct call) { __NR_clone, { SIGCHLD } }), -SIGSYS);
	cr_expect_eq(attempt(filter, &(struct call) { .nr = __NR_clone3 }), ENOSYS);
	cr_expect_eq(attempt(filter, &(struct call) { .nr = __NR_fork }), -SIGSYS);
	cr_expect_eq(attempt(filter, &(struct call) { .nr = __NR_openat }), ENOENT);
	cr_expect_eq(attempt(filter, &(struct call) { __NR_socket, { 2, 1, 0 } }), -SIGSYS);
	sandbox_filter_free(filter);
}
