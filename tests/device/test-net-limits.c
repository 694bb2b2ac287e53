/* SPDX-License-Identifier: Apache-2.0 */
/* Rate limits: what is above them waits, and a restart gives nothing. */
#include <criterion/criterion.h>
#include <string.h>

#include "clock.h"
#include "net.h"
#include "num.h"
#include "state.h"

TestSuite(net_limits, .timeout = 120);

static struct net n;
static struct net_frame f;
static uint8_t frame[NET_BYTES];

static void start(enum net_kind kind, const char *const *args)
{
	struct net_options options = { .kind = kind,
				       .state_fd = state_create(),
				       .rig = { .ring_features = RING_F_EVENT_IDX, .args = args } };

	net_start(&n, &options);
}

static void send_frames(unsigned count, uint32_t len)
{
	for (unsigned i = 0; i < count; i++) {
		net_fill(rig_ptr(&n.rig, n.frame), len, i);
		cr_assert_eq(net_send(&n, 0, len, NULL, 0), 0);
		cr_assert_eq(net_peer_receive(&n, frame), len);
		cr_assert(net_check(frame, len, i));
	}
}

static void receive_frames(unsigned count, uint32_t len)
{
	for (unsigned i = 0; i < count; i++) {
		net_fill(frame, len, i);
		net_post_many(&n, 0, 1526, 1);
		net_peer_send(&n, frame, len);
		net_receive(&n, 0, &f);
		cr_assert(net_check(f.bytes, len, i));
	}
}

/* That it took as long as the rate says for what came after a burst; the time of the last frame may be owed. */
static void took(uint64_t since, unsigned ms)
{
	uint64_t took = clock_ns() - since;

	cr_assert_geq(took, ms * NS_PER_MS, "%llu ms", (unsigned long long)(took / NS_PER_MS));
}

Test(net_limits, packets_sent)
{
	const char *const args[] = { "--tx-packets", "1000/10", NULL };
	uint64_t since;

	start(NET_PACKET, args);
	since = clock_ns();
	send_frames(210, 100);
	took(since, 198);
	net_stop(&n);
}

Test(net_limits, packets_received)
{
	const char *const args[] = { "--rx-packets", "1000/10", NULL };
	uint64_t since;

	start(NET_TAP, args);
	since = clock_ns();
	receive_frames(210, 100);
	took(since, 198);
	net_stop(&n);
}

Test(net_limits, bytes_both_ways)
{
	const char *const args[] = { "--rx-bytes", "100K/10K", "--tx-bytes", "200K/10K", NULL };
	uint64_t since;

	start(NET_STREAM, args);
	since = clock_ns();
	receive_frames(30, 1024);
	took(since, 190);
	since = clock_ns();
	send_frames(50, 1024);
	took(since, 190);
	net_stop(&n);
}

/* With a burst of one each frame waits for its turn, and a turn that comes late is not made up for. The machine may be
 * busy once, but not always. */
static void not_much_longer(void (*exchange)(unsigned count, uint32_t len))
{
	uint64_t took = UINT64_MAX;

	for (unsigned i = 0; i < 5 && took > 450 * NS_PER_MS; i++) {
		uint64_t since = clock_ns();

		exchange(16, 100);
		took = MIN(took, clock_ns() - since);
	}
	cr_assert_leq(took, 450 * NS_PER_MS, "%llu ms", (unsigned long long)(took / NS_PER_MS));
}

Test(net_limits, frames_wait_no_longer_than_for_their_turn)
{
	const char *const args[] = { "--tx-packets", "100/1", "--rx-packets", "100/1", NULL };

	start(NET_PACKET, args);
	not_much_longer(send_frames);
	not_much_longer(receive_frames);
	net_stop(&n);
}

/* Frames that wait for the limit, the largest of them longer than a burst, and buffers that are too small for them. */
Test(net_limits, large_frames_in_small_buffers)
{
	const char *const args[] = { "--rx-bytes", "1M/1K", NULL };

	start(NET_PACKET, args);
	for (unsigned i = 0; i < 5; i++) {
		net_fill(frame, 20000, i);
		net_post_many(&n, 0, 500, 45);
		net_peer_send(&n, frame, 20000);
		net_receive(&n, 0, &f);
		cr_assert_eq(f.len, 20000);
		cr_assert(net_check(f.bytes, f.len, i));
	}
	net_stop(&n);
}

Test(net_limits, a_restart_gives_nothing)
{
	const char *const args[] = { "--tx-packets", "10/50", NULL };
	uint64_t since;

	start(NET_PACKET, args);
	send_frames(50, 100);
	/* From here on only time gives, so slowly that the restarts' own is none to speak of. */
	since = clock_ns();
	for (unsigned i = 0; i < 2; i++) {
		rig_kill(&n.rig);
		rig_respawn(&n.rig);
		send_frames(10, 100);
	}
	took(since, 2000 - 100);
	net_stop(&n);
}

/* What it says was taken is more than anybody can have taken. */
Test(net_limits, a_dead_server_leaves_no_debt_that_starves_its_successor)
{
	enum { FULL = 8 + 8 + 4 }; /* of what is sent: when the bytes' bucket will be full */
	const char *const args[] = { "--tx-bytes", "10M/1K", NULL };
	struct state *state;

	start(NET_PACKET, args);
	send_frames(5, 1000);
	cr_assert_eq(state_map(n.backend.state_fd, &state), 0);
	rig_kill(&n.rig);
	cr_assert_neq(atomic_load(&state_words(state)[FULL]), 0);
	atomic_store(&state_words(state)[FULL], UINT64_MAX);
	rig_respawn(&n.rig);
	send_frames(5, 1000);
	state_free(state);
	net_stop(&n);
}

/* A ring that the limit holds up can be stopped, and so can the server. */
Test(net_limits, what_waits_is_given_back)
{
	const char *const args[] = { "--tx-packets", "1/1", "--rx-packets", "1/1", NULL };

	start(NET_PACKET, args);
	net_fill(rig_ptr(&n.rig, n.frame), 100, 5);
	net_post_many(&n, 0, 1526, 4);
	net_fill(frame, 100, 6);
	for (unsigned i = 0; i < 4; i++) {
		net_peer_send(&n, frame, 100);
		net_send_start(&n, 0, 100);
	}
	cr_assert_eq(net_peer_receive(&n, frame), 100);
	rig_stop_ring(&n.rig, 0);
	rig_stop_ring(&n.rig, 1);
	net_stop(&n);
}
