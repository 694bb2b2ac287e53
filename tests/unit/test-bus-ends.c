/* SPDX-License-Identifier: Apache-2.0 */
/* lib/bus's other endpoints: the command line's and the events'. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bus_ctl.h"
#include "bus_events.h"
#include "clock.h"
#include "fd.h"
#include "num.h"
#include "temp_dir.h"

TestSuite(bus_ctl, .timeout = 60);
TestSuite(bus_events, .timeout = 60);

static char dir[64], path[96];
static struct loop *loop;
static struct bus_ctl *ctl;
static pthread_t server;
static struct bus_ctl_request *kept;
static _Atomic int calls;

static void make_dir(void)
{
	signal(SIGPIPE, SIG_IGN);
	cr_assert(temp_dir_make(dir, sizeof(dir)));
	snprintf(path, sizeof(path), "%s/ctl", dir);
}

static void remove_dir(void)
{
	unlink(path);
	rmdir(dir);
}

static struct sockaddr_un address_of(const char *name)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", name);
	return sa;
}

static int connected_to(const char *name)
{
	struct sockaddr_un sa = address_of(name);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	cr_assert_eq(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static int listening_at(const char *name)
{
	struct sockaddr_un sa = address_of(name);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	cr_assert_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	cr_assert_eq(listen(fd, 8), 0);
	return fd;
}

/* ---- the command line's ---- */

static void on_call(void *arg, struct bus_ctl_request *req, const char *verb, size_t argc,
		    const char *const *argv)
{
	char json[512];

	(void)arg;
	calls++;
	if (strcmp(verb, "echo") == 0) {
		snprintf(json, sizeof(json), "[%zu,\"%s\"]", argc, argc ? argv[argc - 1] : "");
		bus_ctl_answer(req, json);
	} else if (strcmp(verb, "keep") == 0) {
		kept = req;
	} else if (strcmp(verb, "release") == 0) {
		bus_ctl_answer(kept, "\"late\"");
		bus_ctl_answer(req, NULL);
	} else if (strcmp(verb, "long") == 0) {
		char *big = malloc(BUS_CTL_JSON_MAX + 1);

		memset(big, '1', BUS_CTL_JSON_MAX + 1);
		big[argc ? BUS_CTL_JSON_MAX : BUS_CTL_JSON_MAX - 1] = '\0';
		bus_ctl_answer(req, big);
		free(big);
	} else if (strcmp(verb, "die") == 0) {
		bus_ctl_close(ctl);
		ctl = NULL;
		loop_stop(loop);
	} else {
		bus_ctl_refuse(req, -EOPNOTSUPP, "no such verb");
	}
}

static void *serve(void *arg)
{
	cr_assert_eq(loop_run(arg), 0);
	return NULL;
}

static void serve_calls(void)
{
	cr_assert_eq(loop_new("ctl", &loop), 0);
	cr_assert_eq(bus_ctl_listen(loop, path, on_call, NULL, &ctl), 0);
	cr_assert_eq(pthread_create(&server, NULL, serve, loop), 0);
}

static void start(void)
{
	make_dir();
	serve_calls();
}

static void stop(void)
{
	loop_stop(loop);
	pthread_join(server, NULL);
	bus_ctl_close(ctl);
	loop_free(loop);
	remove_dir();
}

static int call(const char *verb, size_t argc, const char *const *argv, uint64_t timeout,
		struct bus_ctl_result *r)
{
	memset(r, 0x55, sizeof(*r));
	return bus_ctl_call(path, verb, argc, argv, timeout, r);
}

static struct bus_ctl_result r; /* too large for a stack */

