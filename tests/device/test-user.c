/* SPDX-License-Identifier: Apache-2.0 */
/* net-user on the bus, in its sandbox, and under frames that are meant to break it (FAULTS 32 and 33). */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "config.h"
#include "note.h"
#include "num.h"
#include "probe.h"
#include "sandbox.h"
#include "user.h"

/* A network of the test's own, if that is allowed: nobody else has the ports of its loopback. */
static void own_network(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	CLEAN_FD int fd = -1;

	if (unshare(CLONE_NEWNET))
		return;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(ioctl(fd, SIOCSIFFLAGS, &lo), 0, "%s", strerror(errno));
}

TestSuite(user, .init = own_network, .timeout = 120);

#define FIN 0x01
#define SYN 0x02
#define PSH 0x08
#define ACK 0x10

static uint8_t frame[70000];

/* A reproducible number below limit. */
static uint32_t random_below(uint32_t limit)
{
	static uint64_t state = 0x9e3779b97f4a7c15ULL;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 16) % limit;
}

static unsigned long status_kb(pid_t pid, const char *key)
{
	char value[64];

	cr_assert_not_null(probe_status(pid, key, value, sizeof(value)));
	return strtoul(value, NULL, 10);
}

static unsigned long rss_kb(pid_t pid)
{
	return status_kb(pid, "VmRSS");
}

Test(user, does_what_every_child_does_on_the_bus)
{
	static const char *const options[] = { "--id", "net7", NULL };
	struct user u;

	user_start(&u, options);
	cr_expect_str_eq(u.hello->hello.kind, "net-user");
	cr_expect_str_eq(u.hello->hello.name, "net7");
	cr_expect_eq(u.hello->hello.protocol, BUS_PROTOCOL);
	cr_expect_eq(user_ask(&u, BUS_PING), 0);
	cr_expect_eq(user_ask(&u, BUS_DRAIN), -EOPNOTSUPP);
	cr_expect(user_answers(&u));
	cr_expect_geq(user_stat(&u, "frames_from_guest"), 1);
	cr_expect_geq(user_stat(&u, "frames_to_guest"), 1);
	user_stop(&u);
}

Test(user, the_serving_process_is_confined)
{
	const char *wrong;
	struct user u;

#ifdef BH_SANITIZE
	cr_skip_test("sanitizer builds run without the sandbox");
#endif
	user_start(&u, NULL);
	wrong = probe_check_state(u.pid, geteuid() == 0 ? SANDBOX_NOBODY : geteuid(), 2, true);
	cr_expect_null(wrong, "%s", wrong);
	cr_expect_eq(probe_mounts(u.pid), 3, "the root, /bus and /etc/resolv.conf");
	user_stop(&u);
}

/* The thread of that name. */
static pid_t thread_called(pid_t pid, const char *name)
{
	char path[320], comm[32];
	struct dirent *e;
	pid_t found = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	cr_assert_not_null(dir);
	while (!found && (e = readdir(dir))) {
		CLEAN_FILE FILE *f = NULL;

		snprintf(path, sizeof(path), "/proc/%d/task/%s/comm", (int)pid, e->d_name);
		f = fopen(path, "re");
		if (f && fgets(comm, sizeof(comm), f) && !strncmp(comm, name, strlen(name)) &&
		    comm[strlen(name)] == '\n')
			found = (pid_t)strtol(e->d_name, NULL, 10);
	}
	closedir(dir);
	return found;
}

/* The main thread turns all the while, and says so to GET_STATS; PING asks for more. */
Test(user, a_network_thread_that_hangs_answers_no_ping)
{
	struct user u;
	pid_t thread;

	user_start(&u, NULL);
	thread = thread_called(u.pid, "net");
	cr_assert_gt(thread, 0);
	if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) < 0) {
		user_stop(&u);
		cr_skip_test("no thread of another process can be stopped here");
	}
	cr_assert_eq(ptrace(PTRACE_INTERRUPT, thread, NULL, NULL), 0);
	cr_assert_eq(waitpid(thread, NULL, __WALL), thread);
	cr_expect_eq(user_ask(&u, BUS_GET_STATS), 0);
	cr_expect_eq(user_ask_within(&u, BUS_PING, 300 * NS_PER_MS), -ETIMEDOUT);
	cr_assert_eq(ptrace(PTRACE_DETACH, thread, NULL, NULL), 0);
	cr_expect_eq(user_ask(&u, BUS_PING), 0);
	user_stop(&u);
}

