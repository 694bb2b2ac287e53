/* SPDX-License-Identifier: Apache-2.0 */
/* net-server moves frames, over every kind of ring, a socket and a tap. */
#include <criterion/criterion.h>
#include <string.h>

#include "clock.h"
#include "net.h"
#include "num.h"

TestSuite(net_io, .timeout = 120);

static struct net n;
static struct net_frame f;
static uint8_t frame[NET_BYTES];

static const uint32_t lens[] = { 60, 61, 127, 128, 590, 1514, 1518, 4000, 9014, 32000 };

static void receive_all(void)
{
	for (uint32_t i = 0; i < ARRAY_SIZE(lens); i++) {
		net_fill(frame, lens[i], i);
		net_post_many(&n, 0, NET_HEADER + lens[i], 1);
		net_peer_send(&n, frame, lens[i]);
		net_receive(&n, 0, &f);
		cr_assert_eq(f.len, lens[i], "%u bytes of %u", f.len, lens[i]);
		cr_assert(net_check(f.bytes, f.len, i), "frame of %u bytes", f.len);
		cr_assert_eq(f.header.num_buffers, 1);
		cr_assert_eq(f.header.flags, 0);
		cr_assert_eq(f.header.gso_type, 0);
	}
}

/* Many at once, more than a pass takes. */
static void receive_burst(void)
{
	for (uint32_t i = 0; i < 100; i++) {
		net_fill(frame, 100 + i, i);
		net_peer_send(&n, frame, 100 + i);
	}
	net_post_many(&n, 0, 1526, 60);
	net_post_many(&n, 0, 1526, 40);
	for (uint32_t i = 0; i < 100; i++) {
		net_receive(&n, 0, &f);
		cr_assert_eq(f.len, 100 + i);
		cr_assert(net_check(f.bytes, f.len, i), "frame %u", i);
	}
}

static void send_all(void)
{
	for (uint32_t i = 0; i < ARRAY_SIZE(lens); i++) {
		net_fill(rig_ptr(&n.rig, n.frame), lens[i], i);
		cr_assert_eq(net_send(&n, 0, lens[i], NULL, 0), 0, "FAULTS 20: nothing is written");
		cr_assert_eq(net_peer_receive(&n, frame), lens[i]);
		cr_assert(net_check(frame, lens[i], i), "frame of %u bytes", lens[i]);
	}
}

static void over(enum net_kind kind, uint64_t ring_features)
{
	struct net_options options = { .kind = kind, .rig = { .ring_features = ring_features } };

	net_start(&n, &options);
	receive_all();
	receive_burst();
	send_all();
	net_stop(&n);
}

