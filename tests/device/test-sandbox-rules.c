/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real tables rule by rule, as the kernel sees them: for each rule the right arguments pass, for each condition of each rule
 * wrong ones do what the tables say, and every number that no rule names is forbidden.
 *
 * Nothing that is tried is carried out. Of several filters the strictest answer counts, and among equal ones that of the latest
 * filter; so below the real filter lies one that answers every call by an error of its own (MARK). A call that the real one
 * lets through fails with MARK, one that it refuses fails with the table's error, and a forbidden one raises SIGSYS,
 * whose handler jumps back: no call is needed for that. What a table means is worked out here once more, from sandbox.h.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "note.h"
#include "num.h"
#include "sandbox.h"
#include "sandbox_stage.h"
#include "sandbox_subjects.h"

#define MARK      4001
#define CALLS_MAX 8192
#define NUMBERS   600 /* more than there are calls; 1023 is special */
#define UPROBES   335 /* and the next one: the kernel's own, which no filter is shown */

/* Calls to try, and what became of them, in memory shared with who tries. */
struct batch {
	size_t n, tried;
	struct call call[CALLS_MAX];
};

/* ---- what the kernel does ---- */

static sigjmp_buf back;

static void on_sigsys(int sig)
{
	(void)sig;
	siglongjmp(back, 1);
}

/* All calls fail with MARK, but for the one that installs the next filter. */
static int install_mark(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_seccomp, 0, 5),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SECCOMP_SET_MODE_FILTER, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | MARK),
	};
	struct sock_fprog prog = { .len = ARRAY_SIZE(code), .filter = code };

	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
}

static int verdict_of(const struct call *c)
{
	long n;

	if (sigsetjmp(back, 0))
		return STAGE_FORBIDDEN;
	n = syscall(c->nr, c->args[0], c->args[1], c->args[2], c->args[3], c->args[4], c->args[5]);
	if (n >= 0)
		return EINVAL; /* it was carried out */
	/* The one that the mark lets through has no filter here to install. */
	return errno == MARK || (c->nr == __NR_seccomp && errno == EFAULT) ? STAGE_ALLOWED : errno;
}

__attribute__((noreturn)) static void try_all(struct batch *batch, const struct sandbox_filter *filter)
{
	struct sigaction sa = { .sa_handler = on_sigsys, .sa_flags = SA_NODEFER };
	struct rlimit none = { 0 };

	/* The only way to end that needs no call. */
	setrlimit(RLIMIT_CORE, &none);
	if (sigaction(SIGSYS, &sa, NULL) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	    install_mark() == 0 && sandbox_install(filter, false) == 0)
		for (; batch->tried < batch->n; batch->tried++)
			batch->call[batch->tried].verdict = verdict_of(&batch->call[batch->tried]);
	__builtin_trap();
}

static void run(struct batch *batch, const struct stage *stage)
{
	struct sandbox_filter *filter = NULL;
	int status;
	pid_t pid;

	cr_assert_eq(sandbox_compile(stage->table, stage->n, &filter), 0, "%s", stage->name);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0)
		try_all(batch, filter);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	sandbox_filter_free(filter);
	cr_assert(WIFSIGNALED(status) && batch->tried == batch->n, "%s: status %#x after %zu of %zu",
		  stage->name, status, batch->tried, batch->n);
}

/* ---- what is tried ---- */

static void add_call(struct batch *batch, const struct call *call)
{
	cr_assert_lt(batch->n, CALLS_MAX);
	batch->call[batch->n++] = *call;
}

static uint64_t right_value(const struct sandbox_arg *arg)
{
	return arg->op == SANDBOX_NE ? arg->value + 1 : arg->value;
}

/* The rule's own arguments; what it does not look at is fill. */
static struct call right_call(const struct sandbox_rule *rule, uint64_t fill)
{
	struct call call = { .nr = rule->nr, .args = { fill, fill, fill, fill, fill, fill } };

	for (size_t i = 0; i < SANDBOX_ARGS_MAX; i++) {
		const struct sandbox_arg *arg = &rule->args[i];

		if (arg->op == SANDBOX_MASKED)
			call.args[arg->index] = arg->value | (fill & ~arg->mask);
		else if (arg->op != SANDBOX_ANY)
			call.args[arg->index] = right_value(arg);
	}
	return call;
}

