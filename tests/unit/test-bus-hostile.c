/* SPDX-License-Identifier: Apache-2.0 */
/* lib/bus against peers that do not read, or speak the wire by hand (FAULTS 34, 35, 47). */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "bus_pair.h"
#include "fd.h"
#include "num.h"

TestSuite(bus_hostile, .timeout = 60);

/* ---- a peer that does not read ---- */

Test(bus_hostile, fault_38_queue_to_a_peer_that_does_not_read_is_bounded)
{
	static struct result r;
	struct bus_msg msg = { .type = BUS_PING };
	int fd, err = 0, sent = 0;
	uint64_t began;

	bus_pair_open(getpid());
	fd = raw_connect(path);
	RUN_UNTIL(sup.ups);
	while (sent < 100000 && (err = bus_request(sup.bus, &msg, 100 * NS_PER_S, bus_pair_reply, &r)) == 0)
		sent++;
	cr_assert_eq(err, -EAGAIN);
	began = clock_ns();
	/* Pings are small: the kernel's buffer may have taken all 256 that may be pending. */
	err = bus_flush(sup.bus, 20 * NS_PER_MS);
	cr_assert(err == 0 || err == -ETIMEDOUT);
	cr_assert_lt(clock_ns() - began, 5 * NS_PER_S);
	close(fd);
	RUN_UNTIL(sup.downs);
	cr_assert_eq(r.calls, sent);
	cr_assert_eq(r.err, -EPIPE);
	bus_pair_close();
}

Test(bus_hostile, events_to_a_stopped_peer_end_in_eagain_and_flush_meets_its_deadline)
{
	struct bus_msg down = bus_pair_long_event();
	int srv, fd, err;
	uint64_t began;

	srv = raw_supervisor(&fd);
	do {
		while ((err = bus_event(child.bus, &down)) == 0)
			continue;
		cr_assert_eq(err, -EAGAIN);
		began = clock_ns();
		err = bus_flush(child.bus, 200 * NS_PER_MS);
	} while (err == 0); /* until the kernel's buffer is full */
	cr_assert_eq(err, -ETIMEDOUT);
	cr_assert_geq(clock_ns() - began, 200 * NS_PER_MS);
	cr_assert_lt(clock_ns() - began, 5 * NS_PER_S);
	close(fd);
	close(srv);
	bus_pair_close();
}

/* ---- hostile peers ---- */

Test(bus_hostile, hand_made_messages_are_understood)
{
	uint8_t buf[64];
	struct result r = { 0 };
	size_t n;
	int fd;

	bus_pair_open(getpid());
	fd = raw_connect(path);
	raw_send(fd, (const uint8_t[]) { 8, 0, 42, 0 }, 4); /* Ready */
	RUN_UNTIL(sup.messages);
	cr_assert_eq(sup.last.type, BUS_READY);
	bus_pair_ping(10 * NS_PER_S, &r);
	n = raw_recv(fd, buf, sizeof(buf));
	cr_assert_gt(n, 4); /* 8, the id, and Ping */
	cr_assert_eq(buf[0], 8);
	cr_assert_eq(memcmp(buf + n - 2, (const uint8_t[]) { 50, 0 }, 2), 0);
	buf[n - 2] = 26; /* Ok */
	raw_send(fd, buf, n);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, 0);
	close(fd);
	bus_pair_close();
}

