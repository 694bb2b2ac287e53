/* SPDX-License-Identifier: Apache-2.0 */
/* Other projects' programs at the other end of a stream: QEMU, to which we connect or which connects to us, and passt. */
#include <criterion/criterion.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "frontend.h"
#include "net.h"
#include "num.h"
#include "temp_dir.h"

TestSuite(net_peers, .timeout = 120);

#define DIAL_NS (30 * NS_PER_S)

static struct net n;
static struct net_frame f;
static uint8_t frame[NET_BYTES];
static char dir[100];
static pid_t peer;

static void make_dir(void)
{
	cr_assert(temp_dir_make_in(temp_dir_base(), dir, sizeof(dir)));
	chmod(dir, 0777); /* passt goes on as nobody */
}

static void remove_dir(void)
{
	char command[160];

	if (peer) {
		kill(peer, SIGTERM);
		waitpid(peer, NULL, 0);
	}
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	cr_assert_eq(system(command), 0);
}

/* Starts a program, which ends with the test, with the words of a line; skips the test if there is none. */
__attribute__((format(printf, 1, 2))) static void start_peer(const char *format, ...)
{
	char line[1000], *words[64], *rest = line, *word;
	unsigned count = 0;
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	while ((word = strsep(&rest, " ")) && count < ARRAY_SIZE(words) - 1)
		words[count++] = word;
	words[count] = NULL;
	peer = fork();
	cr_assert(peer >= 0);
	if (peer)
		return;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (!freopen("/dev/null", "w", stderr) || !freopen("/dev/null", "w", stdout))
		_exit(126);
	execvp(words[0], words);
	_exit(127);
}

static void need(const char *program)
{
	char command[80];

	snprintf(command, sizeof(command), "command -v %s >/dev/null", program);
	if (system(command))
		cr_skip_test("%s is not installed", program);
}

/* A connection to the socket of this name in dir. */
static int dial(const char *name)
{
	char path[160];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = frontend_dial(path, DIAL_NS);
	cr_assert(fd >= 0, "%s: %s", path, strerror(-fd));
	return fd;
}

#define GREETING 62 /* bytes of a frame, and of no other */

/* QEMU may still be about to take up one of its connections, and forwards nothing until then. */
static void joined(void)
{
	uint64_t end = clock_ns() + RIG_DEADLINE_S * NS_PER_S, again = 0;

	net_fill(frame, GREETING, 7);
	net_post_many(&n, 0, 1526, 50);
	while (!net_try_receive(&n, 0, &f)) {
		uint64_t now = clock_ns();

		cr_assert(now < end, "QEMU forwards nothing");
		if (now >= again)
			net_peer_send(&n, frame, GREETING);
		again = now >= again ? now + NS_PER_S : again;
		cr_assert_eq(loop_run_once(n.rig.loop, (int64_t)NS_PER_MS), 0);
	}
}

static void both_ways(void)
{
	static const uint32_t lens[] = { 60, 61, 1514, 9014, 60000 };

	for (uint32_t i = 0; i < ARRAY_SIZE(lens); i++) {
		net_fill(frame, lens[i], i);
		net_post_many(&n, 0, 1526, 50);
		net_peer_send(&n, frame, lens[i]);
		do
			net_receive(&n, 0, &f);
		while (f.len == GREETING);
		cr_assert(f.len == lens[i] && net_check(f.bytes, f.len, i), "%u of %u bytes", f.len, lens[i]);
		net_fill(rig_ptr(&n.rig, n.frame), lens[i], i);
		cr_assert_eq(net_send(&n, 0, lens[i], NULL, 0), 0);
		cr_assert_eq(net_peer_receive(&n, frame), lens[i]);
		cr_assert(net_check(frame, lens[i], i));
		while (n.n_posted[0] > RIG_SIZE - 60) {
			net_fill(frame, 60000, 9);
			net_peer_send(&n, frame, 60000);
			net_receive(&n, 0, &f);
		}
	}
}

#define QEMU                                                                                                 \
	"qemu-system-x86_64 -M none -display none -nodefaults -monitor none -serial none "                   \
	"-netdev hubport,id=ha,hubid=0,netdev=a -netdev hubport,id=hb,hubid=0,netdev=b "

