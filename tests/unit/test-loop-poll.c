/* SPDX-License-Identifier: Apache-2.0 */
/* lib/loop: polling before sleep, and that an idle loop sleeps. */
#include <criterion/criterion.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clock.h"
#include "loop_watch.h"

static struct loop *loop;

static void make_loop(void)
{
	cr_assert_eq(loop_new("test", &loop), 0);
}

static void free_loop(void)
{
	loop_free(loop);
}

TestSuite(loop_poll, .init = make_loop, .fini = free_loop, .timeout = 60);

struct ring {
	int work, polls, sleeps, wakes, done;
	int arrive_in_sleep; /* work that arrives while notifications are being armed */
	bool asleep;
};

static bool ring_poll(void *arg)
{
	struct ring *r = arg;

	r->polls++;
	cr_assert(!r->asleep);
	if (!r->work)
		return false;
	r->work--;
	r->done++;
	return true;
}

static bool ring_sleep(void *arg)
{
	struct ring *r = arg;

	r->sleeps++;
	r->asleep = true;
	r->work += r->arrive_in_sleep;
	r->arrive_in_sleep = 0;
	return r->work;
}

static void ring_wake(void *arg)
{
	struct ring *r = arg;

	cr_assert(r->asleep);
	r->wakes++;
	r->asleep = false;
}

static const struct loop_poll_ops ring_ops = { .poll = ring_poll, .sleep = ring_sleep, .wake = ring_wake };

Test(loop_poll, work_that_arrives_while_arming_is_done_without_a_wait)
{
	struct ring r = { .arrive_in_sleep = 1 };
	struct loop_poller *p;
	struct loop_stats st;

	cr_assert_eq(loop_add_poller(loop, &ring_ops, &r, &p), 0);
	loop_run_once(loop, -1);
	cr_assert_eq(r.done, 1);
	cr_assert_eq(r.sleeps, 1);
	cr_assert_eq(r.wakes, 1);
	loop_get_stats(loop, &st);
	cr_assert_eq(st.sleeps, 0);
}

Test(loop_poll, polling_is_off_unless_asked_for)
{
	struct ring r = { 0 };
	struct loop_poller *p;
	struct loop_stats st;

	loop_add_poller(loop, &ring_ops, &r, &p);
	for (int i = 0; i < 10; i++)
		loop_run_once(loop, 10 * (int64_t)NS_PER_US);
	cr_assert_eq(r.polls, 0);
	cr_assert_eq(r.sleeps, 10);
	cr_assert_eq(r.wakes, 10);
	loop_get_stats(loop, &st);
	cr_assert_eq(st.poll_ns, 0);
}

Test(loop_poll, polling_window_grows_with_short_sleeps_and_shrinks_with_long_ones)
{
	struct ring r = { 0 };
	struct loop_poller *p;
	struct watch w = { 0 };
	struct loop_stats st;
	uint64_t grown;

	loop_set_poll_max(loop, NS_PER_MS);
	loop_add_poller(loop, &ring_ops, &r, &p);
	watch_add(loop, &w, EPOLLIN); /* ready at once: each sleep is as short as can be */
	for (int i = 0; i < 20; i++)
		loop_run_once(loop, -1);
	loop_get_stats(loop, &st);
	cr_assert_gt(st.poll_ns, 0);
	cr_assert_leq(st.poll_ns, NS_PER_MS);
	cr_assert_gt(st.poll_misses, 0);
	grown = st.poll_ns;

	r.work = 5;
	r.done = 0;
	for (int i = 0; i < 5; i++)
		loop_run_once(loop, -1);
	loop_get_stats(loop, &st);
	cr_assert_eq(r.done, 5);
	cr_assert_eq(st.poll_hits, 5);

	loop_del_fd(w.h);
	for (int i = 0; i < 40; i++)
		loop_run_once(loop, 3 * (int64_t)NS_PER_MS);
	loop_get_stats(loop, &st);
	cr_assert_lt(st.poll_ns, grown);
	cr_assert_eq(st.poll_ns, 0, "an idle loop gives up polling");
	close(w.fd);
}