Test(bus_ctl, call_is_answered_or_refused)
{
	char arg[BUS_CTL_ARG_MAX];
	const char *argv[BUS_CTL_ARGS_MAX];
	struct stat st;

	start();
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600);
	memset(arg, 'a', sizeof(arg) - 1);
	arg[sizeof(arg) - 1] = '\0';
	for (int i = 0; i < BUS_CTL_ARGS_MAX; i++)
		argv[i] = arg;
	cr_assert_eq(call("echo", 0, NULL, 20 * NS_PER_S, &r), 0);
	cr_assert_eq(r.err, 0);
	cr_assert_str_eq(r.json, "[0,\"\"]");
	cr_assert_eq(call("echo", BUS_CTL_ARGS_MAX, argv, 20 * NS_PER_S, &r), 0);
	cr_assert_eq(strlen(r.json), strlen("[16,\"\"]") + strlen(arg));
	cr_assert_eq(call("nonsense", 0, NULL, 20 * NS_PER_S, &r), 0);
	cr_assert_eq(r.err, -EOPNOTSUPP);
	cr_assert_str_eq(r.text, "no such verb");
	cr_assert_eq(call("long", 0, NULL, 20 * NS_PER_S, &r), 0);
	cr_assert_eq(strlen(r.json), BUS_CTL_JSON_MAX - 1);
	cr_assert_eq(call("long", 1, argv, 20 * NS_PER_S, &r), 0);
	cr_assert_eq(r.err, -EMSGSIZE);
	stop();
}

Test(bus_ctl, words_over_their_limits_are_not_sent)
{
	char arg[BUS_CTL_ARG_MAX + 1], verb[BUS_CTL_VERB_MAX + 1];
	const char *argv[BUS_CTL_ARGS_MAX + 1] = { arg };

	make_dir();
	memset(arg, 'a', sizeof(arg) - 1);
	arg[sizeof(arg) - 1] = '\0';
	memset(verb, 'v', sizeof(verb) - 1);
	verb[sizeof(verb) - 1] = '\0';
	cr_assert_eq(call("echo", 1, argv, NS_PER_S, &r), -EINVAL);
	cr_assert_eq(call(verb, 0, NULL, NS_PER_S, &r), -EINVAL);
	cr_assert_eq(call("", 0, NULL, NS_PER_S, &r), -EINVAL);
	cr_assert_eq(call("echo", BUS_CTL_ARGS_MAX + 1, argv, NS_PER_S, &r), -EINVAL);
	remove_dir();
}

static void *keep_call(void *arg)
{
	static struct bus_ctl_result mine;

	(void)arg;
	cr_assert_eq(bus_ctl_call(path, "keep", 0, NULL, 10 * NS_PER_S, &mine), 0);
	cr_assert_str_eq(mine.json, "\"late\"");
	return NULL;
}

Test(bus_ctl, answer_may_come_later_and_others_are_served_meanwhile)
{
	pthread_t thread;

	start();
	pthread_create(&thread, NULL, keep_call, NULL);
	while (calls < 1)
		sched_yield();
	cr_assert_eq(call("echo", 0, NULL, 20 * NS_PER_S, &r), 0);
	cr_assert_eq(call("release", 0, NULL, 20 * NS_PER_S, &r), 0);
	cr_assert_str_eq(r.json, "{}");
	pthread_join(thread, NULL);
	stop();
}

Test(bus_ctl, unanswered_call_meets_its_deadline)
{
	uint64_t began;

	start();
	began = clock_ns();
	/* Long enough to come to the server: a client that gives up before leaves it deaf for a while. */
	cr_assert_eq(call("keep", 0, NULL, 2 * NS_PER_S, &r), -ETIMEDOUT);
	cr_assert_geq(clock_ns() - began, 2 * NS_PER_S);
	cr_assert_eq(calls, 1);
	/* its client is gone by now: the answer goes nowhere and the slot is free again */
	cr_assert_eq(call("release", 0, NULL, 20 * NS_PER_S, &r), 0);
	for (int i = 0; i < 2 * BUS_CTL_PENDING; i++)
		cr_assert_eq(call("echo", 0, NULL, 20 * NS_PER_S, &r), 0);
	stop();
}

Test(bus_ctl, supervisor_that_dies_or_is_not_there_is_told_at_once)
{
	start();
	cr_assert_eq(call("die", 0, NULL, 30 * NS_PER_S, &r), -EPIPE);
	stop();
	make_dir();
	cr_assert_eq(call("echo", 0, NULL, NS_PER_S, &r), -ENOENT);
	close(listening_at(path));
	cr_assert_eq(call("echo", 0, NULL, NS_PER_S, &r), -ECONNREFUSED);
	remove_dir();
}

