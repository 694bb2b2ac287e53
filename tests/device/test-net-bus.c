/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net-server on the control bus: receive buffers that it holds do not hold up what waits for nothing to be taken, outlive
 * any number of deaths together, and the front end hears of a link that was set.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "net_bus.h"
#include "num.h"
#include "vhost_fe_priv.h"

#define BUFFERS 120
#define BYTES   1526
#define FRAME   9014

TestSuite(net_bus, .timeout = 120);

static struct net n;
static struct supervisor s;
static struct net_frame f;
static uint8_t frame[FRAME];
static uint8_t frames[NET_BYTES];
static bool control; /* with a control ring */

static void set_up_on(enum net_kind kind, uint64_t ring_features, unsigned pairs, unsigned threads)
{
	struct net_options options = {
		.kind = kind,
		.control = control,
		.rig = { .queues = pairs, .io_threads = threads, .ring_features = ring_features }
	};

	net_bus_start(&n, &s, &options);
}

static void set_up(uint64_t ring_features)
{
	set_up_on(NET_PACKET, ring_features, 1, 1);
}

static void tear_down(void)
{
	net_bus_stop(&n, &s);
}

static uint64_t held(void)
{
	return supervisor_stat(&s, "requests") - supervisor_stat(&s, "returned") -
	       supervisor_stat(&s, "completed");
}

/* A frame that needs several buffers. */
static void send_frame(uint32_t number)
{
	net_fill(frame, FRAME, number);
	net_peer_send(&n, frame, FRAME);
}

static void receive_frame(uint32_t number)
{
	net_receive(&n, 0, &f);
	cr_assert_eq(f.len, FRAME);
	cr_assert_gt(f.buffers, 1);
	cr_assert(net_check(f.bytes, f.len, number));
}

/* After it the server holds buffers for another. */
static void comes_through(uint32_t number)
{
	send_frame(number);
	receive_frame(number);
	supervisor_until(&s, held() > 1);
}

static void drain_with_buffers(uint64_t ring_features)
{
	uint64_t returned = 0;

	set_up(ring_features);
	net_post_many(&n, 0, BYTES, BUFFERS);
	comes_through(1);
	for (unsigned round = 1; round < 6; round++) {
		supervisor_ask_ok(&s, BUS_DRAIN);
		cr_assert_eq(held(), 0);
		cr_assert_gt(supervisor_stat(&s, "returned"), returned + 1);
		returned = supervisor_stat(&s, "returned");
		send_frame(50 + round);
		supervisor_ask_ok(&s, BUS_PING);
		cr_assert_not(net_try_receive(&n, 0, &f), "drained");
		supervisor_ask_ok(&s, BUS_RESUME);
		receive_frame(50 + round);
		comes_through(round);
	}
	tear_down();
}

Test(net_bus, split_buffers_do_not_hold_up_a_drain)
{
	drain_with_buffers(RING_F_EVENT_IDX);
}

Test(net_bus, packed_buffers_do_not_hold_up_a_drain)
{
	drain_with_buffers(RING_F_PACKED | RING_F_EVENT_IDX);
}

static void stop_with_buffers(uint64_t ring_features)
{
	set_up(ring_features);
	net_post_many(&n, 0, BYTES, BUFFERS);
	comes_through(1);
	rig_stop_ring(&n.rig, 0);
	cr_assert_eq(held(), 0);
	cr_assert_not(net_try_receive(&n, 0, &f));
	tear_down();
}

Test(net_bus, split_buffers_do_not_hold_up_a_stop)
{
	stop_with_buffers(0);
}

Test(net_bus, packed_buffers_do_not_hold_up_a_stop)
{
	stop_with_buffers(RING_F_PACKED);
}

Test(net_bus, buffers_do_not_hold_up_new_memory)
{
	int fd = fd_sealed_memfd("more", 1 << 20);
	const struct mem_region region = { .gpa = 1ULL << 40, .size = 1 << 20, .user_addr = 1ULL << 44 };

	cr_assert_geq(fd, 0);
	set_up(0);
	net_post_many(&n, 0, BYTES, BUFFERS);
	for (unsigned i = 0; i < 6; i++) {
		comes_through(i);
		rig_change_memory(&n.rig, &region, fd, i % 2 == 0);
	}
	close(fd);
	tear_down();
}

