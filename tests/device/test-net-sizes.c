/* SPDX-License-Identifier: Apache-2.0 */
/* Receiving adapts to the sizes of frames: small ones are copied, large ones are not, but for the first of them. */
#include <criterion/criterion.h>

#include "net_bus.h"

#define SMALL 1514
#define LARGE 4000
#define ROOM  8192 /* of a buffer, so that want of room is no reason to copy */
#define LATE  64   /* frames, the largest of which says what is expected */

TestSuite(net_sizes, .timeout = 120);

static struct net n;
static struct supervisor s;
static struct net_frame f;
static uint8_t frame[NET_BYTES];
static uint32_t number;

static void set_up(enum net_kind kind, uint64_t refuse)
{
	struct net_options options = { .kind = kind,
				       .rig = { .ring_features = RING_F_EVENT_IDX, .refuse = refuse } };

	net_bus_start(&n, &s, &options);
}

static void tear_down(void)
{
	net_bus_stop(&n, &s);
}

static void comes_through(uint32_t len)
{
	net_post_many(&n, 0, ROOM, 1);
	net_fill(frame, len, ++number);
	net_peer_send(&n, frame, len);
	net_receive(&n, 0, &f);
	cr_assert_eq(f.len, len);
	cr_assert_eq(f.header.num_buffers, 1);
	cr_assert(net_check(f.bytes, len, number), "frame %u of %u bytes", number, len);
}

/* What is longer than any frame is dropped, be it read aside or into buffers. */
Test(net_sizes, no_frame_of_any_length)
{
	set_up(NET_PACKET, 0);
	for (uint64_t i = 0; i < 2; i++) {
		net_fill(frame, NET_BYTES, 0);
		net_peer_send(&n, frame, NET_BYTES);
		comes_through(LARGE);
		cr_assert_eq(supervisor_stat(&s, "rx_too_large"), i + 1);
	}
	tear_down();
}

static void in_turn(enum net_kind kind, uint64_t refuse)
{
	set_up(kind, refuse);
	for (uint64_t round = 0; round < 3; round++) {
		/* The last large ones are forgotten after as many. */
		for (unsigned i = 0; i < 2 * LATE; i++)
			comes_through(i % 2 ? SMALL : 60 + i);
		cr_assert_eq(supervisor_stat(&s, "rx_spilled"), round);
		for (unsigned i = 0; i < LATE / 4; i++)
			comes_through(LARGE + i);
		cr_assert_eq(supervisor_stat(&s, "rx_spilled"), round + 1);
	}
	tear_down();
}

Test(net_sizes, of_packets)
{
	in_turn(NET_PACKET, 0);
}

Test(net_sizes, of_a_stream)
{
	in_turn(NET_STREAM, 0);
}

Test(net_sizes, of_a_tap)
{
	in_turn(NET_TAP, 0);
}

Test(net_sizes, without_merged_buffers)
{
	in_turn(NET_TAP, 1ULL << VIRTIO_NET_F_MRG_RXBUF);
}
