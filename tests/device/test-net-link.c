/* SPDX-License-Identifier: Apache-2.0 */
/* The other end of a stream comes and goes: what the guest's link says, and that no piece of a frame is taken along. */
#include <criterion/criterion.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "flight.h"
#include "net.h"
#include "rig_priv.h"
#include "num.h"

TestSuite(net_link, .timeout = 60);

static struct net n;
static struct net_frame f;
static uint8_t frame[NET_BYTES];

/* Connects as the other end. */
static void join(void)
{
	struct sockaddr_un addr;
	socklen_t len = sizeof(addr);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(getsockname(n.backend.fds[0], (struct sockaddr *)&addr, &len), 0);
	cr_assert_eq(connect(fd, (const struct sockaddr *)&addr, len), 0, "%s", strerror(errno));
	cr_assert_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	n.peer = fd;
	n.stream_len = 0;
}

static void leave(void)
{
	close(n.peer);
	n.peer = -1;
}

static bool is_up(void)
{
	uint16_t status;

	rig_get_config(&n.rig, 6, &status, sizeof(status));
	return status & VIRTIO_NET_S_LINK_UP;
}

static void serves(uint32_t number)
{
	net_fill(frame, 200, number);
	net_post_many(&n, 0, 1526, 1);
	net_peer_send(&n, frame, 200);
	net_receive(&n, 0, &f);
	cr_assert(f.len == 200 && net_check(f.bytes, 200, number));
	net_fill(rig_ptr(&n.rig, n.frame), 300, number);
	cr_assert_eq(net_send(&n, 0, 300, NULL, 0), 0);
	cr_assert_eq(net_peer_receive(&n, frame), 300);
	cr_assert(net_check(frame, 300, number));
}

static void start(uint64_t ring_features)
{
	struct net_options options = { .kind = NET_LISTEN, .rig = { .ring_features = ring_features } };

	net_start(&n, &options);
}

Test(net_link, follows_who_connects)
{
	unsigned told;

	start(RING_F_EVENT_IDX);
	cr_assert(!is_up(), "nobody is there");
	for (uint32_t i = 0; i < 5; i++) {
		told = n.rig.config_changes;
		join();
		rig_until(&n.rig, n.rig.config_changes > told);
		cr_assert(is_up());
		serves(i);
		/* Half a frame, which the next one must not be taken for the rest of. */
		cr_assert_eq(write(n.peer, &(uint32_t) { htonl(1000) }, 4), 4);
		cr_assert_eq(write(n.peer, frame, 100), 100);
		told = n.rig.config_changes;
		leave();
		rig_until(&n.rig, n.rig.config_changes > told);
		cr_assert(!is_up());
		/* What is sent meanwhile goes nowhere, and comes back. */
		net_fill(rig_ptr(&n.rig, n.frame), 300, 99);
		cr_assert_eq(net_send(&n, 0, 300, NULL, 0), 0);
	}
	join();
	net_stop(&n);
}

static unsigned count_lines(int fd, const char *words)
{
	static char text[1 << 20];
	ssize_t len = pread(fd, text, sizeof(text) - 1, 0);
	unsigned count = 0;

	cr_assert_geq(len, 0);
	text[len] = '\0';
	for (const char *p = text; (p = strstr(p, words)); p++)
		count++;
	return count;
}

/* Of a peer that comes and goes, and says so much meanwhile, there is a line a second for each of these. */
static void comes_and_goes(const char *says, const char *const *lines)
{
	enum { TIMES = 30 };
	int log_fd = memfd_create("log", MFD_CLOEXEC);
	struct net_options options = { .kind = NET_LISTEN, .rig = { .log_fd = log_fd } };
	uint64_t begun = clock_ns(), most;

	setenv("RIG_LOG", "info", 1);
	net_start(&n, &options);
	net_post_many(&n, 0, 1526, 1); /* so that it is read */
	for (unsigned i = 0; i < TIMES; i++) {
		unsigned told = n.rig.config_changes;

		join();
		rig_until(&n.rig, n.rig.config_changes > told);
		told = n.rig.config_changes;
		if (says)
			cr_assert_eq(write(n.peer, says, strlen(says)), (ssize_t)strlen(says));
		else
			leave();
		rig_until(&n.rig, n.rig.config_changes > told);
		if (says)
			leave();
	}
	/* One for each second, of which the first and the last are not whole. */
	most = (clock_ns() - begun) / NS_PER_S + 2;
	for (; *lines; lines++) {
		unsigned count = count_lines(log_fd, *lines);

		cr_assert(count >= 1 && count <= most, "%u lines: %s", count, *lines);
	}
	join();
	net_stop(&n);
	close(log_fd);
}