/* As QEMU does with pairs that its guest does not use; our own front end never does, so the message is sent by hand. */
static void enable(bool on)
{
	struct vhost_transfer t = { .done = 0 };

	vhost_msg_init(&t.msg, VHOST_SET_VRING_ENABLE, 0, sizeof(t.msg.payload.state));
	t.msg.payload.state = (struct vhost_state) { .index = 0, .num = on };
	cr_assert_eq(vhost_msg_send(n.rig.fe->fd, &t), 1);
}

Test(net_bus, a_ring_that_is_disabled_gets_its_buffers_back)
{
	set_up(RING_F_EVENT_IDX);
	net_post_many(&n, 0, BYTES, BUFFERS);
	for (unsigned i = 0; i < 5; i++) {
		comes_through(i);
		enable(false);
		supervisor_until(&s, held() == 0);
		send_frame(50 + i);
		supervisor_ask_ok(&s, BUS_PING);
		cr_assert_not(net_try_receive(&n, 0, &f), "disabled");
		enable(true);
		receive_frame(50 + i);
	}
	tear_down();
}

/* Were each of them tried alone, as a request that outlived two deaths is, a frame that needs several would never come. */
static void die_with_buffers(uint64_t ring_features)
{
	set_up(ring_features);
	net_post_many(&n, 0, BYTES, BUFFERS);
	comes_through(0);
	for (unsigned deaths = 1; deaths < 8; deaths++) {
		rig_kill(&n.rig);
		s.nrecovered = 0;
		rig_respawn(&n.rig);
		supervisor_expect(&s, &n.rig);
		/* Though no frame comes. */
		supervisor_until(&s, s.nrecovered);
		cr_assert_eq(s.recovered.recovered.resubmitted, 0, "buffers are no requests");
		supervisor_until(&s, supervisor_stat(&s, "resubmitted") > 0);
		cr_assert_eq(supervisor_stat(&s, "poisoned"), 0);
	}
	comes_through(1);
	comes_through(2);
	supervisor_ask_ok(&s, BUS_DRAIN);
	cr_assert_eq(held(), 0);
	tear_down();
}

Test(net_bus, split_f48_buffers_outlive_deaths_together)
{
	die_with_buffers(0);
}

Test(net_bus, packed_f48_buffers_outlive_deaths_together)
{
	die_with_buffers(RING_F_PACKED);
}

Test(net_bus, pairs_are_counted_and_served_by_threads)
{
	set_up_on(NET_TAP, 0, 4, 2);
	cr_assert_eq(n.rig.info.queues, 4, "GET_QUEUE_NUM counts pairs");
	tear_down();
}

/* ---- properties ---- */

static int set(const char *key, const char *value)
{
	return supervisor_set(&s, key, value, NULL);
}

static uint16_t link_status(void)
{
	uint16_t status;

	rig_get_config(&n.rig, offsetof(struct virtio_net_config, status), &status, sizeof(status));
	return status & VIRTIO_NET_S_LINK_UP;
}

Test(net_bus, a_link_that_is_set_is_told_to_the_front_end)
{
	set_up(0);
	net_post_many(&n, 0, BYTES, BUFFERS);
	cr_assert_neq(link_status(), 0);
	cr_assert_eq(set("link", "down"), 0);
	supervisor_until(&s, n.rig.config_changes == 1);
	cr_assert_eq(link_status(), 0);
	cr_assert_eq(set("link", "sideways"), -EINVAL);
	cr_assert_eq(set("colour", "red"), -EINVAL);
	cr_assert_eq(set("link", "down"), 0);
	cr_assert_eq(set("link", "up"), 0);
	supervisor_until(&s, n.rig.config_changes == 2);
	cr_assert_neq(link_status(), 0);
	comes_through(1);
	tear_down();
	cr_assert_eq(n.rig.config_changes, 2, "nothing changed, nothing told");
}

/* What the front end shows the driver is what it was told to read last, so it is told of the answer as well. */
Test(net_bus, announcements_are_asked_for_again_and_again)
{
	uint16_t status;

	control = true;
	set_up(0);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(set("announce", "on"), 0);
		supervisor_until(&s, n.rig.config_changes == 2 * i + 1);
		rig_get_config(&n.rig, offsetof(struct virtio_net_config, status), &status, sizeof(status));
		cr_assert(status & VIRTIO_NET_S_ANNOUNCE);
		cr_assert_eq(net_command(&n, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, "", 0),
			     VIRTIO_NET_OK);
		supervisor_until(&s, n.rig.config_changes == 2 * i + 2);
		rig_get_config(&n.rig, offsetof(struct virtio_net_config, status), &status, sizeof(status));
		cr_assert_not(status & VIRTIO_NET_S_ANNOUNCE);
	}
	tear_down();
}