Test(bus_hostile, fault_38_malformed_requests_are_answered_and_their_sender_is_fenced)
{
	const uint8_t unknown[] = { 8, 9, 0xa2, 6, 0 };
	uint8_t buf[1024];
	int fd, again;

	bus_pair_open(getpid());
	fd = raw_connect(path);
	RUN_UNTIL(sup.ups);
	for (int i = 1; i < BUS_FENCE_AFTER; i++) {
		raw_send(fd, unknown, sizeof(unknown));
		RUN_UNTIL(sup.malformed == i);
		raw_recv(fd, buf, sizeof(buf));
		cr_assert_eq(memcmp(buf, (const uint8_t[]) { 8, 9, 18 }, 3), 0, "an Error for id 9");
	}
	cr_assert(!bus_is_fenced(sup.bus));
	raw_send(fd, unknown, sizeof(unknown));
	RUN_UNTIL(sup.downs);
	cr_assert(bus_is_fenced(sup.bus));
	cr_assert_eq(sup.malformed, BUS_FENCE_AFTER);
	RUN_UNTIL(raw_is_closed(fd));
	close(fd);

	again = raw_connect(path);
	RUN_UNTIL(raw_is_closed(again));
	close(again);
	cr_assert_eq(sup.ups, 1);
	cr_assert_geq(bus_pair_counters(sup.bus).refused_peers, 1);

	bus_expect(sup.bus, getpid());
	cr_assert(!bus_is_fenced(sup.bus));
	bus_pair_dial();
	RUN_UNTIL(sup.ups == 2);
	bus_pair_close();
}

Test(bus_hostile, malformed_events_and_wrong_directions_are_counted_unanswered)
{
	int fd;

	bus_pair_open(getpid());
	fd = raw_connect(path);
	raw_send(fd, (const uint8_t[]) { 8, 0, 50, 0 }, 4); /* a Ping without an id */
	raw_send(fd, (const uint8_t[]) { 8, 0, 34, 0 }, 4); /* a Hello without anything */
	raw_send(fd, "", 0);                                /* nothing */
	RUN_UNTIL(sup.malformed == 3);
	cr_assert_eq(sup.messages, 0);
	cr_assert(!raw_is_closed(fd));
	raw_send(fd, (const uint8_t[]) { 8, 3, 50, 0 }, 4); /* a Ping, which no child may send */
	RUN_UNTIL(sup.malformed == 4);
	cr_assert_eq(sup.messages, 0);
	close(fd);
	bus_pair_close();
}

Test(bus_hostile, fault_35_huge_length_ends_the_connection_only)
{
	static const uint32_t lengths[] = { 0xFFFFFFFF, 1U << 31, BUS_MSG_MAX + 1 };

	bus_pair_open(getpid());
	for (int i = 0; i < (int)ARRAY_SIZE(lengths); i++) {
		int fd = raw_connect(path);

		RUN_UNTIL(sup.ups == i + 1);
		raw_head(fd, lengths[i]);
		RUN_UNTIL(raw_is_closed(fd));
		cr_assert_eq(sup.downs, i + 1);
		close(fd);
	}
	bus_pair_dial();
	RUN_UNTIL(sup.ups > (int)ARRAY_SIZE(lengths));
	bus_pair_close();
}

Test(bus_hostile, fault_35_half_a_message_then_silence_blocks_nobody)
{
	struct result r = { 0 };
	int fd;

	bus_pair_open(getpid());
	fd = raw_connect(path);
	RUN_UNTIL(sup.ups);
	raw_head(fd, 1000);
	cr_assert_eq(write(fd, "half", 4), 4);
	bus_pair_ping(20 * NS_PER_MS, &r);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, -ETIMEDOUT);
	bus_expect(sup.bus, getpid());
	RUN_UNTIL(raw_is_closed(fd));
	bus_pair_dial();
	RUN_UNTIL(sup.ups == 2);
	close(fd);
	bus_pair_close();
}

/* What is on its way to it fails, what was on its way from it has no end. */
Test(bus_hostile, peers_that_die_within_a_message_leave_nothing_behind)
{
	struct result r = { 0 };

	bus_pair_open(getpid());
	for (int i = 1; i <= 200; i++) {
		int fd = raw_connect(path);

		RUN_UNTIL(sup.ups == i);
		raw_head(fd, 1000);
		if (i % 2)
			raw_send(fd, "half", 4);
		bus_pair_ping(20 * NS_PER_S, &r);
		close(fd); /* with a message unread: what is sent meanwhile is refused */
		bus_pair_ping(20 * NS_PER_S, &r);
		RUN_UNTIL(sup.downs == i);
		cr_assert_eq(r.err, -EPIPE);
	}
	cr_assert_eq(r.calls, 400);
	bus_pair_dial();
	r.calls = 0;
	RUN_UNTIL(sup.ups == 201 && child.ups);
	bus_pair_ping(20 * NS_PER_S, &r);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, 0);
	bus_pair_close();
}

