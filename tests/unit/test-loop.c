/* SPDX-License-Identifier: Apache-2.0 */
/* lib/loop on one thread: descriptors, timers, bottom halves. */
#include "loop_priv.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
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

TestSuite(loop, .init = make_loop, .fini = free_loop, .timeout = 60);

static void count(void *arg)
{
	++*(int *)arg;
}

static void stop(void *arg)
{
	loop_stop(arg);
}

/* ---- descriptors ---- */

Test(loop, fd_is_level_triggered)
{
	struct watch w = { 0 };

	watch_add(loop, &w, EPOLLIN);
	loop_run_once(loop, -1);
	loop_run_once(loop, -1);
	cr_assert_eq(w.calls, 2);
	cr_assert_eq(w.events, EPOLLIN);
	loop_mod_fd(w.h, EPOLLOUT);
	loop_run_once(loop, -1);
	cr_assert_eq(w.events, EPOLLOUT);
	close(w.fd);
}

Test(loop, bad_fd_is_refused)
{
	struct loop_fd *h = NULL;

	cr_assert_eq(loop_add_fd(loop, 987654, EPOLLIN, watch_ready, NULL, &h), -EBADF);
	cr_assert_null(h);
}

/* epoll tells of a hang-up whoever asked for nothing; a loop that listened would spin. */
Test(loop, fd_that_watches_nothing_is_silent_even_on_hang_up)
{
	struct watch w = { .mod = ~0U };
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	cr_assert_eq(loop_add_fd(loop, pair[0], EPOLLIN, watch_ready, &w, &w.h), 0);
	cr_assert_eq(loop_mod_fd(w.h, 0), 0);
	close(pair[1]);
	loop_run_once(loop, 0);
	cr_assert_eq(w.calls, 0);
	cr_assert_eq(loop_mod_fd(w.h, EPOLLIN), 0);
	loop_run_once(loop, -1);
	cr_assert_eq(w.calls, 1);
	cr_assert(w.events & EPOLLHUP);
	close(pair[0]);
}

/* Both events are fetched in one pass; whichever handler comes first removes the other's. */
Test(loop, fd_removed_by_another_handler_is_not_called)
{
	struct watch a = { 0 }, b = { 0 };

	watch_add(loop, &a, EPOLLIN);
	watch_add(loop, &b, EPOLLIN);
	a.victim = &b;
	b.victim = &a;
	loop_run_once(loop, -1);
	cr_assert_eq(a.calls + b.calls, 1);
	loop_run_once(loop, -1);
	cr_assert_eq(a.calls + b.calls, 2, "the one that is left is still watched");
	close(a.fd);
	close(b.fd);
}

Test(loop, fd_muted_by_another_handler_is_not_called)
{
	struct watch a = { 0 }, b = { 0 };

	watch_add(loop, &a, EPOLLIN);
	watch_add(loop, &b, EPOLLIN);
	a.victim = &b;
	b.victim = &a;
	a.mod = b.mod = 0;
	loop_run_once(loop, -1);
	cr_assert_eq(a.calls + b.calls, 1);
	close(a.fd);
	close(b.fd);
}

Test(loop, fd_may_remove_itself)
{
	struct watch w = { 0 };

	watch_add(loop, &w, EPOLLIN);
	w.victim = &w;
	loop_run_once(loop, -1);
	loop_run_once(loop, 0);
	cr_assert_eq(w.calls, 1);
	close(w.fd);
}

Test(loop, more_fds_than_one_pass_takes_are_all_served)
{
	struct watch w[200];
	int served = 0;

	memset(w, 0, sizeof(w));
	for (size_t i = 0; i < 200; i++) {
		watch_add(loop, &w[i], EPOLLIN);
		w[i].victim = &w[i];
	}
	for (size_t i = 0; i < 4; i++)
		loop_run_once(loop, 0);
	for (size_t i = 0; i < 200; i++) {
		served += w[i].calls;
		close(w[i].fd);
	}
	cr_assert_eq(served, 200);
}

/* ---- timers ---- */

struct alarm {
	struct loop_timer *t;
	struct loop_timer *victim;
	int *order; /* where to note our number */
	int number, calls;
	uint64_t rearm_ns; /* if set: armed again for this time by its handler */
};

