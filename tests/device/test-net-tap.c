/* SPDX-License-Identifier: Apache-2.0 */
/* FAULTS 60: the tap goes down, gets another name, or is deleted under a net-server that serves. And what it keeps for a
 * driver that is another by then. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "flight.h"
#include "net.h"

TestSuite(net_tap, .timeout = 120);

static struct net n;
static struct net_frame f;

static void start(uint64_t ring_features)
{
	struct net_options options = { .kind = NET_TAP, .rig = { .ring_features = ring_features } };

	net_start(&n, &options);
}

static void tap_request(unsigned long request, struct ifreq *ifr)
{
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(ioctl(s, request, ifr), 0, "%s", strerror(errno));
	close(s);
}

static void set_up(bool up)
{
	struct ifreq ifr = { .ifr_flags = 0 };
	socklen_t len = sizeof(int);
	int err;

	memcpy(ifr.ifr_name, n.name, sizeof(n.name));
	tap_request(SIOCGIFFLAGS, &ifr);
	ifr.ifr_flags = (short)(up ? ifr.ifr_flags | IFF_UP : ifr.ifr_flags & ~IFF_UP);
	tap_request(SIOCSIFFLAGS, &ifr);
	/* The test's own socket was told that the network is down. */
	cr_assert_eq(getsockopt(n.peer, SOL_SOCKET, SO_ERROR, &err, &len), 0);
}

Test(net_tap, f60_tap_down_and_up)
{
	start(0);
	net_serves(&n);
	for (unsigned i = 0; i < 3; i++) {
		set_up(false);
		net_fill(rig_ptr(&n.rig, n.frame), 300, 1);
		for (unsigned k = 0; k < 20; k++)
			cr_assert_eq(net_send(&n, 0, 300, NULL, 0), 0, "it is dropped");
		set_up(true);
		net_serves(&n);
	}
	net_stop(&n);
}

Test(net_tap, f60_tap_renamed)
{
	struct ifreq ifr = { .ifr_newname = "other0" };

	start(0);
	net_serves(&n);
	set_up(false);
	memcpy(ifr.ifr_name, n.name, sizeof(n.name));
	tap_request(SIOCSIFNAME, &ifr);
	memcpy(n.name, "other0", 7);
	set_up(true);
	net_serves(&n);
	net_stop(&n);
}

/* The interface goes for good: frames go nowhere, the server stays, and does not look for more all the time. */
Test(net_tap, f60_tap_deleted)
{
	struct net_options options = {
		.kind = NET_TAP, .rig = { .ring_features = RING_F_EVENT_IDX, .flight_fd = flight_create(3) }
	};
	const struct flight_queue *words;
	struct flight *flight;
	uint64_t passes, end;

	cr_assert_eq(flight_map(options.rig.flight_fd, true, &flight), 0);
	words = flight_queue(flight, 0);
	net_start(&n, &options);
	net_post_many(&n, 0, 1526, 8);
	net_serves(&n);
	net_delete_tap(&n);
	net_fill(rig_ptr(&n.rig, n.frame), 300, 1);
	for (unsigned k = 0; k < 50; k++)
		cr_assert_eq(net_send(&n, 0, 300, NULL, 0), 0, "it is dropped");
	end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;
	do {
		uint64_t until = clock_ns() + 100 * NS_PER_MS;

		cr_assert_lt(clock_ns(), end, "it does not sleep");
		passes = flight_get(&words->passes);
		while (clock_ns() < until)
			cr_assert_eq(loop_run_once(n.rig.loop, (int64_t)(20 * NS_PER_MS)), 0);
	} while (flight_get(&words->passes) != passes);
	cr_assert(!n.rig.lost);
	net_stop(&n);
	flight_free(flight);
	close(options.rig.flight_fd);
}

/* A TCP segment larger than a frame on the wire, its checksum to be filled in: for a driver that takes that. */
static void send_unfinished(void)
{
	enum { HEADERS = ETH_HLEN + 20 + 20, LEN = HEADERS + 4000 };
	static struct {
		struct virtio_net_hdr header;
		uint8_t frame[LEN];
	} out = { .header = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
			      .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
			      .hdr_len = HEADERS,
			      .gso_size = 1460,
			      .csum_start = ETH_HLEN + 20,
			      .csum_offset = 16 } };
	struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(n.name) };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0), on = 1;

	net_fill(out.frame, LEN, 1);
	memcpy(out.frame + 2 * ETH_ALEN, "\x08\0\x45\0\0\0\0\1\x40\0\x40\6\0\0\x0a\0\0\1\x0a\0\0\2", 22);
	out.frame[16] = (LEN - ETH_HLEN) >> 8;
	out.frame[17] = (LEN - ETH_HLEN) & 0xff;
	out.frame[ETH_HLEN + 20 + 12] = 5 << 4; /* words of TCP's header */
	cr_assert_eq(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)), 0);
	cr_assert_eq(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_eq(write(fd, &out, sizeof(out)), (ssize_t)sizeof(out), "%s", strerror(errno));
	close(fd);
}

/* One is received, and there are no buffers left. */
static void start_with_none(void)
{
	struct net_options options = { .kind = NET_TAP, .control = true };

	net_start(&n, &options);
	n.any = true;
	net_post_many(&n, 0, 1526, 3);
	send_unfinished();
	net_receive(&n, 0, &f);
	cr_assert_eq(f.header.gso_type, VIRTIO_NET_HDR_GSO_TCPV4);
	cr_assert_eq(n.n_posted[0], 0);
}

/* The host has the next one. */
static void start_with_one_that_waits(void)
{
	start_with_none();
	send_unfinished();
}

/* The next one is in net-server: it is larger than the only buffer. */
static void start_with_one_that_waits_inside(void)
{
	start_with_none();
	net_post_many(&n, 0, 1526, 1);
	send_unfinished();
}

static void give_up_offloads(void)
{
	const uint64_t none = 0;

	cr_assert_eq(net_command(&n, VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET,
				 &none, sizeof(none)),
		     VIRTIO_NET_OK);
}

static void only_what_comes_behind_is_received(void)
{
	uint8_t frame[60];

	net_post_many(&n, 0, 1526, 8);
	net_fill(frame, sizeof(frame), 2);
	net_peer_send(&n, frame, sizeof(frame));
	net_receive(&n, 0, &f);
	cr_assert(f.len == sizeof(frame) && !f.header.gso_type, "%u bytes", f.len);
	net_stop(&n);
}

Test(net_tap, what_waits_since_before_offloads_were_given_up)
{
	start_with_one_that_waits();
	give_up_offloads();
	only_what_comes_behind_is_received();
}

Test(net_tap, what_waits_for_buffers_since_before_offloads_were_given_up)
{
	start_with_one_that_waits_inside();
	give_up_offloads();
	only_what_comes_behind_is_received();
}

Test(net_tap, what_waits_since_before_a_driver_without_offloads)
{
	start_with_one_that_waits();
	n.rig.options.refuse = 1ULL << VIRTIO_NET_F_GUEST_CSUM | 1ULL << VIRTIO_NET_F_GUEST_TSO4 |
			       1ULL << VIRTIO_NET_F_GUEST_TSO6 | 1ULL << VIRTIO_NET_F_GUEST_ECN |
			       3ULL << 54 /* USO */;
	rig_reset_driver(&n.rig);
	only_what_comes_behind_is_received();
}
