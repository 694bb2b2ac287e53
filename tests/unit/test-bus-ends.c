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
	cr_assert_eq(call("keep", 0, NULL, 2 * NS_PER_S, &r), -ETIMEDOUT);
	cr_assert_geq(clock_ns() - began, 2 * NS_PER_S);
	cr_assert_eq(calls, 1);
	/* its client is gone by now: the answer goes nowhere and the slot is free again */
	cr_assert_eq(call("release", 0, NULL, 20 * NS_PER_S, &r), 0);
	for (int i = 0; i < 2 * BUS_CTL_CLIENTS; i++)
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

/* Speaks the wire by hand. */
static size_t raw_call(const uint8_t *body, size_t len, uint8_t *reply, size_t size)
{
	uint8_t head[4] = { 0, 0, 0, (uint8_t)len };
	int fd = connected_to(path);
	size_t n;

	cr_assert_eq(write(fd, head, sizeof(head)), sizeof(head));
	cr_assert_eq(write(fd, body, len), (ssize_t)len);
	cr_assert_eq(fd_read_full(fd, head, sizeof(head)), 0);
	n = head[2] * 256U + head[3];
	cr_assert_leq(n, size);
	cr_assert_eq(fd_read_full(fd, reply, n), 0);
	close(fd);
	return n;
}

