/* SPDX-License-Identifier: Apache-2.0 */
/* The control ring: what the driver sets is in force when the answer comes, and a successor goes on with it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "clock.h"
#include "net.h"
#include "num.h"
#include "state.h"

TestSuite(net_control, .timeout = 60);

enum { RX, MAC, VLAN, ANNOUNCE, MQ, OFFLOADS, COALESCE };
enum { PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST };
enum { GOOD, BAD };

#define OWN "\x02\0\0\0\0\x01"

static struct net n;
static struct net_frame f;
static const char *const mac[] = { "--mac", "02:00:00:00:00:01", NULL };

static void start(enum net_kind kind, unsigned pairs, uint64_t ring_features)
{
	struct net_options options = { .kind = kind,
				       .control = true,
				       .state_fd = state_create(),
				       .rig = {
					   .queues = pairs, .ring_features = ring_features, .args = mac } };

	net_start(&n, &options);
	net_post_many(&n, 0, 1526, 32);
}

static void switch_mode(uint8_t mode, uint8_t on)
{
	cr_assert_eq(net_command(&n, RX, mode, &on, 1), GOOD);
}

/* Whether a frame to this address, with a tag of this VLAN (-1: none), reaches the driver: it comes before the one behind
 * it, which every filter lets pass. */
static bool passes(const char *to, int vlan)
{
	uint8_t frame[100];
	bool passed;

	net_fill(frame, sizeof(frame), 1);
	memcpy(frame, to, ETH_ALEN);
	if (vlan >= 0) {
		const uint8_t tag[] = {
			0x81, 0, (uint8_t)(vlan >> 8), (uint8_t)vlan, NET_ETHERTYPE >> 8, NET_ETHERTYPE & 0xff
		};

		memcpy(frame + 12, tag, sizeof(tag));
	}
	net_peer_send(&n, frame, sizeof(frame));
	net_fill(frame, 60, 2);
	memcpy(frame, OWN, ETH_ALEN);
	net_peer_send(&n, frame, 60);
	net_receive(&n, 0, &f);
	passed = f.len == sizeof(frame);
	if (passed)
		net_receive(&n, 0, &f);
	cr_assert_eq(f.len, 60);
	net_post_many(&n, 0, 1526, passed ? 2 : 1);
	return passed;
}

#define OTHER     "\x02\0\0\0\0\x77"
#define GROUP     "\x33\x33\0\0\0\x05"
#define BROADCAST "\xff\xff\xff\xff\xff\xff"

static void modes(uint64_t ring_features)
{
	start(NET_PACKET, 1, ring_features);
	cr_assert(passes(OTHER, -1), "at first all pass");
	switch_mode(PROMISC, 0);
	cr_assert(!passes(OTHER, -1));
	cr_assert(!passes(GROUP, -1));
	cr_assert(passes(BROADCAST, -1));
	switch_mode(ALLMULTI, 1);
	cr_assert(passes(GROUP, -1));
	cr_assert(!passes(OTHER, -1));
	switch_mode(NOMULTI, 1);
	cr_assert(!passes(GROUP, -1));
	switch_mode(ALLUNI, 1);
	cr_assert(passes(OTHER, -1));
	switch_mode(NOBCAST, 1);
	cr_assert(!passes(BROADCAST, -1));
	switch_mode(PROMISC, 1);
	cr_assert(passes(GROUP, -1) && passes(OTHER, -1) && passes(BROADCAST, -1));
	net_stop(&n);
}

Test(net_control, modes_split)
{
	modes(RING_F_EVENT_IDX);
}

Test(net_control, modes_packed_indirect)
{
	modes(RING_F_PACKED | RING_F_INDIRECT);
}

static void set_table(const char *uni, const char *group)
{
	uint8_t table[4 + ETH_ALEN + 4 + ETH_ALEN] = { uni ? 1 : 0 };
	uint32_t at = 4;

	if (uni) {
		memcpy(table + at, uni, ETH_ALEN);
		at += ETH_ALEN;
	}
	memset(table + at, 0, 4);
	table[at] = group ? 1 : 0;
	at += 4;
	if (group) {
		memcpy(table + at, group, ETH_ALEN);
		at += ETH_ALEN;
	}
	cr_assert_eq(net_command(&n, MAC, 0, table, at), GOOD);
}

