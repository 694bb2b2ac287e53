/* SPDX-License-Identifier: Apache-2.0 */
/* Frames that come so fast that net-server does not watch for them: none is missed when they end, nor when nobody can read. */
#include <criterion/criterion.h>
#include <unistd.h>

#include "clock.h"
#include "flight.h"
#include "net_bus.h"

#define BUFFERS 100 /* posted at a time */
#define FAST    256 /* small frames in a row */
#define LEN     60

TestSuite(net_pace, .timeout = 120);

static struct net n;
static struct supervisor s;
static struct net_frame f;
static uint8_t frame[NET_BYTES];
static uint32_t sent, came;

static void set_up(enum net_kind kind, uint64_t ring_features)
{
	struct net_options options = { .kind = kind, .rig = { .ring_features = ring_features } };

	net_bus_start(&n, &s, &options);
}

static void tear_down(void)
{
	net_bus_stop(&n, &s);
}

static void falls_asleep(void)
{
	net_bus_falls_asleep(&n, &s);
}

static void send_frames(unsigned count)
{
	while (count--) {
		net_fill(frame, LEN, ++sent);
		net_peer_send(&n, frame, LEN);
	}
}

/* So many frames for which there are buffers. */
static void receive_frames(unsigned count)
{
	while (count--) {
		net_receive(&n, 0, &f);
		cr_assert(f.len == LEN && net_check(f.bytes, LEN, ++came));
	}
}

/* Gives buffers for so many frames, which are there. */
static void take_frames(unsigned count)
{
	for (unsigned part; count; count -= part) {
		part = count < BUFFERS ? count : BUFFERS;
		net_post_many(&n, 0, 1526, part);
		receive_frames(part);
	}
}

/* The host's queue holds so many frames, of which there is always one while they are read. */
static void ends_and_begins_again(uint64_t ring_features)
{
	set_up(NET_TAP, ring_features);
	for (unsigned round = 0; round < 3; round++) {
		send_frames(FAST + BUFFERS);
		take_frames(FAST + BUFFERS);
		net_post_many(&n, 0, 1526, 3);
		falls_asleep();
		for (unsigned i = 0; i < 3; i++) {
			send_frames(1);
			receive_frames(1);
		}
	}
	tear_down();
}

Test(net_pace, split_no_frame_is_missed_after_many)
{
	ends_and_begins_again(RING_F_EVENT_IDX);
}

Test(net_pace, packed_no_frame_is_missed_after_many)
{
	ends_and_begins_again(RING_F_PACKED);
}

Test(net_pace, frames_that_wait_for_buffers_keep_nobody_awake)
{
	set_up(NET_TAP, 0);
	send_frames(FAST + 50);
	take_frames(FAST + 10);
	falls_asleep();
	send_frames(10);
	falls_asleep();
	take_frames(50);
	net_post_many(&n, 0, 1526, 1);
	falls_asleep();
	send_frames(1);
	receive_frames(1);
	tear_down();
}

static uint64_t polls(void)
{
	return supervisor_stat(&s, "io0.poll_hits") + supervisor_stat(&s, "io0.poll_misses");
}

#define PAIRS 2

/* Frames come fast, and for the last ones there are no buffers; the first pair stops. Whether they still came fast then. */
static bool stops_while_frames_are_fast(const struct flight_queue *words)
{
	rig_stop_ring(&n.rig, 1);
	send_frames(FAST + BUFFERS);
	take_frames(FAST + BUFFERS - 50);
	rig_stop_ring(&n.rig, 0);
	/* As it was in its last pass. */
	return flight_get(&words->held) == 1;
}

static void start_again(void)
{
	for (unsigned i = 2; i < n.rig.queues; i++)
		rig_stop_ring(&n.rig, i);
	rig_restart_rings(&n.rig);
	take_frames(50);
}

/* While frames come fast their thread does not poll. With the pair gone nobody waits for any, and another may earn by it. */
Test(net_pace, a_ring_that_is_gone_keeps_its_thread_from_nothing)
{
	static const char *const args[] = { "--poll-max-us", "100000", NULL };
	struct net_options options = {
		.kind = NET_TAP,
		.control = true, /* so that the driver has one pair take part, whichever run */
		.rig = { .args = args, .queues = PAIRS, .flight_fd = flight_create(2 * PAIRS + 2) }
	};
	uint64_t before, end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;
	struct flight *flight;

	cr_assert_eq(flight_map(options.rig.flight_fd, true, &flight), 0);
	net_bus_start(&n, &s, &options);
	while (!stops_while_frames_are_fast(flight_queue(flight, 0))) {
		cr_assert_lt(clock_ns(), end, "the ring never stops in time");
		start_again();
	}
	before = polls();
	/* It may have polled for frames when they came fast, and go on with that once. */
	while (polls() <= before + 5) {
		cr_assert_lt(clock_ns(), end, "its thread does not poll any more");
		net_fill(rig_ptr(&n.rig, n.frame), LEN, 1);
		cr_assert_eq(net_send(&n, 1, LEN, NULL, 0), 0);
	}
	flight_free(flight);
	close(options.rig.flight_fd);
	tear_down();
}
