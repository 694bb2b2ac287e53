/* SPDX-License-Identifier: Apache-2.0 */
/* lib/bus over real nng: requests and their ends, who may connect, and peers that speak the wire by hand
 * (FAULTS 34, 35, 47). */
#include "bus.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "num.h"

TestSuite(bus, .timeout = 60);

/* ---- the fixture: a supervisor's endpoint and a child's, on one loop ---- */

struct end {
	struct bus *bus;
	int ups, downs, malformed;
	int messages;
	uint64_t ids[64]; /* of the requests received */
	struct bus_msg last;
	bool silent;         /* doesn't answer */
	struct bus *closing; /* closed by the message handler */
	int downs_at_last;   /* downs when the last message came */
};

static struct loop *loop;
static char dir[64], path[96];
static struct end sup, child;

static void on_message(void *arg, const struct bus_msg *msg)
{
	struct end *e = arg;

	e->last = *msg;
	e->downs_at_last = e->downs;
	if (msg->id)
		e->ids[e->messages % 64] = msg->id;
	e->messages++;
	if (e->closing)
		bus_close(e->closing);
	else if (msg->id && !e->silent)
		bus_reply(e->bus, msg->id, &(struct bus_msg) { .type = BUS_OK });
}

static void on_connected(void *arg, bool up)
{
	struct end *e = arg;

	if (up)
		e->ups++;
	else
		e->downs++;
}

static void on_malformed(void *arg, unsigned count, const char *what)
{
	struct end *e = arg;

	cr_assert_not_null(what);
	e->malformed = (int)count;
}

static const struct bus_ops ops = { on_message, on_connected, on_malformed };

static void setup(pid_t expected)
{
	signal(SIGPIPE, SIG_IGN);
	strcpy(dir, "/tmp/test-bus-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/bus", dir);
	cr_assert_eq(loop_new("test", &loop), 0);
	cr_assert_eq(bus_listen(loop, path, expected, &ops, &sup, &sup.bus), 0);
}

static void dial(void)
{
	cr_assert_eq(bus_dial(loop, path, &ops, &child, &child.bus), 0);
}

static void teardown(void)
{
	bus_close(child.bus);
	bus_close(sup.bus);
	loop_free(loop);
	unlink(path);
	rmdir(dir);
}

/* Runs the loop until cond holds; fails the test after ten seconds. */
#define RUN_UNTIL(cond)                                                                                      \
	do {                                                                                                 \
		uint64_t end_ = clock_ns() + 10 * NS_PER_S;                                                  \
		while (!(cond)) {                                                                            \
			cr_assert_lt(clock_ns(), end_, "waited in vain for " #cond);                         \
			loop_run_once(loop, 2 * (int64_t)NS_PER_MS);                                         \
		}                                                                                            \
	} while (0)

struct result {
	int calls, err;
	enum bus_type type;
	struct bus_msg reply;
};

static void on_reply(void *arg, int err, const struct bus_msg *reply)
{
	struct result *r = arg;

	r->calls++;
	r->err = err;
	r->type = reply ? reply->type : BUS_NONE;
	if (reply)
		r->reply = *reply;
}

static void ping(uint64_t timeout_ns, struct result *r)
{
	struct bus_msg msg = { .type = BUS_PING };

	cr_assert_eq(bus_request(sup.bus, &msg, timeout_ns, on_reply, r), 0);
}

static struct bus_counters counters(struct bus *bus)
{
	struct bus_counters c;

	bus_get_counters(bus, &c);
	return c;
}

/* ---- a peer that speaks the wire by hand ---- */

static int raw_connect(const char *to)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(sa.sun_path, to);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) != 0) {
		close(fd);
		return -1;
	}
	fd_set_nonblock(fd, false);
	return fd;
}

/* Connects and shakes hands as pair0 (protocol 1.0 is number 16). */
static int raw_open(const char *to)
{
	const uint8_t hello[8] = { 0, 'S', 'P', 0, 0, 16, 0, 0 };
	uint8_t theirs[8];
	int fd = raw_connect(to);

	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, hello, 8), 8);
	cr_assert_eq(fd_read_full(fd, theirs, 8), 0);
	cr_assert_eq(memcmp(theirs, hello, 8), 0);
	return fd;
}

