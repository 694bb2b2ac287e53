/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/watch: rings made by hand, and back ends that get on, hang, wait for their storage, or write nonsense. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "flight.h"
#include "inflight.h"
#include "kick.h"
#include "loop.h"
#include "watch.h"

#define SIZE     16
#define TIMEOUT  (160 * NS_PER_MS)
#define DEADLINE (20 * NS_PER_S)
#define AVAIL    (1U << 7)
#define USED     (1U << 15)

/* ---- a ring and its back end ---- */

struct split {
	uint16_t avail[3 + SIZE];
	uint16_t used[3 + 4 * SIZE] __attribute__((aligned(4)));
};

static struct loop *loop;
static struct watch *watch;
static struct watch_target *target;
static struct split ring __attribute__((aligned(16)));
static struct vring_packed_desc descs[SIZE] __attribute__((aligned(16)));
static uint16_t driver_event[2], device_event[2];
static struct flight *flight;
static struct flight_ring health;
static int kick_fd;
static unsigned kicks; /* that reached the back end */
static bool runs;      /* the back end looks at its ring when it is kicked */
static unsigned hung, broken, stalled;
static uint64_t stalled_ns;
static char reason[128];

static void note(const char *why)
{
	snprintf(reason, sizeof(reason), "%s", why);
}

static void on_hung(void *arg, unsigned queue, uint64_t ns, const char *why)
{
	(void)arg;
	cr_assert_eq(queue, 0);
	hung++;
	stalled_ns = ns;
	note(why);
}

static void on_broken(void *arg, unsigned queue, const char *why)
{
	(void)arg;
	cr_assert_eq(queue, 0);
	broken++;
	note(why);
}

static void on_stalled(void *arg, unsigned queue, uint64_t ns, const char *why)
{
	(void)arg;
	(void)queue;
	stalled++;
	stalled_ns = ns;
	note(why);
}

/* Sleeps of many seconds are cut short, and noted. */
#define LONG (5 * NS_PER_S)
static bool hurry;
static uint64_t long_ns;
void __real_loop_arm_timer(struct loop_timer *t, uint64_t at_ns);
void __wrap_loop_arm_timer(struct loop_timer *t, uint64_t at_ns);

void __wrap_loop_arm_timer(struct loop_timer *t, uint64_t at_ns)
{
	uint64_t now = clock_ns(), wait = at_ns > now ? at_ns - now : 0;

	if (hurry && wait > LONG) {
		long_ns = wait;
		at_ns = now + 20 * NS_PER_MS;
	}
	__real_loop_arm_timer(t, at_ns);
}

static const struct watch_ops ops = { .hung = on_hung, .broken = on_broken, .stalled = on_stalled };

static struct watch_ring split_ring(void)
{
	return (struct watch_ring) { .size = SIZE,
				     .avail = ring.avail,
				     .used = ring.used,
				     .kick = kick_fd,
				     .health = flight_queue(flight, 0) };
}

static void set_up(void)
{
	cr_assert_eq(kick_init(), 0);
	cr_assert_eq(loop_new("test", &loop), 0);
	cr_assert_eq(watch_new(loop, &watch), 0);
	cr_assert_eq(flight_alloc(1, &flight), 0);
	flight_open_queue(flight, 0, &health);
	kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	cr_assert_geq(kick_fd, 0);
}

static void tear_down(void)
{
	watch_remove(target);
	watch_free(watch);
	flight_free(flight);
	loop_free(loop);
	close(kick_fd);
}

TestSuite(core_watch, .init = set_up, .fini = tear_down, .timeout = 60);

static void watch_it(const struct watch_ring *r)
{
	cr_assert_eq(watch_add(watch, TIMEOUT, r, 1, &ops, NULL, &target), 0);
}

static void watch_split(void)
{
	const struct watch_ring r = split_ring();

	watch_it(&r);
}

static void passes(void)
{
	flight_set(&health.queue->passes, flight_get(&health.queue->passes) + 1);
}

static void set_held(uint64_t n)
{
	flight_set(&health.queue->held, n);
}

