/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor's filter, against what the C library and nng do only seldom: none of it may end the supervisor. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config.h"
#include "supervisor/confine.h"

#define THREADS 24
#define BLOCKS  64
#define BLOCK   65536      /* the longest message; below the size that malloc maps by itself */
#define LARGE   (64 << 20) /* malloc maps it, whatever it has learnt */

static pthread_barrier_t confined;
static sem_t turn;

/* Names itself as nng's threads do, at once or (arg) only under the filter. Waits for the filter, then allocates for the
 * first time, frees, and lets the heap be trimmed. The filter forbids it to end by itself. */
static void *use_heap(void *arg)
{
	void *block[BLOCKS];

	if (arg)
		sem_wait(&turn);
	pthread_setname_np(pthread_self(), "late");
	pthread_barrier_wait(&confined);
	for (size_t i = 0; i < BLOCKS; i++) {
		block[i] = malloc(BLOCK);
		if (block[i])
			memset(block[i], 1, BLOCK);
	}
	for (size_t i = BLOCKS; i-- > 0;)
		free(block[i]);
	block[0] = malloc(LARGE);
	if (block[0])
		*(volatile char *)block[0] = 1;
	free(block[0]);
	pthread_barrier_wait(&confined);
	for (;;)
		pthread_barrier_wait(&confined);
	return NULL;
}

static void confine(void)
{
	const char *what = "";

	if (confine_calls(false, &what)) {
		fprintf(stderr, "%s\n", what);
		_exit(9);
	}
}

static void begin_threads(void *late)
{
	const char *what = "";
	pthread_t thread;

	if (confine_privileges(&what))
		_exit(8);
	sem_init(&turn, 0, 0);
	pthread_barrier_init(&confined, NULL, THREADS + 1);
	for (size_t i = 0; i < THREADS; i++)
		if (pthread_create(&thread, NULL, use_heap, late))
			_exit(7);
	confine();
	for (size_t i = 0; i < THREADS; i++)
		sem_post(&turn);
	pthread_barrier_wait(&confined);
	pthread_barrier_wait(&confined);
}

/* The filter would find them in the middle of their start. */
static void fresh_threads(void)
{
	begin_threads(NULL);
}

static void late_threads(void)
{
	begin_threads(&confined);
}

static void give_up(void)
{
	const char *what = "";

	if (confine_privileges(&what))
		_exit(8);
	confine();
	abort();
}

static const struct {
	const char *name;
	void (*fn)(void);
} parts[] = { { "fresh", fresh_threads }, { "late", late_threads }, { "abort", give_up } };

/* A part that a test has started this program anew for: a copy of Criterion's process has heaps of its threads. */
__attribute__((constructor)) static void run_part(void)
{
	const char *name = getenv("CONFINE_PART");

	for (size_t i = 0; name && i < sizeof(parts) / sizeof(parts[0]); i++)
		if (!strcmp(name, parts[i].name)) {
			parts[i].fn();
			_exit(0);
		}
}

/* Runs a part in a process of its own; its status as of waitpid. */
static int run(const char *name)
{
	int status = -1;
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (!pid) {
		setenv("CONFINE_PART", name, 1);
		execl("/proc/self/exe", "test-confine", NULL);
		_exit(127);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return status;
}

static void need_plain_build(void)
{
#ifdef BH_SANITIZE
	cr_skip_test("the run-time of the sanitizers needs calls that the filter forbids");
#endif
}

Test(confine, heaps_of_many_threads, .init = need_plain_build, .timeout = 60)
{
	cr_assert_eq(run("late"), 0);
}

Test(confine, threads_that_were_just_made, .init = need_plain_build, .timeout = 60)
{
	for (unsigned i = 0; i < 20; i++)
		cr_assert_eq(run("fresh"), 0, "time %u", i);
}

/* What ends itself must be told from what the filter ends. */
Test(confine, abort_is_seen_as_such, .init = need_plain_build, .timeout = 60)
{
	int status = run("abort");

	cr_assert(WIFSIGNALED(status));
	cr_assert_eq(WTERMSIG(status), SIGABRT, "died of signal %d", WTERMSIG(status));
}

Test(confine, count_is_the_documents)
{
	cr_assert_eq(confine_count(), 34, "%zu calls: correct docs/architecture.md, too", confine_count());
}
