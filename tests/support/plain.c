/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A runner for Criterion's tests where its own can't start: under the thread sanitizer, the address at which it
 * wants the memory that it shares with its tests belongs to the sanitizer. And for valgrind, for which the program would
 * start anew with each test. Linked before libcriterion this main and these functions take the place of the library's; the
 * tests, found in the same linker sections, are the same. Each test is a child process; a data race ends it. The output is TAP.
 */
#include <criterion/criterion.h>
#include <criterion/event.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define TIMEOUT_S 120 /* no test has less; the sanitizer is slow */
/* In the environment: how many times as long a test may take; "SUITE::TEST REASON", a line each, of tests to skip. */
#define PATIENCE_ENV "PLAIN_PATIENCE"
#define WITHOUT_ENV  "PLAIN_WITHOUT"

enum { STATUS_FAILED = 1, STATUS_SKIPPED = 77 };

extern struct criterion_test *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak));
extern struct criterion_suite *__stop_cr_sts[] __attribute__((weak));

/* Of the test that runs in this process. */
static const struct criterion_test *current;
static bool failed;
static char *skip_reason; /* shared with the parent */

#define SKIP_REASON_MAX 256

/* What the sanitizer's run-time asks for its defaults. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "halt_on_error=1:die_after_fork=0";
}

/* nng is not built with the sanitizer, so what its threads do among themselves looks like races. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:libnng.so";
}

static const struct criterion_test_extra_data *suite_of(const struct criterion_test *test)
{
	for (struct criterion_suite **s = __start_cr_sts; s && s < __stop_cr_sts; s++) {
		if (*s && (*s)->data && strcmp((*s)->name, test->category) == 0)
			return (*s)->data;
	}
	return NULL;
}

static _Noreturn void leave(int status)
{
	fflush(NULL);
	exit(status);
}

static void fixture(bool init)
{
	const struct criterion_test_extra_data *suite = suite_of(current);
	void (*of_test)(void) = init ? current->data->init : current->data->fini;
	void (*of_suite)(void) = !suite ? NULL : init ? suite->init : suite->fini;

	if (init && of_suite)
		of_suite();
	if (of_test)
		of_test();
	if (!init && of_suite)
		of_suite();
}

/* ---- in the place of Criterion's ---- */

void criterion_send_assert(struct criterion_assert_stats *stats)
{
	if (!stats->passed)
		printf("# %s:%u: %s\n", stats->file, (unsigned)stats->line, stats->message);
}

void cri_asserts_passed_incr(void)
{
}

void criterion_continue_test(void)
{
	failed = true;
}

void criterion_abort_test(void)
{
	leave(STATUS_FAILED);
}

__attribute__((format(printf, 1, 2))) void criterion_skip_test(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(skip_reason, SKIP_REASON_MAX, format, ap);
	va_end(ap);
	leave(STATUS_SKIPPED);
}

void criterion_internal_test_setup(void)
{
	fixture(true);
}

void criterion_internal_test_main(void (*fn)(void))
{
	fn();
}

void criterion_internal_test_teardown(void)
{
	fixture(false);
}

/* ---- the runner ---- */

/* A test that names no limit has its suite's, as with Criterion. */
static unsigned seconds_for(const struct criterion_test *test)
{
	const struct criterion_test_extra_data *suite = suite_of(test);
	const char *patience = getenv(PATIENCE_ENV);
	double limit = test->data->timeout;

	if (limit <= 0 && suite)
		limit = suite->timeout;
	return (limit > TIMEOUT_S ? (unsigned)limit : TIMEOUT_S) * (patience ? (unsigned)atoi(patience) : 1);
}

static _Noreturn void child(const struct criterion_test *test)
{
	current = test;
	alarm(seconds_for(test));
	test->test();
	leave(failed ? STATUS_FAILED : 0);
}

/* Whether it is one to skip; then skip_reason is set. */
static bool without(const struct criterion_test *test)
{
	const char *line = getenv(WITHOUT_ENV);
	char name[256];
	int len = snprintf(name, sizeof(name), "%s::%s ", test->category, test->name);

	while (line && strncmp(line, name, (size_t)len) != 0) {
		line = strchr(line, '\n');
		if (line)
			line++;
	}
	if (line)
		snprintf(skip_reason, SKIP_REASON_MAX, "%.*s", (int)strcspn(line + len, "\n"), line + len);
	return line;
}

/* True unless the test failed. */
static bool run(const struct criterion_test *test, unsigned number)
{
	int status = 0;
	bool ok, skipped;
	pid_t pid;

	skip_reason[0] = '\0';
	fflush(NULL);
	pid = fork();
	if (pid == 0)
		child(test);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		status = -1;
	skipped = WIFEXITED(status) && WEXITSTATUS(status) == STATUS_SKIPPED && skip_reason[0];
	if (test->data->signal)
		ok = WIFSIGNALED(status) && WTERMSIG(status) == test->data->signal;
	else
		ok = WIFEXITED(status) && WEXITSTATUS(status) == test->data->exit_code;
	if (WIFSIGNALED(status) && !ok)
		printf("# ended by signal %d\n", WTERMSIG(status));
	printf("%s %u - %s::%s%s%s\n", ok || skipped ? "ok" : "not ok", number, test->category, test->name,
	       skipped ? " # SKIP " : "", skipped ? skip_reason : "");
	return ok || skipped;
}

int main(void)
{
	unsigned n = 0, bad = 0;

	skip_reason = mmap(NULL, SKIP_REASON_MAX, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (skip_reason == MAP_FAILED)
		return 1;
	for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; t++) {
		if (!*t || (*t)->data->disabled)
			continue;
		if (without(*t))
			printf("ok %u - %s::%s # SKIP %s\n", ++n, (*t)->category, (*t)->name, skip_reason);
		else if (!run(*t, ++n))
			bad++;
	}
	printf("1..%u\n", n);
	return bad != 0;
}
