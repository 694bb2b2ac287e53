/* SPDX-License-Identifier: Apache-2.0 */
/* Starting net-user, talking to it on the bus and in frames. */
#include "user.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bus_end.h"
#include "clock.h"
#include "config.h"
#include "num.h"
#include "sandbox.h"
#include "temp_dir.h"

#define OPTIONS_MAX 32

/* ---- the process ---- */

static void on_message(void *arg, const struct bus_msg *msg)
{
	struct user *u = arg;

	if (msg->type == BUS_HELLO)
		*u->hello = *msg;
	else if (msg->type == BUS_READY)
		u->ready = true;
}

static const struct bus_ops ops = { .message = on_message,
				    .connected = bus_end_connected,
				    .malformed = bus_end_malformed };

#define until(u, condition)                                                                                  \
	do {                                                                                                 \
		uint64_t limit_ = clock_ns() + USER_DEADLINE_S * NS_PER_S;                                   \
		while (!(condition)) {                                                                       \
			cr_assert(clock_ns() < limit_, "deadline: %s", #condition);                          \
			loop_run_once((u)->loop, (int64_t)(50 * NS_PER_MS));                                 \
		}                                                                                            \
	} while (0)

static void spawn(struct user *u, const char *const *options, int theirs)
{
	const char *dir = getenv("top_builddir"), *what = "";
	const char *argv[OPTIONS_MAX] = { "net-user", "--packet-fd", "3",      "--bus",
					  u->dir,     "--log-level", "warning" };
	char program[512];
	size_t n = 7;
	struct sandbox_spawn spawn = { .path = program,
				       .fds = &theirs,
				       .nfds = 1,
				       .stderr_fd = STDERR_FILENO,
				       .namespaces = true,
				       .host_network = true,
				       .uid = SANDBOX_NOBODY,
				       .die_with_parent = true };

#ifdef BH_SANITIZE
	argv[n++] = "--sandbox=off";
	spawn.namespaces = false;
#endif
	while (options && *options && n < OPTIONS_MAX - 1)
		argv[n++] = *options++;
	snprintf(program, sizeof(program), "%s/net-user/net-user", dir ? dir : "../..");
	memcpy(&spawn.argv, &(const char *const *) { argv }, sizeof(spawn.argv));
	cr_assert_eq(sandbox_spawn(&spawn, &u->pid, &u->pidfd, &what), 0, "%s: %s", program, what);
}

void user_start(struct user *u, const char *const *options)
{
	int pair[2];

	memset(u, 0, sizeof(*u));
	u->hello = calloc(1, sizeof(*u->hello));
	u->reply = calloc(1, sizeof(*u->reply));
	cr_assert(temp_dir_make(u->dir, sizeof(u->dir)));
	snprintf(u->path, sizeof(u->path), "%s/bus", u->dir);
	cr_assert_eq(loop_new("supervisor", &u->loop), 0);
	cr_assert_eq(bus_listen(u->loop, u->path, getpid(), &ops, u, &u->bus), 0);
	if (geteuid() == 0) {
		cr_assert_eq(chown(u->dir, SANDBOX_NOBODY, SANDBOX_NOBODY), 0);
		cr_assert_eq(chown(u->path, SANDBOX_NOBODY, SANDBOX_NOBODY), 0);
	}
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	u->sock = pair[0];
	spawn(u, options, pair[1]);
	close(pair[1]);
	bus_expect(u->bus, u->pid);
	until(u, u->ready);
}

int user_wait(struct user *u)
{
	struct pollfd gone = { .fd = u->pidfd, .events = POLLIN };
	siginfo_t info = { 0 };

	cr_assert_eq(poll(&gone, 1, USER_DEADLINE_S * 1000), 1, "it does not end");
	cr_assert_eq(waitid(P_PIDFD, (id_t)u->pidfd, &info, WEXITED), 0);
	bus_close(u->bus);
	loop_free(u->loop);
	unlink(u->path);
	rmdir(u->dir);
	free(u->hello);
	free(u->reply);
	if (u->sock >= 0)
		close(u->sock);
	close(u->pidfd);
	return info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
}

void user_stop(struct user *u)
{
	cr_assert_eq(user_ask(u, BUS_SHUTDOWN), 0);
	cr_assert_eq(user_wait(u), 0);
}

static void on_reply(void *arg, int err, const struct bus_msg *reply)
{
	struct user *u = arg;

	u->answered = true;
	u->err = err;
	if (reply)
		*u->reply = *reply;
}

int user_ask_within(struct user *u, enum bus_type type, uint64_t timeout_ns)
{
	struct bus_msg *msg = calloc(1, sizeof(*msg));

	cr_assert_not_null(msg);
	msg->type = type;
	u->answered = false;
	cr_assert_eq(bus_request(u->bus, msg, timeout_ns, on_reply, u), 0);
	free(msg);
	until(u, u->answered);
	return u->err;
}

int user_ask(struct user *u, enum bus_type type)
{
	return user_ask_within(u, type, USER_DEADLINE_S * NS_PER_S);
}

uint64_t user_stat(struct user *u, const char *name)
{
	cr_assert_eq(user_ask(u, BUS_GET_STATS), 0);
	for (uint32_t i = 0; i < u->reply->stats.count; i++)
		if (!strcmp(u->reply->stats.stat[i].name, name))
			return u->reply->stats.stat[i].value;
	cr_assert_fail("no counter %s", name);
	return 0;
}

/* ---- frames ---- */

void user_send(struct user *u, const void *frame, size_t len)
{
	cr_assert_eq(send(u->sock, frame, len, MSG_NOSIGNAL), (ssize_t)len, "%s", strerror(errno));
}

size_t user_receive(struct user *u, void *frame, size_t size, int timeout_ms)
{
	struct pollfd fd = { .fd = u->sock, .events = POLLIN };
	ssize_t n = poll(&fd, 1, timeout_ms) == 1 ? recv(u->sock, frame, size, MSG_DONTWAIT) : 0;

	return n > 0 ? (size_t)n : 0;
}

void user_put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

void user_put32(uint8_t *p, uint32_t v)
{
	user_put16(p, v >> 16);
	user_put16(p + 2, v);
}

uint32_t user_get16(const uint8_t *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

uint32_t user_get32(const uint8_t *p)
{
	return user_get16(p) << 16 | user_get16(p + 2);
}

static uint32_t add_up(uint32_t sum, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

size_t user_ip(uint8_t *frame, uint8_t protocol, uint32_t dst, size_t len)
{
	static const uint8_t ethernet[USER_IP] = { 0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 1, 2, 3, 8, 0 };
	uint8_t *ip = frame + USER_IP;

	memcpy(frame, ethernet, sizeof(ethernet));
	memset(ip, 0, USER_UPPER - USER_IP);
	ip[0] = 0x45;
	user_put16(ip + 2, (uint32_t)(20 + len));
	ip[8] = 64;
	ip[9] = protocol;
	user_put32(ip + 12, USER_GUEST);
	user_put32(ip + 16, dst);
	user_put16(ip + 10, ~add_up(0, ip, 20));
	return USER_UPPER + len;
}

/* The checksum with the pseudo header at place of the upper protocol's len bytes. */
static void sum_upper(uint8_t *frame, size_t len, size_t place)
{
	uint32_t sum = frame[USER_IP + 9] + (uint32_t)len;

	user_put16(frame + USER_UPPER + place, 0);
	sum = add_up(sum, frame + USER_IP + 12, 8);
	user_put16(frame + USER_UPPER + place, ~add_up(sum, frame + USER_UPPER, len));
}

size_t user_udp(uint8_t *frame, uint32_t dst, unsigned src_port, unsigned dst_port, size_t len)
{
	size_t total = user_ip(frame, IPPROTO_UDP, dst, 8 + len);

	user_put16(frame + USER_UPPER, src_port);
	user_put16(frame + USER_UPPER + 2, dst_port);
	user_put16(frame + USER_UPPER + 4, (uint32_t)(8 + len));
	sum_upper(frame, 8 + len, 6);
	return total;
}

size_t user_tcp(uint8_t *frame, uint32_t dst, unsigned src_port, unsigned dst_port, uint32_t seq,
		uint32_t ack, uint8_t flags, size_t len)
{
	size_t total = user_ip(frame, IPPROTO_TCP, dst, 20 + len);
	uint8_t *tcp = frame + USER_UPPER;

	user_put16(tcp, src_port);
	user_put16(tcp + 2, dst_port);
	user_put32(tcp + 4, seq);
	user_put32(tcp + 8, ack);
	user_put16(tcp + 12, 0x5000U | flags);
	user_put16(tcp + 14, 65535);
	user_put16(tcp + 18, 0);
	sum_upper(frame, 20 + len, 16);
	return total;
}

/* libslirp asks who the guest is before it answers. */
static void answer_arp(struct user *u, const uint8_t *asked)
{
	uint8_t reply[42];

	memcpy(reply, asked, sizeof(reply));
	memcpy(reply, asked + 6, 6);
	memcpy(reply + 6, "\x52\x54\0\1\2\3", 6);
	user_put16(reply + 20, 2);
	memcpy(reply + 32, asked + 22, 10);
	memcpy(reply + 22, "\x52\x54\0\1\2\3", 6);
	user_put32(reply + 28, USER_GUEST);
	user_send(u, reply, sizeof(reply));
}

bool user_answers(struct user *u)
{
	static uint16_t number;
	uint64_t limit = clock_ns() + USER_DEADLINE_S * NS_PER_S;
	static uint8_t frame[70000];
	uint8_t *icmp = frame + USER_UPPER;
	size_t len;

	number++;
	memset(icmp, 0, 16);
	icmp[0] = 8;
	user_put16(icmp + 6, number);
	len = user_ip(frame, IPPROTO_ICMP, USER_GATEWAY, 16);
	user_put16(icmp + 2, ~add_up(0, icmp, 16));
	user_send(u, frame, len);
	while (clock_ns() < limit) {
		len = user_receive(u, frame, sizeof(frame), 1000);
		if (len >= 42 && user_get16(frame + 12) == 0x0806 && user_get16(frame + 20) == 1)
			answer_arp(u, frame);
		else if (len >= USER_UPPER + 8 && user_get16(frame + 12) == 0x0800 &&
			 frame[USER_IP + 9] == IPPROTO_ICMP && icmp[0] == 0 && user_get16(icmp + 6) == number)
			return true;
	}
	return false;
}