static void alarm_fired(void *arg)
{
	struct alarm *a = arg;

	a->calls++;
	if (a->order) {
		while (*a->order)
			a->order++;
		*a->order = a->number;
	}
	if (a->rearm_ns)
		loop_arm_timer(a->t, a->rearm_ns);
	loop_del_timer(a->victim);
	a->victim = NULL;
}

Test(loop, timers_fire_in_order_of_time_then_of_arming)
{
	int order[65] = { 0 }, armed_as[64];
	struct alarm a[64];
	uint64_t now = clock_ns();

	memset(a, 0, sizeof(a));
	for (int i = 0; i < 64; i++) {
		/* a scrambled order of arming: 37 is coprime to 64; pairs share a time */
		int n = i * 37 % 64;

		a[n] = (struct alarm) { .order = order, .number = n + 1 };
		cr_assert_eq(loop_add_timer(loop, alarm_fired, &a[n], &a[n].t), 0);
	}
	for (int i = 0; i < 64; i++) {
		armed_as[i * 37 % 64] = i;
		loop_arm_timer(a[i * 37 % 64].t, now + 5 * NS_PER_MS + (uint64_t)(i * 37 % 64 / 2));
	}
	while (!order[63])
		loop_run_once(loop, -1);
	cr_assert_geq(clock_ns(), now + 5 * NS_PER_MS);
	for (int i = 0; i < 64; i += 2) {
		int first = order[i] - 1, second = order[i + 1] - 1;

		cr_assert_eq(first / 2, i / 2);
		cr_assert_eq(second / 2, i / 2);
		cr_assert_lt(armed_as[first], armed_as[second]);
	}
}

Test(loop, timer_does_not_fire_early)
{
	struct alarm a = { 0 };
	uint64_t at;

	loop_add_timer(loop, alarm_fired, &a, &a.t);
	for (int i = 1; i < 20; i++) {
		at = clock_ns() + (uint64_t)i * 50 * NS_PER_US;
		loop_arm_timer(a.t, at);
		while (a.calls < i)
			loop_run_once(loop, -1);
		cr_assert_geq(clock_ns(), at);
	}
}

Test(loop, timer_disarmed_or_rearmed_later_does_not_fire)
{
	struct alarm a = { 0 }, b = { 0 };

	loop_add_timer(loop, alarm_fired, &a, &a.t);
	loop_add_timer(loop, alarm_fired, &b, &b.t);
	loop_arm_timer(a.t, 1);
	loop_arm_timer(b.t, 1);
	loop_disarm_timer(a.t);
	loop_arm_timer(b.t, UINT64_MAX - 1);
	loop_run_once(loop, 0);
	cr_assert_eq(a.calls, 0);
	cr_assert_eq(b.calls, 0);
	loop_arm_timer(b.t, 1);
	loop_run_once(loop, -1);
	cr_assert_eq(b.calls, 1);
}

Test(loop, timer_may_delete_itself_and_another_that_is_due)
{
	struct alarm a = { 0 }, b = { 0 }, c = { 0 };

	loop_add_timer(loop, alarm_fired, &a, &a.t);
	loop_add_timer(loop, alarm_fired, &b, &b.t);
	loop_add_timer(loop, alarm_fired, &c, &c.t);
	loop_arm_timer(a.t, 1);
	loop_arm_timer(b.t, 2);
	loop_arm_timer(c.t, 3);
	a.victim = a.t;
	c.victim = NULL;
	b.victim = c.t;
	loop_run_once(loop, -1);
	cr_assert_eq(a.calls, 1);
	cr_assert_eq(b.calls, 1);
	cr_assert_eq(c.calls, 0);
}

Test(loop, timer_rearmed_for_the_past_fires_once_a_pass)
{
	struct alarm a = { .rearm_ns = 1 };
	struct watch w = { 0 };

	loop_add_timer(loop, alarm_fired, &a, &a.t);
	loop_arm_timer(a.t, 1);
	watch_add(loop, &w, EPOLLIN);
	loop_run_once(loop, -1);
	loop_run_once(loop, -1);
	cr_assert_eq(a.calls, 2);
	cr_assert_eq(w.calls, 2, "and does not starve descriptors");
	close(w.fd);
}