Test(net_control, addresses)
{
	uint8_t many[8 + 100 * ETH_ALEN] = { 0, 0, 0, 0, 100 };
	uint8_t config[ETH_ALEN];

	start(NET_PACKET, 1, 0);
	switch_mode(PROMISC, 0);
	set_table(OTHER, NULL);
	cr_assert(passes(OTHER, -1) && !passes(GROUP, -1));
	set_table(NULL, GROUP);
	cr_assert(!passes(OTHER, -1) && passes(GROUP, -1));
	set_table(OTHER, GROUP);
	cr_assert(passes(OTHER, -1) && passes(GROUP, -1));
	/* More than the device keeps: then all of the kind pass. */
	cr_assert_eq(net_command(&n, MAC, 0, many, sizeof(many)), GOOD);
	cr_assert(!passes(OTHER, -1) && passes(GROUP, -1));
	set_table(NULL, NULL);
	cr_assert(!passes(GROUP, -1));
	cr_assert_eq(net_command(&n, MAC, 1, OTHER, ETH_ALEN), GOOD);
	set_table(OWN, NULL); /* which ends each look */
	cr_assert(passes(OTHER, -1) && !passes("\x02\0\0\0\0\x78", -1));
	rig_get_config(&n.rig, 0, config, sizeof(config));
	cr_assert(!memcmp(config, OTHER, ETH_ALEN));
	net_stop(&n);
}

/* It was shown the address that the driver before it had set, or is now: that is what has to reach it. */
static void has_the_address_that_was_set(void)
{
	uint8_t config[ETH_ALEN];

	memset(n.n_posted, 0, sizeof(n.n_posted));
	net_post_many(&n, 0, 1526, 32);
	switch_mode(PROMISC, 0);
	set_table(OWN, NULL); /* which ends each look */
	cr_assert(passes(OTHER, -1) && !passes("\x02\0\0\0\0\x78", -1));
	rig_get_config(&n.rig, 0, config, sizeof(config));
	cr_assert(!memcmp(config, OTHER, ETH_ALEN));
}

Test(net_control, an_address_outlives_the_driver_that_set_it)
{
	start(NET_PACKET, 1, 0);
	cr_assert_eq(net_command(&n, MAC, 1, OTHER, ETH_ALEN), GOOD);
	rig_reset_driver(&n.rig);
	has_the_address_that_was_set();
	net_stop(&n);
}

Test(net_control, a_successor_tells_of_the_address_that_was_set)
{
	unsigned told;

	start(NET_PACKET, 1, RING_F_PACKED);
	cr_assert_eq(net_command(&n, MAC, 1, OTHER, ETH_ALEN), GOOD);
	rig_kill(&n.rig);
	told = n.rig.config_changes;
	rig_respawn(&n.rig);
	rig_until(&n.rig, n.rig.config_changes > told);
	rig_reset_driver(&n.rig);
	has_the_address_that_was_set();
	net_stop(&n);
}

Test(net_control, vlans)
{
	const uint8_t five[] = { 5, 0 };

	start(NET_PACKET, 1, 0);
	/* As it is. The answer tells that the control queue is there, since when tags matter. */
	switch_mode(PROMISC, 1);
	cr_assert(passes(OTHER, -1) && passes(OTHER, 5));
	switch_mode(PROMISC, 0);
	cr_assert(passes(OWN, -1) && !passes(OWN, 5));
	cr_assert_eq(net_command(&n, VLAN, 0, five, 2), GOOD);
	cr_assert(passes(OWN, 5) && !passes(OWN, 6) && !passes(OTHER, 5));
	switch_mode(PROMISC, 1);
	cr_assert(passes(OTHER, 5) && passes(OTHER, 6));
	switch_mode(PROMISC, 0);
	cr_assert_eq(net_command(&n, VLAN, 1, five, 2), GOOD);
	cr_assert(!passes(OWN, 5));
	net_stop(&n);
}

/* Whether the host gives the tap's queue anything. */
static bool is_attached(unsigned queue)
{
	struct ifreq ifr = { .ifr_flags = 0 };

	cr_assert_eq(ioctl(n.backend.fds[queue], TUNGETIFF, &ifr), 0);
	return !(ifr.ifr_flags & IFF_DETACH_QUEUE);
}

static void use_pairs(uint8_t pairs)
{
	const uint8_t data[] = { pairs, 0 };

	cr_assert_eq(net_command(&n, MQ, 0, data, 2), GOOD);
}

Test(net_control, pairs)
{
	const uint8_t none[] = { 0, 0 }, four[] = { 4, 0 };

	start(NET_TAP, 3, RING_F_EVENT_IDX);
	rig_until(&n.rig, is_attached(0) && !is_attached(1) && !is_attached(2));
	use_pairs(3);
	cr_assert(is_attached(1) && is_attached(2));
	use_pairs(2);
	cr_assert(is_attached(1) && !is_attached(2));
	cr_assert_eq(net_command(&n, MQ, 0, none, 2), BAD);
	cr_assert_eq(net_command(&n, MQ, 0, four, 2), BAD);
	rig_kill(&n.rig);
	rig_respawn(&n.rig);
	cr_assert_eq(net_command(&n, ANNOUNCE, 0, none, 0), GOOD);
	cr_assert(is_attached(1) && !is_attached(2), "the successor uses as many");
	use_pairs(1);
	cr_assert(!is_attached(1));
	net_stop(&n);
}

