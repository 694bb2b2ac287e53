/* SPDX-License-Identifier: Apache-2.0 */
/* Commands of net-server's control ring that are under way when something else happens. */
#include <criterion/criterion.h>
#include <linux/if_ether.h>
#include <string.h>

#include "clock.h"
#include "net_bus.h"
#include "num.h"

#define PAIRS 4

TestSuite(net_command, .timeout = 120);

static struct net n;
static struct supervisor s;

static void set_up(const struct rig_options *rig)
{
	struct net_options options = { .kind = NET_TAP, .control = true, .rig = *rig };

	net_bus_start(&n, &s, &options);
}

static void tear_down(void)
{
	net_bus_stop(&n, &s);
}

static struct ring *control_ring(void)
{
	return &n.rig.queue[n.rig.queues - 1].ring;
}

/* Adds a command to have so many pairs; where its answer will be. */
static const uint8_t *start_command(uint8_t pairs)
{
	static uint64_t at;
	const uint8_t command[] = { VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, pairs, 0, 0xee };
	struct ring_buf bufs[2];

	if (!at)
		at = rig_alloc(&n.rig, sizeof(command), 8);
	bufs[0] = (struct ring_buf) { .gpa = at, .len = 4 };
	bufs[1] = (struct ring_buf) { .gpa = at + 4, .len = 1, .write = true };
	memcpy(rig_ptr(&n.rig, at), command, sizeof(command));
	cr_assert_geq(ring_add(control_ring(), bufs, 2, n.rig.options.ring_features & RING_F_INDIRECT), 0);
	net_kick(&n, n.rig.queues - 1);
	return rig_ptr(&n.rig, at + 4);
}

static bool is_answered(void)
{
	uint32_t len;
	uint16_t id;

	return ring_get(control_ring(), &id, &len) == 1;
}

/*
 * A guest that has the host changed all the time waits for each command, and whoever wants the server to hold nothing does
 * not wait with it: the command goes back to the ring, and is obeyed afterwards.
 */
static void a_drain_while_a_command_waits(uint64_t ring_features)
{
	const struct rig_options rig = { .queues = PAIRS, .ring_features = ring_features };
	unsigned waited = 0;

	set_up(&rig);
	/* Now and then it is the command's turn just before the drain. */
	for (unsigned i = 0; waited < 5; i++) {
		uint64_t before = supervisor_stat(&s, "requests");
		const uint8_t *answer = start_command(i % 2 ? 1 : PAIRS);
		bool answered;

		cr_assert_lt(i, 200, "the drain waits for each command");
		supervisor_until(&s, supervisor_stat(&s, "requests") > before);
		supervisor_ask_ok(&s, BUS_DRAIN);
		answered = is_answered();
		waited += !answered;
		cr_assert(answered || *answer == 0xee);
		supervisor_ask_ok(&s, BUS_RESUME);
		if (!answered)
			supervisor_until(&s, is_answered());
		cr_assert_eq(*answer, VIRTIO_NET_OK);
	}
	tear_down();
}

Test(net_command, split_a_drain_does_not_wait_for_one_that_waits)
{
	a_drain_while_a_command_waits(RING_F_EVENT_IDX);
}

Test(net_command, packed_a_drain_does_not_wait_for_one_that_waits)
{
	a_drain_while_a_command_waits(RING_F_PACKED | RING_F_INDIRECT);
}

/* ---- a driver that knows of one pair: its control ring is where the second pair has its first one ---- */

static void command_on(unsigned ring)
{
	const uint8_t command[] = { VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, 1, 0xee };
	const uint64_t at = n.frame;
	const struct ring_buf bufs[] = { { .gpa = at, .len = 3 },
					 { .gpa = at + 3, .len = 1, .write = true } };

	memcpy(rig_ptr(&n.rig, at), command, sizeof(command));
	cr_assert_eq(rig_raw(&n.rig, ring, bufs, 2), 1);
	cr_assert_eq(*rig_ptr(&n.rig, at + 3), VIRTIO_NET_OK);
}

/* It moves with that pair, and no thread that does not serve it has to do with its commands any more. */
Test(net_command, answers_come_on_the_thread_that_the_ring_is_moved_to)
{
	enum { RING = 2, COMMANDS = 50 };
	struct bus_msg msg = { .type = BUS_MOVE_QUEUE, .move_queue = { .queue = RING / 2, .thread = "a" } };
	const struct rig_options rig = { .queues = 2,
					 .thread_names = "a:b",
					 .refuse = 1ULL << VIRTIO_NET_F_MQ };
	uint64_t before;

	set_up(&rig);
	before = supervisor_stat(&s, "b.sleeps");
	command_on(RING);
	supervisor_until(&s, supervisor_stat(&s, "b.sleeps") > before);
	supervisor_ask(&s, &msg);
	supervisor_until(&s, s.answered);
	cr_assert_eq(s.err, 0);
	command_on(RING);
	before = supervisor_stat(&s, "b.sleeps");
	for (unsigned i = 0; i < COMMANDS; i++)
		command_on(RING);
	cr_assert_lt(supervisor_stat(&s, "b.sleeps") - before, COMMANDS / 2,
		     "the thread that it left answers");
	tear_down();
}

/* ---- Fault 16 for commands: a header, and what follows it, in pieces of one byte ---- */

static void commands_in_pieces(uint64_t ring_features)
{
	const uint8_t command[] = {
		VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 2, 0, 0, 0, 0, 1, 0xee
	};
	const struct rig_options rig = { .ring_features = ring_features };
	struct ring_buf bufs[sizeof(command)];
	uint8_t mac[ETH_ALEN];
	uint64_t at;

	set_up(&rig);
	at = rig_alloc(&n.rig, 64 * sizeof(command), 64);
	for (uint8_t last = 1; last < 20; last++) {
		for (unsigned i = 0; i < sizeof(command); i++) {
			bufs[i] = (struct ring_buf) { .gpa = at + 64U * i, .len = 1 };
			*rig_ptr(&n.rig, bufs[i].gpa) = i == 7 ? last : command[i];
		}
		bufs[sizeof(command) - 1].write = true;
		cr_assert_eq(rig_raw(&n.rig, 2, bufs, sizeof(command)), 1, "FAULTS 20: used.len");
		cr_assert_eq(*rig_ptr(&n.rig, bufs[sizeof(command) - 1].gpa), VIRTIO_NET_OK);
		rig_get_config(&n.rig, 0, mac, sizeof(mac));
		cr_assert_eq(mac[5], last);
	}
	tear_down();
}

Test(net_command, split_f16_in_pieces)
{
	commands_in_pieces(0);
}

Test(net_command, packed_f16_in_pieces)
{
	commands_in_pieces(RING_F_PACKED | RING_F_INDIRECT);
}
