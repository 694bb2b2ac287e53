/* SPDX-License-Identifier: Apache-2.0 */
/* What a successor makes of frames and commands that its predecessors died with, and what it tells of it. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "crashes.h"
#include "net_bus.h"

TestSuite(net_replaced, .timeout = 120);

#define DEATHS     3U
#define NEIGHBOURS 4 /* on each side of the frame that servers die of */
#define FRAMES     (2 * NEIGHBOURS + 1)
#define LEN        200U /* of the first frame; each is a byte longer than the one before */
#define POISON     (LEN + NEIGHBOURS)

static struct net n;
static struct supervisor s;
static FILE *text;

static void start(uint64_t ring_features, const char *crash, const char *const *args)
{
	struct net_options options = { .kind = NET_PACKET,
				       .control = true,
				       .rig = {
					   .ring_features = ring_features, .crash = crash, .args = args } };

	text = net_bus_start_logged(&n, &s, &options);
}

static void stop(void)
{
	net_bus_stop(&n, &s);
	fclose(text);
}

/* Servers die, so many of them. Then there is one that is expected to live, and tells what it found. */
static void let_die(void)
{
	for (unsigned died = 0; died < DEATHS; died++) {
		uint64_t end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;

		while (!n.rig.lost) {
			cr_assert(clock_ns() < end, "the server lives after %u deaths", died);
			cr_assert_eq(loop_run_once(n.rig.loop, (int64_t)(20 * NS_PER_MS)), 0);
		}
		cr_assert_eq(rig_reap(&n.rig), CRASHES_STATUS);
		s.nrecovered = 0;
		rig_try_respawn(&n.rig);
		if (died + 1 < DEATHS)
			bus_expect(s.bus, n.rig.pid);
	}
	supervisor_expect(&s, &n.rig);
}

static void expect_told(const char *line)
{
	char said[8192];

	supervisor_until(&s, s.nrecovered);
	cr_expect_eq(s.recovered.recovered.poisoned, 1);
	cr_expect_geq(s.recovered.recovered.resubmitted, 1);
	cr_expect_eq(supervisor_stat(&s, "poisoned"), 1);
	net_bus_said(text, said, sizeof(said));
	cr_expect(strstr(said, line), "%s", said);
}

/* ---- 48: a frame ---- */

struct sending {
	bool waits[RIG_SIZE]; /* by ring id */
	unsigned waiting;
	bool arrived[FRAMES];
};

static struct sending all;

static void send_all(void)
{
	memset(&all, 0, sizeof(all));
	net_fill(rig_ptr(&n.rig, n.frame), LEN + FRAMES, 1);
	for (unsigned i = 0; i < FRAMES; i++) {
		int id = net_send_start(&n, 0, LEN + i);

		all.waits[id] = true;
		all.waiting++;
	}
}

static unsigned take_sent(void)
{
	uint32_t len;
	uint16_t id;
	int got;

	while ((got = ring_get(&n.rig.queue[1].ring, &id, &len)) == 1) {
		cr_assert_eq(len, 0);
		cr_assert(all.waits[id], "chain %u came back twice", id);
		all.waits[id] = false;
		all.waiting--;
	}
	cr_assert_eq(got, 0);
	return all.waiting;
}

/* Those that a server sent before it died come once more. */
static void take_arrived(void)
{
	static uint8_t frame[NET_BYTES];

	while (!net_peer_is_quiet(&n)) {
		uint32_t len = net_peer_receive(&n, frame);

		cr_assert(len >= LEN && len < LEN + FRAMES, "a frame of %u bytes", len);
		cr_assert(net_check(frame, len, 1));
		all.arrived[len - LEN] = true;
	}
}

