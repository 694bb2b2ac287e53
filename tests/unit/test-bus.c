/* SPDX-License-Identifier: Apache-2.0 */
/* lib/bus: requests, replies and events, and the ends of a connection. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "bus_pair.h"

TestSuite(bus, .timeout = 60);

Test(bus, requests_are_answered_and_events_arrive)
{
	struct bus_msg hello = { .type = BUS_HELLO };
	struct result r = { 0 };

	bus_pair_open(getpid());
	cr_assert_eq(bus_request(sup.bus, &(struct bus_msg) { .type = BUS_PING }, 1, bus_pair_reply, &r),
		     -EAGAIN, "nobody is there yet");
	bus_pair_dial();
	RUN_UNTIL(sup.ups && child.ups);
	cr_assert(bus_is_connected(sup.bus) && bus_is_connected(child.bus));

	hello.hello.protocol = BUS_PROTOCOL;
	strcpy(hello.hello.kind, "blk");
	strcpy(hello.hello.name, "disk0");
	strcpy(hello.hello.version, "1");
	cr_assert_eq(bus_event(child.bus, &hello), 0);
	RUN_UNTIL(sup.messages);
	cr_assert_eq(sup.last.type, BUS_HELLO);
	cr_assert_str_eq(sup.last.hello.name, "disk0");

	bus_pair_ping(10 * NS_PER_S, &r);
	cr_assert_eq(r.calls, 0);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, 0);
	cr_assert_eq(r.type, BUS_OK);
	cr_assert_eq(bus_pair_counters(sup.bus).sent, 1);
	cr_assert_eq(bus_pair_counters(sup.bus).received, 2);
	bus_pair_close();
}

Test(bus, refusal_comes_with_its_reason)
{
	struct result r = { 0 };

	bus_pair_open(getpid());
	child.silent = true;
	bus_pair_dial();
	RUN_UNTIL(sup.ups);
	bus_pair_ping(10 * NS_PER_S, &r);
	RUN_UNTIL(child.messages);
	cr_assert_eq(bus_reply_error(child.bus, child.ids[0], -EBUSY, "not now"), 0);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, -EBUSY);
	cr_assert_str_eq(r.reply.error.text, "not now");
	bus_pair_close();
}

Test(bus, each_side_sends_only_what_is_its_own)
{
	bus_pair_open(getpid());
	bus_pair_dial();
	RUN_UNTIL(sup.ups && child.ups);
	cr_assert_eq(bus_event(sup.bus, &(struct bus_msg) { .type = BUS_READY }), -EINVAL);
	cr_assert_eq(bus_event(child.bus, &(struct bus_msg) { .type = BUS_PING }), -EINVAL);
	cr_assert_eq(bus_request(child.bus, &(struct bus_msg) { .type = BUS_PING }, 1, bus_pair_reply, NULL),
		     -EINVAL);
	cr_assert_eq(bus_request(sup.bus, &(struct bus_msg) { .type = BUS_OK }, 1, bus_pair_reply, NULL),
		     -EINVAL);
	cr_assert_eq(bus_reply(child.bus, 0, &(struct bus_msg) { .type = BUS_OK }), -EINVAL);
	bus_pair_close();
}

/* ---- replies that are late, doubled, out of order, never asked for, of the wrong kind ---- */

Test(bus, fault_47_late_and_doubled_replies_are_dropped)
{
	struct result r = { 0 }, r2 = { 0 };
	uint64_t began;

	bus_pair_open(getpid());
	child.silent = true;
	bus_pair_dial();
	RUN_UNTIL(sup.ups);
	began = clock_ns();
	bus_pair_ping(30 * NS_PER_MS, &r);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, -ETIMEDOUT);
	cr_assert_geq(clock_ns() - began, 30 * NS_PER_MS);
	RUN_UNTIL(child.messages == 1);
	bus_reply(child.bus, child.ids[0], &(struct bus_msg) { .type = BUS_OK });
	RUN_UNTIL(bus_pair_counters(sup.bus).late_replies == 1);

	bus_pair_ping(10 * NS_PER_S, &r2);
	RUN_UNTIL(child.messages == 2);
	bus_reply(child.bus, child.ids[1], &(struct bus_msg) { .type = BUS_OK });
	bus_reply(child.bus, child.ids[1], &(struct bus_msg) { .type = BUS_OK });
	RUN_UNTIL(bus_pair_counters(sup.bus).late_replies == 2);
	cr_assert_eq(r.calls, 1);
	cr_assert_eq(r2.calls, 1);
	cr_assert_eq(bus_pair_counters(sup.bus).timeouts, 1);
	bus_pair_close();
}