/* A pass of the loop, and then one of the back end, if it is alive. */
static void turn(uint64_t ns)
{
	eventfd_t value;

	cr_assert_eq(loop_run_once(loop, (int64_t)ns), 0);
	if (eventfd_read(kick_fd, &value) < 0)
		return;
	kicks++;
	if (runs)
		passes();
}

#define RUN_UNTIL(condition)                                                                                 \
	do {                                                                                                 \
		uint64_t end_ = clock_ns() + DEADLINE;                                                       \
		while (!(condition)) {                                                                       \
			cr_assert(clock_ns() < end_, "deadline: %s", #condition);                            \
			turn(20 * NS_PER_MS);                                                                \
		}                                                                                            \
	} while (0)

static uint64_t looks(void)
{
	struct watch_stats s;

	watch_get_stats(watch, &s);
	return s.looks;
}

/* Runs for so many looks. */
static void run_looks(unsigned n)
{
	uint64_t goal = looks() + n;

	RUN_UNTIL(looks() >= goal);
}

/* The driver makes a request available, and kicks. */
static void request(void)
{
	ring.avail[1]++;
	cr_assert_eq(fd_event_set(kick_fd), 0);
}

static void complete(void)
{
	ring.used[1]++;
}

/* Runs until nothing but a kick would wake the watch soon: it found the ring idle twice. */
static void fall_asleep(void)
{
	uint64_t before;

	do {
		before = looks();
		for (unsigned i = 0; i < 3; i++)
			cr_assert_eq(loop_run_once(loop, TIMEOUT / 2), 0);
	} while (looks() != before);
}

#define DEAF_AT_MOST (5 * NS_PER_S) /* a second, on a slow machine */

/* Asleep: looked at neither soon nor every second. */
static void is_left_alone(void)
{
	uint64_t before = looks(), end = clock_ns() + 3 * NS_PER_S / 2;

	while (clock_ns() < end)
		cr_assert_eq(loop_run_once(loop, 100 * (int64_t)NS_PER_MS), 0);
	cr_assert_eq(looks(), before);
}

/* ---- nothing to do ---- */

Test(core_watch, an_idle_ring_is_not_looked_at)
{
	uint64_t before;

	watch_split();
	fall_asleep();
	before = looks();
	cr_assert_leq(before, 4);
	is_left_alone();
	cr_assert_eq(hung + stalled + broken, 0);
	request();
	cr_assert_eq(loop_run_once(loop, 0), 0);
	cr_assert_eq(looks(), before + 1, "a kick wakes the watch at once");
}

Test(core_watch, a_device_that_disabled_kicks_is_looked_at_every_second)
{
	uint64_t before, at;

	ring.used[0] = VRING_USED_F_NO_NOTIFY;
	watch_split();
	fall_asleep();
	before = looks();
	ring.avail[1]++;
	at = clock_ns();
	RUN_UNTIL(looks() != before);
	cr_assert_lt(clock_ns() - at, DEAF_AT_MOST);
	RUN_UNTIL(hung);
}

/* The timer looks meanwhile, so the core has no part in a request of a ring that is not idle. */
Test(core_watch, kicks_on_a_busy_ring_wake_nobody)
{
	uint64_t before, from;

	watch_split();
	fall_asleep();
	request();
	cr_assert_eq(loop_run_once(loop, 0), 0);
	before = looks();
	from = clock_ns();
	for (unsigned i = 0; i < 100; i++) {
		request();
		complete();
		cr_assert_eq(loop_run_once(loop, 0), 0);
	}
	cr_assert_leq(looks() - before, 1 + (clock_ns() - from) / (TIMEOUT / 8),
		      "no more than the timer's own");
}

/* Served before the watch came to look: that was no kick for nothing. */
Test(core_watch, kicks_with_requests_are_always_heard)
{
	for (unsigned i = 0; i < 8; i++) {
		uint64_t before;

		if (!target)
			watch_split();
		fall_asleep();
		before = looks();
		request();
		complete();
		cr_assert_eq(loop_run_once(loop, 0), 0);
		cr_assert_eq(looks(), before + 1, "%u", i);
	}
}

/* A guest may write to the notify register as often as it likes. */
Test(core_watch, fault_31_kicks_without_requests_are_followed_a_few_times_only)
{
	uint64_t before;

	watch_split();
	fall_asleep();
	for (unsigned i = 0; i < 200; i++) {
		cr_assert_eq(fd_event_set(kick_fd), 0);
		cr_assert_eq(loop_run_once(loop, 0), 0);
	}
	before = looks();
	cr_assert_leq(before, 6);
	/* Further ones reach nobody, not even one with a request; the timer finds that. */
	request();
	cr_assert_eq(loop_run_once(loop, 0), 0);
	cr_assert_eq(looks(), before);
	run_looks(1);
	complete();
	/* When it is over they are followed again. */
	fall_asleep();
	is_left_alone();
	before = looks();
	request();
	cr_assert_eq(loop_run_once(loop, 0), 0);
	cr_assert_eq(looks(), before + 1);
	RUN_UNTIL(hung);
}

Test(core_watch, a_ring_that_gets_on_is_never_hung)
{
	uint64_t end = clock_ns() + 4 * TIMEOUT;

	runs = true;
	watch_split();
	while (clock_ns() < end) {
		request();
		turn(TIMEOUT / 10);
		complete();
	}
	cr_assert_eq(hung + stalled + broken, 0);
}

/* One request is always outstanding, but never the same one. */
Test(core_watch, a_ring_that_is_never_empty_but_moves_is_not_hung)
{
	uint64_t end = clock_ns() + 4 * TIMEOUT;

	watch_split();
	request();
	while (clock_ns() < end) {
		request();
		complete();
		turn(TIMEOUT / 10);
	}
	cr_assert_eq(hung + stalled + broken, 0);
	RUN_UNTIL(hung);
}

/* ---- FAULTS 42: no completions ---- */

Test(core_watch, fault_42_stopped_with_requests_in_its_storage)
{
	uint64_t from;

	set_held(3);
	watch_split();
	fall_asleep();
	request();
	from = clock_ns();
	RUN_UNTIL(hung);
	fprintf(stderr, "# hung after %.1f ms of a time-out of %llu\n",
		(double)(clock_ns() - from) / (double)NS_PER_MS, TIMEOUT / NS_PER_MS);
	cr_assert_geq(clock_ns() - from, TIMEOUT);
	cr_assert_geq(stalled_ns, TIMEOUT);
	cr_assert_geq(kicks, 1, "it was kicked again before");
	cr_assert_str_eq(reason, "it does not look at its ring, though it was kicked");
	cr_assert_eq(stalled, 0);
}

Test(core_watch, fault_42_looks_and_completes_nothing)
{
	runs = true;
	watch_split();
	request();
	RUN_UNTIL(hung);
	cr_assert_geq(stalled_ns, TIMEOUT);
	cr_assert_str_eq(reason,
			 "it looks at its ring and completes nothing, though its storage holds no request");
}

Test(core_watch, fault_42_spinning)
{
	uint64_t end = clock_ns() + DEADLINE;

	watch_split();
	request();
	while (!hung) {
		cr_assert_lt(clock_ns(), end);
		turn(NS_PER_MS);
		passes();
	}
	cr_assert_geq(stalled_ns, TIMEOUT);
}

Test(core_watch, fault_42_slow_storage_is_not_a_hang_until_its_server_stops)
{
	runs = true;
	set_held(1);
	watch_split();
	request();
	RUN_UNTIL(stalled);
	cr_assert_str_eq(reason, "its storage is slow");
	run_looks(40);
	cr_assert_eq(hung, 0);
	cr_assert_eq(stalled, 1, "said once");
	cr_assert_geq(kicks, 4, "kicked and judged again and again");
	cr_assert_leq(kicks, 20, "every half time-out, not at every look");
	runs = false;
	RUN_UNTIL(hung);
	cr_assert_str_eq(reason, "it does not look at its ring, though it was kicked");
}

Test(core_watch, fault_42_slow_storage_that_answers)
{
	runs = true;
	set_held(2);
	watch_split();
	request();
	request();
	RUN_UNTIL(stalled);
	complete();
	run_looks(4);
	RUN_UNTIL(stalled == 2);
	complete();
	set_held(0);
	fall_asleep();
	cr_assert_eq(hung, 0);
	request();
	RUN_UNTIL(hung);
}

Test(core_watch, a_drained_server_is_not_hung_but_a_stopped_one_is)
{
	runs = true;
	flight_set(&health.queue->resting, 1);
	watch_split();
	request();
	RUN_UNTIL(stalled);
	cr_assert_str_eq(reason, "it was ordered to rest");
	run_looks(20);
	cr_assert_eq(hung, 0);
	flight_set(&health.queue->resting, 0);
	RUN_UNTIL(hung);
	cr_assert_str_eq(reason,
			 "it looks at its ring and completes nothing, though its storage holds no request");
}

Test(core_watch, a_drained_server_that_is_stopped_is_hung)
{
	flight_set(&health.queue->resting, 1);
	watch_split();
	request();
	RUN_UNTIL(hung);
}

Test(core_watch, without_health_words_it_only_warns)
{
	struct watch_ring r = split_ring();

	r.health = NULL;
	watch_it(&r);
	request();
	RUN_UNTIL(stalled);
	run_looks(20);
	cr_assert_eq(hung, 0);
	cr_assert_eq(stalled, 1);
}

Test(core_watch, a_hang_is_told_once)
{
	watch_split();
	request();
	RUN_UNTIL(hung);
	for (unsigned i = 0; i < 4; i++)
		turn(TIMEOUT);
	cr_assert_eq(hung, 1);
}

/* Frozen together with its back end (a stopped host, a debugger), the watch has seen nothing of the time between. */
Test(core_watch, time_that_nobody_saw_does_not_count)
{
	uint64_t end;

	watch_split();
	request();
	run_looks(2);
	end = clock_ns() + 4 * TIMEOUT;
	while (clock_ns() < end)
		;
	turn(0);
	turn(0);
	cr_assert_eq(hung, 0);
	RUN_UNTIL(hung);
	cr_assert_lt(stalled_ns, 3 * TIMEOUT);
}

/* ---- FAULTS 41: what no back end writes ---- */

Test(core_watch, fault_41_used_index_ahead)
{
	struct watch_stats stats;

	watch_split();
	request();
	ring.used[1] = (uint16_t)(ring.used[1] + 40000);
	RUN_UNTIL(broken);
	watch_get_stats(watch, &stats);
	cr_assert_eq(stats.kicks, 1, "the back end was asked to look");
	cr_assert_str_eq(reason, "its used index is not among the requests that the driver made available");
	cr_assert_eq(hung, 0);
	turn(TIMEOUT);
	cr_assert_eq(broken, 1);
}

/* What was wrong once and right since is given its time again. */
Test(core_watch, fault_41_each_time_its_driver_is_asked_about_first)
{
	watch_split();
	for (unsigned i = 1; i <= 3; i++) {
		ring.used[1] = (uint16_t)(ring.avail[1] + 1);
		RUN_UNTIL(kicks == i);
		request();
		run_looks(1);
		cr_assert_eq(broken, 0, "%u", i);
		kicks = i;
	}
}

Test(core_watch, fault_41_used_index_ahead_by_one_on_an_idle_ring)
{
	watch_split();
	fall_asleep();
	complete();
	cr_assert_eq(fd_event_set(kick_fd), 0);
	RUN_UNTIL(broken);
}

/* Nobody kicked, since nothing is outstanding. */
Test(core_watch, fault_41_used_index_ahead_that_nobody_asked_for)
{
	hurry = true;
	watch_split();
	RUN_UNTIL(long_ns);
	cr_assert_leq(long_ns, 10 * NS_PER_S);
	complete();
	RUN_UNTIL(broken);
	cr_assert_eq(kicks, 1, "the back end was asked to look");
}

static void complete_as(uint32_t id)
{
	uint32_t *elements = (uint32_t *)(void *)ring.used + 1;

	elements[2 * (ring.used[1] % SIZE)] = id;
	complete();
}

Test(core_watch, fault_41_used_id_never_issued)
{
	watch_split();
	for (unsigned i = 0; i < 3 * SIZE; i++) {
		request();
		complete_as(i % SIZE);
		if (i % 5 == 0)
			run_looks(1);
	}
	run_looks(1);
	cr_assert_eq(broken, 0);
	request();
	request();
	complete_as(SIZE);
	complete_as(0);
	RUN_UNTIL(broken);
	cr_assert_str_eq(reason, "its used ring names descriptors that do not exist");
}

/* A driver that jumps is its back end's to find: it is asked, and removes itself from our sight by saying so. */
Test(core_watch, fault_09_a_driver_that_jumps_is_first_asked_about)
{
	watch_split();
	ring.avail[1] = SIZE + 1;
	RUN_UNTIL(kicks);
	cr_assert_eq(broken, 0);
	watch_remove(target);
	target = NULL;
	for (unsigned i = 0; i < 4; i++)
		turn(TIMEOUT / 4);
	cr_assert_eq(broken, 0);
}

/* ---- packed rings ---- */

static uint8_t region[4096] __attribute__((aligned(64)));

static struct watch_ring packed_ring(void)
{
	cr_assert_leq(inflight_queue_bytes(SIZE, true), sizeof(region));
	inflight_init(region, SIZE, true, 0x8000);
	return (struct watch_ring) { .size = SIZE,
				     .packed = true,
				     .desc = descs,
				     .avail = driver_event,
				     .used = device_event,
				     .inflight = region,
				     .kick = kick_fd,
				     .health = flight_queue(flight, 0) };
}

/* The used position in the region and the old one: an index, bit 15 its wrap bit. */
static void set_used(uint16_t used, uint16_t old)
{
	const uint16_t indices[] = { used & 0x7fff, old & 0x7fff };
	const uint8_t wraps[] = { (uint8_t)(used >> 15), (uint8_t)(old >> 15) };
	uint16_t got_used, got_old;

	memcpy(region + 16, indices, sizeof(indices));
	memcpy(region + 20, wraps, sizeof(wraps));
	inflight_packed_used(region, &got_used, &got_old);
	cr_assert(got_used == used && got_old == old);
}

Test(core_watch, a_packed_ring_that_is_idle)
{
	struct watch_ring r = packed_ring();

	watch_it(&r);
	fall_asleep();
	cr_assert_leq(looks(), 4);
}

Test(core_watch, fault_42_packed)
{
	struct watch_ring r = packed_ring();

	watch_it(&r);
	fall_asleep();
	descs[0].flags = AVAIL;
	descs[1].flags = AVAIL;
	cr_assert_eq(fd_event_set(kick_fd), 0);
	run_looks(4);
	/* The first is completed, the second is not. */
	descs[0].flags = AVAIL | USED;
	set_used(0x8001, 0x8001);
	run_looks(2);
	cr_assert_eq(hung, 0);
	RUN_UNTIL(hung);
}

/* On the next lap available means the other flag; and what was used on the last is nothing to wait for. */
Test(core_watch, a_packed_ring_on_its_second_lap)
{
	struct watch_ring r = packed_ring();

	for (unsigned i = 0; i < SIZE; i++)
		descs[i].flags = AVAIL | USED;
	set_used(0, 0);
	watch_it(&r);
	fall_asleep();
	cr_assert_eq(hung + stalled, 0);
	descs[0].flags = USED;
	cr_assert_eq(fd_event_set(kick_fd), 0);
	RUN_UNTIL(hung);
}

/* Stopped between the region's positions and the ring: the batch is not shown, so it is still owed. */
Test(core_watch, fault_42_packed_stopped_within_a_publication)
{
	struct watch_ring r = packed_ring();

	descs[0].flags = AVAIL;
	set_used(0x8001, 0x8000);
	watch_it(&r);
	RUN_UNTIL(hung);
}

Test(core_watch, fault_41_packed_used_position_outside_the_ring)
{
	struct watch_ring r = packed_ring();

	watch_it(&r);
	fall_asleep();
	set_used(SIZE, SIZE);
	cr_assert_eq(fd_event_set(kick_fd), 0);
	RUN_UNTIL(broken);
	cr_assert_str_eq(reason, "its used position lies outside the ring");
}

Test(core_watch, a_packed_ring_that_disabled_kicks_is_looked_at_every_second)
{
	struct watch_ring r = packed_ring();
	uint64_t before, at;

	device_event[1] = VRING_PACKED_EVENT_FLAG_DISABLE;
	watch_it(&r);
	fall_asleep();
	before = looks();
	at = clock_ns();
	RUN_UNTIL(looks() != before);
	cr_assert_lt(clock_ns() - at, DEAF_AT_MOST);
	/* At a descriptor, and it is the next one. */
	device_event[1] = VRING_PACKED_EVENT_FLAG_DESC;
	device_event[0] = 0x8000;
	run_looks(1);
	fall_asleep();
	is_left_alone();
}

Test(core_watch, event_indices_tell_who_hears_kicks)
{
	struct watch_ring r = split_ring();
	uint64_t before, at;

	r.event_idx = true;
	ring.avail[1] = ring.used[1] = 7;
	ring.used[2 + 4 * SIZE] = 6; /* it looks by itself: the driver will not kick */
	watch_it(&r);
	fall_asleep();
	before = looks();
	at = clock_ns();
	RUN_UNTIL(looks() != before);
	cr_assert_lt(clock_ns() - at, DEAF_AT_MOST);
	ring.used[2 + 4 * SIZE] = 7;
	run_looks(1);
	fall_asleep();
	is_left_alone();
	cr_assert_eq(hung, 0);
}

/* ---- FAULTS 46 ---- */

/* The back end made the eventfd blocking, as it may, and filled it up: a kick of ours would wait for ever. */
Test(core_watch, fault_46_a_kick_that_would_block)
{
	const uint64_t most = UINT64_MAX - 1;

	watch_split();
	cr_assert_eq(write(kick_fd, &most, sizeof(most)), sizeof(most));
	cr_assert_eq(fcntl(kick_fd, F_SETFL, 0), 0);
	ring.avail[1]++;
	while (!hung)
		cr_assert_eq(loop_run_once(loop, 20 * (int64_t)NS_PER_MS), 0);
	cr_assert_eq(hung, 1);
}

static int fill_fd = -1; /* a back end fills it up as soon as somebody has looked whether it is full */

int poll(struct pollfd *fds, nfds_t n, int timeout)
{
	const uint64_t most = UINT64_MAX - 1;
	int r = (int)syscall(SYS_poll, fds, n, timeout);

	if (fill_fd >= 0 && n == 1 && fds[0].fd == fill_fd) {
		cr_assert_eq(write(fill_fd, &most, sizeof(most)), sizeof(most));
		fill_fd = -1;
	}
	return r;
}

Test(core_watch, fault_46_a_kick_that_would_block_only_since_it_was_looked_at)
{
	uint64_t from = clock_ns();

	cr_assert_eq(fcntl(kick_fd, F_SETFL, 0), 0);
	fill_fd = kick_fd;
	kick_offer(kick_fd);
	cr_assert_eq(fill_fd, -1, "it was filled up meanwhile");
	cr_assert_lt(clock_ns() - from, 5 * NS_PER_S);
	fd_event_clear(kick_fd);
	kick_offer(kick_fd);
	turn(0);
	cr_assert_eq(kicks, 1);
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
	static const struct watch_ops removing = { .hung = remove_all,
						   .broken = on_broken,
						   .stalled = on_stalled };
	const struct watch_ring r = split_ring();

	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(watch_add(watch, TIMEOUT, &r, 1, &removing, NULL, &others[i]), 0);
	request();
	RUN_UNTIL(removed);
	for (unsigned i = 0; i < 3; i++)
		turn(TIMEOUT);
	cr_assert_eq(removed, 1);
}
