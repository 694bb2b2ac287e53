/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FAULTS 60: a tap that is deleted is gone for good, for the server that has it and for those after it: no link, a word to
 * the supervisor, a line in the log, and a process that stays.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "net_bus.h"

#define BYTES 1526

TestSuite(net_tap_gone, .timeout = 120);

static struct net n;
static struct supervisor s;
static FILE *text;

static void start(uint64_t ring_features, unsigned pairs)
{
	struct net_options options = {
		.kind = NET_TAP,
		.rig = { .queues = pairs, .io_threads = pairs, .ring_features = ring_features }
	};

	text = net_bus_start_logged(&n, &s, &options);
}

static void stop(void)
{
	net_bus_stop(&n, &s);
	fclose(text);
}

static bool is_up(void)
{
	uint16_t status;

	rig_get_config(&n.rig, offsetof(struct virtio_net_config, status), &status, sizeof(status));
	return status & VIRTIO_NET_S_LINK_UP;
}

/* The log has this line, and no other that speaks of the tap. */
static void expect_logged(const char *line)
{
	char said[8192];
	const char *at;

	net_bus_said(text, said, sizeof(said));
	at = strstr(said, line);
	cr_expect(at && !strstr(at + strlen(line), "tap") && !strstr(said, "can't"), "%s", said);
	cr_assert_eq(ftruncate(fileno(text), 0), 0);
	rewind(text);
}

/* What there is of one that its server calls so: the link is down and stays so, and who asks is told why. */
static void is_gone(const char *name)
{
	char said[64], line[128];
	const char *why;

	snprintf(said, sizeof(said), "%s is gone", name);
	snprintf(line, sizeof(line), "%s; the link is down\n", said);
	supervisor_until(&s, s.nio_errors);
	cr_expect_str_eq(s.io_error, said);
	supervisor_until(&s, !is_up());
	cr_expect_eq(supervisor_set(&s, "link", "up", &why), -ENOTCONN);
	cr_expect_str_eq(why, said);
	cr_expect_eq(supervisor_set(&s, "link", "down", NULL), 0);
	cr_expect_eq(supervisor_set(&s, "link", "up", NULL), -ENOTCONN);
	cr_expect(!is_up());
	net_fill(rig_ptr(&n.rig, n.frame), 300, 1);
	for (unsigned i = 0; i < 20; i++)
		cr_assert_eq(net_send(&n, 0, 300, NULL, 0), 0, "it is dropped");
	cr_expect_eq(supervisor_stat(&s, "tx_link_down"), 20);
	cr_expect_eq(supervisor_stat(&s, "tx_errors") + supervisor_stat(&s, "rx_errors"), 0);
	net_bus_falls_asleep(&n, &s);
	cr_expect_eq(s.nio_errors, 1);
	expect_logged(line);
}

static void deleted(uint64_t ring_features, unsigned pairs, unsigned buffers)
{
	start(ring_features, pairs);
	if (buffers)
		net_serves(&n);
	cr_assert(is_up());
	n.rig.config_changes = 0;
	if (buffers)
		net_post_many(&n, 0, BYTES, buffers);
	net_delete_tap(&n);
	supervisor_until(&s, n.rig.config_changes);
	is_gone(n.name);
	stop();
}

Test(net_tap_gone, f60_with_buffers)
{
	deleted(RING_F_EVENT_IDX, 1, 8);
}

/* Nothing is read then. */
Test(net_tap_gone, f60_without_buffers)
{
	deleted(RING_F_PACKED, 1, 0);
}

Test(net_tap_gone, f60_of_several_queues)
{
	deleted(0, 3, 8);
}

static void expect_next(void)
{
	s.nio_errors = 0;
	supervisor_expect(&s, &n.rig);
}

/* The kernel does not tell them the name any more. */
Test(net_tap_gone, f60_successors_stay)
{
	start(RING_F_EVENT_IDX, 2);
	net_serves(&n);
	net_delete_tap(&n);
	is_gone(n.name);
	for (unsigned i = 0; i < 3; i++) {
		rig_kill(&n.rig);
		rig_respawn(&n.rig);
		expect_next();
		is_gone("the tap");
	}
	stop();
}

static void delete_tap(void *arg)
{
	net_delete_tap(arg);
}

/* One that waits to take over does not look at the tap, and finds it gone when it does. */
Test(net_tap_gone, f60_while_a_spare_waits)
{
	start(0, 2);
	net_serves(&n);
	rig_kill(&n.rig);
	rig_respawn_spare(&n.rig, delete_tap, &n);
	expect_next();
	supervisor_until(&s, s.nio_errors);
	/* Whether it was opened before or after is not known. */
	is_gone(strcmp(s.io_error, "the tap is gone") ? n.name : "the tap");
	stop();
}