Test(loop_poll, a_pause_of_polling_forgets_nothing_of_what_it_earned)
{
	struct ring r = { 0 };
	struct loop_poller *p;
	struct watch w = { 0 };
	struct loop_stats st;

	loop_set_poll_max(loop, NS_PER_MS);
	loop_add_poller(loop, &ring_ops, &r, &p);
	watch_add(loop, &w, EPOLLIN);
	loop_run_once(loop, -1); /* opens the window */
	loop_del_fd(w.h);
	loop_set_poll_max(loop, 0);
	r.polls = 0;
	loop_run_once(loop, 3 * (int64_t)NS_PER_MS);
	cr_assert_eq(r.polls, 0, "it does not poll through the pause");

	loop_set_poll_max(loop, NS_PER_MS);
	loop_run_once(loop, 10 * (int64_t)NS_PER_MS);
	cr_assert_gt(r.polls, 0, "it polls again at once");
	loop_get_stats(loop, &st);
	cr_assert_eq(st.poll_ns, 0, "a long sleep after it closes the window");
	close(w.fd);
}

Test(loop_poll, descriptors_are_served_while_polling_always_finds_work)
{
	struct ring r = { 0 };
	struct loop_poller *p;
	struct watch w = { 0 };

	loop_set_poll_max(loop, NS_PER_MS);
	loop_add_poller(loop, &ring_ops, &r, &p);
	watch_add(loop, &w, EPOLLIN);
	loop_run_once(loop, -1); /* opens the window */
	r.work = 1 << 20;
	w.calls = 0;
	for (int i = 0; i < 100; i++)
		loop_run_once(loop, -1);
	cr_assert_geq(w.calls, 5);
	cr_assert_lt(w.calls, 50);
	close(w.fd);
}

static void wake_nothing(void *arg)
{
	(void)arg;
}

static bool poll_and_leave(void *arg)
{
	struct loop_poller **p = arg;

	loop_del_poller(*p);
	*p = NULL;
	return true;
}

static bool sleep_with_work(void *arg)
{
	(void)arg;
	return true;
}

Test(loop_poll, poller_may_remove_itself_and_its_neighbour)
{
	static const struct loop_poll_ops ops = { poll_and_leave, sleep_with_work, wake_nothing };
	struct loop_poller *a, *b;

	loop_add_poller(loop, &ops, &a, &a);
	loop_add_poller(loop, &ops, &a, &b); /* visited first, removes a, the next one to visit */
	loop_run_once(loop, -1);
	cr_assert_null(a);
	loop_del_poller(b);
}

Test(loop_poll, idle_loop_sleeps_once)
{
	struct loop_stats st;

	loop_run_once(loop, 20 * (int64_t)NS_PER_MS);
	loop_get_stats(loop, &st);
	cr_assert_eq(st.passes, 1);
	cr_assert_eq(st.sleeps, 1);
}

struct armer {
	struct loop_timer *timer;
	bool ran;
};

static void on_timer(void *arg)
{
	((struct armer *)arg)->ran = true;
}

static bool armer_poll(void *arg)
{
	(void)arg;
	return false;
}

static bool armer_sleep(void *arg)
{
	loop_arm_timer(((struct armer *)arg)->timer, clock_ns() + NS_PER_MS);
	return false;
}

static void armer_wake(void *arg)
{
	(void)arg;
}

/* As a device does that is to wait before it goes on: the loop then sleeps until that time and no longer. */
Test(loop_poll, timer_armed_by_a_poller_ends_the_sleep)
{
	static const struct loop_poll_ops ops = { .poll = armer_poll,
						  .sleep = armer_sleep,
						  .wake = armer_wake };
	struct armer a = { .ran = false };
	uint64_t since = clock_ns();
	struct loop_poller *p;

	cr_assert_eq(loop_add_timer(loop, on_timer, &a, &a.timer), 0);
	cr_assert_eq(loop_add_poller(loop, &ops, &a, &p), 0);
	cr_assert_eq(loop_run_once(loop, (int64_t)(20 * NS_PER_S)), 0);
	cr_assert(a.ran && clock_ns() - since < 10 * NS_PER_S, "it slept for the whole time");
	loop_del_poller(p);
	loop_del_timer(a.timer);
}
