/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/watch: back ends that have nothing to do, get on, hang, or wait for their storage. */
#include <criterion/criterion.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <string.h>

#include "clean.h"
#include "clock.h"
#include "fd.h"
#include "note.h"
#include "watch_rig.h"

TestSuite(core_watch, .init = watch_rig_open, .fini = watch_rig_close, .timeout = 60);

static struct watch_rig *const w = &watch_rig;

#define DEAF_AT_MOST (5 * NS_PER_S) /* a second, on a slow machine */

/* ---- nothing to do ---- */

Test(core_watch, an_idle_ring_is_not_looked_at)
{
	uint64_t before;

	watch_rig_add_split();
	watch_rig_fall_asleep();
	before = watch_rig_looks();
	cr_assert_leq(before, 4);
	watch_rig_is_left_alone();
	cr_assert_eq(w->hung + w->stalled + w->broken, 0);
	watch_rig_request();
	cr_assert_eq(loop_run_once(w->loop, 0), 0);
	cr_assert_eq(watch_rig_looks(), before + 1, "a kick wakes the watch at once");
}

Test(core_watch, a_device_that_disabled_kicks_is_looked_at_every_second)
{
	uint64_t before, at;

	w->ring.used[0] = VRING_USED_F_NO_NOTIFY;
	watch_rig_add_split();
	watch_rig_fall_asleep();
	before = watch_rig_looks();
	w->ring.avail[1]++;
	at = clock_ns();
	WATCH_RIG_UNTIL(watch_rig_looks() != before);
	cr_assert_lt(clock_ns() - at, DEAF_AT_MOST);
	WATCH_RIG_UNTIL(w->hung);
}

/* The timer looks meanwhile, so the core has no part in a request of a ring that is not idle. */
Test(core_watch, kicks_on_a_busy_ring_wake_nobody)
{
	uint64_t before, from;

	watch_rig_add_split();
	watch_rig_fall_asleep();
	watch_rig_request();
	cr_assert_eq(loop_run_once(w->loop, 0), 0);
	before = watch_rig_looks();
	from = clock_ns();
	for (unsigned i = 0; i < 100; i++) {
		watch_rig_request();
		watch_rig_complete();
		cr_assert_eq(loop_run_once(w->loop, 0), 0);
	}
	cr_assert_leq(watch_rig_looks() - before, 1 + (clock_ns() - from) / (WATCH_RIG_TIMEOUT / 8),
		      "no more than the timer's own");
}

/* Served before the watch came to look: that was no kick for nothing. */
Test(core_watch, kicks_with_requests_are_always_heard)
{
	for (unsigned i = 0; i < 8; i++) {
		uint64_t before;

		if (!w->target)
			watch_rig_add_split();
		watch_rig_fall_asleep();
		before = watch_rig_looks();
		watch_rig_request();
		watch_rig_complete();
		cr_assert_eq(loop_run_once(w->loop, 0), 0);
		cr_assert_eq(watch_rig_looks(), before + 1, "%u", i);
	}
}

/* A guest may write to the notify register as often as it likes. */
Test(core_watch, fault_31_kicks_without_requests_are_followed_a_few_times_only)
{
	uint64_t before;

	watch_rig_add_split();
	watch_rig_fall_asleep();
	for (unsigned i = 0; i < 200; i++) {
		cr_assert_eq(fd_event_set(w->kick_fd), 0);
		cr_assert_eq(loop_run_once(w->loop, 0), 0);
	}
	before = watch_rig_looks();
	cr_assert_leq(before, 6);
	/* Further ones reach nobody, not even one with a request; the timer finds that. */
	watch_rig_request();
	cr_assert_eq(loop_run_once(w->loop, 0), 0);
	cr_assert_eq(watch_rig_looks(), before);
	watch_rig_run_looks(1);
	watch_rig_complete();
	/* When it is over they are followed again. */
	watch_rig_fall_asleep();
	watch_rig_is_left_alone();
	before = watch_rig_looks();
	watch_rig_request();
	cr_assert_eq(loop_run_once(w->loop, 0), 0);
	cr_assert_eq(watch_rig_looks(), before + 1);
	WATCH_RIG_UNTIL(w->hung);
}

