/* SPDX-License-Identifier: Apache-2.0 */
/* A pair of queues that changes its thread, while frames are on their way or wait. */
#include <criterion/criterion.h>
#include <string.h>

#include "clock.h"
#include "net_bus.h"

#define BUFFERS 120
#define BYTES   1526
#define ROUNDS  60
#define BURST   8

TestSuite(net_move, .timeout = 120);

static struct net n;
static struct supervisor s;
static struct net_frame f;
static uint8_t frame[60];
static uint8_t frames[NET_BYTES];

static void set_up(uint64_t ring_features)
{
	struct net_options options = { .kind = NET_PACKET,
				       .rig = { .thread_names = "a:b", .ring_features = ring_features } };

	net_bus_start(&n, &s, &options);
}

/* A pair goes from one thread to the other and back, with frames on their way in both directions. */
static void moves_with_frames_under_way(uint64_t ring_features)
{
	const uint32_t len = 200;
	uint32_t used;
	uint16_t id;

	set_up(ring_features);
	net_post_many(&n, 0, BYTES, BUFFERS - BURST);
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct bus_msg msg = { .type = BUS_MOVE_QUEUE };

		strcpy(msg.move_queue.thread, i % 2 ? "a" : "b");
		net_fill(rig_ptr(&n.rig, n.frame), len, i);
		for (unsigned k = 0; k < BURST; k++) {
			net_fill(frame, 60, i * BURST + k);
			net_peer_send(&n, frame, 60);
			net_send_start(&n, 0, len);
			if (k == i % BURST)
				supervisor_ask(&s, &msg);
		}
		supervisor_until(&s, s.answered);
		cr_assert_eq(s.err, 0);
		for (unsigned k = 0; k < BURST; k++) {
			net_receive(&n, 0, &f);
			cr_assert(f.len == 60 && net_check(f.bytes, 60, i * BURST + k), "frame %u of move %u",
				  k, i);
			cr_assert_eq(net_peer_receive(&n, frames), len);
			cr_assert(net_check(frames, len, i));
		}
		net_post_many(&n, 0, BYTES, BURST);
		for (unsigned k = 0; k < BURST; k++)
			supervisor_until(&s, ring_get(&n.rig.queue[1].ring, &id, &used) == 1);
	}
	supervisor_ask_ok(&s, BUS_GET_LOOPS);
	cr_assert_eq(s.reply->loops.count, 3);
	cr_assert_str_eq(s.reply->loops.loop[1].name, "a");
	cr_assert_eq(s.reply->loops.loop[1].queues, 1);
	cr_assert_eq(s.reply->loops.loop[2].queues, 0);
	net_bus_falls_asleep(&n, &s);
	net_bus_stop(&n, &s);
}

Test(net_move, split_a_pair_moves)
{
	moves_with_frames_under_way(RING_F_EVENT_IDX);
}

Test(net_move, packed_a_pair_moves)
{
	moves_with_frames_under_way(RING_F_PACKED);
}

/* A frame that waits for more buffers is not lost; behind one of before bytes it is read aside, or into those that are there. */
static void a_frame_waits_on_the_other_thread(uint32_t before)
{
	struct bus_msg msg = { .type = BUS_MOVE_QUEUE, .move_queue.thread = "b" };
	uint64_t spilled;

	set_up(0);
	/* No more than it takes: what follows is too little for the next. */
	net_post_many(&n, 0, BYTES, (NET_HEADER + before + BYTES - 1) / BYTES);
	net_fill(frames, before, 0);
	net_peer_send(&n, frames, before);
	net_receive(&n, 0, &f);
	cr_assert(f.len == before && !n.n_posted[0]);
	spilled = supervisor_stat(&s, "rx_spilled");
	net_post_many(&n, 0, 300, 2);
	net_fill(frames, 1500, 1);
	net_peer_send(&n, frames, 1500);
	supervisor_until(&s, supervisor_stat(&s, "rx_spilled") > spilled);
	supervisor_ask(&s, &msg);
	supervisor_until(&s, s.answered);
	cr_assert_eq(s.err, 0);
	net_post_many(&n, 0, BYTES, 1);
	net_receive(&n, 0, &f);
	cr_assert(f.len == 1500 && f.buffers == 3 && net_check(f.bytes, 1500, 1));
	net_bus_stop(&n, &s);
}

Test(net_move, a_frame_that_waits_aside)
{
	a_frame_waits_on_the_other_thread(60);
}

Test(net_move, a_frame_that_waits_in_buffers)
{
	a_frame_waits_on_the_other_thread(9000);
}

/* What waited for a limit or for the other end on one thread is let go on the other. */
Test(net_move, a_limit_is_lifted_on_the_other_thread)
{
	struct bus_msg msg = { .type = BUS_MOVE_QUEUE, .move_queue.thread = "b" };

	set_up(0);
	cr_assert_eq(supervisor_set(&s, "tx-packets", "1/1", NULL), 0);
	for (unsigned i = 0; i < 5; i++) {
		net_fill(rig_ptr(&n.rig, n.frame), 60, 1);
		net_send_start(&n, 0, 60);
	}
	supervisor_until(&s, supervisor_stat(&s, "tx_limited") > 0);
	supervisor_ask(&s, &msg);
	supervisor_until(&s, s.answered);
	cr_assert_eq(s.err, 0);
	cr_assert_eq(supervisor_set(&s, "tx-packets", "0", NULL), 0);
	for (unsigned i = 0; i < 5; i++)
		cr_assert_eq(net_peer_receive(&n, frames), 60);
	net_bus_stop(&n, &s);
}