Test(net_bus, an_address_that_the_driver_sets_is_told_to_the_front_end)
{
	static const uint8_t mac[] = { 2, 0, 0, 0, 0, 77 };
	uint8_t shown[sizeof(mac)];

	control = true;
	set_up(0);
	cr_assert_eq(net_command(&n, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, sizeof(mac)),
		     VIRTIO_NET_OK);
	supervisor_until(&s, n.rig.config_changes == 1);
	rig_get_config(&n.rig, offsetof(struct virtio_net_config, mac), shown, sizeof(shown));
	cr_assert_arr_eq(shown, mac, sizeof(mac));
	tear_down();
}

/* A frame that waited for buffers when the link went down is lost whole: no other's bytes end up behind its first ones. */
Test(net_bus, a_link_that_goes_down_takes_the_frame_that_waits_for_buffers)
{
	set_up(0);
	net_post_many(&n, 0, BYTES, 2);
	send_frame(1);
	supervisor_until(&s, supervisor_stat(&s, "rx_spilled") == 1);
	cr_assert_eq(set("link", "down"), 0);
	for (unsigned i = 0; i < 5; i++)
		send_frame(10 + i);
	supervisor_until(&s, supervisor_stat(&s, "rx_link_down") == 6);
	cr_assert_eq(set("link", "up"), 0);
	net_post_many(&n, 0, BYTES, BUFFERS - 2);
	comes_through(2);
	tear_down();
}

/* What the other end sent last is counted, though nobody has a place for it. */
Test(net_bus, a_link_that_goes_down_takes_what_was_sent_before)
{
	set_up(0);
	for (unsigned i = 0; i < 100; i++)
		net_peer_send(&n, frame, 60);
	close(n.peer);
	n.peer = -1;
	supervisor_until(&s, supervisor_stat(&s, "rx_link_down") == 100);
	tear_down();
}

Test(net_bus, a_link_that_goes_down_takes_the_frame_that_waits_for_a_limit)
{
	static uint8_t first[60];

	set_up(0);
	net_post_many(&n, 0, BYTES, BUFFERS);
	cr_assert_eq(set("rx-packets", "1/1"), 0);
	net_fill(first, sizeof(first), 0);
	net_peer_send(&n, first, sizeof(first));
	net_receive(&n, 0, &f);
	cr_assert_eq(f.len, sizeof(first));
	send_frame(1);
	supervisor_until(&s, supervisor_stat(&s, "rx_limited") == 1);
	cr_assert_eq(set("link", "down"), 0);
	supervisor_until(&s, supervisor_stat(&s, "rx_link_down") == 1);
	cr_assert_eq(set("rx-packets", "0"), 0);
	cr_assert_eq(set("link", "up"), 0);
	comes_through(2);
	tear_down();
}

/* Two frames to send, of which the second waits for a limit, for a minute. */
static void limit_second(void)
{
	const uint32_t len = 60000;

	cr_assert_eq(set("tx-bytes", "1K/1K"), 0);
	for (uint32_t number = 1; number <= 2; number++) {
		net_fill(rig_ptr(&n.rig, n.frame), len, number);
		net_send_start(&n, 0, len);
		supervisor_until(&s, supervisor_stat(&s, "completed") == 1);
	}
	supervisor_until(&s, supervisor_stat(&s, "tx_limited") == 1);
}

Test(net_bus, a_link_that_goes_down_takes_the_frame_that_waits_to_be_sent)
{
	set_up(0);
	limit_second();
	cr_assert_eq(set("link", "down"), 0);
	supervisor_until(&s, supervisor_stat(&s, "completed") == 2);
	cr_assert_eq(supervisor_stat(&s, "tx_link_down"), 1);
	cr_assert_eq(supervisor_stat(&s, "tx_packets"), 1);
	tear_down();
}