Test(net_link, f31_who_comes_and_goes_does_not_fill_the_log)
{
	const char *const lines[] = { "somebody connected", "the other end is gone", NULL };

	comes_and_goes(NULL, lines);
}

Test(net_link, f31_who_says_what_is_no_frame_does_not_fill_the_log)
{
	const char *const lines[] = { "no stream of frames", "the other end is gone", NULL };

	comes_and_goes("GET / HTTP/1.0\r\n\r\n", lines);
}

/* The second waits, and is next. */
Test(net_link, one_at_a_time)
{
	unsigned told;
	int first;

	start(RING_F_PACKED);
	join();
	rig_until(&n.rig, is_up());
	serves(1);
	first = n.peer;
	join();
	net_fill(rig_ptr(&n.rig, n.frame), 300, 2);
	cr_assert_eq(net_send(&n, 0, 300, NULL, 0), 0);
	cr_assert(net_peer_is_quiet(&n));
	told = n.rig.config_changes;
	close(first);
	rig_until(&n.rig, n.rig.config_changes > told && is_up());
	serves(3);
	net_stop(&n);
}

/* Whoever connects is not for a server that waits to take over, though it has the socket. */
Test(net_link, a_spare_takes_nobody)
{
	const uint32_t ask[3] = { 1 /* GET_FEATURES */, 1 };
	uint32_t answer[5];
	int front, pid, pidfd;

	start(0);
	pid = n.rig.pid;
	pidfd = n.rig.pidfd;
	front = rig_spawn(&n.rig);
	/* It runs once it answers. */
	cr_assert_eq(send(front, ask, sizeof(ask), 0), (ssize_t)sizeof(ask));
	cr_assert_eq(recv(front, answer, sizeof(answer), MSG_WAITALL), (ssize_t)sizeof(answer));
	/* The one that serves can't be the faster. */
	cr_assert_eq(kill(pid, SIGSTOP), 0);
	join();
	cr_assert_eq(send(front, ask, sizeof(ask), 0), (ssize_t)sizeof(ask));
	cr_assert_eq(recv(front, answer, sizeof(answer), MSG_WAITALL), (ssize_t)sizeof(answer));
	cr_assert_eq(kill(pid, SIGCONT), 0);
	rig_until(&n.rig, is_up());
	serves(1);
	close(front);
	cr_assert_eq(rig_wait_end(&n.rig), 0);
	n.rig.pid = pid;
	n.rig.pidfd = pidfd;
	net_stop(&n);
}

/* A length that no frame has is the end of the connection, not of the server. */
Test(net_link, no_stream_of_frames)
{
	start(0);
	join();
	rig_until(&n.rig, is_up());
	net_post_many(&n, 0, 1526, 4);
	cr_assert_eq(write(n.peer, "GET / HTTP/1.0\r\n\r\n", 18), 18);
	rig_until(&n.rig, !is_up());
	leave();
	join();
	rig_until(&n.rig, is_up());
	serves(4);
	net_stop(&n);
}