static void frame_that_kills(uint64_t ring_features, const char *const *args)
{
	char order[64], line[200];

	snprintf(order, sizeof(order), "at=poison:%u", POISON);
	start(ring_features, order, args);
	send_all();
	let_die();
	supervisor_until(&s, !take_sent());
	take_arrived();
	for (unsigned i = 0; i < FRAMES; i++)
		cr_expect_eq(all.arrived[i], LEN + i != POISON, "frame %u", i);
	snprintf(line, sizeof(line),
		 ": a frame that %u servers died with is dropped: %u bytes with its header\n", DEATHS,
		 POISON + NET_HEADER);
	expect_told(line);
	cr_expect_eq(supervisor_stat(&s, "tx_poisoned"), 1);
	net_serves(&n);
	stop();
}

Test(net_replaced, f48_a_frame_that_kills_split)
{
	frame_that_kills(RING_F_EVENT_IDX, NULL);
}

Test(net_replaced, f48_a_frame_that_kills_packed)
{
	frame_that_kills(RING_F_PACKED | RING_F_INDIRECT, NULL);
}

/* What kills is not the frame before, nor one that waits as well. */
Test(net_replaced, f48_a_frame_that_waited_and_kills)
{
	static const char *const args[] = { "--tx-packets", "200/1", NULL };

	frame_that_kills(RING_F_EVENT_IDX, args);
}

/* ---- 48: a command ---- */

#define COMMAND 3 /* bytes */

/* Asks to be sent all groups' frames; then takes a VLAN, which is longer. Where the answers come. */
static uint8_t *command_twice(void)
{
	static const uint8_t bytes[] = { VIRTIO_NET_CTRL_RX,
					 VIRTIO_NET_CTRL_RX_ALLMULTI,
					 1,
					 0xee,
					 VIRTIO_NET_CTRL_VLAN,
					 VIRTIO_NET_CTRL_VLAN_ADD,
					 5,
					 0,
					 0xee };
	struct rig_queue *q = &n.rig.queue[2];
	uint64_t at = rig_alloc(&n.rig, sizeof(bytes), 8);
	const struct ring_buf first[] = { { .gpa = at, .len = COMMAND },
					  { .gpa = at + COMMAND, .len = 1, .write = true } },
			      second[] = { { .gpa = at + 4, .len = 4 },
					   { .gpa = at + 8, .len = 1, .write = true } };
	bool indirect = n.rig.options.ring_features & RING_F_INDIRECT;

	memcpy(rig_ptr(&n.rig, at), bytes, sizeof(bytes));
	cr_assert_geq(ring_add(&q->ring, first, 2, indirect), 0);
	cr_assert_geq(ring_add(&q->ring, second, 2, indirect), 0);
	net_kick(&n, 2);
	return rig_ptr(&n.rig, at);
}

static unsigned take_answers(void)
{
	unsigned answers = 0;
	uint32_t len;
	uint16_t id;
	int got;

	while ((got = ring_get(&n.rig.queue[2].ring, &id, &len)) == 1) {
		cr_assert_eq(len, 1);
		answers++;
	}
	cr_assert_eq(got, 0);
	return answers;
}

static void command_that_kills(uint64_t ring_features)
{
	unsigned answers = 0;
	uint8_t *answer;
	char line[200];

	start(ring_features, "at=command:3", NULL);
	answer = command_twice();
	let_die();
	supervisor_until(&s, (answers += take_answers()) == 2);
	cr_expect_eq(answer[COMMAND], VIRTIO_NET_ERR);
	cr_expect_eq(answer[8], VIRTIO_NET_OK);
	snprintf(line, sizeof(line),
		 ": a command that %u servers died with is answered with an error: class %u, command %u\n",
		 DEATHS, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLMULTI);
	expect_told(line);
	cr_expect_eq(supervisor_stat(&s, "tx_poisoned"), 0);
	net_serves(&n);
	stop();
}

Test(net_replaced, f48_a_command_that_kills_split)
{
	command_that_kills(RING_F_EVENT_IDX);
}

Test(net_replaced, f48_a_command_that_kills_packed)
{
	command_that_kills(RING_F_PACKED | RING_F_INDIRECT);
}