/* The heap against a plain search, over many random changes. */
Test(loop, timer_heap_agrees_with_a_model)
{
	enum { N = 50 };
	struct alarm a[N];
	uint64_t model[N] = { 0 };
	unsigned seed = 20240607;

	memset(a, 0, sizeof(a));
	for (int i = 0; i < N; i++)
		cr_assert_eq(loop_add_timer(loop, alarm_fired, &a[i], &a[i].t), 0);
	for (int step = 0; step < 20000; step++) {
		int i = rand_r(&seed) % N, op = rand_r(&seed) % 8;

		if (op < 5) {
			model[i] = 1 + (uint64_t)(rand_r(&seed) % 1000);
			loop_arm_timer(a[i].t, model[i]); /* long past: fires in the next pass */
		} else if (op < 7) {
			model[i] = 0;
			loop_disarm_timer(a[i].t);
		} else {
			loop_run_once(loop, 0);
			for (int k = 0; k < N; k++) {
				cr_assert_eq(a[k].calls, model[k] ? 1 : 0, "timer %d at step %d", k, step);
				a[k].calls = 0;
				model[k] = 0;
			}
		}
	}
}

/* ---- bottom halves ---- */

struct half {
	struct loop_bh bh;
	struct loop_bh *repost, *cancel;
	int *order, number, calls;
};

static void half_run(void *arg)
{
	struct half *h = arg;

	h->calls++;
	if (h->order) {
		while (*h->order)
			h->order++;
		*h->order = h->number;
	}
	if (h->repost)
		loop_bh_post(h->repost);
	if (h->cancel)
		loop_bh_cancel(h->cancel);
}

static void half_init(struct half *h, int *order, int number)
{
	*h = (struct half) { .order = order, .number = number };
	loop_bh_init(&h->bh, loop, half_run, h);
}

Test(loop, bhs_run_in_posting_order_and_coalesce)
{
	int order[9] = { 0 };
	struct half h[4];

	for (int i = 0; i < 4; i++)
		half_init(&h[i], order, i + 1);
	loop_bh_post(&h[2].bh);
	loop_bh_post(&h[0].bh);
	loop_bh_post(&h[3].bh);
	loop_bh_post(&h[0].bh);
	loop_bh_post(&h[1].bh);
	loop_run_once(loop, -1);
	cr_assert_eq(memcmp(order, (int[]) { 3, 1, 4, 2, 0 }, sizeof(int[5])), 0);
}

Test(loop, bh_posted_from_itself_runs_in_the_next_pass)
{
	struct half h;
	struct watch w = { 0 };

	half_init(&h, NULL, 0);
	h.repost = &h.bh;
	loop_bh_post(&h.bh);
	watch_add(loop, &w, EPOLLIN);
	for (int i = 1; i < 5; i++) {
		loop_run_once(loop, -1);
		cr_assert_eq(h.calls, i);
		cr_assert_eq(w.calls, i, "and does not starve descriptors");
	}
	close(w.fd);
}

Test(loop, bh_cancelled_before_during_and_after_does_not_run)
{
	int order[9] = { 0 };
	struct half h[5];

	for (int i = 0; i < 5; i++)
		half_init(&h[i], order, i + 1);
	loop_bh_cancel(&h[0].bh);
	for (int i = 0; i < 4; i++)
		loop_bh_post(&h[i].bh);
	loop_bh_cancel(&h[1].bh);
	h[0].cancel = &h[3].bh; /* the last one of the list that is being run */
	h[2].repost = &h[4].bh; /* posted and cancelled within the pass */
	h[2].cancel = &h[4].bh;
	loop_run_once(loop, -1);
	loop_run_once(loop, 0);
	cr_assert_eq(memcmp(order, (int[]) { 1, 3, 0 }, sizeof(int[3])), 0);
	loop_bh_post(&h[3].bh);
	loop_bh_post(&h[1].bh);
	loop_run_once(loop, -1);
	cr_assert_eq(memcmp(order, (int[]) { 1, 3, 4, 2, 0 }, sizeof(int[5])), 0);
}

/* ---- the moment between the last look at the list and the sleep ---- */

static bool post_in_sleep(void *arg)
{
	loop_bh_post(arg);
	return false;
}

static bool stop_in_sleep(void *arg)
{
	loop_stop(arg);
	return false;
}

static bool poll_nothing(void *arg)
{
	(void)arg;
	return false;
}

static void wake_nothing(void *arg)
{
	(void)arg;
}