Test(user, ends_when_nobody_holds_the_other_end)
{
	struct user u;

	user_start(&u, NULL);
	cr_assert(user_answers(&u));
	close(take_fd(&u.sock));
	cr_assert_eq(user_wait(&u), 0);
}

Test(user, datagrams_that_are_no_frames_are_counted)
{
	struct user u;

	user_start(&u, NULL);
	user_send(&u, frame, 0);
	user_send(&u, frame, 1);
	user_send(&u, frame, sizeof(frame));
	cr_assert(user_answers(&u));
	cr_expect_eq(user_stat(&u, "drop_malformed"), 3);
	user_put16(frame + 12, 0x88f8);
	user_send(&u, frame, 60);
	cr_assert(user_answers(&u));
	cr_expect_eq(user_stat(&u, "drop_foreign"), 1);
	user_stop(&u);
}

/* Waits until it has taken so many frames. */
static void until_taken(struct user *u, uint64_t frames)
{
	uint64_t limit = clock_ns() + USER_DEADLINE_S * NS_PER_S;

	while (user_stat(u, "frames_from_guest") < frames)
		cr_assert(clock_ns() < limit);
	/* ... and the pass that took the last has ended. */
	for (uint64_t passes = user_stat(u, "passes"); user_stat(u, "passes") < passes + 2;)
		cr_assert_eq(user_ask(u, BUS_PING), 0);
}

/* A fragment of an ICMP packet. */
static void send_fragment(struct user *u, unsigned id, unsigned offset, size_t len, bool more)
{
	size_t total = user_ip(frame, IPPROTO_ICMP, USER_GATEWAY, len);
	uint8_t *ip = frame + USER_IP;
	uint32_t sum = 0;

	user_put16(ip + 4, id);
	user_put16(ip + 6, offset / 8 | (more ? 0x2000 : 0));
	user_put16(ip + 10, 0);
	for (size_t i = 0; i < 20; i += 2)
		sum += user_get16(ip + i);
	user_put16(ip + 10, ~((sum & 0xffff) + (sum >> 16)));
	user_send(u, frame, total);
}

/* The overflow was of a first fragment that needed a larger buffer, and one before it in the list. */
Test(user, fault_33_cve_2019_14378_fragments_that_grow_the_first_buffer)
{
	struct user u;

	user_start(&u, NULL);
	memset(frame, 'A', sizeof(frame));
	for (unsigned id = 1; id <= 200; id++) {
		send_fragment(&u, id, 0, 1200 + id * 8, true);
		send_fragment(&u, id, 1200 + id * 8, 60000, true);
		send_fragment(&u, id, 8, 16, true);
		send_fragment(&u, id, 61200 + id * 8, 3000 - id * 8, false);
	}
	/* CVE-2020-1983: a fragment whose packet is empty without it; and offsets up to the end. */
	for (unsigned offset = 0; offset < 65536; offset += 1024)
		send_fragment(&u, 500 + offset, offset, random_below(2) ? 8 : 1480, random_below(2));
	cr_assert(user_answers(&u));
	cr_expect_geq(user_stat(&u, "drop_fragments"), 200);
	user_stop(&u);
}

Test(user, fault_33_a_flood_of_fragments_costs_bounded_memory)
{
	unsigned long before;
	struct user u;

	user_start(&u, NULL);
	cr_assert(user_answers(&u));
	for (unsigned id = 0; id < 1000; id++)
		send_fragment(&u, id, 0, 1480, true);
	cr_assert(user_answers(&u));
	before = rss_kb(u.pid);
	for (unsigned id = 0; id < 60000; id++)
		send_fragment(&u, id, 0, 1480, true);
	cr_assert(user_answers(&u));
	/* They are 85 MiB. */
	cr_expect_lt(rss_kb(u.pid), before + 8192);
	user_stop(&u);
}

