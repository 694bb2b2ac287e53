/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/watch: back ends that write nonsense, packed rings, and kicks that would block. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "inflight.h"
#include "kick.h"
#include "watch_rig.h"

TestSuite(core_watch_wrong, .init = watch_rig_open, .fini = watch_rig_close, .timeout = 60);

#define AVAIL        (1U << 7)
#define USED         (1U << 15)
#define DEAF_AT_MOST (5 * NS_PER_S) /* a second, on a slow machine */

static struct watch_rig *const w = &watch_rig;

/* ---- FAULTS 41: what no back end writes ---- */

Test(core_watch_wrong, fault_41_used_index_ahead)
{
	struct watch_stats stats;

	watch_rig_add_split();
	watch_rig_request();
	w->ring.used[1] = (uint16_t)(w->ring.used[1] + 40000);
	WATCH_RIG_UNTIL(w->broken);
	watch_get_stats(w->watch, &stats);
	cr_assert_eq(stats.kicks, 1, "the back end was asked to look");
	cr_assert_str_eq(w->reason,
			 "its used index is not among the requests that the driver made available");
	cr_assert_eq(w->hung, 0);
	watch_rig_turn(WATCH_RIG_TIMEOUT);
	cr_assert_eq(w->broken, 1);
}

/* What was wrong once and right since is given its time again. */
Test(core_watch_wrong, fault_41_each_time_its_driver_is_asked_about_first)
{
	watch_rig_add_split();
	for (unsigned i = 1; i <= 3; i++) {
		w->ring.used[1] = (uint16_t)(w->ring.avail[1] + 1);
		WATCH_RIG_UNTIL(w->kicks == i);
		watch_rig_request();
		watch_rig_run_looks(1);
		cr_assert_eq(w->broken, 0, "%u", i);
		w->kicks = i;
	}
}

Test(core_watch_wrong, fault_41_used_index_ahead_by_one_on_an_idle_ring)
{
	watch_rig_add_split();
	watch_rig_fall_asleep();
	watch_rig_complete();
	cr_assert_eq(fd_event_set(w->kick_fd), 0);
	WATCH_RIG_UNTIL(w->broken);
}

/* Nobody kicked, since nothing is outstanding. */
Test(core_watch_wrong, fault_41_used_index_ahead_that_nobody_asked_for)
{
	w->hurry = true;
	watch_rig_add_split();
	WATCH_RIG_UNTIL(w->long_ns);
	cr_assert_leq(w->long_ns, 10 * NS_PER_S);
	watch_rig_complete();
	WATCH_RIG_UNTIL(w->broken);
	cr_assert_eq(w->kicks, 1, "the back end was asked to look");
}

static void complete_as(uint32_t id)
{
	uint32_t *elements = (uint32_t *)(void *)w->ring.used + 1;

	elements[2 * (w->ring.used[1] % WATCH_RIG_SIZE)] = id;
	watch_rig_complete();
}

Test(core_watch_wrong, fault_41_used_id_never_issued)
{
	watch_rig_add_split();
	for (unsigned i = 0; i < 3 * WATCH_RIG_SIZE; i++) {
		watch_rig_request();
		complete_as(i % WATCH_RIG_SIZE);
		if (i % 5 == 0)
			watch_rig_run_looks(1);
	}
	watch_rig_run_looks(1);
	cr_assert_eq(w->broken, 0);
	watch_rig_request();
	watch_rig_request();
	complete_as(WATCH_RIG_SIZE);
	complete_as(0);
	WATCH_RIG_UNTIL(w->broken);
	cr_assert_str_eq(w->reason, "its used ring names descriptors that do not exist");
}

/* A driver that jumps is its back end's to find: it is asked, and removes itself from our sight by saying so. */
Test(core_watch_wrong, fault_09_a_driver_that_jumps_is_first_asked_about)
{
	watch_rig_add_split();
	w->ring.avail[1] = WATCH_RIG_SIZE + 1;
	WATCH_RIG_UNTIL(w->kicks);
	cr_assert_eq(w->broken, 0);
	watch_remove(w->target);
	w->target = NULL;
	for (unsigned i = 0; i < 4; i++)
		watch_rig_turn(WATCH_RIG_TIMEOUT / 4);
	cr_assert_eq(w->broken, 0);
}

/* ---- packed rings ---- */

static uint8_t region[4096] __attribute__((aligned(64)));