Test(bus, fault_47_replies_out_of_order_find_their_requests)
{
	struct result r[3] = { 0 };

	bus_pair_open(getpid());
	child.silent = true;
	bus_pair_dial();
	RUN_UNTIL(sup.ups);
	for (int i = 0; i < 3; i++)
		bus_pair_ping(10 * NS_PER_S, &r[i]);
	RUN_UNTIL(child.messages == 3);
	for (int i = 2; i >= 0; i--)
		bus_reply_error(child.bus, child.ids[i], -100 - i, "x");
	RUN_UNTIL(r[0].calls && r[1].calls && r[2].calls);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(r[i].err, -100 - i);
	bus_pair_close();
}

Test(bus, fault_47_unsolicited_reply_is_counted_and_dropped)
{
	struct result r = { 0 };

	bus_pair_open(getpid());
	child.silent = true;
	bus_pair_dial();
	RUN_UNTIL(sup.ups);
	bus_pair_ping(10 * NS_PER_S, &r);
	RUN_UNTIL(child.messages);
	bus_reply(child.bus, child.ids[0] + 1, &(struct bus_msg) { .type = BUS_OK });
	RUN_UNTIL(bus_pair_counters(sup.bus).unsolicited_replies == 1);
	cr_assert_eq(r.calls, 0);
	cr_assert_eq(sup.malformed, 0);
	bus_pair_close();
}

Test(bus, reply_of_the_wrong_type_ends_the_request)
{
	struct result r = { 0 };

	bus_pair_open(getpid());
	child.silent = true;
	bus_pair_dial();
	RUN_UNTIL(sup.ups);
	bus_pair_ping(10 * NS_PER_S, &r);
	RUN_UNTIL(child.messages);
	bus_reply(child.bus, child.ids[0], &(struct bus_msg) { .type = BUS_STATS });
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, -EPROTO);
	cr_assert_eq(sup.malformed, 1);
	bus_pair_close();
}

/* ---- ends of a connection ---- */

Test(bus, pending_requests_end_with_the_connection_and_with_the_bus)
{
	struct result r = { 0 }, r2 = { 0 };

	bus_pair_open(getpid());
	child.silent = true;
	bus_pair_dial();
	RUN_UNTIL(sup.ups);
	bus_pair_ping(50 * NS_PER_S, &r);
	RUN_UNTIL(child.messages);
	bus_close(child.bus);
	child.bus = NULL;
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, -EPIPE);
	RUN_UNTIL(sup.downs == 1);
	bus_pair_dial();
	RUN_UNTIL(sup.ups == 2);
	bus_pair_ping(50 * NS_PER_S, &r2);
	bus_close(sup.bus);
	sup.bus = NULL;
	cr_assert_eq(r2.calls, 1);
	cr_assert_eq(r2.err, -ECANCELED);
	bus_pair_close();
}

Test(bus, redials_after_the_listener_restarts)
{
	struct result r = { 0 };

	bus_pair_open(getpid());
	bus_pair_dial();
	RUN_UNTIL(sup.ups && child.ups);
	bus_close(sup.bus);
	RUN_UNTIL(child.downs == 1);
	cr_assert_eq(bus_event(child.bus, &(struct bus_msg) { .type = BUS_READY }), -EAGAIN);
	cr_assert_eq(bus_listen(loop, path, getpid(), &bus_pair_ops, &sup, &sup.bus), 0);
	RUN_UNTIL(sup.ups == 2 && child.ups == 2);
	bus_pair_ping(10 * NS_PER_S, &r);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, 0);
	bus_pair_close();
}