/* Speaks req0 by hand: a request is its id with the top bit set, then the body. */
static size_t raw_call(const uint8_t *body, size_t len, uint8_t *reply, size_t size)
{
	const uint8_t hello[8] = { 0, 'S', 'P', 0, 0, 0x30, 0, 0 };
	uint8_t head[13] = { 1, 0, 0, 0, 0, 0, 0, 0, (uint8_t)(len + 4), 0x80, 0, 0, 7 };
	uint8_t buf[13];
	int fd = connected_to(path);

	cr_assert_eq(write(fd, hello, 8), 8);
	cr_assert_eq(fd_read_full(fd, buf, 8), 0);
	cr_assert_eq(write(fd, head, 13), 13);
	cr_assert_eq(write(fd, body, len), (ssize_t)len);
	cr_assert_eq(fd_read_full(fd, buf, 13), 0);
	cr_assert_eq(memcmp(buf + 9, head + 9, 4), 0);
	cr_assert_leq((size_t)buf[8] - 4, size);
	cr_assert_eq(fd_read_full(fd, reply, (size_t)buf[8] - 4), 0);
	close(fd);
	return (size_t)buf[8] - 4;
}

#define ID(n) 25, n, 0, 0, 0, 0, 0, 0, 0

Test(bus_ctl, malformed_requests_are_refused)
{
	static const struct {
		uint8_t len, body[20];
	} bad[] = {
		{ 10, { ID(1), 0 } },                         /* field number 0 */
		{ 11, { ID(2), 10, 0 } },                     /* an empty verb */
		{ 13, { ID(3), 10, 2, 'a', ' ' } },           /* a blank in it */
		{ 14, { ID(4), 10, 1, 'a', 32, 1 } },         /* an unknown field */
		{ 16, { ID(5), 10, 1, 'a', 18, 2, 'b', 7 } }, /* a control character */
		{ 12, { ID(6), 18, 1, 'b' } },                /* no verb */
		{ 12, { ID(7), 10, 9, 'a' } },                /* cut */
		{ 12, { ID(0), 10, 1, 'a' } },                /* no number */
		{ 3, { 10, 1, 'a' } },                        /* not even 0 */
	};
	static const uint8_t good[] = { ID(8), 10, 1, 'a' };
	uint64_t malformed = 0, refused = 0;
	uint8_t reply[200];

	start();
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cr_assert_gt(raw_call(bad[i].body, bad[i].len, reply, sizeof(reply)), 4);
		/* its error is -EBADMSG: 147 in zigzag */
		cr_assert_eq(memcmp(reply, (const uint8_t[]) { 8, 0x93, 1 }, 3), 0);
	}
	cr_assert_eq(calls, 0);
	cr_assert_gt(raw_call(good, sizeof(good), reply, sizeof(reply)), 4);
	cr_assert_eq(calls, 1);
	loop_stop(loop);
	pthread_join(server, NULL);
	bus_ctl_get_counters(ctl, &malformed, &refused);
	cr_assert_eq(malformed, ARRAY_SIZE(bad));
	cr_assert_eq(refused, 0);
	bus_ctl_close(ctl);
	loop_free(loop);
	remove_dir();
}

/* ---- connections that are lost ---- */

/* Takes one message of nng's ipc from a connection and gives it to another; to -1: to nobody. */
static void carry_message(int from, int to)
{
	uint8_t head[9], body[512];
	size_t len;

	cr_assert_eq(fd_read_full(from, head, sizeof(head)), 0);
	len = head[7] * 256U + head[8];
	cr_assert_leq(len, sizeof(body));
	cr_assert_eq(fd_read_full(from, body, len), 0);
	if (to < 0)
		return;
	cr_assert_eq(fd_write_full(to, head, sizeof(head)), 0);
	cr_assert_eq(fd_write_full(to, body, len), 0);
}