/* Neighbours of the right value, it in the wrong half of the register, each bit of a mask. */
static void add_wrong(struct batch *batch, const struct sandbox_rule *rule, const struct sandbox_arg *arg)
{
	uint64_t v = arg->value;
	const uint64_t near[] = { v + 1,          v - 1,          ~v, v ^ 1,     v << 32,
				  v | 1ULL << 32, v | 1ULL << 63, 0,  UINT64_MAX };
	struct call call = right_call(rule, 0);

	for (size_t i = 0; i < ARRAY_SIZE(near); i++) {
		call.args[arg->index] = near[i];
		add_call(batch, &call);
	}
	for (unsigned bit = 0; bit < 64 && arg->op == SANDBOX_MASKED; bit++)
		if (arg->mask & 1ULL << bit) {
			call.args[arg->index] = v ^ 1ULL << bit;
			add_call(batch, &call);
		}
}

struct counts {
	unsigned rules, conditions, passed, killed, refused;
};

/* Calls of a rule; those from batch->n on before, the first two are right. */
static void add_rule(struct batch *batch, const struct sandbox_rule *rule, struct counts *counts)
{
	struct call call = right_call(rule, 0);

	add_call(batch, &call);
	call = right_call(rule, UINT64_MAX);
	add_call(batch, &call);
	for (size_t i = 0; i < SANDBOX_ARGS_MAX; i++)
		if (rule->args[i].op != SANDBOX_ANY) {
			add_wrong(batch, rule, &rule->args[i]);
			counts->conditions++;
		}
	counts->rules++;
}

/* What does all that its tables say and no more. */
static void prove(struct batch *batch, const struct stage *stage)
{
	struct counts counts = { 0 };
	size_t named;

	batch->n = batch->tried = 0;
	for (size_t t = 0; t < stage->n; t++)
		for (const struct sandbox_rule *r = stage->table[t]; r->why; r++)
			add_rule(batch, r, &counts);
	named = batch->n;
	for (int nr = 0; nr < NUMBERS; nr++)
		if (nr < UPROBES || nr > UPROBES + 1)
			add_call(batch, &(struct call) { .nr = nr });
	run(batch, stage);
	for (size_t i = 0; i < batch->n; i++) {
		const struct call *c = &batch->call[i];
		int want = stage_meaning(stage, c);

		cr_assert_eq(c->verdict, want, "%s: call %d (%#lx, %#lx, %#lx, %#lx): %d instead of %d",
			     stage->name, c->nr, c->args[0], c->args[1], c->args[2], c->args[3], c->verdict,
			     want);
		if (i >= named)
			continue;
		counts.passed += want == STAGE_ALLOWED;
		counts.killed += want == STAGE_FORBIDDEN;
		counts.refused += want > 0;
	}
	cr_assert_gt(counts.passed, 0);
	cr_assert(!counts.conditions || counts.killed > 0, "%s: no condition forbids anything", stage->name);
	note("%s: rules tested / rules: %u / %u, with %u conditions: right arguments passed %u, wrong ones "
	     "killed %u, "
	     "refused %u",
	     stage->name, counts.rules, counts.rules, counts.conditions, counts.passed, counts.killed,
	     counts.refused);
}

/* ---- for every process ---- */

/* Filters add up, so a rule that an earlier stage forbids would be dead. */
static void is_within(const struct stage *inner, const struct stage *outer, const char *process)
{
	for (size_t t = 0; t < inner->n; t++)
		for (const struct sandbox_rule *r = inner->table[t]; r->why; r++) {
			struct call call = right_call(r, 0);

			if (stage_meaning(inner, &call) == STAGE_ALLOWED)
				cr_expect_eq(stage_meaning(outer, &call), STAGE_ALLOWED,
					     "%s: %s allows call %d (%s), %s does not", process, inner->name,
					     r->nr, r->why, outer->name);
		}
}

