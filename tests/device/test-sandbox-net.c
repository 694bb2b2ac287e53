/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel says of the real net-server while it serves: its ids, capabilities, filters, namespaces, mounts. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "config.h"
#include "probe.h"
#include "net.h"

#define DEADLINE_NS (40 * NS_PER_S)

/* Sends frames until both filters are in force, which is after the front end's first questions. */
static void serve_until_steady(struct net *n)
{
	static uint8_t frame[NET_BYTES];
	uint64_t deadline = clock_ns() + DEADLINE_NS;
	char filters[16] = "";

	do {
		net_fill(rig_ptr(&n->rig, n->frame), 60, 1);
		cr_assert_eq(net_send(n, 0, 60, NULL, 0), 0);
		cr_assert_eq(net_peer_receive(n, frame), 60);
		cr_assert_not_null(probe_status(n->rig.pid, "Seccomp_filters", filters, sizeof(filters)));
	} while (strtoul(filters, NULL, 10) < 2 && clock_ns() < deadline);
}

static void is_confined(enum net_kind kind, unsigned pairs)
{
	static struct net n;
	struct net_options options = { .kind = kind, .rig = { .queues = pairs } };
	const char *wrong;

#ifdef BH_SANITIZE
	cr_skip_test("sanitizer builds run without the sandbox");
#endif
	net_start(&n, &options);
	serve_until_steady(&n);
	wrong = probe_check_state(n.rig.pid, geteuid() == 0 ? SANDBOX_NOBODY : geteuid(), 2, false);
	cr_assert_null(wrong, "%s", wrong);
	cr_assert_eq(probe_mounts(n.rig.pid), 1);
	net_stop(&n);
}

Test(sandbox_net, with_a_socket, .timeout = 60)
{
	is_confined(NET_PACKET, 1);
}

Test(sandbox_net, with_a_tap, .timeout = 60)
{
	is_confined(NET_TAP, 2);
}