/* Who says nothing, and isn't expected, waits; who is expected is let in, and the others go. */
Test(bus_hostile, fault_35_silent_strangers_block_nobody)
{
	int stranger[6];

	bus_pair_open(getppid());
	for (size_t i = 0; i < ARRAY_SIZE(stranger); i++)
		stranger[i] = raw_connect(path);
	RUN_UNTIL(raw_is_closed(stranger[4]) && raw_is_closed(stranger[5]));
	cr_assert(!raw_is_closed(stranger[3]));
	bus_expect(sup.bus, BUS_NOBODY);
	RUN_UNTIL(raw_is_closed(stranger[0]) && raw_is_closed(stranger[3]));
	cr_assert_eq(bus_pair_counters(sup.bus).refused_peers, 6);
	for (size_t i = 0; i < ARRAY_SIZE(stranger); i++)
		close(stranger[i]);
	bus_expect(sup.bus, getpid());
	bus_pair_dial();
	RUN_UNTIL(sup.ups && child.ups);
	bus_pair_close();
}

Test(bus_hostile, peers_that_hang_up_at_once_do_not_deafen_the_endpoint)
{
	bus_pair_open(getpid());
	for (int i = 0; i < 300; i++) {
		int fd = raw_connect(path);

		if (fd < 0)
			break; /* the backlog is full */
		close(fd);
	}
	bus_pair_dial();
	RUN_UNTIL(child.ups && bus_is_connected(sup.bus) && bus_is_connected(child.bus));
	bus_pair_close();
}

static const uint8_t ready[] = { 0, 0, 0, 4, 8, 0, 42, 0 };

/* Faster than its reader takes it: so many at once, and then two thousand a second. The rest waits, and comes. */
Test(bus_hostile, fault_38_flood_of_events_waits)
{
	uint64_t began, end;
	int fd, sent = 0;

	bus_pair_open(getpid());
	fd = raw_connect(path);
	RUN_UNTIL(sup.ups);
	began = clock_ns();
	do {
		while (sent < 3000 && send(fd, ready, sizeof(ready), MSG_DONTWAIT) == sizeof(ready))
			sent++;
		loop_run_once(loop, NS_PER_MS);
		end = clock_ns();
	} while (end - began < 200 * NS_PER_MS);
	cr_assert_leq((uint64_t)sup.messages, 256 + (end - began) / (NS_PER_MS / 2) + 16);
	cr_assert_gt(sent, sup.messages + 100);
	RUN_UNTIL(sup.messages == sent);
	cr_assert_eq(sup.downs, 0);
	close(fd);
	RUN_UNTIL(sup.downs);
	bus_pair_close();
}

