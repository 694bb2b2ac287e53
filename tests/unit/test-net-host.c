/* SPDX-License-Identifier: Apache-2.0 */
/* net-server/host: what follows the driver, in an order in which nothing is used before it is there, and at which pace. */
#include "host.h"

#include <criterion/criterion.h>
#include <errno.h>

#include "clock.h"
#include "port.h"

#define PAIRS  5
#define DRAIN  64 /* changes at once */
#define CHECKS NET_BIT(VIRTIO_NET_F_GUEST_CSUM)

TestSuite(net_host, .timeout = 60);

static struct loop *loop;
static struct port port;
static unsigned woken, lost, changes, offload_changes;
static int refused = -1;   /* the queue that can't be attached */
static int refusal = -EIO; /* ... and why */

/* In the place of port.c's. */
void port_wake(struct port *p)
{
	(void)p;
	woken++;
}

void port_lost(struct port *p)
{
	(void)p;
	lost++;
}

static unsigned used(void)
{
	return atomic_load(&port.shared.pairs);
}

static int attach(struct backend *b, unsigned pair, bool on)
{
	(void)b;
	cr_assert_leq(used(), pair, "queue %u is in use while it is %s", pair, on ? "attached" : "detached");
	if (on && (int)pair == refused)
		return refusal;
	changes++;
	return 0;
}

static int set_offload(struct backend *b, uint64_t features)
{
	(void)b;
	cr_assert_eq(features, port.driver.offloads);
	offload_changes++;
	return 0;
}

static const struct backend_ops ops = { .name = "test", .attach = attach, .set_offload = set_offload };

static void set_up(void)
{
	cr_assert_eq(loop_new("test", &loop), 0);
	port.backend.ops = &ops;
	port.backend.name = "test";
	port.pairs = PAIRS;
	port.driver.controlled = 1;
	port.driver.pairs = 1;
	host_open(&port);
	cr_assert_eq(host_attach(&port, loop), 0);
	host_follow(&port);
	cr_assert_eq(used(), 1);
	cr_assert_eq(changes, PAIRS - 1, "it is not known how they were");
	cr_assert_eq(offload_changes, 1);
}

static void tear_down(void)
{
	host_detach(&port);
	loop_free(loop);
}

static void follow(uint16_t pairs)
{
	port.driver.pairs = pairs;
	host_follow(&port);
}

/* There are no more changes at once. */
static void exhaust(enum host_pace pace)
{
	quota_take(port.host.pace[pace], clock_ns(), 0, DRAIN, NULL);
}

static void run_until_used(unsigned n)
{
	uint64_t end = clock_ns() + 20 * NS_PER_S;

	while (used() != n) {
		cr_assert_lt(clock_ns(), end, "%u pairs are used, not %u", used(), n);
		cr_assert_eq(loop_run_once(loop, (int64_t)(20 * NS_PER_MS)), 0);
	}
}

Test(net_host, queues_are_there_before_they_are_used, .init = set_up, .fini = tear_down)
{
	for (unsigned i = 0; i < 5; i++) {
		follow(PAIRS);
		cr_assert_eq(used(), PAIRS);
		follow(2);
		cr_assert_eq(used(), 2);
	}
	port.driver.pairs = PAIRS;
	cr_assert_eq(host_set_pairs(&port), 0);
	cr_assert_eq(used(), PAIRS);
	cr_assert_gt(woken, 10);
}

Test(net_host, queues_that_have_to_wait_are_not_used_meanwhile, .init = set_up, .fini = tear_down)
{
	exhaust(HOST_RINGS);
	follow(PAIRS);
	cr_assert_eq(used(), 1, "%u are used before they are attached", used());
	run_until_used(PAIRS);
	/* Fewer are used at once, whenever that reaches the host. */
	exhaust(HOST_RINGS);
	follow(2);
	cr_assert_eq(used(), 2);
}

Test(net_host, a_queue_that_can_not_be_attached_is_not_used, .init = set_up, .fini = tear_down)
{
	refused = 3;
	follow(PAIRS);
	cr_assert_eq(used(), 3);
	cr_assert_eq(host_set_pairs(&port), -EIO);
	cr_assert_eq(lost, 0);
	refused = -1;
	cr_assert_eq(host_set_pairs(&port), 0);
	cr_assert_eq(used(), PAIRS);
}

Test(net_host, a_queue_of_what_is_gone_tells_of_that, .init = set_up, .fini = tear_down)
{
	refused = 3;
	refusal = -EPIPE;
	follow(PAIRS);
	cr_assert_eq(used(), 3);
	cr_assert_gt(lost, 0);
}

/* Whichever of the two a guest has used up, the other is there. */
Test(net_host, rings_and_commands_have_a_pace_each, .init = set_up, .fini = tear_down)
{
	exhaust(HOST_RINGS);
	cr_assert_eq(host_command_wait(&port, PAIRS, clock_ns()), 0);
	follow(PAIRS);
	cr_assert_eq(used(), 1);
	run_until_used(PAIRS);
	exhaust(HOST_COMMANDS);
	cr_assert_neq(host_command_wait(&port, 1, clock_ns()), 0);
	quota_return(port.host.pace[HOST_RINGS], 0, DRAIN);
	follow(1);
	follow(PAIRS);
	cr_assert_eq(used(), PAIRS);
}

Test(net_host, offloads_are_set_when_they_change, .init = set_up, .fini = tear_down)
{
	for (unsigned i = 0; i < 10; i++)
		host_follow(&port);
	cr_assert_eq(offload_changes, 1);
	cr_assert_eq(host_offloads_cost(&port, 0), 0);
	cr_assert_eq(host_offloads_cost(&port, CHECKS), 1);
	port.driver.offloads = CHECKS;
	host_follow(&port);
	cr_assert_eq(offload_changes, 2);
	cr_assert_eq(host_set_offloads(&port), 0);
	cr_assert_eq(offload_changes, 2);
}

/* A driver that begins anew with others all the time has them no faster than the pace, and no frame that it does not take. */
Test(net_host, offloads_that_have_to_wait_keep_frames_away, .init = set_up, .fini = tear_down)
{
	uint64_t begun = clock_ns();
	unsigned waited = 0;

	for (unsigned i = 0; i < 2 * DRAIN; i++) {
		port.driver.offloads ^= CHECKS;
		host_follow(&port);
		waited += used() == 0;
		run_until_used(1);
		cr_assert_eq(offload_changes, i + 2);
	}
	cr_assert_gt(waited, 0);
	cr_assert_geq(clock_ns() - begun, (DRAIN - 1) * NS_PER_S / 32);
}