/* Greets the endpoint while its loop runs, which may have to make a new listener first; one that was hung up on before
 * it was greeted tries again. */
static int raw_open_running(const char *to)
{
	const uint8_t hello[8] = { 0, 'S', 'P', 0, 0, 16, 0, 0 };
	uint64_t end = clock_ns() + 10 * NS_PER_S;
	uint8_t theirs[8];
	size_t got = 0;
	int fd = -1;

	while (got < sizeof(theirs)) {
		ssize_t n;

		cr_assert_lt(clock_ns(), end, "the endpoint does not greet");
		if (fd < 0) {
			fd = raw_connect(to);
			got = 0;
			if (fd >= 0)
				cr_expect_neq(send(fd, hello, 8, MSG_NOSIGNAL), 0);
		}
		loop_run_once(loop, NS_PER_MS);
		n = fd < 0 ? 0 : recv(fd, theirs + got, sizeof(theirs) - got, MSG_DONTWAIT);
		if (n > 0) {
			got += (size_t)n;
		} else if (n == 0 || errno != EAGAIN) {
			if (fd >= 0)
				close(fd);
			fd = -1;
		}
	}
	cr_assert_eq(memcmp(theirs, hello, 8), 0);
	return fd;
}

static void raw_head(int fd, uint64_t len)
{
	uint8_t head[9] = { 1 };

	for (int i = 0; i < 8; i++)
		head[8 - i] = (uint8_t)(len >> (8 * i));
	cr_assert_eq(write(fd, head, 9), 9);
}

static void raw_send(int fd, const void *data, size_t len)
{
	raw_head(fd, len);
	cr_assert_eq(write(fd, data, len), (ssize_t)len);
}

/* The next message's length. */
/* The loop runs until something comes: what nng could not take at once leaves later. */
static size_t raw_recv(int fd, uint8_t *buf, size_t size)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint8_t head[9];
	uint64_t len = 0;

	RUN_UNTIL(poll(&p, 1, 0) > 0);
	cr_assert_eq(fd_read_full(fd, head, 9), 0);
	for (int i = 1; i < 9; i++)
		len = len << 8 | head[i];
	cr_assert_leq(len, size);
	cr_assert_eq(fd_read_full(fd, buf, len), 0);
	return len;
}

static bool raw_is_closed(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c[512];
	ssize_t n;

	if (poll(&p, 1, 0) <= 0)
		return false;
	n = recv(fd, c, sizeof(c), MSG_DONTWAIT);
	return n == 0 || (n < 0 && errno != EAGAIN);
}

/* ---- requests and events ---- */

Test(bus, requests_are_answered_and_events_arrive)
{
	struct bus_msg hello = { .type = BUS_HELLO };
	struct result r = { 0 };

	setup(getpid());
	cr_assert_eq(bus_request(sup.bus, &(struct bus_msg) { .type = BUS_PING }, 1, on_reply, &r), -EAGAIN,
		     "nobody is there yet");
	dial();
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

	ping(NS_PER_S, &r);
	cr_assert_eq(r.calls, 0);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, 0);
	cr_assert_eq(r.type, BUS_OK);
	cr_assert_eq(counters(sup.bus).sent, 1);
	cr_assert_eq(counters(sup.bus).received, 2);
	teardown();
}

Test(bus, refusal_comes_with_its_reason)
{
	struct result r = { 0 };

	setup(getpid());
	child.silent = true;
	dial();
	RUN_UNTIL(sup.ups);
	ping(NS_PER_S, &r);
	RUN_UNTIL(child.messages);
	cr_assert_eq(bus_reply_error(child.bus, child.ids[0], -EBUSY, "not now"), 0);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, -EBUSY);
	cr_assert_str_eq(r.reply.error.text, "not now");
	teardown();
}