/* QEMU forwards frames between two streams: we are at one, the test is at the other. */
Test(net_peers, qemu_listens, .init = make_dir, .fini = remove_dir)
{
	struct net_options options = { .kind = NET_STREAM, .rig = { .ring_features = RING_F_EVENT_IDX } };

	need("qemu-system-x86_64");
	start_peer(QEMU "-netdev stream,id=a,server=on,addr.type=unix,addr.path=%s/a "
			"-netdev stream,id=b,server=on,addr.type=unix,addr.path=%s/b",
		   dir, dir);
	options.stream_end = dial("a");
	net_start(&n, &options);
	n.peer = dial("b");
	cr_assert_eq(fcntl(n.peer, F_SETFL, O_NONBLOCK), 0);
	joined();
	both_ways();
	net_stop(&n);
}

Test(net_peers, qemu_connects, .init = make_dir, .fini = remove_dir)
{
	struct net_options options = { .kind = NET_LISTEN, .rig = { .ring_features = RING_F_PACKED } };
	struct sockaddr_un addr;
	socklen_t len = sizeof(addr);
	uint16_t status = 0;

	need("qemu-system-x86_64");
	net_start(&n, &options);
	cr_assert_eq(getsockname(n.backend.fds[0], (struct sockaddr *)&addr, &len), 0);
	start_peer(
	    QEMU
	    "-netdev stream,id=a,server=off,addr.type=unix,addr.abstract=on,addr.tight=on,addr.path=%.*s "
	    "-netdev stream,id=b,server=on,addr.type=unix,addr.path=%s/b",
	    (int)(len - sizeof(addr.sun_family) - 1), addr.sun_path + 1, dir);
	n.peer = dial("b");
	cr_assert_eq(fcntl(n.peer, F_SETFL, O_NONBLOCK), 0);
	rig_until(&n.rig, (rig_get_config(&n.rig, 6, &status, 2), status & VIRTIO_NET_S_LINK_UP));
	joined();
	both_ways();
	net_stop(&n);
}

static const uint8_t arp[] = {
	0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,  0, 0, 0,  0, 1, 8, 6, /* Ethernet */
	0,    1,    8,    0,    6,    4,    0,  1,                    /* a question */
	2,    0,    0,    0,    0,    1,    10, 0, 2, 15,             /* from 10.0.2.15 */
	0,    0,    0,    0,    0,    0,    10, 0, 2, 2,              /* who is 10.0.2.2? */
};

Test(net_peers, passt, .init = make_dir, .fini = remove_dir)
{
	struct net_options options = { .kind = NET_STREAM, .rig = { .ring_features = RING_F_INDIRECT } };
	int status;

	need("passt");
	start_peer("passt --foreground --one-off --socket %s/passt -a 10.0.2.15 -n 24 -g 10.0.2.2", dir);
	for (unsigned i = 0; !options.stream_end; i++) {
		char path[160];
		int fd;

		/* It needs a host with a route to anywhere, and says so by ending. */
		if (waitpid(peer, &status, WNOHANG) == peer) {
			peer = 0;
			cr_skip_test("passt does not run here: status %d", WEXITSTATUS(status));
		}
		snprintf(path, sizeof(path), "%s/passt", dir);
		fd = frontend_dial(path, 100 * NS_PER_MS);
		options.stream_end = fd > 0 ? fd : 0;
		cr_assert_lt(i, 300, "passt does not listen");
	}
	net_start(&n, &options);
	n.peer = -1;
	n.any = true;
	net_post_many(&n, 0, 1526, 16);
	memcpy(rig_ptr(&n.rig, n.frame), arp, sizeof(arp));
	cr_assert_eq(net_send(&n, 0, sizeof(arp), NULL, 0), 0);
	do
		net_receive(&n, 0, &f);
	while (f.bytes[12] != 8 || f.bytes[13] != 6);
	cr_assert_eq(f.bytes[21], 2, "an answer");
	cr_assert(!memcmp(f.bytes + 28, arp + 38, 4), "of 10.0.2.2");
	net_stop(&n);
}