/* What waits has a limit: who goes on is hung up on. Replies to nothing are a flood, too. */
static void flood(const uint8_t *message, size_t len)
{
	int fd;

	bus_pair_open(getpid());
	fd = raw_connect(path);
	RUN_UNTIL(sup.ups);
	while (!sup.downs) {
		while (send(fd, message, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len)
			continue;
		RUN_UNTIL(sup.downs || send(fd, message, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len);
	}
	cr_assert_leq(sup.messages, 256 + 2000 * 10);
	cr_assert_leq(bus_pair_counters(sup.bus).unsolicited_replies, 256 + 2000 * 10);
	close(fd);
	bus_pair_dial();
	RUN_UNTIL(sup.ups == 2 && child.ups);
	bus_pair_close();
}

Test(bus_hostile, fault_38_endless_flood_ends_its_connection)
{
	flood(ready, sizeof(ready));
}

Test(bus_hostile, fault_38_endless_flood_of_replies_ends_its_connection)
{
	static const uint8_t ok[] = { 0, 0, 0, 4, 8, 1, 26, 0 };

	flood(ok, sizeof(ok));
}

/* Takes every descriptor that this process may have; how many it took. */
static int exhaust(int *fds, int max)
{
	const struct rlimit few = { .rlim_cur = (rlim_t)max, .rlim_max = (rlim_t)max };
	int n = 0;

	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	while (n < max && (fds[n] = dup(0)) >= 0)
		n++;
	cr_assert_eq(errno, EMFILE);
	return n;
}

/* Who knocks while the process has no descriptor for him waits, and so does the process, but for a look now and then. */
Test(bus_hostile, fault_45_a_knock_without_a_descriptor_for_it_waits)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), fds[128], n;
	uint64_t began;

	bus_pair_open(getpid());
	strcpy(sa.sun_path, path);
	n = exhaust(fds, (int)ARRAY_SIZE(fds));
	cr_assert_eq(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	began = clock_ns();
	/* Twice each time: to try again, and to hear that it failed. */
	for (unsigned turns = 0; turns < 12; turns++)
		cr_assert_eq(loop_run_once(loop, 10 * NS_PER_S), 0);
	cr_assert_geq(clock_ns() - began, 400 * NS_PER_MS, "the loop spins");
	cr_assert_lt(clock_ns() - began, 10 * NS_PER_S, "nobody looks again");
	cr_assert_eq(sup.ups, 0);
	while (n)
		close(fds[--n]);
	RUN_UNTIL(sup.ups);
	close(fd);
	RUN_UNTIL(sup.downs);
	bus_pair_dial();
	RUN_UNTIL(sup.ups == 2 && child.ups);
	bus_pair_close();
}

static unsigned mode_of(const char *file)
{
	struct stat st;

	cr_assert_eq(stat(file, &st), 0);
	return st.st_mode & 0777;
}

/* Who has his connection, or hopes for another's, can't keep nng's threads busy with more. */
Test(bus_hostile, fault_38_nobody_knocks_while_somebody_is_in)
{
	uint64_t left;
	int fd;

	bus_pair_open(getpid());
	cr_assert_eq(mode_of(path), 0666);
	fd = raw_connect(path);
	RUN_UNTIL(sup.ups);
	cr_assert_eq(mode_of(path), 0);
	close(fd);
	RUN_UNTIL(sup.downs);
	left = clock_ns();
	RUN_UNTIL(mode_of(path) == 0666);
	cr_assert_geq(clock_ns() - left, 3 * NS_PER_MS, "he could come and go all the time");
	bus_pair_dial();
	RUN_UNTIL(sup.ups == 2 && child.ups);
	bus_expect(sup.bus, BUS_NOBODY);
	cr_assert_eq(mode_of(path), 0666);
	bus_pair_close();
}

/* What somebody who died left closed is taken over by who comes after him; root may do anything, so that is an ordinary user. */
Test(bus_hostile, an_endpoint_that_was_left_closed)
{
	const uid_t somebody = 65534;

	bus_pair_open(getpid());
	bus_close(sup.bus);
	sup.bus = NULL;
	close(raw_listen(path));
	cr_assert_eq(chmod(path, 0), 0);
	if (geteuid() == 0) {
		cr_assert_eq(chown(path, somebody, 0), 0);
		cr_assert_eq(chown(dir, somebody, 0), 0);
		cr_assert_eq(seteuid(somebody), 0);
	}
	cr_assert_eq(bus_listen(loop, path, getpid(), &bus_pair_ops, &sup, &sup.bus), 0);
	cr_assert_eq(mode_of(path), 0666);
	bus_pair_close();
}