/* As after the death of a supervisor: what it asked may be answered to the next one. */
Test(bus, fault_47_reply_to_the_listener_before_is_late)
{
	struct result before = { 0 }, r = { 0 };

	bus_pair_open(getpid());
	child.silent = true;
	bus_pair_dial();
	RUN_UNTIL(sup.ups && child.ups);
	bus_pair_ping(10 * NS_PER_S, &before);
	RUN_UNTIL(child.messages == 1);
	bus_close(sup.bus);
	cr_assert_eq(bus_listen(loop, path, getpid(), &bus_pair_ops, &sup, &sup.bus), 0);
	RUN_UNTIL(sup.ups == 2 && child.ups == 2);
	bus_pair_ping(10 * NS_PER_S, &r);
	RUN_UNTIL(child.messages == 2);
	bus_reply(child.bus, child.ids[0], &(struct bus_msg) { .type = BUS_OK });
	RUN_UNTIL(bus_pair_counters(sup.bus).late_replies == 1);
	cr_assert_eq(r.calls, 0);
	bus_reply(child.bus, child.ids[1], &(struct bus_msg) { .type = BUS_OK });
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, 0);
	bus_pair_close();
}

Test(bus, stale_socket_is_replaced_and_other_files_are_left)
{
	struct bus *other = NULL;
	char file[128], target[200];

	bus_pair_open(getpid());
	cr_assert_eq(bus_listen(loop, path, 0, &bus_pair_ops, &child, &other), -EADDRINUSE);
	snprintf(file, sizeof(file), "%s/file", dir);
	cr_assert_eq(symlink("/etc/passwd", file), 0);
	cr_assert_eq(bus_listen(loop, file, 0, &bus_pair_ops, &child, &other), -EADDRINUSE);
	cr_assert_eq(unlink(file), 0, "and it was not removed");
	memset(target, 'x', sizeof(target) - 1);
	target[108] = '\0';
	cr_assert_eq(bus_listen(loop, target, 0, &bus_pair_ops, &child, &other), -ENAMETOOLONG);
	cr_assert_eq(bus_dial(loop, target, &bus_pair_ops, &child, &other), -ENAMETOOLONG);
	cr_assert_null(other);

	/* a socket that nobody listens on any more */
	{
		struct sockaddr_un sa = { .sun_family = AF_UNIX };
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);

		strcpy(sa.sun_path, file);
		cr_assert_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
		close(fd);
		cr_assert_eq(bus_listen(loop, file, 0, &bus_pair_ops, &child, &other), 0);
		bus_close(other);
	}
	bus_pair_close();
}

Test(bus, last_words_arrive_before_the_end)
{
	struct bus_msg ended = { .type = BUS_GUEST_ENDED };

	ended.guest_ended.end = BUS_END_POWEROFF;
	bus_pair_open(getpid());
	bus_pair_dial();
	RUN_UNTIL(sup.ups && child.ups);
	for (int i = 0; i < 10; i++)
		cr_assert_eq(bus_event(child.bus, &ended), 0);
	cr_assert_eq(bus_flush(child.bus, 10 * NS_PER_S), 0);
	bus_close(child.bus); /* the loop has not run since: all of it is still under way */
	child.bus = NULL;
	RUN_UNTIL(sup.downs);
	cr_assert_eq(sup.messages, 10);
	cr_assert_eq(sup.downs_at_last, 0);
	bus_pair_close();
}

Test(bus, may_be_closed_by_its_own_callback)
{
	struct result r = { 0 };

	bus_pair_open(getpid());
	bus_pair_dial();
	RUN_UNTIL(sup.ups && child.ups);
	child.closing = child.bus;
	child.bus = NULL;
	bus_pair_ping(10 * NS_PER_S, &r);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, -EPIPE);
	bus_pair_close();
}
