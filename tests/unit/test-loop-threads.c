/* SPDX-License-Identifier: Apache-2.0 */
/* lib/loop with several threads: posting, waking, stopping, the worker pool. For the thread sanitizer too. */
#include "loop.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

TestSuite(loop_threads, .timeout = 60);

static struct loop *new_loop(void)
{
	struct loop *loop;

	cr_assert_eq(loop_new("test", &loop), 0);
	return loop;
}

/* ---- many posters, one loop ---- */

enum { POSTERS = 4, ROUNDS = 5000 };

struct poster {
	struct loop_bh bh;
	pthread_t thread;
	struct loop *loop;
	uint64_t written; /* plain on purpose: posting must make it visible */
	uint64_t seen;
	_Atomic uint64_t acked;
	int *left;
};

static void poster_bh(void *arg)
{
	struct poster *p = arg;

	p->seen = p->written;
	if (p->seen == ROUNDS && !--*p->left)
		loop_stop(p->loop);
	atomic_store(&p->acked, p->seen);
}

/* Posts one at a time and waits until each has been run, so every post finds the loop busy, falling asleep or
 * asleep, and one that is lost ends the test by its time limit. */
static void *poster_main(void *arg)
{
	struct poster *p = arg;

	for (uint64_t i = 1; i <= ROUNDS; i++) {
		p->written = i;
		loop_bh_post(&p->bh);
		while (atomic_load(&p->acked) != i)
			sched_yield();
	}
	return NULL;
}

Test(loop_threads, no_post_is_lost)
{
	struct loop *loop = new_loop();
	struct poster p[POSTERS] = { 0 };
	int left = POSTERS;

	for (int i = 0; i < POSTERS; i++) {
		p[i].loop = loop;
		p[i].left = &left;
		loop_bh_init(&p[i].bh, loop, poster_bh, &p[i]);
		cr_assert_eq(pthread_create(&p[i].thread, NULL, poster_main, &p[i]), 0);
	}
	cr_assert_eq(loop_run(loop), 0);
	for (int i = 0; i < POSTERS; i++) {
		pthread_join(p[i].thread, NULL);
		cr_assert_eq(p[i].seen, ROUNDS);
	}
	loop_free(loop);
}

/* ---- coalescing: the last post is always seen ---- */

struct flood {
	struct loop_bh bh;
	struct loop *loop;
	_Atomic uint64_t value;
	uint64_t seen;
	int runs;
};

static void flood_bh(void *arg)
{
	struct flood *f = arg;

	f->runs++;
	f->seen = atomic_load_explicit(&f->value, memory_order_relaxed);
	if (f->seen == 200000)
		loop_stop(f->loop);
}

static void *flood_main(void *arg)
{
	struct flood *f = arg;

	for (uint64_t i = 1; i <= 200000; i++) {
		atomic_store_explicit(&f->value, i, memory_order_relaxed);
		loop_bh_post(&f->bh);
	}
	return NULL;
}

Test(loop_threads, last_of_many_coalescing_posts_is_seen)
{
	struct loop *loop = new_loop();
	struct flood f = { .loop = loop };
	pthread_t thread;

	loop_bh_init(&f.bh, loop, flood_bh, &f);
	cr_assert_eq(pthread_create(&thread, NULL, flood_main, &f), 0);
	cr_assert_eq(loop_run(loop), 0);
	pthread_join(thread, NULL);
	cr_assert_eq(f.seen, 200000);
	loop_free(loop);
}

/* ---- two loops that post to each other, as servers' loops do; the bottom half is freed by its function ---- */

struct ball {
	struct loop_bh bh;
	struct court *court;
	int hits;
};

struct court {
	struct loop *side[2];
	int rounds;
};

static void hit(void *arg)
{
	struct ball *old = arg, *ball;
	struct court *court = old->court;
	int hits = old->hits + 1;

	free(old);
	if (hits == court->rounds) {
		loop_stop(court->side[0]);
		loop_stop(court->side[1]);
		return;
	}
	ball = calloc(1, sizeof(*ball));
	ball->court = court;
	ball->hits = hits;
	loop_bh_init(&ball->bh, court->side[hits & 1], hit, ball);
	loop_bh_post(&ball->bh);
}

static void *run_loop(void *arg)
{
	cr_assert_eq(loop_run(arg), 0);
	return NULL;
}

Test(loop_threads, two_loops_play_ping_pong)
{
	struct court court = { { new_loop(), new_loop() }, 20000 };
	struct ball *ball = calloc(1, sizeof(*ball));
	pthread_t thread;

	ball->court = &court;
	loop_bh_init(&ball->bh, court.side[0], hit, ball);
	pthread_create(&thread, NULL, run_loop, court.side[1]);
	loop_bh_post(&ball->bh);
	cr_assert_eq(loop_run(court.side[0]), 0);
	pthread_join(thread, NULL);
	loop_free(court.side[0]);
	loop_free(court.side[1]);
}

/* ---- stop and sleep ---- */

static void *stop_soon(void *arg)
{
	struct loop_stats st;

	do
		loop_get_stats(arg, &st);
	while (!st.sleeps);
	loop_stop(arg);
	return NULL;
}