Test(net_control, what_the_host_refuses_is_refused)
{
	const uint64_t some = 1ULL << VIRTIO_NET_F_GUEST_CSUM;

	start(NET_TAP, 1, 0);
	net_delete_tap(&n);
	cr_assert_eq(net_command(&n, OFFLOADS, 0, &some, 8), BAD);
	net_stop(&n);
}

Test(net_control, pairs_of_a_tap_that_is_gone_are_refused)
{
	const uint8_t two[] = { 2, 0 }, one[] = { 1, 0 };

	start(NET_TAP, 2, 0);
	use_pairs(2);
	net_delete_tap(&n);
	cr_assert_eq(net_command(&n, MQ, 0, one, 2), BAD);
	cr_assert_eq(net_command(&n, MQ, 0, two, 2), GOOD, "nothing is to change for that");
	net_stop(&n);
}

/* Each queue that comes or goes costs all of the host's interfaces their lock: beyond a burst of 64 there are 32 a second,
 * whatever a driver asks for, and all of it is answered. */
#define TOGGLES 20

static uint64_t least_ns(unsigned changes)
{
	return (changes - 64) * NS_PER_S / 32;
}

#define OWED 3 /* of the last changes, which are made together */

Test(net_control, a_driver_that_changes_pairs_all_the_time_waits)
{
	uint64_t begun;

	start(NET_TAP, 4, 0);
	begun = clock_ns();
	for (unsigned i = 0; i < TOGGLES; i++) {
		use_pairs(4);
		cr_assert(is_attached(3));
		use_pairs(1);
		cr_assert(!is_attached(3));
	}
	cr_assert_geq(clock_ns() - begun, least_ns(2 * TOGGLES * 3 - OWED));
	net_stop(&n);
}

/* As does one that stops and starts its rings. */
Test(net_control, a_driver_that_begins_anew_all_the_time_waits)
{
	struct net_options options = { .kind = NET_TAP, .rig = { .queues = 4 } };
	uint64_t begun = clock_ns();

	net_start(&n, &options);
	for (unsigned i = 0; i < TOGGLES; i++) {
		rig_until(&n.rig, is_attached(3));
		for (unsigned r = 0; r < 8; r++)
			rig_stop_ring(&n.rig, r);
		rig_until(&n.rig, !is_attached(1) && !is_attached(2) && !is_attached(3));
		rig_restart_rings(&n.rig);
	}
	cr_assert_geq(clock_ns() - begun, least_ns(2 * TOGGLES * 3 - OWED));
	net_stop(&n);
}

Test(net_control, pairs_follow_the_rings_without_control)
{
	struct net_options options = { .kind = NET_TAP, .rig = { .queues = 2 } };

	net_start(&n, &options);
	rig_until(&n.rig, is_attached(0) && is_attached(1));
	net_stop(&n);
}

Test(net_control, successor_goes_on)
{
	const uint8_t five[] = { 5, 0 };

	start(NET_PACKET, 1, RING_F_PACKED);
	switch_mode(PROMISC, 0);
	set_table(NULL, GROUP);
	cr_assert_eq(net_command(&n, VLAN, 0, five, 2), GOOD);
	rig_kill(&n.rig);
	rig_respawn(&n.rig);
	cr_assert(!passes(OTHER, -1) && passes(GROUP, -1) && passes(GROUP, 5) && !passes(GROUP, 6));
	net_stop(&n);
}

/* What the supervisor said of the link holds for the next server too, also if it was there before. */
Test(net_control, successor_keeps_the_link)
{
	struct state *state;
	uint16_t status;

	start(NET_PACKET, 1, 0);
	cr_assert_eq(state_map(n.backend.state_fd, &state), 0);
	for (unsigned i = 0; i < 4; i++) {
		rig_kill(&n.rig);
		atomic_store(&state_words(state)[0], i % 2);
		rig_respawn(&n.rig);
		rig_get_config(&n.rig, 6, &status, sizeof(status));
		cr_assert_eq(status & VIRTIO_NET_S_LINK_UP, i % 2 ? 0 : VIRTIO_NET_S_LINK_UP);
	}
	state_free(state);
	net_stop(&n);
}

/* What stands there may come from a process that was taken over. */
Test(net_control, successor_believes_nothing)
{
	static uint8_t junk[STATE_RECORD_MAX];
	struct state *state;
	ssize_t len;

	start(NET_PACKET, 1, 0);
	switch_mode(PROMISC, 0);
	cr_assert_eq(state_map(n.backend.state_fd, &state), 0);
	rig_kill(&n.rig);
	len = state_load(state, STATE_DEVICE, junk, sizeof(junk));
	cr_assert_gt(len, 100);
	memset(junk + 4, 0xff, (size_t)len - 4);
	cr_assert_eq(state_save(state, STATE_DEVICE, junk, (size_t)len), 0);
	rig_respawn(&n.rig);
	cr_assert(passes(OTHER, -1), "it is as at the first start");
	state_free(state);
	net_stop(&n);
}