Test(bus, each_side_sends_only_what_is_its_own)
{
	setup(getpid());
	dial();
	RUN_UNTIL(sup.ups && child.ups);
	cr_assert_eq(bus_event(sup.bus, &(struct bus_msg) { .type = BUS_READY }), -EINVAL);
	cr_assert_eq(bus_event(child.bus, &(struct bus_msg) { .type = BUS_PING }), -EINVAL);
	cr_assert_eq(bus_request(child.bus, &(struct bus_msg) { .type = BUS_PING }, 1, on_reply, NULL),
		     -EINVAL);
	cr_assert_eq(bus_request(sup.bus, &(struct bus_msg) { .type = BUS_OK }, 1, on_reply, NULL), -EINVAL);
	cr_assert_eq(bus_reply(child.bus, 0, &(struct bus_msg) { .type = BUS_OK }), -EINVAL);
	teardown();
}

/* ---- replies that are late, doubled, out of order, never asked for, of the wrong kind ---- */

Test(bus, late_and_doubled_replies_are_dropped)
{
	struct result r = { 0 }, r2 = { 0 };
	uint64_t began;

	setup(getpid());
	child.silent = true;
	dial();
	RUN_UNTIL(sup.ups);
	began = clock_ns();
	ping(30 * NS_PER_MS, &r);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, -ETIMEDOUT);
	cr_assert_geq(clock_ns() - began, 30 * NS_PER_MS);
	RUN_UNTIL(child.messages == 1);
	bus_reply(child.bus, child.ids[0], &(struct bus_msg) { .type = BUS_OK });
	RUN_UNTIL(counters(sup.bus).late_replies == 1);

	ping(NS_PER_S, &r2);
	RUN_UNTIL(child.messages == 2);
	bus_reply(child.bus, child.ids[1], &(struct bus_msg) { .type = BUS_OK });
	bus_reply(child.bus, child.ids[1], &(struct bus_msg) { .type = BUS_OK });
	RUN_UNTIL(counters(sup.bus).late_replies == 2);
	cr_assert_eq(r.calls, 1);
	cr_assert_eq(r2.calls, 1);
	cr_assert_eq(counters(sup.bus).timeouts, 1);
	teardown();
}

Test(bus, replies_out_of_order_find_their_requests)
{
	struct result r[3] = { 0 };

	setup(getpid());
	child.silent = true;
	dial();
	RUN_UNTIL(sup.ups);
	for (int i = 0; i < 3; i++)
		ping(5 * NS_PER_S, &r[i]);
	RUN_UNTIL(child.messages == 3);
	for (int i = 2; i >= 0; i--)
		bus_reply_error(child.bus, child.ids[i], -100 - i, "x");
	RUN_UNTIL(r[0].calls && r[1].calls && r[2].calls);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(r[i].err, -100 - i);
	teardown();
}

Test(bus, unsolicited_reply_is_counted_and_dropped)
{
	struct result r = { 0 };

	setup(getpid());
	child.silent = true;
	dial();
	RUN_UNTIL(sup.ups);
	ping(5 * NS_PER_S, &r);
	RUN_UNTIL(child.messages);
	bus_reply(child.bus, child.ids[0] + 1, &(struct bus_msg) { .type = BUS_OK });
	RUN_UNTIL(counters(sup.bus).unsolicited_replies == 1);
	cr_assert_eq(r.calls, 0);
	cr_assert_eq(sup.malformed, 0);
	teardown();
}

Test(bus, reply_of_the_wrong_type_ends_the_request)
{
	struct result r = { 0 };

	setup(getpid());
	child.silent = true;
	dial();
	RUN_UNTIL(sup.ups);
	ping(5 * NS_PER_S, &r);
	RUN_UNTIL(child.messages);
	bus_reply(child.bus, child.ids[0], &(struct bus_msg) { .type = BUS_STATS });
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, -EPROTO);
	cr_assert_eq(sup.malformed, 1);
	teardown();
}

/* ---- ends of a connection ---- */

Test(bus, pending_requests_end_with_the_connection_and_with_the_bus)
{
	struct result r = { 0 }, r2 = { 0 };

	setup(getpid());
	child.silent = true;
	dial();
	RUN_UNTIL(sup.ups);
	ping(50 * NS_PER_S, &r);
	RUN_UNTIL(child.messages);
	bus_close(child.bus);
	child.bus = NULL;
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, -EPIPE);
	RUN_UNTIL(sup.downs == 1);
	dial();
	RUN_UNTIL(sup.ups == 2);
	ping(50 * NS_PER_S, &r2);
	bus_close(sup.bus);
	sup.bus = NULL;
	cr_assert_eq(r2.calls, 1);
	cr_assert_eq(r2.err, -ECANCELED);
	teardown();
}