/* What /proc/PID/limits has in a line, or UINT64_MAX. */
static uint64_t limit_of(pid_t pid, const char *name)
{
	CLEAN_FILE FILE *f = NULL;
	char path[64], line[256];

	snprintf(path, sizeof(path), "/proc/%d/limits", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)) && strstr(line, "unlimited") == NULL)
			return strtoull(line + strlen(name), NULL, 10);
	return UINT64_MAX;
}

/* A server of the host's loopback at any port; the port goes to *port. */
static int listen_somewhere(unsigned *port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(addr);

	cr_assert_eq(bind(fd, (struct sockaddr *)&addr, len), 0);
	cr_assert_eq(listen(fd, 16), 0);
	getsockname(fd, (struct sockaddr *)&addr, &len);
	*port = ntohs(addr.sin_port);
	return fd;
}

/* A server of the host's loopback at port; skips if it can't be had. */
static int listen_at(unsigned port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET,
				    .sin_port = htons((uint16_t)port),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 4) < 0)
		cr_skip_test("port 6667 is in use");
	return fd;
}

/* Waits for a TCP segment with these flags for port; its sequence number. Answers ARP meanwhile. */
static uint32_t await_tcp(struct user *u, unsigned port, uint8_t flags)
{
	uint64_t limit = clock_ns() + USER_DEADLINE_S * NS_PER_S;
	static uint8_t got[70000];

	while (clock_ns() < limit) {
		size_t len = user_receive(u, got, sizeof(got), 1000);

		if (len >= USER_TCP_DATA && user_get16(got + 12) == 0x0800 &&
		    got[USER_IP + 9] == IPPROTO_TCP && user_get16(got + USER_UPPER + 2) == port &&
		    (got[USER_UPPER + 13] & flags) == flags)
			return user_get32(got + USER_UPPER + 4);
	}
	cr_assert_fail("no segment with flags %x", flags);
	return 0;
}

/* The overflows were in the rewriting of what clients of IRC, FTP and RealAudio say; there must be no such rewriting. */
Test(user, fault_33_cve_2020_8608_and_cve_2020_7039_nothing_is_rewritten)
{
	char said[1400] = "PRIVMSG x :\1DCC CHAT chat 167772687 4000\1\r\n", got[2048];
	int server = listen_at(6667), connection;
	struct timeval limit = { .tv_sec = USER_DEADLINE_S };
	size_t have = 0, len = strlen(said);
	struct user u;
	uint32_t seq;

	memset(said + len, ' ', sizeof(said) - len);
	user_start(&u, NULL);
	cr_assert(user_answers(&u));
	user_send(&u, frame, user_tcp(frame, USER_GATEWAY, 4001, 6667, 100, 0, SYN, 0));
	seq = await_tcp(&u, 4001, SYN | ACK) + 1;
	user_send(&u, frame, user_tcp(frame, USER_GATEWAY, 4001, 6667, 101, seq, ACK, 0));
	connection = accept(server, NULL, NULL);
	cr_assert_geq(connection, 0);
	setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	memcpy(frame + USER_TCP_DATA, said, sizeof(said));
	user_send(&u, frame, user_tcp(frame, USER_GATEWAY, 4001, 6667, 101, seq, PSH | ACK, sizeof(said)));
	while (have < sizeof(said)) {
		ssize_t n = recv(connection, got + have, sizeof(got) - have, 0);

		cr_assert_gt(n, 0, "%s", strerror(errno));
		have += (size_t)n;
	}
	cr_expect_eq(have, sizeof(said));
	cr_expect_eq(memcmp(got, said, sizeof(said)), 0);
	cr_assert(user_answers(&u));
	close(connection);
	close(server);
	user_stop(&u);
}