Test(net_control, bad_commands)
{
	static const uint8_t zeros[9000];
	uint8_t table[20] = { 0xff, 0xff, 0xff, 0xff };
	const uint8_t two = 2;

	start(NET_PACKET, 1, RING_F_INDIRECT);
	cr_assert_eq(net_command(&n, 77, 0, zeros, 4), BAD);
	cr_assert_eq(net_command(&n, RX, 6, zeros, 1), BAD);
	cr_assert_eq(net_command(&n, RX, PROMISC, zeros, 0), BAD);
	cr_assert_eq(net_command(&n, RX, PROMISC, zeros, 2), BAD);
	cr_assert_eq(net_command(&n, RX, PROMISC, &two, 1), BAD);
	cr_assert_eq(net_command(&n, MAC, 0, table, sizeof(table)), BAD);
	memset(table, 0, sizeof(table));
	memset(table + 4, 0xff, 4);
	cr_assert_eq(net_command(&n, MAC, 0, table, sizeof(table)), BAD);
	cr_assert_eq(net_command(&n, MAC, 0, table, 7), BAD);
	cr_assert_eq(net_command(&n, MAC, 0, zeros, sizeof(zeros)), BAD, "longer than any command");
	cr_assert_eq(net_command(&n, MAC, 1, BROADCAST, ETH_ALEN), BAD);
	cr_assert_eq(net_command(&n, VLAN, 0, "\xff\xff", 2), BAD);
	cr_assert_eq(net_command(&n, MQ, 0, zeros, 2), BAD, "it was not agreed on");
	cr_assert_eq(net_command(&n, OFFLOADS, 0, zeros, 8), BAD);
	cr_assert_eq(net_command(&n, ANNOUNCE, 0, zeros, 0), GOOD);
	cr_assert(passes(OTHER, -1));
	net_stop(&n);
}

Test(net_control, offloads)
{
	const uint64_t some = 1ULL << VIRTIO_NET_F_GUEST_CSUM | 1ULL << VIRTIO_NET_F_GUEST_TSO4, none = 0,
		       foreign = 1ULL << VIRTIO_NET_F_MAC;

	start(NET_TAP, 1, 0);
	cr_assert_eq(net_command(&n, OFFLOADS, 0, &some, 8), GOOD);
	cr_assert_eq(net_command(&n, OFFLOADS, 0, &none, 8), GOOD);
	cr_assert_eq(net_command(&n, OFFLOADS, 0, &foreign, 8), BAD);
	net_stop(&n);
}

/* Frames are shown at once and the call comes later: once for several. */
Test(net_control, coalescing)
{
	const uint32_t rx[] = { 8, 10000000 };
	uint8_t frame[60];
	unsigned before;

	start(NET_PACKET, 1, 0);
	cr_assert_eq(net_command(&n, COALESCE, 1, rx, 8), GOOD);
	cr_assert(passes(OTHER, -1));
	ring_enable_calls(&n.rig.queue[0].ring);
	rig_until(&n.rig, loop_run_once(n.rig.loop, 0) == 0);
	before = n.rig.queue[0].calls;
	net_fill(frame, sizeof(frame), 1);
	for (unsigned i = 0; i < 4; i++) {
		net_peer_send(&n, frame, sizeof(frame));
		net_receive(&n, 0, &f);
	}
	cr_assert_eq(n.rig.queue[0].calls, before, "called for a few");
	for (unsigned i = 0; i < 4; i++)
		net_peer_send(&n, frame, sizeof(frame));
	rig_until(&n.rig, n.rig.queue[0].calls > before);
	net_stop(&n);
}

/* What the driver was shown and not called for, it is called for at the end at the latest. */
Test(net_control, a_call_that_is_held_back_comes_when_the_ring_is_stopped)
{
	const uint32_t rx[] = { 1000, UINT32_MAX };
	uint8_t frame[100];
	unsigned before;

	start(NET_PACKET, 1, 0);
	cr_assert_eq(net_command(&n, COALESCE, 1, rx, 8), GOOD);
	ring_enable_calls(&n.rig.queue[0].ring);
	rig_until(&n.rig, loop_run_once(n.rig.loop, 0) == 0);
	before = n.rig.queue[0].calls;
	net_fill(frame, sizeof(frame), 1);
	net_peer_send(&n, frame, sizeof(frame));
	net_receive(&n, 0, &f);
	cr_assert_eq(n.rig.queue[0].calls, before);
	rig_stop_ring(&n.rig, 0);
	rig_until(&n.rig, n.rig.queue[0].calls > before);
	net_stop(&n);
}