Test(net_bus, a_frame_that_waits_for_a_limit_is_counted_once)
{
	set_up(0);
	limit_second();
	cr_assert_eq(set("rx-packets", "0"), 0);
	supervisor_ask_ok(&s, BUS_PING);
	cr_assert_eq(set("tx-bytes", "0"), 0);
	supervisor_until(&s, supervisor_stat(&s, "completed") == 2);
	cr_assert_eq(supervisor_stat(&s, "tx_limited"), 1);
	tear_down();
}

/* What the stream takes in many pieces, as it holds little. */
Test(net_bus, the_rest_of_a_frame_does_not_wait_for_the_next_ones_limit)
{
	const uint32_t len = 60000;
	const int little = 4096;
	struct net_options options = { .kind = NET_STREAM, .rig = { .queues = 1, .io_threads = 1 } };
	int ends[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
	cr_assert_eq(setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &little, sizeof(little)), 0);
	options.stream_end = ends[1];
	net_bus_start(&n, &s, &options);
	n.peer = ends[0];
	cr_assert_eq(set("tx-bytes", "1K/1K"), 0);
	net_fill(rig_ptr(&n.rig, n.frame), len, 1);
	net_send_start(&n, 0, len);
	supervisor_until(&s, supervisor_stat(&s, "completed") == 1);
	net_fill(rig_ptr(&n.rig, n.frame), len, 2);
	net_send_start(&n, 0, len);
	cr_assert_eq(net_peer_receive(&n, frames), len);
	cr_assert(net_check(frames, len, 1));
	supervisor_until(&s, supervisor_stat(&s, "tx_limited") == 1);
	cr_assert_eq(set("tx-bytes", "0"), 0);
	cr_assert_eq(net_peer_receive(&n, frames), len);
	cr_assert(net_check(frames, len, 2));
	tear_down();
}

static void falls_asleep(void)
{
	net_bus_falls_asleep(&n, &s);
}

/* Frames that the peer does not take wait for it, but not while there is no link. */
static void link_goes_down_with_frames_to_send(enum net_kind kind)
{
	const uint32_t len = 60000;
	unsigned sent = 0;

	set_up_on(kind, 0, 1, 1);
	net_fill(rig_ptr(&n.rig, n.frame), len, 1);
	while (!supervisor_stat(&s, "tx_blocked")) {
		cr_assert_lt(sent, 50, "the peer need not take any");
		net_send_start(&n, 0, len);
		sent++;
		supervisor_until(&s, supervisor_stat(&s, "completed") == sent ||
					 supervisor_stat(&s, "tx_blocked"));
	}
	net_send_start(&n, 0, len);
	sent++;
	cr_assert_eq(set("link", "down"), 0);
	supervisor_until(&s, supervisor_stat(&s, "completed") == sent);
	cr_assert_gt(supervisor_stat(&s, "tx_link_down"), 0);
	/* Nor does one that comes now. */
	net_send_start(&n, 0, len);
	supervisor_until(&s, supervisor_stat(&s, "completed") == sent + 1);
	falls_asleep();
	cr_assert_eq(set("link", "up"), 0);
	for (uint64_t had = supervisor_stat(&s, "tx_packets"); had; had--)
		cr_assert_eq(net_peer_receive(&n, frames), len);
	net_fill(rig_ptr(&n.rig, n.frame), 300, 2);
	net_send_start(&n, 0, 300);
	cr_assert_eq(net_peer_receive(&n, frames), 300);
	cr_assert(net_check(frames, 300, 2));
	tear_down();
}

Test(net_bus, a_link_that_goes_down_takes_frames_that_a_socket_does_not)
{
	link_goes_down_with_frames_to_send(NET_PACKET);
}

Test(net_bus, a_link_that_goes_down_takes_frames_that_a_stream_does_not)
{
	link_goes_down_with_frames_to_send(NET_STREAM);
}

Test(net_bus, a_limit_out_of_bounds_is_refused_by_their_names)
{
	static const char *const values[] = { "2T", "1M/5G" };
	const char *why;

	set_up(0);
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		cr_assert_eq(supervisor_set(&s, "rx-bytes", values[i], &why), -ERANGE);
		cr_assert_str_eq(
		    why, "rx-bytes must be a rate and perhaps a burst, as 10M/64K, at most 1T and 4G");
	}
	cr_assert_eq(set("rx-bytes", "1T/4G"), 0);
	tear_down();
}