/* Each byte behind a gap costs libslirp a buffer of 1.7 KiB, over a window of 64 KiB for each connection. */
Test(user, fault_33_segments_out_of_order_end_the_process_before_the_host_s_memory)
{
	unsigned port;
	int server = listen_somewhere(&port);
	struct rlimit tight;
	bool dead = false;
	struct user u;
	uint32_t seq;

#ifdef BH_SANITIZE
	cr_skip_test("sanitizer builds run without the sandbox");
#endif
	user_start(&u, NULL);
	cr_assert(user_answers(&u));
	cr_expect_eq(limit_of(u.pid, "Max data size"), 1ULL << 30);
	tight.rlim_cur = tight.rlim_max = (status_kb(u.pid, "VmData") << 10) + (32 << 20);
	cr_assert_eq(prlimit(u.pid, RLIMIT_DATA, &tight, NULL), 0);
	user_send(&u, frame, user_tcp(frame, USER_GATEWAY, 4001, port, 100, 0, SYN, 0));
	seq = await_tcp(&u, 4001, SYN | ACK) + 1;
	for (unsigned at = 60000; at > 10 && !dead; at -= 2) {
		size_t len = user_tcp(frame, USER_GATEWAY, 4001, port, 100 + at, seq, ACK, 1);

		dead = send(u.sock, frame, len, MSG_NOSIGNAL) < 0;
	}
	cr_expect_lt(user_wait(&u), 0, "it dies of a signal");
	close(server);
}

/* One frame of many kinds; its length. No port is one that another test of these listens at, as they run side by side. */
static size_t any_frame(void)
{
	uint32_t dst = random_below(4) ? USER_GATEWAY : random_below(2) ? USER_GATEWAY + 1 : 0xffffffff;
	size_t len = random_below(1400);
	static const uint16_t ports[] = { 53, 67, 68, 69, 7, 9, 21, 514, 547, 6668, 65535, 0 };

	for (size_t i = 0; i < 64; i++)
		frame[USER_UPPER + i] = (uint8_t)random_below(256);
	switch (random_below(4)) {
	case 0:
		return user_udp(frame, dst, random_below(65536), ports[random_below(ARRAY_SIZE(ports))], len);
	case 1:
		return user_tcp(frame, dst, random_below(16), ports[random_below(ARRAY_SIZE(ports))],
				random_below(1000), random_below(1000), (uint8_t)random_below(64), len);
	case 2:
		return user_ip(frame, (uint8_t)random_below(256), dst, len);
	default:
		len = user_ip(frame, IPPROTO_ICMP, dst, 8 + len);
		user_put16(frame + 12, random_below(2) ? 0x0806 : 0x86dd);
		return len;
	}
}

Test(user, fault_33_frames_with_random_changes_do_no_harm)
{
	static const char *const options[] = { "--ipv6", "on", NULL };
	struct user u;

	user_start(&u, options);
	for (unsigned i = 0; i < 20000; i++) {
		size_t len = any_frame();

		for (unsigned n = random_below(4); n; n--)
			frame[12 + random_below((uint32_t)len - 12)] = (uint8_t)random_below(256);
		if (!random_below(8))
			len = random_below((uint32_t)len + 1);
		user_send(&u, frame, len);
		while (user_receive(&u, frame, sizeof(frame), 0))
			;
	}
	cr_assert(user_answers(&u));
	note("20000 frames: %lu malformed, %lu foreign, %lu refused",
	     (unsigned long)user_stat(&u, "drop_malformed"), (unsigned long)user_stat(&u, "drop_foreign"),
	     (unsigned long)user_stat(&u, "drop_refused"));
	user_stop(&u);
}

/* A connection of the host to its loopback at port. */
static int connect_to(unsigned port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET,
				    .sin_port = htons((uint16_t)port),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0, "%s", strerror(errno));
	return fd;
}

/* A port of the host's loopback that was free a moment ago. */
static unsigned free_port(void)
{
	unsigned port;

	close(listen_somewhere(&port));
	return port;
}

/* Datagrams from thousands of ports take all sockets that there may be; a connection to a forwarded port then waits,
 * without its being announced over and over, and one that the guest begins is dropped. */