/* The processor time that the server has taken, all threads. */
static uint64_t busy_ns(void)
{
	struct timespec t;
	clockid_t clock;

	cr_assert_eq(clock_getcpuclockid(n.rig.pid, &clock), 0);
	cr_assert_eq(clock_gettime(clock, &t), 0);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* Who connects waits until there is a descriptor for it, and nobody asks all the time. */
Test(net_link, fault_45_without_descriptors_the_next_one_waits)
{
	struct rlimit was, none;
	uint64_t before, end;

	start(0);
	cr_assert_eq(prlimit(n.rig.pid, RLIMIT_NOFILE, NULL, &was), 0, "%s", strerror(errno));
	none = (struct rlimit) { .rlim_max = was.rlim_max };
	cr_assert_eq(prlimit(n.rig.pid, RLIMIT_NOFILE, &none, NULL), 0, "%s", strerror(errno));
	join();
	before = busy_ns();
	for (end = clock_ns() + NS_PER_S; clock_ns() < end;)
		cr_assert_eq(loop_run_once(n.rig.loop, (int64_t)(20 * NS_PER_MS)), 0);
	cr_assert_lt(busy_ns() - before, NS_PER_S / 5);
	cr_assert_not(is_up());
	cr_assert_eq(prlimit(n.rig.pid, RLIMIT_NOFILE, &was, NULL), 0);
	rig_until(&n.rig, is_up());
	serves(1);
	net_stop(&n);
}

/* Given a connection of its own, the server ends with it: its successor gets another. */
Test(net_link, ends_with_the_stream_that_it_was_given)
{
	struct net_options options = { .kind = NET_STREAM };

	net_start(&n, &options);
	serves(1);
	net_post_many(&n, 0, 1526, 4);
	leave();
	cr_assert_eq(rig_reap(&n.rig), 1);
}

/* A watcher takes a server for hung that holds no frame and looks at no ring; the rest of one that went in part counts. */
Test(net_link, a_frame_that_went_in_part_is_seen_to_be_held)
{
	int fd = flight_create(3);
	struct net_options options = { .kind = NET_STREAM, .rig = { .flight_fd = fd } };
	const struct flight_queue *words;
	struct flight *flight = NULL;
	unsigned sent = 0;

	cr_assert_geq(fd, 0);
	cr_assert_eq(flight_map(fd, true, &flight), 0);
	words = flight_queue(flight, 1);
	net_start(&n, &options);
	do {
		cr_assert_lt(sent, 100, "the stream takes all of them");
		net_fill(rig_ptr(&n.rig, n.frame), 60000, sent);
		net_send_start(&n, 0, 60000);
		sent++;
		rig_until(&n.rig, flight_get(&words->done) == sent || flight_get(&words->held));
	} while (!flight_get(&words->held));
	for (unsigned i = 0; i < sent; i++) {
		cr_assert_eq(net_peer_receive(&n, frame), 60000);
		cr_assert_eq(frame[11], 0x99);
	}
	rig_until(&n.rig, !flight_get(&words->held) && flight_get(&words->done) == sent);
	flight_free(flight);
	close(fd);
	net_stop(&n);
}

/* Frames came so fast that the connection is not watched, and the driver has no more buffers for those that wait. */
Test(net_link, an_end_is_seen_while_frames_wait)
{
	enum { FRAMES = 300, LEFT = 20, LEN = 60, PART = 100 };
	static uint8_t stream[FRAMES * (4 + LEN)];

	start(RING_F_EVENT_IDX);
	join();
	rig_until(&n.rig, is_up());
	serves(1);
	for (uint32_t i = 0; i < FRAMES; i++) {
		uint32_t len = htonl(LEN);

		memcpy(stream + i * (4 + LEN), &len, 4);
		net_fill(stream + i * (4 + LEN) + 4, LEN, i);
	}
	cr_assert_eq(write(n.peer, stream, sizeof(stream)), sizeof(stream));
	for (uint32_t i = 0; i < FRAMES - LEFT; i++) {
		if (i % PART == 0)
			net_post_many(&n, 0, 1526, i + PART < FRAMES - LEFT ? PART : FRAMES - LEFT - i);
		net_receive(&n, 0, &f);
		cr_assert(f.len == LEN && net_check(f.bytes, LEN, i));
	}
	cr_assert(is_up());
	leave();
	rig_until(&n.rig, !is_up());
	net_stop(&n);
}