Test(loop_threads, stop_wakes_a_sleeping_loop)
{
	for (int i = 0; i < 200; i++) {
		struct loop *loop = new_loop();
		pthread_t thread;

		pthread_create(&thread, NULL, stop_soon, loop);
		cr_assert_eq(loop_run(loop), 0);
		pthread_join(thread, NULL);
		loop_free(loop);
	}
}

static void nothing(void *arg)
{
	(void)arg;
}

/* One post to a sleeping loop is one wake-up, and then the loop rests: the eventfd does not keep it awake. */
Test(loop_threads, a_wake_up_is_spent_once)
{
	struct loop *loop = new_loop();
	struct loop_stats before, after;
	struct loop_bh bh;
	pthread_t thread;
	uint64_t end;

	loop_bh_init(&bh, loop, nothing, NULL);
	pthread_create(&thread, NULL, run_loop, loop);
	do
		loop_get_stats(loop, &before);
	while (before.sleeps != 1);
	loop_bh_post(&bh);
	do
		loop_get_stats(loop, &before);
	while (before.sleeps != 2);
	end = clock_ns() + 50 * NS_PER_MS;
	do
		loop_get_stats(loop, &after);
	while (clock_ns() < end);
	cr_assert_eq(after.sleeps, 2);
	cr_assert_eq(after.passes, 2);
	loop_stop(loop);
	pthread_join(thread, NULL);
	loop_free(loop);
}

/* ---- the pool ---- */

struct task {
	struct loop_job job;
	struct loop *loop;
	struct loop_pool *pool;
	pthread_t owner;
	int rounds;
	uint64_t result; /* plain: work writes it, done reads it */
	int *left;
};

static void task_work(void *arg)
{
	struct task *t = arg;
	sigset_t set;

	cr_assert(!pthread_equal(pthread_self(), t->owner));
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	cr_assert(sigismember(&set, SIGTERM));
	t->result++;
}

static void task_done(void *arg)
{
	struct task *t = arg;

	cr_assert(pthread_equal(pthread_self(), t->owner));
	if (t->result < (uint64_t)t->rounds)
		loop_pool_submit(t->pool, t->loop, &t->job); /* again, from its own done */
	else if (!--*t->left)
		loop_stop(t->loop);
}

Test(loop_threads, pool_runs_every_job_and_posts_back)
{
	enum { TASKS = 32 };
	struct loop *loop = new_loop();
	struct loop_pool *pool;
	struct task t[TASKS];
	int left = TASKS;

	cr_assert_eq(loop_pool_new(3, &pool), 0);
	for (int i = 0; i < TASKS; i++) {
		t[i] = (struct task) { .job = { .work = task_work, .done = task_done },
				       .loop = loop,
				       .pool = pool,
				       .owner = pthread_self(),
				       .rounds = 200,
				       .left = &left };
		t[i].job.arg = &t[i];
		loop_pool_submit(pool, loop, &t[i].job);
	}
	cr_assert_eq(loop_run(loop), 0);
	for (int i = 0; i < TASKS; i++)
		cr_assert_eq(t[i].result, 200);
	loop_pool_free(pool);
	loop_free(loop);
}

struct slow {
	struct loop_job job;
	atomic_int started, release, worked, done;
};

static void slow_work(void *arg)
{
	struct slow *s = arg;

	atomic_store(&s->started, 1);
	while (!atomic_load(&s->release))
		sched_yield();
	atomic_store(&s->worked, 1);
}

static void slow_done(void *arg)
{
	struct slow *s = arg;

	atomic_store(&s->done, 1);
}

/* The state of the test's main thread, as ps shows it. */
static char main_state(void)
{
	char path[64], text[512] = "", *end;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", getpid());
	f = fopen(path, "r");
	if (f) {
		cr_expect(fgets(text, sizeof(text), f));
		fclose(f);
	}
	end = strrchr(text, ')');
	return end ? end[2] : '?';
}

/* Lets the running job go once the main thread sleeps, which it does only in the join that ends the pool. */
static void *release(void *arg)
{
	struct slow *s = arg;

	while (main_state() != 'S')
		sched_yield();
	atomic_store(&s->release, 1);
	return NULL;
}

Test(loop_threads, pool_end_waits_for_running_jobs_and_drops_the_rest)
{
	struct loop *loop = new_loop();
	struct slow s[3] = { 0 };
	struct loop_pool *pool;
	pthread_t thread;

	cr_assert_eq(loop_pool_new(1, &pool), 0);
	for (int i = 0; i < 3; i++) {
		s[i].job = (struct loop_job) { .work = slow_work, .done = slow_done, .arg = &s[i] };
		loop_pool_submit(pool, loop, &s[i].job);
	}
	while (!atomic_load(&s[0].started))
		sched_yield();
	pthread_create(&thread, NULL, release, &s[0]);
	loop_pool_free(pool);
	pthread_join(thread, NULL);
	loop_run_once(loop, 0);
	cr_assert(s[0].worked && s[0].done);
	cr_assert(!s[1].worked && !s[1].done && !s[2].worked && !s[2].done);
	loop_free(loop);
}