Test(core_watch, a_ring_that_gets_on_is_never_hung)
{
	uint64_t end = clock_ns() + 4 * WATCH_RIG_TIMEOUT;

	w->runs = true;
	watch_rig_add_split();
	while (clock_ns() < end) {
		watch_rig_request();
		watch_rig_turn(WATCH_RIG_TIMEOUT / 10);
		watch_rig_complete();
	}
	cr_assert_eq(w->hung + w->stalled + w->broken, 0);
}

/* One request is always outstanding, but never the same one. */
Test(core_watch, a_ring_that_is_never_empty_but_moves_is_not_hung)
{
	uint64_t end = clock_ns() + 4 * WATCH_RIG_TIMEOUT;

	watch_rig_add_split();
	watch_rig_request();
	while (clock_ns() < end) {
		watch_rig_request();
		watch_rig_complete();
		watch_rig_turn(WATCH_RIG_TIMEOUT / 10);
	}
	cr_assert_eq(w->hung + w->stalled + w->broken, 0);
	WATCH_RIG_UNTIL(w->hung);
}

/* ---- FAULTS 42: no completions ---- */

Test(core_watch, fault_42_stopped_with_requests_in_its_storage)
{
	uint64_t from;

	watch_rig_hold(3);
	watch_rig_add_split();
	watch_rig_fall_asleep();
	watch_rig_request();
	from = clock_ns();
	WATCH_RIG_UNTIL(w->hung);
	note("hung after %.1f ms of a time-out of %llu", (double)(clock_ns() - from) / (double)NS_PER_MS,
	     WATCH_RIG_TIMEOUT / NS_PER_MS);
	cr_assert_geq(clock_ns() - from, WATCH_RIG_TIMEOUT);
	cr_assert_geq(w->stalled_ns, WATCH_RIG_TIMEOUT);
	cr_assert_geq(w->kicks, 1, "it was kicked again before");
	cr_assert_str_eq(w->reason, "it does not look at its ring, though it was kicked");
	cr_assert_eq(w->stalled, 0);
}

Test(core_watch, fault_42_looks_and_completes_nothing)
{
	w->runs = true;
	watch_rig_add_split();
	watch_rig_request();
	WATCH_RIG_UNTIL(w->hung);
	cr_assert_geq(w->stalled_ns, WATCH_RIG_TIMEOUT);
	cr_assert_str_eq(w->reason,
			 "it looks at its ring and completes nothing, though its storage holds no request");
}

Test(core_watch, fault_43_spinning)
{
	uint64_t end = clock_ns() + WATCH_RIG_DEADLINE;

	watch_rig_add_split();
	watch_rig_request();
	while (!w->hung) {
		cr_assert_lt(clock_ns(), end);
		watch_rig_turn(NS_PER_MS);
		watch_rig_passes();
	}
	cr_assert_geq(w->stalled_ns, WATCH_RIG_TIMEOUT);
}

Test(core_watch, fault_42_slow_storage_is_not_a_hang_until_its_server_stops)
{
	w->runs = true;
	watch_rig_hold(1);
	watch_rig_add_split();
	watch_rig_request();
	WATCH_RIG_UNTIL(w->stalled);
	cr_assert_str_eq(w->reason, "its storage is slow");
	watch_rig_run_looks(40);
	cr_assert_eq(w->hung, 0);
	cr_assert_eq(w->stalled, 1, "said once");
	cr_assert_geq(w->kicks, 4, "kicked and judged again and again");
	cr_assert_leq(w->kicks, 20, "every half time-out, not at every look");
	w->runs = false;
	WATCH_RIG_UNTIL(w->hung);
	cr_assert_str_eq(w->reason, "it does not look at its ring, though it was kicked");
}

Test(core_watch, fault_42_slow_storage_that_answers)
{
	w->runs = true;
	watch_rig_hold(2);
	watch_rig_add_split();
	watch_rig_request();
	watch_rig_request();
	WATCH_RIG_UNTIL(w->stalled);
	watch_rig_complete();
	watch_rig_run_looks(4);
	WATCH_RIG_UNTIL(w->stalled == 2);
	watch_rig_complete();
	watch_rig_hold(0);
	watch_rig_fall_asleep();
	cr_assert_eq(w->hung, 0);
	watch_rig_request();
	WATCH_RIG_UNTIL(w->hung);
}