static void carry_hello(int from, int to)
{
	uint8_t hello[8];

	cr_assert_eq(fd_read_full(from, hello, sizeof(hello)), 0);
	cr_assert_eq(fd_write_full(to, hello, sizeof(hello)), 0);
}

enum loss { BEFORE_THE_REQUEST, UNANSWERED, ANSWERED };

static char front[112];
static atomic_bool asked_again;

/* Stands between a client and the server, and loses the first connection. */
static void *lose_one(void *arg)
{
	const enum loss *loss = arg;
	int at = listening_at(front);

	for (int turn = 0; turn < 2; turn++) {
		int client = accept(at, NULL, NULL), real = connected_to(path);

		carry_hello(client, real);
		carry_hello(real, client);
		carry_message(client, turn || *loss != BEFORE_THE_REQUEST ? real : -1);
		atomic_store(&asked_again, turn);
		while (*loss == UNANSWERED && !calls)
			sched_yield();
		if (turn || *loss == ANSWERED)
			carry_message(real, turn ? client : -1);
		close(client);
		close(real);
	}
	close(at);
	return NULL;
}

struct caller {
	const char *at, *verb;
	int err;
	struct bus_ctl_result result;
};

static void *call_there(void *arg)
{
	struct caller *c = arg;

	c->err = bus_ctl_call(c->at, c->verb, 0, NULL, 20 * NS_PER_S, &c->result);
	return NULL;
}

static void lose(enum loss loss)
{
	static struct caller c = { .at = front };
	pthread_t between, caller;

	start();
	snprintf(front, sizeof(front), "%s/front", dir);
	c.verb = loss == UNANSWERED ? "keep" : "echo";
	cr_assert_eq(pthread_create(&between, NULL, lose_one, &loss), 0);
	while (access(front, F_OK) != 0)
		sched_yield();
	cr_assert_eq(pthread_create(&caller, NULL, call_there, &c), 0);
	if (loss == UNANSWERED) {
		while (!atomic_load(&asked_again))
			sched_yield();
		cr_assert_eq(call("release", 0, NULL, 20 * NS_PER_S, &r), 0);
	}
	pthread_join(caller, NULL);
	pthread_join(between, NULL);
	cr_assert_eq(c.err, 0, "%d", c.err);
	cr_assert_str_eq(c.result.json, loss == UNANSWERED ? "\"late\"" : "[0,\"\"]");
	cr_assert_eq(calls, loss == UNANSWERED ? 2 : 1);
	unlink(front);
	stop();
}

Test(bus_ctl, request_that_was_lost_on_its_way_is_asked_again)
{
	lose(BEFORE_THE_REQUEST);
}

Test(bus_ctl, request_whose_connection_is_lost_is_done_once_and_answered_later)
{
	lose(UNANSWERED);
}

Test(bus_ctl, answer_that_was_lost_on_its_way_is_given_again)
{
	lose(ANSWERED);
}

/* The supervisor of before: takes one request, and ends when its parent has taken its place. */
static void be_asked_and_end(int parent)
{
	const uint8_t hello[8] = { 0, 'S', 'P', 0, 0, 0x31, 0, 0 };
	int at = listening_at(path), client;
	uint8_t theirs[8], byte = 0;

	cr_assert_eq(fd_write_full(parent, &byte, 1), 0);
	client = accept(at, NULL, NULL);
	cr_assert_eq(fd_write_full(client, hello, sizeof(hello)), 0);
	cr_assert_eq(fd_read_full(client, theirs, sizeof(theirs)), 0);
	carry_message(client, -1);
	close(at);
	cr_assert_eq(fd_write_full(parent, &byte, 1), 0);
	cr_assert_eq(fd_read_full(parent, &byte, 1), 0);
	_exit(0);
}

