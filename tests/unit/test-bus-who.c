/* SPDX-License-Identifier: Apache-2.0 */
/* lib/bus: who may connect, and what a child leaves to its successor. */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bus_pair.h"
#include "fd.h"

TestSuite(bus_who, .timeout = 60);

/* So many that one of them is refused: then all are known. The first one has something to say. */
static void knock(int fd[5])
{
	for (int i = 0; i < 5; i++)
		fd[i] = raw_connect(path);
	raw_send(fd[0], (const uint8_t[]) { 8, 0, 42, 0 }, 4); /* Ready */
	RUN_UNTIL(bus_pair_counters(sup.bus).refused_peers == 1);
	cr_assert_eq(sup.ups, 0);
}

Test(bus_who, only_the_expected_process_may_connect)
{
	int fd[5];

	bus_pair_open(getppid());
	knock(fd);
	bus_expect(sup.bus, BUS_NOBODY);
	for (int i = 0; i < 5; i++) {
		RUN_UNTIL(raw_is_closed(fd[i]));
		close(fd[i]);
	}
	cr_assert_eq(bus_pair_counters(sup.bus).refused_peers, 5);
	cr_assert_eq(sup.ups, 0);
	cr_assert_eq(sup.messages, 0);
	bus_pair_dial();
	bus_expect(sup.bus, 0);
	RUN_UNTIL(sup.ups == 1);
	bus_pair_close();
}

/* A child's first word on another socket tells its number; it may dial, and speak, before that is read. */
Test(bus_who, process_that_is_early_is_let_in_when_it_is_expected)
{
	int fd[5];

	bus_pair_open(getppid());
	knock(fd);
	bus_expect(sup.bus, getpid());
	cr_assert_eq(sup.ups, 1);
	RUN_UNTIL(sup.messages);
	cr_assert_eq(sup.last.type, BUS_READY);
	cr_assert(!raw_is_closed(fd[0]));
	for (int i = 0; i < 5; i++) {
		if (i)
			RUN_UNTIL(raw_is_closed(fd[i]));
		close(fd[i]);
	}
	bus_pair_close();
}

Test(bus_who, second_connection_of_the_same_process_is_refused)
{
	struct result r = { 0 };
	int fd;

	bus_pair_open(getpid());
	bus_pair_dial();
	RUN_UNTIL(sup.ups && child.ups);
	fd = raw_connect(path);
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
	if (fd < 0)
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
	fd = raw_connect(path);
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

/* What waits for a connection goes with it, and does not leave over the next one. */
Test(bus_who, replaced_supervisor_hears_nothing_that_was_for_the_one_before)
{
	struct bus_msg down = bus_pair_long_event();
	uint8_t words[BUS_MSG_MAX];
	int srv, fd;

	srv = raw_supervisor(&fd);
	while (!bus_event(child.bus, &down))
		continue; /* until the kernel's buffer is full, and ours */
	close(fd);
	RUN_UNTIL(child.ups == 2);
	fd = accept(srv, NULL, NULL);
	cr_assert_eq(bus_event(child.bus, &(struct bus_msg) { .type = BUS_READY }), 0);
	cr_assert_leq(raw_recv(fd, words, sizeof(words)), 4, "READY is the first and the shortest");
	close(fd);
	close(srv);
	bus_pair_close();
}

/* A connection that was there before it was forbidden, and that the loop has not seen yet, does not slip in. */
Test(bus_who, connection_in_flight_while_the_child_is_replaced_is_dropped)
{
	uint64_t end = clock_ns() + 10 * NS_PER_S;
	int fd;

	bus_pair_open(getpid());
	fd = raw_connect(path);
	bus_expect(sup.bus, getppid());
	while (!raw_is_closed(fd)) {
		cr_assert_lt(clock_ns(), end);
		loop_run_once(loop, NS_PER_MS);
		bus_expect(sup.bus, BUS_NOBODY);
	}
	cr_assert_eq(sup.ups, 0);
	close(fd);
	bus_pair_close();
}