Test(user, a_connection_to_a_forwarded_port_comes_to_the_guest)
{
	unsigned port = free_port();
	char forward[64];
	const char *const options[] = { "--hostfwd", forward, NULL };
	CLEAN_FD int ours = -1;
	size_t len;
	struct user u;

	snprintf(forward, sizeof(forward), "tcp:127.0.0.1:%u-:22", port);
	user_start(&u, options);
	cr_assert(user_answers(&u)); /* it knows the guest's hardware address now */
	ours = connect_to(port);
	do {
		len = user_receive(&u, frame, sizeof(frame), USER_DEADLINE_S * 1000);
		cr_assert_gt(len, 0);
	} while (len < USER_TCP_DATA || frame[USER_IP + 9] != IPPROTO_TCP);
	cr_expect_eq(user_get16(frame + USER_UPPER + 2), 22);
	cr_expect_eq(frame[USER_UPPER + 13] & (SYN | ACK | FIN), SYN);
	user_stop(&u);
}

Test(user, a_guest_that_takes_all_sockets_makes_nothing_spin)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	CLEAN_FD int silent = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CLEAN_FD int waits = -1;
	socklen_t len = sizeof(addr);
	unsigned port = free_port();
	char forward[64];
	const char *const options[] = { "--hostfwd", forward, NULL };
	uint64_t sockets, passes;
	struct user u;

	cr_assert_eq(bind(silent, (struct sockaddr *)&addr, len), 0);
	getsockname(silent, (struct sockaddr *)&addr, &len);
	snprintf(forward, sizeof(forward), "tcp:127.0.0.1:%u-:22", port);
	user_start(&u, options);
	cr_assert(user_answers(&u));
	cr_expect_eq(user_stat(&u, "sockets"), 1, "the forwarded port's");
	for (unsigned i = 0; i < 3000; i++)
		user_send(&u, frame, user_udp(frame, USER_GATEWAY, 2000 + i, ntohs(addr.sin_port), 1));
	user_send(&u, frame, user_tcp(frame, USER_GATEWAY, 4001, port, 100, 0, SYN, 0));
	until_taken(&u, 3002);
	cr_expect_gt(user_stat(&u, "drop_no_socket"), 1000);
	sockets = user_stat(&u, "sockets");
	cr_expect_lt(sockets, 2048 - 64);
	waits = connect_to(port);
	passes = user_stat(&u, "passes");
	cr_expect_eq(poll(&(struct pollfd) { .fd = waits, .events = POLLIN }, 1, 300), 0);
	cr_expect_lt(user_stat(&u, "passes"), passes + 100);
	cr_expect_eq(user_stat(&u, "sockets"), sockets);
	user_stop(&u);
}

/* A UDP port that is free, and below those that the kernel hands out to whoever asks for any. */
static unsigned udp_port(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	CLEAN_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	unsigned port = 24553;

	do
		addr.sin_port = htons((uint16_t)++port);
	while (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 && port < 25000);
	return port;
}

/* The host floods a forwarded port, and nobody reads the frames. */
Test(user, fault_32_an_ingress_flood_that_nobody_takes_is_held_or_dropped)
{
	char forward[64];
	const char *const options[] = { "--hostfwd", forward, NULL };
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)udp_port()),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	CLEAN_FD int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	unsigned long before;
	uint64_t passes;
	struct user u;

	snprintf(forward, sizeof(forward), "udp:127.0.0.1:%u-:53", ntohs(to.sin_port));
	user_start(&u, options);
	cr_assert(user_answers(&u));
	before = rss_kb(u.pid);
	for (unsigned i = 0; i < 100000; i++)
		sendto(sock, frame, 1400, 0, (struct sockaddr *)&to, sizeof(to));
	cr_expect_eq(user_ask(&u, BUS_PING), 0);
	cr_expect_gt(user_stat(&u, "held_back"), 0);
	passes = user_stat(&u, "passes");
	poll(NULL, 0, 300);
	cr_expect_lt(user_stat(&u, "passes"), passes + 100, "it spins");
	cr_expect_eq(user_stat(&u, "drop_guest_full"), 0, "what waits in the host's socket is not fetched");
	cr_expect_lt(rss_kb(u.pid), before + 8192);
	cr_expect(user_answers(&u), "once the frames are read");
	user_stop(&u);
}