Test(bus_ctl, request_is_not_asked_again_of_the_next_supervisor)
{
	static struct caller c = { .at = path, .verb = "echo" };
	pthread_t caller;
	uint8_t byte;
	int pair[2];
	pid_t pid;

	make_dir();
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	pid = fork();
	if (!pid)
		be_asked_and_end(pair[1]);
	cr_assert_eq(fd_read_full(pair[0], &byte, 1), 0);
	cr_assert_eq(pthread_create(&caller, NULL, call_there, &c), 0);
	cr_assert_eq(fd_read_full(pair[0], &byte, 1), 0);
	serve_calls();
	cr_assert_eq(fd_write_full(pair[0], &byte, 1), 0);
	pthread_join(caller, NULL);
	cr_assert_eq(c.err, -EPIPE, "%d", c.err);
	cr_assert_eq(call("echo", 0, NULL, 20 * NS_PER_S, &r), 0);
	cr_assert_eq(calls, 1);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	close(pair[0]);
	close(pair[1]);
	stop();
}

/* Clients that are gone before they are greeted; nng then stops accepting. */
static void knock_and_run(void)
{
	struct sockaddr_un sa = address_of(path);

	for (int i = 0; i < 300; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

		if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) != 0)
			i = 300; /* deaf, and its backlog full */
		close(fd);
	}
}

Test(bus_ctl, clients_that_hang_up_at_once_shut_nobody_out)
{
	uint64_t end = clock_ns() + 20 * NS_PER_S;

	start();
	knock_and_run();
	while (call("echo", 0, NULL, NS_PER_S, &r) != 0)
		cr_assert_lt(clock_ns(), end);
	stop();
}

/* A listener that is stopped accepts in the kernel but does not greet. */
Test(bus_ctl, silent_supervisor_is_given_up_at_the_deadline)
{
	uint64_t began;
	int fd;

	make_dir();
	fd = listening_at(path);
	began = clock_ns();
	cr_assert_eq(call("echo", 0, NULL, 100 * NS_PER_MS, &r), -ETIMEDOUT);
	cr_assert_lt(clock_ns() - began, 5 * NS_PER_S);
	close(fd);
	remove_dir();
}

static void *call_while_away(void *arg)
{
	*(int *)arg = call("echo", 0, NULL, 20 * NS_PER_S, &r);
	return NULL;
}

/* The listener is made anew while a client is on its way to it, or has waited there for this long. */
static void go_away_after(int wait_ms)
{
	int fd, result = -1, taken;
	pthread_t client;

	make_dir();
	fd = listening_at(path);
	cr_assert_eq(pthread_create(&client, NULL, call_while_away, &result), 0);
	taken = accept(fd, NULL, NULL);
	poll(NULL, 0, wait_ms); /* nothing tells that it waits */
	close(taken);
	close(fd);
	unlink(path);
	serve_calls();
	pthread_join(client, NULL);
	cr_assert_eq(result, 0);
	cr_assert_str_eq(r.json, "[0,\"\"]");
	stop();
}

Test(bus_ctl, client_of_a_listener_that_goes_away_comes_to_the_next)
{
	go_away_after(0);
}

/* As long as the supervisor takes to see that its listener is deaf, about: the client has then asked once only. */
Test(bus_ctl, client_that_waited_long_for_a_listener_comes_to_the_next)
{
	go_away_after(1000);
}

/* ---- events ---- */

static void *keep_publishing(void *ev)
{
	while (!atomic_load(&calls)) {
		cr_assert_eq(bus_events_publish(ev, "machine", "tick", ""), 0);
		sched_yield();
	}
	return NULL;
}