static void prove_process(struct batch *batch, const struct probe_subject *s)
{
	static char names[3][96];
	struct stage one = { .name = names[0] }, steady = { .name = names[1] }, thread = { .name = names[2] };

	snprintf(names[0], sizeof(names[0]), "%s, stage one", s->name);
	snprintf(names[1], sizeof(names[1]), "%s, steady", s->name);
	snprintf(names[2], sizeof(names[2]), "%s, its narrower threads", s->name);
	stage_join(&one, s->one, s->one_more);
	stage_join(&steady, s->steady, s->steady_more);
	stage_join(&thread, s->thread, s->thread_more);
	if (one.n)
		prove(batch, &one);
	prove(batch, &steady);
	if (thread.n)
		prove(batch, &thread);
	if (one.n)
		is_within(&steady, &one, s->name);
	if (thread.n)
		is_within(&thread, &steady, s->name);
}

Test(sandbox_rules, each_rule_of_each_process, .timeout = 120)
{
	struct batch *batch =
	    mmap(NULL, sizeof(*batch), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(batch, MAP_FAILED);
	for (size_t i = 0; i < sandbox_subjects_n; i++)
		prove_process(batch, &sandbox_subjects[i]);
	munmap(batch, sizeof(*batch));
}

/* ---- limits, where a call is allowed and its number is what harms ---- */

#define THREADS     16
#define DESCRIPTORS 64

/* Goes to stage one of a server, and acts. */
__attribute__((noreturn)) static void enter_and(void (*act)(void), const struct sandbox_filter *filter)
{
	const struct sandbox_enter enter = {
		.limits = { .files = DESCRIPTORS,
			    .processes = THREADS,
			    .file_size = UINT64_MAX,
			    .memlock = 65536 },
		.filter = filter,
	};
	const char *what = "";

	if (sandbox_enter(&enter, &what) == 0)
		act();
	for (;;)
		syscall(SYS_exit_group, 99);
}

/* In namespaces of its own; the wait status. */
static int in_stage_one(void (*act)(void))
{
	struct sandbox_filter *filter = NULL;
	const char *what = "";
	int pidfd, status;
	struct stage one;
	pid_t pid;

	stage_join(&one, server_stage_one, NULL);
	cr_assert_eq(sandbox_compile(one.table, one.n, &filter), 0);
	/* Criterion's worker has a second thread; its copy has not. */
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		if (sandbox_fork(geteuid() ? geteuid() : SANDBOX_NOBODY, false, &pid, &pidfd, &what))
			_exit(98);
		if (pid == 0)
			enter_and(act, filter);
		_exit(waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status)
									   : 128 + WTERMSIG(status));
	}
	sandbox_filter_free(filter);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static _Atomic unsigned *reached; /* shared with the child */

static void *wait_here(void *arg)
{
	static sem_t never;

	while (sem_wait(&never))
		;
	return arg;
}

/* Threads until there are no more, then a process. */
static void bomb(void)
{
	pthread_t thread;
	int err = 0;

	while (*reached < 10 * THREADS && !(err = pthread_create(&thread, NULL, wait_here, NULL)))
		++*reached;
	if (err == EAGAIN)
		syscall(SYS_fork);
}

/* Descriptors until there are no more. */
static void hoard(void)
{
	while (*reached < 10 * DESCRIPTORS && eventfd(0, EFD_CLOEXEC) >= 0)
		++*reached;
	syscall(SYS_exit_group, errno);
}

static void share(void)
{
	reached = mmap(NULL, sizeof(*reached), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(reached, MAP_FAILED);
}

Test(sandbox_rules, fault_44_a_thread_bomb_ends_at_the_limit, .init = share)
{
	int status = in_stage_one(bomb);

	cr_expect(*reached > 0 && *reached < THREADS, "%u threads of %u", *reached, THREADS);
	cr_expect_eq(status, 128 + SIGSYS, "a process could be made: status %d", status);
}

Test(sandbox_rules, fault_45_who_hoards_descriptors_ends_at_the_limit, .init = share)
{
	int status = in_stage_one(hoard);

	cr_expect(*reached > 0 && *reached < DESCRIPTORS, "%u descriptors of %u", *reached, DESCRIPTORS);
	cr_expect_eq(status, EMFILE);
}