Test(bus, redials_after_the_listener_restarts)
{
	struct result r = { 0 };

	setup(getpid());
	dial();
	RUN_UNTIL(sup.ups && child.ups);
	bus_close(sup.bus);
	RUN_UNTIL(child.downs == 1);
	cr_assert_eq(bus_event(child.bus, &(struct bus_msg) { .type = BUS_READY }), -EAGAIN);
	cr_assert_eq(bus_listen(loop, path, getpid(), &ops, &sup, &sup.bus), 0);
	RUN_UNTIL(sup.ups == 2 && child.ups == 2);
	ping(NS_PER_S, &r);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, 0);
	teardown();
}

Test(bus, stale_socket_is_replaced_and_other_files_are_left)
{
	struct bus *other = NULL;
	char file[128], target[200];

	setup(getpid());
	cr_assert_eq(bus_listen(loop, path, 0, &ops, &child, &other), -EADDRINUSE);
	snprintf(file, sizeof(file), "%s/file", dir);
	cr_assert_eq(symlink("/etc/passwd", file), 0);
	cr_assert_eq(bus_listen(loop, file, 0, &ops, &child, &other), -EADDRINUSE);
	cr_assert_eq(unlink(file), 0, "and it was not removed");
	memset(target, 'x', sizeof(target) - 1);
	target[108] = '\0';
	cr_assert_eq(bus_listen(loop, target, 0, &ops, &child, &other), -ENAMETOOLONG);
	cr_assert_eq(bus_dial(loop, target, &ops, &child, &other), -ENAMETOOLONG);
	cr_assert_null(other);

	/* a socket that nobody listens on any more */
	{
		struct sockaddr_un sa = { .sun_family = AF_UNIX };
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);

		strcpy(sa.sun_path, file);
		cr_assert_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
		close(fd);
		cr_assert_eq(bus_listen(loop, file, 0, &ops, &child, &other), 0);
		bus_close(other);
	}
	teardown();
}

Test(bus, last_words_arrive_before_the_end)
{
	struct bus_msg ended = { .type = BUS_GUEST_ENDED };

	ended.guest_ended.end = BUS_END_POWEROFF;
	setup(getpid());
	dial();
	RUN_UNTIL(sup.ups && child.ups);
	for (int i = 0; i < 10; i++)
		cr_assert_eq(bus_event(child.bus, &ended), 0);
	cr_assert_eq(bus_flush(child.bus, NS_PER_S), 0);
	bus_close(child.bus); /* the loop has not run since: all of it is still under way */
	child.bus = NULL;
	RUN_UNTIL(sup.downs);
	cr_assert_eq(sup.messages, 10);
	cr_assert_eq(sup.downs_at_last, 0);
	teardown();
}

Test(bus, may_be_closed_by_its_own_callback)
{
	struct result r = { 0 };

	setup(getpid());
	dial();
	RUN_UNTIL(sup.ups && child.ups);
	child.closing = child.bus;
	child.bus = NULL;
	ping(5 * NS_PER_S, &r);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, -EPIPE);
	teardown();
}

/* ---- a peer that does not read ---- */

Test(bus, queue_to_a_peer_that_does_not_read_is_bounded)
{
	static struct result r;
	struct bus_msg msg = { .type = BUS_PING };
	int fd, err = 0, sent = 0;
	uint64_t began;

	setup(getpid());
	fd = raw_open(path);
	RUN_UNTIL(sup.ups);
	while (sent < 100000 && (err = bus_request(sup.bus, &msg, 100 * NS_PER_S, on_reply, &r)) == 0)
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
	teardown();
}

