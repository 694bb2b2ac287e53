/* SPDX-License-Identifier: Apache-2.0 */
/* The commands that a stand-in takes while it runs; fake-child.c lists them. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fake_child.h"
#include "log.h"
#include "num.h"

void fake_flood(int lines)
{
	for (int i = 0; i < lines; i++)
		log_info("line %d of %d of a flood", i + 1, lines);
}

/* Messages that no encoder would make, on a connection of its own: it is this process's endpoint all the same. */
static void send_junk(const struct sockaddr_un *sa, int count)
{
	CLEAN_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint8_t junk[4 + 64] = { 0, 0, 0, 64 };
	char end;

	memset(junk + 4, 0xff, sizeof(junk) - 4);
	if (fd < 0 || connect(fd, (const struct sockaddr *)sa, sizeof(*sa)))
		return;
	while (count-- > 0 && send(fd, junk, sizeof(junk), MSG_NOSIGNAL) == (ssize_t)sizeof(junk))
		continue;
	shutdown(fd, SHUT_WR);
	(void)!read(fd, &end, 1);
}

/*
 * Again and again, until it is killed for it: while the supervisor still holds the connection before, it refuses this one
 * and loses what was sent.
 */
static void junk(int count)
{
	uint64_t end = clock_ns() + 60 * NS_PER_S;
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	bus_close(TAKE_PTR(fake.bus));
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/bus", fake.bus_dir);
	while (clock_ns() < end)
		send_junk(&sa, count);
	log_error("no end for junk");
}

static void rejoin(void)
{
	bus_close(TAKE_PTR(fake.bus));
	fake.mute = false;
	fake_join_bus();
}

static void list_fds(void)
{
	for (int fd = 0; fd < 64; fd++) {
		char path[32], target[200];
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		if (n > 0)
			log_info("fd %d is %.*s", fd, (int)n, target);
	}
}

static void tell_of_hang(const char *id)
{
	struct bus_msg msg = { .type = BUS_DEVICE_HUNG,
			       .device_hung = {
				   .queue = 1, .stalled_ns = 1500 * NS_PER_MS, .reason = "says the test" } };

	snprintf(msg.device_hung.device, sizeof(msg.device_hung.device), "%s", id);
	fake_send_event(&msg);
}

static void tell_of_error(const char *why)
{
	struct bus_msg msg = { .type = BUS_IO_ERROR };

	memcpy(msg.io_error.device, fake.device_name, sizeof(fake.device_name));
	snprintf(msg.io_error.text, sizeof(msg.io_error.text), "%s", why);
	fake_send_event(&msg);
}

/* As a server of which one ring's storage went away so many seconds ago, with three requests. */
static void tell_away(const char *how)
{
	struct flight_queue *q = NULL;
	int seconds = 0, ring = 0;

	sscanf(how, "%d %d", &seconds, &ring);

	if (!fake.flight && flight_map(fake.flight_fd, true, &fake.flight))
		log_error("no flight recorder");
	else
		q = (struct flight_queue *)(uintptr_t)flight_queue(fake.flight, (unsigned)ring);
	if (!q)
		return;
	atomic_store(&q->held, seconds ? 3 : 0);
	atomic_store(&q->since, seconds ? clock_ns() - (uint64_t)seconds * NS_PER_S : 0);
}

void fake_end_guest(const char *how)
{
	static const char *const names[] = { [BUS_END_POWEROFF] = "poweroff",
					     [BUS_END_RESET] = "reset",
					     [BUS_END_PANIC] = "panic",
					     [BUS_END_CRASH] = "crash" };
	struct bus_msg msg = { .type = BUS_GUEST_ENDED };

	msg.guest_ended.end = BUS_END_DEBUG_EXIT;
	msg.guest_ended.code = atoi(how);
	for (size_t i = 1; i < ARRAY_SIZE(names); i++)
		if (!strcmp(how, names[i]))
			msg.guest_ended.end = (enum bus_end)i;
	fake.ended = msg;
	if (bus_is_connected(fake.bus))
		fake_send_event(&msg); /* else when there is somebody to tell */
}

static void obey(char *line)
{
	char *rest = strchr(line, ' ');

	if (rest)
		*rest++ = '\0';
	else
		rest = line + strlen(line);
	if (!strcmp(line, "end"))
		fake_end_guest(rest);
	else if (!strcmp(line, "crash"))
		abort();
	else if (!strcmp(line, "exit"))
		_exit(atoi(rest));
	else if (!strcmp(line, "mute"))
		fake.mute = true;
	else if (!strcmp(line, "stuck"))
		for (;;)
			pause();
	else if (!strcmp(line, "rejoin"))
		rejoin();
	else if (!strcmp(line, "junk"))
		junk(atoi(rest));
	else if (!strcmp(line, "flood"))
		fake_flood(atoi(rest));
	else if (!strcmp(line, "log"))
		log_info("%s", rest);
	else if (!strcmp(line, "raw"))
		dprintf(STDERR_FILENO, "%s\n", rest);
	else if (!strcmp(line, "say"))
		dprintf(fake.console_fd, "%s\r\n", rest);
	else if (!strcmp(line, "fds"))
		list_fds();
	else if (!strcmp(line, "hang"))
		tell_of_hang(rest);
	else if (!strcmp(line, "io-error"))
		tell_of_error(rest);
	else if (!strcmp(line, "as"))
		snprintf(fake.device_name, sizeof(fake.device_name), "%s", rest);
	else if (!strcmp(line, "away"))
		tell_away(rest);
	else if (!strcmp(line, "ignore"))
		fake.ignore = true;
	else if (!strcmp(line, "reject"))
		fake.reject = true;
	else if (!strcmp(line, "frame") && send(fake.packet_fd, rest, strlen(rest), MSG_DONTWAIT) < 0)
		log_error_errno(-errno, "the frame is lost");
}

static void on_command(void *arg, uint32_t events)
{
	char line[512];

	(void)arg;
	(void)events;
	while (fgets(line, sizeof(line), fake.commands)) {
		line[strcspn(line, "\n")] = '\0';
		obey(line);
	}
	clearerr(fake.commands);
}

void fake_open_commands(void)
{
	char path[300];
	int fd;

	loop_del_fd(TAKE_PTR(fake.command_watch));
	if (fake.commands)
		fclose(fake.commands);
	snprintf(path, sizeof(path), "%s/%s%s%s.ctl", fake.dir, fake.id, fake_end_of_id(),
		 fake.core || fake.user || fake.active ? "" : ".spare");
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	fake.commands = fd < 0 ? NULL : fdopen(fd, "r");
	if (fake.commands)
		loop_add_fd(fake.loop, fd, EPOLLIN, on_command, NULL, &fake.command_watch);
}
