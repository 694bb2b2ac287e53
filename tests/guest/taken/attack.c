/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a server that was taken over does to stop the core, or to outlive its own end: on its main thread, under its steady
 * filter, with what it has by then. Each goes on for as long as it is told to, while somebody measures how soon the core answers.
 */
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "bus.h"
#include "clock.h"
#include "sandbox.h"
#include "try.h"

/* A message's head on a vhost-user socket. */
struct head {
	uint32_t request, flags, size;
};

#define VERSION 1U
#define REPLY   4U

static bool goes_on(const struct attack *a)
{
	return clock_ns() < a->end_ns;
}

/* Whatever there is to be kept from serving is kept from it. */
static void spin(const struct attack *a)
{
	while (goes_on(a))
		;
}

/* ---- the bus ---- */

static void knock(const struct attack *a)
{
	static const struct sockaddr_un bus = { .sun_family = AF_UNIX, .sun_path = "/bus/bus" };

	while (goes_on(a)) {
		long fd = CALL(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

		if (fd < 0)
			continue;
		if (CALL(SYS_connect, fd, &bus, sizeof(bus)) >= 0)
			CALL(SYS_write, fd, "\0\0", 2); /* half of what begins a message */
		CALL(SYS_close, fd);
	}
}

static void chatter(const struct attack *a)
{
	const struct bus_msg ready = { .type = BUS_READY };

	while (a->bus && goes_on(a))
		bus_event(a->bus, &ready);
}

/* ---- the core's connection ---- */

static long send_fds(int fd, const void *data, size_t len, const int *fds, size_t n)
{
	char control[CMSG_SPACE(16 * sizeof(int))] __attribute__((aligned(8))) = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c = (struct cmsghdr *)(void *)control;

	if (n) {
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	return CALL(SYS_sendmsg, fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void unasked(const struct attack *a)
{
	const struct {
		struct head head;
		uint32_t value[2];
	} reply = { .head = { 1, VERSION | REPLY, 8 } };

	while (goes_on(a))
		send_fds(a->vhost, &reply, sizeof(reply), NULL, 0);
}

static void endless(const struct attack *a)
{
	const struct head head = { 1, VERSION | REPLY, UINT32_MAX };

	send_fds(a->vhost, &head, sizeof(head), NULL, 0);
	spin(a);
}

static void half(const struct attack *a)
{
	const struct head head = { 24, VERSION | REPLY, 12 };

	send_fds(a->vhost, &head, sizeof(head) / 2, NULL, 0);
	spin(a);
}

static void unwanted(const struct attack *a)
{
	const struct head head = { 31, VERSION | REPLY, 0 };
	int fds[16];

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = i % 2 ? a->vhost : STDIN_FILENO;
	while (goes_on(a))
		send_fds(a->vhost, &head, sizeof(head), fds, ARRAY_SIZE(fds));
}

/* On every socket that there is, one of which is for requests of ours: configuration space changed. */
static void requests(const struct attack *a)
{
	const struct head head = { 2, VERSION, 0 };

	while (goes_on(a))
		for (int fd = 3; fd < TAKEN_FDS; fd++)
			if (fd != a->vhost)
				send_fds(fd, &head, sizeof(head), NULL, 0);
}

/* Kicks, calls and whatever else is an eventfd: to write once more would wait. */
static void saturate(const struct attack *a)
{
	static const uint64_t most = UINT64_MAX - 1, one = 1;
	struct stat st;

	while (goes_on(a))
		for (int fd = 3; fd < TAKEN_FDS; fd++)
			if (!fstat(fd, &st) && !(st.st_mode & S_IFMT)) {
				CALL(SYS_fcntl, fd, F_SETFL, O_NONBLOCK);
				CALL(SYS_write, fd, &most, sizeof(most));
				CALL(SYS_write, fd, &one, sizeof(one));
			}
}

/* ---- the host ---- */

static void complain(const struct attack *a)
{
	static const char line[] = "nothing is wrong here, and everything may be said of it at length\n";

	while (goes_on(a))
		CALL(SYS_write, STDERR_FILENO, line, sizeof(line) - 1);
}

static void bomb(const struct attack *a)
{
	while (goes_on(a)) {
		long r = CALL(SYS_clone, SIGCHLD);

		if (r == 0)
			for (;;)
				CALL(SYS_exit_group, 0);
		CALL(SYS_fork);
		CALL(SYS_clone3, 0, 0);
	}
}

static void hoard_fds(const struct attack *a)
{
	while (CALL(SYS_socket, AF_UNIX, SOCK_STREAM, 0) >= 0)
		;
	spin(a);
}

#define PIECE (4UL << 20)
#define MOST  (96UL << 20) /* more is no other attack, but costs a small host's tests too much */

static void hoard_memory(const struct attack *a)
{
	for (size_t n = 0; n < MOST && goes_on(a); n += PIECE) {
		char *p = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p != MAP_FAILED)
			memset(p, 1, PIECE);
	}
	spin(a);
}

/* ---- its own end ---- */

/* No signal that can be blocked gets through, and it asks to be left alone by all means. */
static void cling(const struct attack *a)
{
	static const uint64_t all = UINT64_MAX;

	CALL(SYS_setsid);
	CALL(SYS_prctl, PR_SET_PDEATHSIG, 0);
	CALL(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
	CALL(SYS_clone, SIGCHLD | 0x8000 /* CLONE_PARENT */);
	CALL(SYS_kill, 0, SIGSTOP);
	/* Last: a forbidden call is deadly from here on. */
	CALL(SYS_rt_sigprocmask, SIG_BLOCK, &all, 0, sizeof(all));
	for (;;)
		spin(a);
}

/* In the anchor, when we are dead: it says nothing, and does not end. */
static bool hang(void *arg)
{
	(void)arg;
	for (;;)
		;
	return false;
}

/* So the death is told, but never that it is over. */
static void hold_anchor(const struct attack *a)
{
	if (a->anchor)
		a->anchor->drained = hang;
	cling(a);
}

static const struct {
	const char *name;
	void (*fn)(const struct attack *a);
} attacks[] = {
	{ "connections", knock }, { "events", chatter },    { "replies", unasked },
	{ "endless", endless },   { "half", half },         { "descriptors", unwanted },
	{ "requests", requests }, { "eventfds", saturate }, { "lines", complain },
	{ "processes", bomb },    { "hoard", hoard_fds },   { "memory", hoard_memory },
	{ "spin", spin },         { "cling", cling },       { "anchor", hold_anchor },
};

void attack_do(const char *name, const struct attack *a)
{
	for (size_t i = 0; i < ARRAY_SIZE(attacks); i++)
		if (!strcmp(name, attacks[i].name))
			attacks[i].fn(a);
}
