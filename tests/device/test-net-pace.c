/* SPDX-License-Identifier: Apache-2.0 */
/* Frames that come so fast that net-server does not watch for them: none is missed when they end, nor when nobody can read. */
#include <criterion/criterion.h>

#include "clock.h"
#include "net.h"
#include "supervise.h"

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
	static const char *args[] = { "--id", "net0", "--bus", NULL, NULL };
	struct net_options options = { .kind = kind,
				       .rig = { .args = args, .ring_features = ring_features } };

	supervisor_open(&s);
	args[3] = s.dir;
	net_start(&n, &options);
	supervisor_expect(&s, &n.rig);
}

static void tear_down(void)
{
	supervisor_ask_ok(&s, BUS_SHUTDOWN);
	net_stop(&n);
	supervisor_close(&s);
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

/* Waits until the I/O thread passes over its rings no more. */
static void falls_asleep(void)
{
	uint64_t end = clock_ns() + RIG_DEADLINE_S * NS_PER_S, passes, until;

	do {
		cr_assert(clock_ns() < end, "it does not sleep");
		passes = supervisor_stat(&s, "passes");
		until = clock_ns() + 100 * NS_PER_MS;
		while (clock_ns() < until)
			cr_assert_eq(loop_run_once(n.rig.loop, (int64_t)(20 * NS_PER_MS)), 0);
	} while (supervisor_stat(&s, "passes") != passes);
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