Test(core_watch, a_drained_server_is_not_hung_but_a_stopped_one_is)
{
	w->runs = true;
	flight_set(&w->health.queue->resting, 1);
	watch_rig_add_split();
	watch_rig_request();
	WATCH_RIG_UNTIL(w->stalled);
	cr_assert_str_eq(w->reason, "it was ordered to rest");
	watch_rig_run_looks(20);
	cr_assert_eq(w->hung, 0);
	flight_set(&w->health.queue->resting, 0);
	WATCH_RIG_UNTIL(w->hung);
	cr_assert_str_eq(w->reason,
			 "it looks at its ring and completes nothing, though its storage holds no request");
}

Test(core_watch, a_drained_server_that_is_stopped_is_hung)
{
	flight_set(&w->health.queue->resting, 1);
	watch_rig_add_split();
	watch_rig_request();
	WATCH_RIG_UNTIL(w->hung);
}

static bool pass(const struct flight_ring *r)
{
	flight_set(&r->queue->passes, flight_get(&r->queue->passes) + 1);
	return true;
}

/* Nothing of it reaches the server, which need not even be kicked. */
Test(core_watch, one_that_is_kept_back_is_not_hung_but_who_keeps_it_back_may_be)
{
	struct watch_ring r = watch_rig_split();
	struct flight *flight;
	struct flight_ring before;
	uint64_t end;

	cr_assert_eq(flight_alloc(1, &flight), 0);
	flight_open_queue(flight, 0, &before);
	flight_set(&before.queue->resting, FLIGHT_KEPT_BACK);
	r.before = flight_queue(flight, 0);
	watch_rig_add(&r);
	watch_rig_request();
	WATCH_RIG_UNTIL(pass(&before) && w->stalled);
	cr_assert_str_eq(w->reason, "it waits while a request of another queue is tried");
	end = watch_rig_looks() + 20;
	WATCH_RIG_UNTIL(pass(&before) && watch_rig_looks() >= end);
	cr_assert_eq(w->hung, 0);
	WATCH_RIG_UNTIL(w->hung);
	cr_assert_str_eq(w->reason, "it does not look at its ring, though it was kicked");
	watch_remove(TAKE_PTR(w->target));
	flight_free(flight);
}

Test(core_watch, without_health_words_it_only_warns)
{
	struct watch_ring r = watch_rig_split();

	r.health = NULL;
	watch_rig_add(&r);
	watch_rig_request();
	WATCH_RIG_UNTIL(w->stalled);
	watch_rig_run_looks(20);
	cr_assert_eq(w->hung, 0);
	cr_assert_eq(w->stalled, 1);
}

Test(core_watch, a_hang_is_told_once)
{
	watch_rig_add_split();
	watch_rig_request();
	WATCH_RIG_UNTIL(w->hung);
	for (unsigned i = 0; i < 4; i++)
		watch_rig_turn(WATCH_RIG_TIMEOUT);
	cr_assert_eq(w->hung, 1);
}

/* Frozen together with its back end (a stopped host, a debugger), the watch has seen nothing of the time between. */
Test(core_watch, time_that_nobody_saw_does_not_count)
{
	uint64_t end;

	watch_rig_add_split();
	watch_rig_request();
	watch_rig_run_looks(2);
	end = clock_ns() + 4 * WATCH_RIG_TIMEOUT;
	while (clock_ns() < end)
		;
	watch_rig_turn(0);
	watch_rig_turn(0);
	cr_assert_eq(w->hung, 0);
	WATCH_RIG_UNTIL(w->hung);
	cr_assert_lt(w->stalled_ns, 3 * WATCH_RIG_TIMEOUT);
}

/* ---- several at once ---- */

static struct watch_target *others[3];
static unsigned removed;

static void remove_all(void *arg, unsigned queue, uint64_t ns, const char *why)
{
	(void)arg;
	(void)queue;
	(void)ns;
	(void)why;
	for (unsigned i = 0; i < 3; i++) {
		watch_remove(others[i]);
		others[i] = NULL;
	}
	removed++;
}

Test(core_watch, whoever_is_told_may_remove_them_all)
{
	struct watch_ops removing = watch_rig_ops;
	const struct watch_ring r = watch_rig_split();

	removing.hung = remove_all;
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(watch_add(w->watch, WATCH_RIG_TIMEOUT, &r, 1, &removing, NULL, &others[i]), 0);
	watch_rig_request();
	WATCH_RIG_UNTIL(removed);
	for (unsigned i = 0; i < 3; i++)
		watch_rig_turn(WATCH_RIG_TIMEOUT);
	cr_assert_eq(removed, 1);
}