Test(bus, events_to_a_stopped_peer_end_in_eagain_and_flush_meets_its_deadline)
{
	struct bus_msg down = { .type = BUS_DEVICE_DOWN };
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	const uint8_t hello[8] = { 0, 'S', 'P', 0, 0, 16, 0, 0 };
	uint8_t theirs[8];
	int srv, fd, err;
	uint64_t began;

	strcpy(down.device_down.device, "disk0");
	memset(down.device_down.reason, 'r', BUS_TEXT_MAX - 1);
	setup(getpid());
	bus_close(sup.bus);
	sup.bus = NULL;
	srv = socket(AF_UNIX, SOCK_STREAM, 0);
	strcpy(sa.sun_path, path);
	cr_assert_eq(bind(srv, (struct sockaddr *)&sa, sizeof(sa)), 0);
	cr_assert_eq(listen(srv, 1), 0);
	dial();
	fd = accept(srv, NULL, NULL);
	cr_assert_eq(fd_read_full(fd, theirs, 8), 0);
	cr_assert_eq(write(fd, hello, 8), 8);
	RUN_UNTIL(child.ups);
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
	teardown();
}

/* ---- hostile peers ---- */

Test(bus, hand_made_messages_are_understood)
{
	uint8_t buf[64];
	struct result r = { 0 };
	int fd;

	setup(getpid());
	fd = raw_open(path);
	raw_send(fd, (const uint8_t[]) { 8, 0, 42, 0 }, 4); /* Ready */
	RUN_UNTIL(sup.messages);
	cr_assert_eq(sup.last.type, BUS_READY);
	ping(NS_PER_S, &r);
	cr_assert_eq(raw_recv(fd, buf, sizeof(buf)), 4);
	cr_assert_eq(memcmp(buf, (const uint8_t[]) { 8, 1, 50, 0 }, 4), 0);
	raw_send(fd, (const uint8_t[]) { 8, 1, 26, 0 }, 4); /* Ok */
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, 0);
	close(fd);
	teardown();
}

Test(bus, malformed_requests_are_answered_and_their_sender_is_fenced)
{
	const uint8_t unknown[] = { 8, 9, 0xa2, 6, 0 };
	uint8_t buf[1024];
	int fd, again;

	setup(getpid());
	fd = raw_open(path);
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

	again = raw_open_running(path);
	RUN_UNTIL(raw_is_closed(again));
	close(again);
	cr_assert_eq(sup.ups, 1);
	cr_assert_geq(counters(sup.bus).refused_peers, 1);

	bus_expect(sup.bus, getpid());
	cr_assert(!bus_is_fenced(sup.bus));
	dial();
	RUN_UNTIL(sup.ups == 2);
	teardown();
}

Test(bus, malformed_events_and_wrong_directions_are_counted_unanswered)
{
	int fd;

	setup(getpid());
	fd = raw_open(path);
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
	teardown();
}

Test(bus, huge_length_ends_the_connection_only)
{
	static const uint64_t lengths[] = { 0xFFFFFFFF, UINT64_MAX, 1ULL << 63, BUS_MSG_MAX + 1 };

	setup(getpid());
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		int fd = raw_open_running(path);

		RUN_UNTIL(sup.ups == (int)i + 1);
		raw_head(fd, lengths[i]);
		RUN_UNTIL(raw_is_closed(fd));
		RUN_UNTIL(sup.downs == (int)i + 1);
		close(fd);
	}
	dial();
	RUN_UNTIL(sup.ups == (int)ARRAY_SIZE(lengths) + 1);
	teardown();
}

Test(bus, half_a_message_then_silence_blocks_nobody)
{
	struct result r = { 0 };
	int fd;

	setup(getpid());
	fd = raw_open(path);
	RUN_UNTIL(sup.ups);
	raw_head(fd, 1000);
	cr_assert_eq(write(fd, "half", 4), 4);
	ping(20 * NS_PER_MS, &r);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, -ETIMEDOUT);
	bus_expect(sup.bus, getpid());
	RUN_UNTIL(raw_is_closed(fd));
	dial();
	RUN_UNTIL(sup.ups == 2);
	close(fd);
	teardown();
}

Test(bus, half_a_handshake_blocks_nobody)
{
	const uint8_t wrong[8] = { 0, 'S', 'P', 0, 0, 0x30, 0, 0 }; /* req0, no pair */
	int half, req;

	setup(getpid());
	half = raw_connect(path);
	cr_assert_eq(write(half, "\0S", 2), 2);
	req = raw_connect(path);
	cr_assert_eq(write(req, wrong, 8), 8);
	RUN_UNTIL(raw_is_closed(req));
	dial();
	RUN_UNTIL(sup.messages == 0 && child.ups && bus_is_connected(sup.bus));
	close(half);
	close(req);
	teardown();
}

