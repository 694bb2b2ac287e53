/* SPDX-License-Identifier: Apache-2.0 */
/* lib/bus: who may connect, and what a child leaves to its successor. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bus_pair.h"
#include "fd.h"

TestSuite(bus_who, .timeout = 60);

Test(bus_who, only_the_expected_process_may_connect)
{
	int fd;

	bus_pair_open(getppid());
	fd = raw_open(path);
	RUN_UNTIL(raw_is_closed(fd));
	close(fd);
	bus_expect(sup.bus, BUS_NOBODY);
	fd = raw_open(path);
	RUN_UNTIL(raw_is_closed(fd));
	close(fd);
	cr_assert_geq(bus_pair_counters(sup.bus).refused_peers, 2);
	cr_assert_eq(sup.ups, 0);
	bus_pair_dial();
	bus_expect(sup.bus, 0);
	RUN_UNTIL(sup.ups == 1);
	bus_pair_close();
}

static void knock(void)
{
	int fd = raw_open(path);

	RUN_UNTIL(raw_is_closed(fd));
	close(fd);
}

/* A child's first word on another socket tells its number; it may dial before that is read. */
Test(bus_who, process_that_was_early_is_not_counted_as_refused)
{
	bus_pair_open(getppid());
	bus_expect(sup.bus, BUS_NOBODY);
	knock();
	knock();
	cr_assert_eq(bus_pair_counters(sup.bus).refused_peers, 2);
	bus_expect(sup.bus, getpid());
	cr_expect_eq(bus_pair_counters(sup.bus).refused_peers, 0);
	bus_expect(sup.bus, getppid());
	knock();
	bus_expect(sup.bus, getppid());
	cr_expect_eq(bus_pair_counters(sup.bus).refused_peers, 1, "a stranger is forgotten");
	bus_pair_close();
}

Test(bus_who, second_connection_of_the_same_process_is_refused)
{
	struct result r = { 0 };
	int fd;

	bus_pair_open(getpid());
	bus_pair_dial();
	RUN_UNTIL(sup.ups && child.ups);
	fd = raw_open(path);
	RUN_UNTIL(raw_is_closed(fd));
	close(fd);
	bus_pair_ping(10 * NS_PER_S, &r);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, 0);
	cr_assert_eq(sup.ups, 1);
	bus_pair_close();
}

/* A process that is not the expected one: tells by its status whether it was shut out of path. */
static pid_t intruder(int go)
{
	pid_t pid = fork();
	char to[96], c;
	int fd;

	if (pid)
		return pid;
	if (read(go, to, sizeof(to)) <= 0)
		_exit(2);
	fd = raw_connect(to);
	if (fd < 0 || write(fd, "\0SP\0\0\020\0\0", 8) != 8 || fd_read_full(fd, to, 8) != 0)
		_exit(3);
	_exit(read(fd, &c, 1) == 0 ? 0 : 1);
}

Test(bus_who, children_do_not_reach_each_other)
{
	struct end sup2 = { 0 };
	char path2[112];
	int go[2], status;
	pid_t other;
	uint64_t end = clock_ns() + 10 * NS_PER_S;

	cr_assert_eq(pipe(go), 0);
	other = intruder(go[0]); /* forked before nng has threads; the second endpoint is made for it */
	bus_pair_open(getpid());
	snprintf(path2, sizeof(path2), "%s/bus2", dir);
	cr_assert_eq(bus_listen(loop, path2, other, &bus_pair_ops, &sup2, &sup2.bus), 0);
	bus_pair_dial();
	RUN_UNTIL(sup.ups && child.ups);
	cr_assert_eq(bus_event(child.bus, &(struct bus_msg) { .type = BUS_READY }), 0);
	RUN_UNTIL(sup.messages);
	cr_assert_eq(sup2.messages, 0);

	cr_assert_eq(write(go[1], path, sizeof(path)), sizeof(path)); /* it tries the first one's */
	while (waitpid(other, &status, WNOHANG) == 0) {
		cr_assert_lt(clock_ns(), end);
		loop_run_once(loop, (int64_t)NS_PER_MS);
	}
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", (unsigned)status);
	cr_assert_eq(sup.ups, 1);
	bus_close(sup2.bus);
	bus_pair_close();
}

/* What was queued for one process is not for its successor. */
Test(bus_who, replaced_child_leaves_nothing_to_its_successor)
{
	static struct result r;
	struct bus_msg msg = { .type = BUS_DRAIN };
	int fd, sent = 0;

	bus_pair_open(getpid());
	fd = raw_open(path);
	RUN_UNTIL(sup.ups);
	while (bus_request(sup.bus, &msg, 100 * NS_PER_S, bus_pair_reply, &r) == 0)
		sent++;
	raw_send(fd, (const uint8_t[]) { 8, 0, 42, 0 }, 4); /* old words, not read yet */
	bus_expect(sup.bus, getpid());
	cr_assert_eq(r.calls, sent);
	cr_assert_eq(r.err, -EPIPE);
	cr_assert_eq(sup.downs, 1);
	child.silent = true;
	bus_pair_dial();
	RUN_UNTIL(sup.ups == 2 && child.ups);
	bus_pair_ping(10 * NS_PER_S, &(struct result) { 0 });
	RUN_UNTIL(child.messages);
	cr_assert_eq(child.last.type, BUS_PING);
	cr_assert_eq(child.messages, 1);
	cr_assert_eq(sup.messages, 0);
	close(fd);
	bus_pair_close();
}

/* What waits for a connection goes with it, and does not leave over the next one, of which the loop has not heard yet. */
Test(bus_who, replaced_supervisor_hears_nothing_that_was_for_the_one_before)
{
	struct bus_msg down = bus_pair_long_event();
	uint64_t sent, calls = 0;
	uint8_t words[BUS_MSG_MAX];
	int srv, fd;

	srv = raw_supervisor(&fd);
	do { /* until the kernel's buffer is full */
		cr_assert_eq(bus_event(child.bus, &down), 0);
		sent = bus_pair_counters(child.bus).sent;
	} while (++calls < sent + 3);
	close(fd);
	fd = raw_accept(srv);
	/* nng lets it in meanwhile; the loop does not run. */
	for (int i = 0; i < 20; i++) {
		struct pollfd p = { .fd = fd, .events = POLLIN };

		cr_assert_eq(bus_event(child.bus, &down), 0);
		cr_assert_eq(poll(&p, 1, 5), 0, "words for the one before");
	}
	RUN_UNTIL(child.ups == 2);
	cr_assert_eq(bus_event(child.bus, &(struct bus_msg) { .type = BUS_READY }), 0);
	cr_assert_leq(raw_recv(fd, words, sizeof(words)), 4, "READY is the first and the shortest");
	close(fd);
	close(srv);
	bus_pair_close();
}

/* A connection that was there before it was forbidden, and that the loop has not seen yet, does not slip in. */
Test(bus_who, connection_in_flight_while_the_child_is_replaced_is_dropped)
{
	int fd;

	bus_pair_open(getpid());
	fd = raw_open(path);
	/* nng has admitted it (it shook hands), the loop has not run */
	bus_expect(sup.bus, getppid());
	RUN_UNTIL(raw_is_closed(fd));
	loop_run_once(loop, 0);
	cr_assert_eq(sup.ups, 0);
	cr_assert(!bus_is_connected(sup.bus));
	close(fd);
	bus_pair_close();
}