/* A sleep hook runs just there, so what it posts stands for what another thread posts at the worst time. */
Test(loop, post_on_the_brink_of_sleep_is_not_lost, .timeout = 60)
{
	static const struct loop_poll_ops post_ops = { poll_nothing, post_in_sleep, wake_nothing };
	static const struct loop_poll_ops stop_ops = { poll_nothing, stop_in_sleep, wake_nothing };
	struct loop_poller *p;
	struct loop_bh bh;
	int calls = 0;

	loop_bh_init(&bh, loop, count, &calls);
	cr_assert_eq(loop_add_poller(loop, &post_ops, &bh, &p), 0);
	loop_run_once(loop, -1);
	cr_assert_eq(calls, 1);
	loop_del_poller(p);
	cr_assert_eq(loop_add_poller(loop, &stop_ops, loop, &p), 0);
	cr_assert_eq(loop_run(loop), 0);
}

/* The loop never reads its eventfd, so the counter tells how often it was written. */
Test(loop, post_to_a_loop_that_is_awake_makes_no_system_call)
{
	struct loop_bh bh;
	uint64_t writes;
	int calls = 0;

	loop_bh_init(&bh, loop, count, &calls);
	loop_run_once(loop, NS_PER_MS); /* it has slept before */
	loop_bh_post(&bh);
	loop_run_once(loop, -1);
	cr_assert_eq(calls, 1);
	cr_assert_eq(read(loop->wake_fd, &writes, sizeof(writes)), -1);
	cr_assert_eq(errno, EAGAIN);
}

static struct loop_bh signal_bh;

static void on_signal(int sig)
{
	(void)sig;
	loop_bh_post(&signal_bh);
}

Test(loop, bh_may_be_posted_by_a_signal_handler)
{
	struct sigaction sa = { .sa_handler = on_signal };
	int calls = 0;

	loop_bh_init(&signal_bh, loop, count, &calls);
	sigaction(SIGUSR1, &sa, NULL);
	raise(SIGUSR1);
	loop_run_once(loop, -1);
	cr_assert_eq(calls, 1);
}

Test(loop, stop_before_run_ends_it_after_one_pass)
{
	int calls = 0;
	struct loop_bh bh;

	loop_bh_init(&bh, loop, count, &calls);
	loop_bh_post(&bh);
	loop_stop(loop);
	cr_assert_eq(loop_run(loop), 0);
	cr_assert_eq(calls, 1);
	loop_bh_init(&bh, loop, stop, loop);
	loop_bh_post(&bh);
	cr_assert_eq(loop_run(loop), 0, "and it can run again");
}

/* What is still registered goes with the loop; the leak sanitizer is the judge. */
Test(loop, freed_with_everything_registered)
{
	struct watch w = { 0 };
	struct alarm a = { 0 };
	static const struct loop_poll_ops idle = { poll_nothing, poll_nothing, wake_nothing };
	struct loop_poller *p;
	struct loop *other = loop;

	watch_add(loop, &w, EPOLLIN);
	loop_add_timer(loop, alarm_fired, &a, &a.t);
	loop_arm_timer(a.t, 1);
	loop_add_poller(loop, &idle, NULL, &p);
	loop_free(other);
	close(w.fd);
	make_loop();
}

static _Atomic uint64_t turns;
static uint64_t while_awake;

static void on_turn(void *arg)
{
	while_awake = atomic_load(&turns);
	loop_stop(arg);
}

/* Odd while it sleeps, and another number each time: others see both without waking it. */
Test(loop, shows_when_it_sleeps)
{
	struct loop_timer *timer;

	loop_show(loop, &turns);
	cr_assert_eq(loop_add_timer(loop, on_turn, loop, &timer), 0);
	for (uint64_t n = 1; n <= 3; n++) {
		uint64_t before = atomic_load(&turns);

		loop_arm_timer(timer, clock_ns() + 20 * NS_PER_MS); /* a slow machine gets there before */
		cr_assert_eq(loop_run(loop), 0);
		cr_assert_gt(while_awake, before);
		cr_assert_eq(while_awake % 2, 0);
		cr_assert_eq(atomic_load(&turns), while_awake);
	}
	/* What does not sleep does not turn. */
	cr_assert_eq(loop_run_once(loop, 0), 0);
	cr_assert_eq(atomic_load(&turns), while_awake);
}