/* nng gives up a listener for good if a peer is gone before it was greeted; bus_expect makes a new one. */
Test(bus, peers_that_hang_up_at_once_do_not_deafen_the_endpoint)
{
	setup(getpid());
	for (int i = 0; i < 300; i++) {
		int fd = raw_connect(path);

		if (fd < 0)
			break; /* deaf, and its backlog full */
		close(fd);
	}
	cr_assert_eq(bus_expect(sup.bus, getpid()), 0);
	dial();
	RUN_UNTIL(sup.ups && child.ups && bus_is_connected(sup.bus) && bus_is_connected(child.bus));
	teardown();
}

/* ---- who may connect ---- */

Test(bus, only_the_expected_process_may_connect)
{
	int fd;

	setup(getppid());
	fd = raw_open(path);
	RUN_UNTIL(raw_is_closed(fd));
	close(fd);
	bus_expect(sup.bus, BUS_NOBODY);
	fd = raw_open(path);
	RUN_UNTIL(raw_is_closed(fd));
	close(fd);
	cr_assert_geq(counters(sup.bus).refused_peers, 2);
	cr_assert_eq(sup.ups, 0);
	dial();
	bus_expect(sup.bus, 0);
	RUN_UNTIL(sup.ups == 1);
	teardown();
}

Test(bus, second_connection_of_the_same_process_is_refused)
{
	struct result r = { 0 };
	int fd;

	setup(getpid());
	dial();
	RUN_UNTIL(sup.ups && child.ups);
	fd = raw_open(path);
	RUN_UNTIL(raw_is_closed(fd));
	close(fd);
	ping(NS_PER_S, &r);
	RUN_UNTIL(r.calls);
	cr_assert_eq(r.err, 0);
	cr_assert_eq(sup.ups, 1);
	teardown();
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

Test(bus, children_do_not_reach_each_other)
{
	struct end sup2 = { 0 };
	char path2[112];
	int go[2], status;
	pid_t other;
	uint64_t end = clock_ns() + 10 * NS_PER_S;

	cr_assert_eq(pipe(go), 0);
	other = intruder(go[0]); /* forked before nng has threads; the second endpoint is made for it */
	setup(getpid());
	snprintf(path2, sizeof(path2), "%s/bus2", dir);
	cr_assert_eq(bus_listen(loop, path2, other, &ops, &sup2, &sup2.bus), 0);
	dial();
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
	teardown();
}

/* What was queued for one process is not for its successor. */
Test(bus, replaced_child_leaves_nothing_to_its_successor)
{
	static struct result r;
	struct bus_msg msg = { .type = BUS_DRAIN };
	int fd, sent = 0;

	setup(getpid());
	fd = raw_open(path);
	RUN_UNTIL(sup.ups);
	while (bus_request(sup.bus, &msg, 100 * NS_PER_S, on_reply, &r) == 0)
		sent++;
	raw_send(fd, (const uint8_t[]) { 8, 0, 42, 0 }, 4); /* old words, not read yet */
	bus_expect(sup.bus, getpid());
	cr_assert_eq(r.calls, sent);
	cr_assert_eq(r.err, -EPIPE);
	cr_assert_eq(sup.downs, 1);
	child.silent = true;
	dial();
	RUN_UNTIL(sup.ups == 2 && child.ups);
	ping(NS_PER_S, &(struct result) { 0 });
	RUN_UNTIL(child.messages);
	cr_assert_eq(child.last.type, BUS_PING);
	cr_assert_eq(child.messages, 1);
	cr_assert_eq(sup.messages, 0);
	close(fd);
	teardown();
}

/* A connection that was there before it was forbidden, and that the loop has not seen yet, does not slip in. */
Test(bus, connection_in_flight_while_the_child_is_replaced_is_dropped)
{
	int fd;

	setup(getpid());
	fd = raw_open(path);
	/* nng has admitted it (it shook hands), the loop has not run */
	bus_expect(sup.bus, getppid());
	RUN_UNTIL(raw_is_closed(fd));
	loop_run_once(loop, 0);
	cr_assert_eq(sup.ups, 0);
	cr_assert(!bus_is_connected(sup.bus));
	close(fd);
	teardown();
}