Test(bus_events, reader_gets_what_is_published_and_sees_the_end)
{
	struct bus_events *ev;
	struct bus_events_reader *reader = NULL;
	struct bus_events_item item = { 0 };
	uint64_t before = clock_ns(), tries = 0;

	make_dir();
	cr_assert_eq(bus_events_open(path, &reader), -ENOENT);
	cr_assert_eq(bus_events_listen(path, &ev), 0);
	cr_assert_eq(bus_events_publish(ev, "machine", "unheard", "nobody listens"), 0);
	cr_assert_eq(bus_events_open(path, &reader), 0);
	/* The subscriber is known to the publisher a little after open. */
	do
		cr_assert_eq(bus_events_publish(ev, "disk0", "device-restarted", "after\nSIGKILL"), 0);
	while (bus_events_read(reader, NS_PER_MS, &item) == -ETIMEDOUT && ++tries < 5000);
	cr_assert_geq(item.seq, 2);
	cr_assert_str_eq(item.source, "disk0");
	cr_assert_str_eq(item.kind, "device-restarted");
	cr_assert_str_eq(item.text, "after?SIGKILL");
	cr_assert_geq(item.mono_ns, before);
	cr_assert_gt(item.wall_ns, 0);
	while (bus_events_read(reader, 20 * NS_PER_MS, &item) == 0)
		continue;
	cr_assert_eq(bus_events_publish(ev, "machine", "ended", "last"), 0);
	bus_events_close(ev);
	cr_assert_eq(bus_events_read(reader, 10 * NS_PER_S, &item), 0);
	cr_assert_str_eq(item.text, "last");
	cr_assert_eq(bus_events_read(reader, 10 * NS_PER_S, &item), -EPIPE);
	cr_assert_eq(bus_events_read(reader, 10 * NS_PER_S, &item), -EPIPE);
	bus_events_reader_close(reader);
	remove_dir();
}

Test(bus_events, readers_that_hang_up_at_once_shut_nobody_out)
{
	uint64_t end = clock_ns() + 20 * NS_PER_S;
	static struct bus_events_reader *reader;
	struct bus_events_item item;
	static struct bus_events *ev;
	pthread_t thread;
	int err = -EAGAIN;

	make_dir();
	cr_assert_eq(bus_events_listen(path, &ev), 0);
	knock_and_run();
	atomic_store(&calls, 0);
	pthread_create(&thread, NULL, keep_publishing, ev);
	while (err) {
		cr_assert_lt(clock_ns(), end);
		if (!reader && bus_events_open(path, &reader))
			continue;
		err = bus_events_read(reader, NS_PER_S, &item);
		if (err == -EPIPE) {
			bus_events_reader_close(reader);
			reader = NULL;
		}
	}
	atomic_store(&calls, 1);
	pthread_join(thread, NULL);
	/* The ends are left to that of the process: nng 1.5.2 may wait for ever in closing one whose peers hung up. */
	remove_dir();
}

Test(bus_events, names_are_checked_and_texts_cut)
{
	char text[2 * BUS_TEXT_MAX];
	struct bus_events *ev;
	struct stat st;

	make_dir();
	cr_assert_eq(bus_events_listen(path, &ev), 0);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600);
	memset(text, 't', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	cr_assert_eq(bus_events_publish(ev, "machine", "long", text), 0);
	cr_assert_eq(bus_events_publish(ev, "", "kind", ""), -EINVAL);
	cr_assert_eq(bus_events_publish(ev, "machine", "two words", ""), -EINVAL);
	bus_events_close(ev);
	remove_dir();
}

/* A reader that reads nothing loses events, sees it in their numbers, and holds nobody up. */
Test(bus_events, slow_reader_misses_events_and_knows_it)
{
	struct bus_events *ev;
	struct bus_events_reader *reader;
	struct bus_events_item item;
	uint64_t seen = 0, last = 0, tries = 0;
	char text[BUS_TEXT_MAX];

	make_dir();
	memset(text, 't', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	cr_assert_eq(bus_events_listen(path, &ev), 0);
	cr_assert_eq(bus_events_open(path, &reader), 0);
	do
		bus_events_publish(ev, "machine", "hello", "");
	while (bus_events_read(reader, NS_PER_MS, &item) == -ETIMEDOUT && ++tries < 5000);
	for (int i = 0; i < 20000; i++)
		cr_assert_eq(bus_events_publish(ev, "machine", "flood", text), 0);
	while (bus_events_read(reader, 50 * NS_PER_MS, &item) == 0) {
		cr_assert_gt(item.seq, last);
		last = item.seq;
		seen++;
	}
	cr_assert_gt(seen, 1);
	cr_assert_lt(seen, 20000);
	bus_events_reader_close(reader);
	bus_events_close(ev);
	remove_dir();
}
