/* SPDX-License-Identifier: Apache-2.0 */
/* A ring made by hand, its back end, and vmm-core's watch over it. */
#include "watch_rig.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fd.h"
#include "kick.h"

struct watch_rig watch_rig;
static struct watch_rig *const w = &watch_rig;

static void note(const char *why)
{
	snprintf(w->reason, sizeof(w->reason), "%s", why);
}

static void on_hung(void *arg, unsigned queue, uint64_t ns, const char *why)
{
	(void)arg;
	cr_assert_eq(queue, 0);
	w->hung++;
	w->stalled_ns = ns;
	note(why);
}

static void on_broken(void *arg, unsigned queue, const char *why)
{
	(void)arg;
	cr_assert_eq(queue, 0);
	w->broken++;
	note(why);
}

static void on_stalled(void *arg, unsigned queue, uint64_t ns, const char *why)
{
	(void)arg;
	(void)queue;
	w->stalled++;
	w->stalled_ns = ns;
	note(why);
}

/* Sleeps of many seconds are cut short, and noted. */
#define LONG (5 * NS_PER_S)
void __real_loop_arm_timer(struct loop_timer *t, uint64_t at_ns);
void __wrap_loop_arm_timer(struct loop_timer *t, uint64_t at_ns);

void __wrap_loop_arm_timer(struct loop_timer *t, uint64_t at_ns)
{
	uint64_t now = clock_ns(), wait = at_ns > now ? at_ns - now : 0;

	if (w->hurry && wait > LONG) {
		w->long_ns = wait;
		at_ns = now + 20 * NS_PER_MS;
	}
	__real_loop_arm_timer(t, at_ns);
}

const struct watch_ops watch_rig_ops = { .hung = on_hung, .broken = on_broken, .stalled = on_stalled };

struct watch_ring watch_rig_split(void)
{
	return (struct watch_ring) { .size = WATCH_RIG_SIZE,
				     .avail = w->ring.avail,
				     .used = w->ring.used,
				     .kick = w->kick_fd,
				     .health = flight_queue(w->flight, 0) };
}

void watch_rig_open(void)
{
	cr_assert_eq(kick_init(), 0);
	cr_assert_eq(loop_new("test", &w->loop), 0);
	cr_assert_eq(watch_new(w->loop, &w->watch), 0);
	cr_assert_eq(flight_alloc(1, &w->flight), 0);
	flight_open_queue(w->flight, 0, &w->health);
	w->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	cr_assert_geq(w->kick_fd, 0);
}

void watch_rig_close(void)
{
	watch_remove(w->target);
	watch_free(w->watch);
	flight_free(w->flight);
	loop_free(w->loop);
	close(w->kick_fd);
}

void watch_rig_add(const struct watch_ring *r)
{
	cr_assert_eq(watch_add(w->watch, WATCH_RIG_TIMEOUT, r, 1, &watch_rig_ops, NULL, &w->target), 0);
}

void watch_rig_add_split(void)
{
	const struct watch_ring r = watch_rig_split();

	watch_rig_add(&r);
}

void watch_rig_passes(void)
{
	flight_set(&w->health.queue->passes, flight_get(&w->health.queue->passes) + 1);
}

void watch_rig_hold(uint64_t n)
{
	flight_set(&w->health.queue->held, n);
}

void watch_rig_turn(uint64_t ns)
{
	eventfd_t value;

	cr_assert_eq(loop_run_once(w->loop, (int64_t)ns), 0);
	if (eventfd_read(w->kick_fd, &value) < 0)
		return;
	w->kicks++;
	if (w->runs)
		watch_rig_passes();
}

uint64_t watch_rig_looks(void)
{
	struct watch_stats s;

	watch_get_stats(w->watch, &s);
	return s.looks;
}

void watch_rig_run_looks(unsigned n)
{
	uint64_t goal = watch_rig_looks() + n;

	WATCH_RIG_UNTIL(watch_rig_looks() >= goal);
}

void watch_rig_request(void)
{
	w->ring.avail[1]++;
	cr_assert_eq(fd_event_set(w->kick_fd), 0);
}

void watch_rig_complete(void)
{
	w->ring.used[1]++;
}

void watch_rig_fall_asleep(void)
{
	uint64_t before;

	do {
		before = watch_rig_looks();
		for (unsigned i = 0; i < 3; i++)
			cr_assert_eq(loop_run_once(w->loop, WATCH_RIG_TIMEOUT / 2), 0);
	} while (watch_rig_looks() != before);
}

void watch_rig_is_left_alone(void)
{
	uint64_t before = watch_rig_looks(), end = clock_ns() + 3 * NS_PER_S / 2;

	while (clock_ns() < end)
		cr_assert_eq(loop_run_once(w->loop, 100 * (int64_t)NS_PER_MS), 0);
	cr_assert_eq(watch_rig_looks(), before);
}