static struct watch_ring packed_ring(void)
{
	cr_assert_leq(inflight_queue_bytes(WATCH_RIG_SIZE, true), sizeof(region));
	inflight_init(region, WATCH_RIG_SIZE, true, 0x8000);
	return (struct watch_ring) { .size = WATCH_RIG_SIZE,
				     .packed = true,
				     .desc = w->descs,
				     .avail = w->driver_event,
				     .used = w->device_event,
				     .inflight = region,
				     .kick = w->kick_fd,
				     .health = flight_queue(w->flight, 0) };
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

Test(core_watch_wrong, a_packed_ring_that_is_idle)
{
	struct watch_ring r = packed_ring();

	watch_rig_add(&r);
	watch_rig_fall_asleep();
	cr_assert_leq(watch_rig_looks(), 4);
}

Test(core_watch_wrong, fault_42_packed)
{
	struct watch_ring r = packed_ring();

	watch_rig_add(&r);
	watch_rig_fall_asleep();
	w->descs[0].flags = AVAIL;
	w->descs[1].flags = AVAIL;
	cr_assert_eq(fd_event_set(w->kick_fd), 0);
	watch_rig_run_looks(4);
	/* The first is completed, the second is not. */
	w->descs[0].flags = AVAIL | USED;
	set_used(0x8001, 0x8001);
	watch_rig_run_looks(2);
	cr_assert_eq(w->hung, 0);
	WATCH_RIG_UNTIL(w->hung);
}

/* On the next lap available means the other flag; and what was used on the last is nothing to wait for. */
Test(core_watch_wrong, a_packed_ring_on_its_second_lap)
{
	struct watch_ring r = packed_ring();

	for (unsigned i = 0; i < WATCH_RIG_SIZE; i++)
		w->descs[i].flags = AVAIL | USED;
	set_used(0, 0);
	watch_rig_add(&r);
	watch_rig_fall_asleep();
	cr_assert_eq(w->hung + w->stalled, 0);
	w->descs[0].flags = USED;
	cr_assert_eq(fd_event_set(w->kick_fd), 0);
	WATCH_RIG_UNTIL(w->hung);
}

/* Stopped between the region's positions and the ring: the batch is not shown, so it is still owed. */
Test(core_watch_wrong, fault_42_packed_stopped_within_a_publication)
{
	struct watch_ring r = packed_ring();

	w->descs[0].flags = AVAIL;
	set_used(0x8001, 0x8000);
	watch_rig_add(&r);
	WATCH_RIG_UNTIL(w->hung);
}

Test(core_watch_wrong, fault_41_packed_used_position_outside_the_ring)
{
	struct watch_ring r = packed_ring();

	watch_rig_add(&r);
	watch_rig_fall_asleep();
	set_used(WATCH_RIG_SIZE, WATCH_RIG_SIZE);
	cr_assert_eq(fd_event_set(w->kick_fd), 0);
	WATCH_RIG_UNTIL(w->broken);
	cr_assert_str_eq(w->reason, "its used position lies outside the ring");
}

Test(core_watch_wrong, a_packed_ring_that_disabled_kicks_is_looked_at_every_second)
{
	struct watch_ring r = packed_ring();
	uint64_t before, at;

	w->device_event[1] = VRING_PACKED_EVENT_FLAG_DISABLE;
	watch_rig_add(&r);
	watch_rig_fall_asleep();
	before = watch_rig_looks();
	at = clock_ns();
	WATCH_RIG_UNTIL(watch_rig_looks() != before);
	cr_assert_lt(clock_ns() - at, DEAF_AT_MOST);
	/* At a descriptor, and it is the next one. */
	w->device_event[1] = VRING_PACKED_EVENT_FLAG_DESC;
	w->device_event[0] = 0x8000;
	watch_rig_run_looks(1);
	watch_rig_fall_asleep();
	watch_rig_is_left_alone();
}

Test(core_watch_wrong, event_indices_tell_who_hears_kicks)
{
	struct watch_ring r = watch_rig_split();
	uint64_t before, at;

	r.event_idx = true;
	w->ring.avail[1] = w->ring.used[1] = 7;
	w->ring.used[2 + 4 * WATCH_RIG_SIZE] = 6; /* it looks by itself: the driver will not kick */
	watch_rig_add(&r);
	watch_rig_fall_asleep();
	before = watch_rig_looks();
	at = clock_ns();
	WATCH_RIG_UNTIL(watch_rig_looks() != before);
	cr_assert_lt(clock_ns() - at, DEAF_AT_MOST);
	w->ring.used[2 + 4 * WATCH_RIG_SIZE] = 7;
	watch_rig_run_looks(1);
	watch_rig_fall_asleep();
	watch_rig_is_left_alone();
	cr_assert_eq(w->hung, 0);
}

/* ---- FAULTS 46 ---- */

/* The back end made the eventfd blocking, as it may, and filled it up: a kick of ours would wait for ever. */
Test(core_watch_wrong, fault_46_a_kick_that_would_block)
{
	const uint64_t most = UINT64_MAX - 1;

	watch_rig_add_split();
	cr_assert_eq(write(w->kick_fd, &most, sizeof(most)), sizeof(most));
	cr_assert_eq(fcntl(w->kick_fd, F_SETFL, 0), 0);
	w->ring.avail[1]++;
	while (!w->hung)
		cr_assert_eq(loop_run_once(w->loop, 20 * (int64_t)NS_PER_MS), 0);
	cr_assert_eq(w->hung, 1);
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

Test(core_watch_wrong, fault_46_a_kick_that_would_block_only_since_it_was_looked_at)
{
	uint64_t from = clock_ns();

	cr_assert_eq(fcntl(w->kick_fd, F_SETFL, 0), 0);
	fill_fd = w->kick_fd;
	kick_offer(w->kick_fd);
	cr_assert_eq(fill_fd, -1, "it was filled up meanwhile");
	cr_assert_lt(clock_ns() - from, 5 * NS_PER_S);
	fd_event_clear(w->kick_fd);
	kick_offer(w->kick_fd);
	watch_rig_turn(0);
	cr_assert_eq(w->kicks, 1);
}