Test(bus_ctl, malformed_requests_are_refused)
{
	static const struct {
		uint8_t len, body[8];
	} bad[] = {
		{ 1, { 0 } },                         /* field number 0 */
		{ 2, { 10, 0 } },                     /* an empty verb */
		{ 4, { 10, 2, 'a', ' ' } },           /* a blank in it */
		{ 5, { 10, 1, 'a', 24, 1 } },         /* an unknown field */
		{ 7, { 10, 1, 'a', 18, 2, 'b', 7 } }, /* a control character */
		{ 3, { 18, 1, 'b' } },                /* no verb */
		{ 3, { 10, 9, 'a' } },                /* cut */
	};
	static const uint8_t good[] = { 10, 1, 'a' };
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

/* Those who say nothing make room for who asks. */
Test(bus_ctl, silent_clients_shut_nobody_out)
{
	int silent[BUS_CTL_CLIENTS + 4];

	start();
	for (size_t i = 0; i < ARRAY_SIZE(silent); i++)
		silent[i] = connected_to(path);
	cr_assert_eq(call("echo", 0, NULL, 20 * NS_PER_S, &r), 0);
	for (size_t i = 0; i < ARRAY_SIZE(silent); i++)
		close(silent[i]);
	stop();
}

Test(bus_ctl, second_request_of_a_connection_ends_it)
{
	static const uint8_t two[] = { 0, 0, 0, 6, 10, 4, 'k', 'e', 'e', 'p', 0, 0, 0, 3, 10, 1, 'a' };
	uint8_t c;
	int fd;

	start();
	fd = connected_to(path);
	cr_assert_eq(write(fd, two, sizeof(two)), (ssize_t)sizeof(two));
	cr_assert_eq(read(fd, &c, 1), 0);
	close(fd);
	/* The answer that is owed goes nowhere. */
	cr_assert_eq(call("release", 0, NULL, 20 * NS_PER_S, &r), 0);
	cr_assert_eq(calls, 2);
	stop();
}

/* Clients that are gone before anybody looked. */
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

/* For a listener that is stopped the kernel accepts. */
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

/* ---- events ---- */

static void make_loop(void)
{
	make_dir();
	cr_assert_eq(loop_new("events", &loop), 0);
}

static void remove_loop(void)
{
	loop_free(loop);
	remove_dir();
}

static void *keep_publishing(void *ev)
{
	while (!atomic_load(&calls)) {
		cr_assert_eq(bus_events_publish(ev, "machine", "tick", ""), 0);
		loop_run_once(loop, 0);
	}
	return NULL;
}

Test(bus_events, reader_gets_what_is_published_and_sees_the_end)
{
	struct bus_events *ev;
	struct bus_events_reader *reader = NULL;
	struct bus_events_item item = { 0 };
	uint64_t before = clock_ns(), tries = 0;

	make_loop();
	cr_assert_eq(bus_events_open(path, &reader), -ENOENT);
	cr_assert_eq(bus_events_listen(loop, path, &ev), 0);
	cr_assert_eq(bus_events_publish(ev, "machine", "unheard", "nobody listens"), 0);
	cr_assert_eq(bus_events_open(path, &reader), 0);
	/* The subscriber is known to the publisher a little after open. */
	do {
		loop_run_once(loop, 0);
		cr_assert_eq(bus_events_publish(ev, "disk0", "device-restarted", "after\nSIGKILL"), 0);
	} while (bus_events_read(reader, NS_PER_MS, &item) == -ETIMEDOUT && ++tries < 5000);
	cr_assert_geq(item.seq, 2);
	cr_assert_str_eq(item.source, "disk0");
	cr_assert_str_eq(item.kind, "device-restarted");
	cr_assert_str_eq(item.text, "after?SIGKILL");
	cr_assert_geq(item.mono_ns, before);
	cr_assert_gt(item.wall_ns, 0);
	while (bus_events_read(reader, 20 * NS_PER_MS, &item) == 0)
		continue;
	for (int i = 0; i < 60; i++)
		cr_assert_eq(bus_events_publish(ev, "machine", "ended", "last"), 0);
	before = item.seq;
	bus_events_close(ev);
	for (int i = 1; i <= 60; i++) {
		cr_assert_eq(bus_events_read(reader, 10 * NS_PER_S, &item), 0, "%d of 60", i);
		cr_assert_eq(item.seq, before + i);
	}
	cr_assert_eq(bus_events_read(reader, 10 * NS_PER_S, &item), -EPIPE);
	cr_assert_eq(bus_events_read(reader, 10 * NS_PER_S, &item), -EPIPE);
	bus_events_reader_close(reader);
	remove_loop();
}

Test(bus_events, readers_that_hang_up_at_once_shut_nobody_out)
{
	uint64_t end = clock_ns() + 20 * NS_PER_S;
	static struct bus_events_reader *reader;
	struct bus_events_item item;
	static struct bus_events *ev;
	pthread_t thread;
	int err = -EAGAIN;

	make_loop();
	cr_assert_eq(bus_events_listen(loop, path, &ev), 0);
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
	bus_events_reader_close(reader);
	bus_events_close(ev);
	remove_loop();
}

Test(bus_events, names_are_checked_and_texts_cut)
{
	char text[2 * BUS_TEXT_MAX];
	struct bus_events *ev;
	struct stat st;

	make_loop();
	cr_assert_eq(bus_events_listen(loop, path, &ev), 0);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600);
	memset(text, 't', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	cr_assert_eq(bus_events_publish(ev, "machine", "long", text), 0);
	cr_assert_eq(bus_events_publish(ev, "", "kind", ""), -EINVAL);
	cr_assert_eq(bus_events_publish(ev, "machine", "two words", ""), -EINVAL);
	bus_events_close(ev);
	remove_loop();
}

/* A reader that reads nothing loses events, sees it in their numbers, and holds nobody up. */
Test(bus_events, slow_reader_misses_events_and_knows_it)
{
	struct bus_events *ev;
	struct bus_events_reader *reader;
	struct bus_events_item item;
	uint64_t seen = 0, last = 0, tries = 0;
	char text[BUS_TEXT_MAX];

	make_loop();
	memset(text, 't', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	cr_assert_eq(bus_events_listen(loop, path, &ev), 0);
	cr_assert_eq(bus_events_open(path, &reader), 0);
	do {
		loop_run_once(loop, 0);
		bus_events_publish(ev, "machine", "hello", "");
	} while (bus_events_read(reader, NS_PER_MS, &item) == -ETIMEDOUT && ++tries < 5000);
	for (int i = 0; i < 20000; i++) {
		cr_assert_eq(bus_events_publish(ev, "machine", "flood", text), 0);
		loop_run_once(loop, 0);
	}
	while (bus_events_read(reader, 50 * NS_PER_MS, &item) == 0) {
		cr_assert_gt(item.seq, last);
		last = item.seq;
		seen++;
	}
	cr_assert_gt(seen, 1);
	cr_assert_lt(seen, 20000);
	bus_events_reader_close(reader);
	bus_events_close(ev);
	remove_loop();
}