#define OVER(name, features)                                                                                 \
	Test(net_io, packet_##name)                                                                          \
	{                                                                                                    \
		over(NET_PACKET, features);                                                                  \
	}                                                                                                    \
	Test(net_io, stream_##name)                                                                          \
	{                                                                                                    \
		over(NET_STREAM, features);                                                                  \
	}                                                                                                    \
	Test(net_io, tap_##name)                                                                             \
	{                                                                                                    \
		over(NET_TAP, features);                                                                     \
	}

OVER(split, 0)
OVER(split_indirect, RING_F_INDIRECT)
OVER(split_event_idx, RING_F_EVENT_IDX)
OVER(split_indirect_event_idx, RING_F_INDIRECT | RING_F_EVENT_IDX)
OVER(packed, RING_F_PACKED)
OVER(packed_indirect, RING_F_PACKED | RING_F_INDIRECT)
OVER(packed_event_idx, RING_F_PACKED | RING_F_EVENT_IDX)
OVER(packed_indirect_event_idx, RING_F_PACKED | RING_F_INDIRECT | RING_F_EVENT_IDX)

/* What the server keeps of such rings is so large that the queues' thread gives it back to the kernel. */
Test(net_io, packet_largest_rings)
{
	struct net_options options = { .kind = NET_PACKET, .rig = { .ring_size = RIG_SIZE_MAX } };

	net_start(&n, &options);
	receive_all();
	send_all();
	rig_reset_driver(&n.rig);
	send_all();
	net_stop(&n);
}

/* ---- merged buffers ---- */

static void merged(enum net_kind kind, uint64_t ring_features)
{
	struct net_options options = { .kind = kind, .rig = { .ring_features = ring_features } };
	const uint32_t small = 1000;

	net_start(&n, &options);
	for (uint32_t i = 0; i < 40; i++) {
		uint32_t len = i % 4 ? 30000 - 100 * i : 200, left = len + NET_HEADER;

		net_fill(frame, len, i);
		/* Half of them wait for the frame, the others come later. */
		net_post_many(&n, 0, small, 16);
		net_peer_send(&n, frame, len);
		net_post_many(&n, 0, small, 16);
		net_receive(&n, 0, &f);
		cr_assert_eq(f.len, len);
		cr_assert(net_check(f.bytes, f.len, i), "frame %u of %u bytes", i, len);
		cr_assert_eq(f.buffers, (left + small - 1) / small);
		for (unsigned b = 0; b < f.buffers; b++, left -= small)
			cr_assert_eq(f.used[b], MIN(left, small), "FAULTS 20: buffer %u", b);
		/* Never more than the ring holds. */
		while (n.n_posted[0] > RIG_SIZE - 32) {
			net_fill(frame, 20000, 1);
			net_peer_send(&n, frame, 20000);
			net_receive(&n, 0, &f);
		}
	}
	net_stop(&n);
}

Test(net_io, packet_merged_buffers)
{
	merged(NET_PACKET, 0);
}

Test(net_io, stream_merged_buffers)
{
	merged(NET_STREAM, RING_F_INDIRECT);
}

Test(net_io, tap_merged_buffers)
{
	merged(NET_TAP, RING_F_EVENT_IDX);
}

Test(net_io, tap_merged_buffers_packed)
{
	merged(NET_TAP, RING_F_PACKED | RING_F_INDIRECT);
}

/* One that is larger than all that the ring can hold is dropped, and what comes behind it is received. */
static void more_than_a_ring_full(enum net_kind kind, uint64_t ring_features)
{
	struct net_options options = { .kind = kind, .rig = { .ring_features = ring_features } };

	net_start(&n, &options);
	net_post_many(&n, 0, 70, RIG_SIZE);
	net_fill(frame, 70 * RIG_SIZE, 1);
	net_peer_send(&n, frame, 70 * RIG_SIZE);
	net_fill(frame, 500, 2);
	net_peer_send(&n, frame, 500);
	net_receive(&n, 0, &f);
	cr_assert(f.len == 500 && net_check(f.bytes, 500, 2), "%u bytes", f.len);
	net_stop(&n);
}

Test(net_io, packet_more_than_a_ring_full)
{
	more_than_a_ring_full(NET_PACKET, RING_F_EVENT_IDX);
}

Test(net_io, tap_more_than_a_ring_full)
{
	more_than_a_ring_full(NET_TAP, RING_F_PACKED);
}

/* Without merged buffers a frame has one chain, and a larger one is dropped. */
static void one_chain(enum net_kind kind)
{
	struct net_options options = { .kind = kind,
				       .rig = { .ring_features = RING_F_INDIRECT,
						.refuse = 1ULL << VIRTIO_NET_F_MRG_RXBUF } };
	const uint32_t pieces[] = { NET_HEADER, 500, 7, 1007 }, room = 1514;

	net_start(&n, &options);
	net_post(&n, 0, pieces, ARRAY_SIZE(pieces));
	net_post(&n, 0, pieces, ARRAY_SIZE(pieces));
	net_kick(&n, 0);
	net_fill(frame, room + 1, 1);
	net_peer_send(&n, frame, room + 1);
	net_fill(frame, room, 2);
	net_peer_send(&n, frame, room);
	net_fill(frame, 600, 3);
	net_peer_send(&n, frame, 600);
	net_receive(&n, 0, &f);
	cr_assert_eq(f.len, room);
	cr_assert_eq(f.header.num_buffers, 1);
	cr_assert(net_check(f.bytes, f.len, 2));
	net_receive(&n, 0, &f);
	cr_assert_eq(f.len, 600);
	cr_assert(net_check(f.bytes, f.len, 3));
	net_stop(&n);
}

Test(net_io, packet_one_chain)
{
	one_chain(NET_PACKET);
}

Test(net_io, tap_one_chain)
{
	one_chain(NET_TAP);
}