/* What waits for a limit goes on as soon as the limit is gone, and not when the old one would have let it. */
Test(net_bus, a_limit_that_is_lifted_lets_go_of_what_waits)
{
	const uint32_t len = 200;

	set_up(0);
	cr_assert_eq(set("tx-packets", "1/1"), 0);
	cr_assert_eq(set("rx-bytes", "1/1"), 0);
	cr_assert_eq(set("tx-packets", "many"), -EINVAL);
	net_post_many(&n, 0, BYTES, BUFFERS);
	for (unsigned i = 0; i < 20; i++) {
		net_fill(rig_ptr(&n.rig, n.frame), len, 1);
		net_send_start(&n, 0, len);
	}
	send_frame(1);
	receive_frame(1); /* which is in debt from now on, for longer than any test waits */
	send_frame(2);
	supervisor_until(&s, supervisor_stat(&s, "tx_limited") > 0 && supervisor_stat(&s, "rx_limited") > 0);
	cr_assert_eq(set("tx-packets", "0"), 0);
	cr_assert_eq(set("rx-bytes", "0"), 0);
	for (unsigned i = 0; i < 20; i++)
		cr_assert_eq(net_peer_receive(&n, frame), len);
	receive_frame(2);
	tear_down();
}

/* ---- sleep ---- */

static void sleeps_while_the_link_is_down(uint64_t ring_features)
{
	set_up(ring_features);
	cr_assert_eq(set("link", "down"), 0);
	net_post_many(&n, 0, BYTES, 20);
	falls_asleep();
	for (unsigned i = 0; i < 300; i++) {
		net_fill(frame, 60, i);
		net_peer_send(&n, frame, 60);
		if (i % 100 == 99)
			supervisor_until(&s, supervisor_stat(&s, "rx_link_down") == i + 1);
	}
	falls_asleep();
	cr_assert_eq(set("link", "up"), 0);
	comes_through(1);
	falls_asleep();
	tear_down();
}

Test(net_bus, split_a_link_that_is_down_keeps_nobody_awake)
{
	sleeps_while_the_link_is_down(RING_F_EVENT_IDX);
}

Test(net_bus, packed_a_link_that_is_down_keeps_nobody_awake)
{
	sleeps_while_the_link_is_down(RING_F_PACKED);
}

Test(net_bus, a_port_that_nobody_connected_to_keeps_nobody_awake)
{
	set_up_on(NET_LISTEN, 0, 1, 1);
	net_post_many(&n, 0, BYTES, 20);
	falls_asleep();
	tear_down();
}

Test(net_bus, buffers_that_were_given_back_keep_nobody_awake)
{
	int fd = fd_sealed_memfd("more", 1 << 20);
	const struct mem_region region = { .gpa = 1ULL << 40, .size = 1 << 20, .user_addr = 1ULL << 44 };

	cr_assert_geq(fd, 0);
	set_up(0);
	net_post_many(&n, 0, BYTES, BUFFERS);
	comes_through(1);
	supervisor_ask_ok(&s, BUS_DRAIN);
	supervisor_ask_ok(&s, BUS_RESUME);
	falls_asleep();
	comes_through(2);
	rig_change_memory(&n.rig, &region, fd, true);
	falls_asleep();
	comes_through(3);
	close(fd);
	tear_down();
}

Test(net_bus, a_pair_that_takes_no_part_keeps_nobody_awake)
{
	const uint8_t one[] = { 1, 0 }, two[] = { 2, 0 };

	control = true;
	set_up_on(NET_TAP, 0, 2, 2);
	cr_assert_eq(net_command(&n, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, one, 2),
		     VIRTIO_NET_OK);
	net_post_many(&n, 0, BYTES, 20);
	net_post_many(&n, 1, BYTES, 20);
	falls_asleep();
	cr_assert_eq(net_command(&n, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, two, 2),
		     VIRTIO_NET_OK);
	falls_asleep();
	tear_down();
}

Test(net_bus, a_frame_that_waits_while_the_link_is_down_keeps_nobody_awake)
{
	set_up(0);
	net_post_many(&n, 0, BYTES, 2);
	send_frame(1);
	supervisor_until(&s, supervisor_stat(&s, "rx_spilled") == 1);
	cr_assert_eq(set("link", "down"), 0);
	net_post_many(&n, 0, BYTES, 20);
	falls_asleep();
	tear_down();
}
