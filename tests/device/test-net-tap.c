/* SPDX-License-Identifier: Apache-2.0 */
/* FAULTS 60: the tap goes down, gets another name, or is deleted under a net-server that serves. */
#include <criterion/criterion.h>
#include <errno.h>
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
