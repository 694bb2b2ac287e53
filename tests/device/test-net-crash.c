/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FAULTS 52 for a network port: the server dies at every labelled point, in recovery too, while frames go both ways and
 * commands come on the control ring. No chain of the driver's is lost and none comes back twice; every frame that the guest
 * sent arrives, some of them twice; of those that it was sent some are lost, none comes twice or spoilt. How many, the test
 * prints.
 *
 * BULKHEAD_HITS=N has each point hit N times, BULKHEAD_LONG=1 100 times.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "clock.h"
#include "config.h"
#include "crashes.h"
#include "fd.h"
#include "net.h"
#include "note.h"
#include "num.h"
#include "state.h"

TestSuite(net_crash, .timeout = 3600);

#define POINTS_MAX 128
#define SLOTS      24 /* frames of the guest's under way */
#define BUFFERS    40
#define WINDOW     16 /* frames to the guest under way */
#define LEN        300
#define MISSES_MAX 50

struct load {
	struct net net;
	uint64_t slots;            /* SLOTS headers with frames */
	int slot_of[RIG_SIZE];     /* by ring id; -1: none */
	uint32_t number_of[SLOTS]; /* 0: free */
	uint32_t next_sent, arrived;
	uint32_t next_given, received; /* numbers */
	uint64_t sent, doubled, given, lost;
	uint64_t command;
	bool commanded;
	uint64_t commands;
	unsigned under_way; /* frames and commands in the rings */
	char order[160];
	unsigned deaths, random;
};

static struct load l;

static unsigned random_below(unsigned below)
{
	l.random = l.random * 1103515245U + 12345U;
	return (l.random >> 16) % below;
}

static void fill(uint8_t *frame, uint32_t number)
{
	net_fill(frame, LEN, number);
	memcpy(frame + 14, &number, sizeof(number));
}

static uint32_t number_in(const uint8_t *frame, uint32_t len)
{
	static uint8_t wanted[NET_BYTES];
	uint32_t number;

	cr_assert_eq(len, LEN);
	memcpy(&number, frame + 14, sizeof(number));
	fill(wanted, number);
	cr_assert(!memcmp(wanted, frame, LEN), "frame %u is spoilt", number);
	return number;
}

/* ---- the guest's end ---- */

static void send_one(int slot)
{
	struct rig *rig = &l.net.rig;
	uint64_t at = l.slots + (uint64_t)slot * 512;
	const struct ring_buf bufs[] = { { .gpa = at, .len = NET_HEADER }, { .gpa = at + 16, .len = LEN } };
	int id;

	l.number_of[slot] = ++l.next_sent;
	fill(rig_ptr(rig, at + 16), l.number_of[slot]);
	id = ring_add(&rig->queue[1].ring, bufs, 2, rig->options.ring_features & RING_F_INDIRECT);
	cr_assert_geq(id, 0);
	cr_assert_eq(l.slot_of[id], -1);
	l.slot_of[id] = slot;
	l.under_way++;
	l.sent++;
}

static void take_sent(void)
{
	uint32_t len;
	uint16_t id;
	int got;

	while ((got = ring_get(&l.net.rig.queue[1].ring, &id, &len)) == 1) {
		cr_assert_eq(len, 0);
		cr_assert_geq(l.slot_of[id], 0);
		l.number_of[l.slot_of[id]] = 0;
		l.slot_of[id] = -1;
		l.under_way--;
	}
	cr_assert_eq(got, 0, "a chain came back twice");
}

static void take_received(void)
{
	static struct net_frame f;

	while (net_try_receive(&l.net, 0, &f)) {
		uint32_t number = number_in(f.bytes, f.len);

		cr_assert_gt(number, l.received, "frame %u came twice or late", number);
		l.lost += number - l.received - 1;
		l.received = number;
	}
}

static void command(void)
{
	struct rig *rig = &l.net.rig;
	struct rig_queue *q = &rig->queue[2];
	uint8_t *p = rig_ptr(rig, l.command);
	struct ring_buf bufs[] = { { .gpa = l.command, .len = 3 },
				   { .gpa = l.command + 3, .len = 1, .write = true } };
	uint32_t len;
	uint16_t id;
	int got = ring_get(&q->ring, &id, &len);

	cr_assert_geq(got, 0, "a command came back twice");
	if (got) {
		cr_assert(len == 1 && p[3] == 0, "answer %u", p[3]);
		l.commanded = false;
		l.commands++;
		l.under_way--;
	}
	if (l.commanded)
		return;
	memcpy(p, (const uint8_t[]) { 0, 1, (uint8_t)(l.commands % 2), 0xee }, 4); /* RX, ALLMULTI */
	cr_assert_geq(ring_add(&q->ring, bufs, 2, rig->options.ring_features & RING_F_INDIRECT), 0);
	net_kick(&l.net, 2);
	l.commanded = true;
	l.under_way++;
}

/* ---- the other end ---- */

static void peer(void)
{
	static uint8_t frame[NET_BYTES];
	ssize_t len;

	while ((len = read(l.net.peer, frame, sizeof(frame))) > 0) {
		uint32_t number = number_in(frame, (uint32_t)len);

		cr_assert_leq(number, l.arrived + 1, "frame %u is missing", l.arrived + 1);
		if (number <= l.arrived)
			l.doubled++;
		l.arrived = MAX(l.arrived, number);
	}
	while (l.next_given < l.received + WINDOW) {
		fill(frame, l.next_given + 1);
		if (write(l.net.peer, frame, LEN) != LEN)
			break;
		l.next_given++;
		l.given++;
	}
}

static void step(bool more)
{
	bool any = false;

	take_sent();
	take_received();
	for (int i = 0; i < SLOTS && more; i++) {
		if (!l.number_of[i] && l.under_way < 4 + random_below(SLOTS)) {
			send_one(i);
			any = true;
		}
	}
	if (any)
		net_kick(&l.net, 1);
	if (l.net.n_posted[0] < BUFFERS / 2)
		net_post_many(&l.net, 0, 1526, BUFFERS - l.net.n_posted[0]);
	if (more)
		command();
	peer();
}

/* Drives both ends until the condition holds or the server is gone. */
#define drive(condition)                                                                                     \
	do {                                                                                                 \
		uint64_t end_ = clock_ns() + RIG_DEADLINE_S * NS_PER_S;                                      \
		while (!l.net.rig.lost && !(condition)) {                                                    \
			step(true);                                                                          \
			cr_assert(clock_ns() < end_, "%s: deadline: %s", l.order, #condition);               \
			cr_assert_eq(loop_run_once(l.net.rig.loop, 0), 0);                                   \
		}                                                                                            \
	} while (0)

/* ---- deaths ---- */

static void arm(const char *how, const char *label, unsigned nth)
{
	snprintf(l.order, sizeof(l.order), "%s=%s:%u", how, label, nth);
	l.net.rig.options.crash = l.order;
}

/* What the dead server had read and not shown is lost. If nothing is left in the socket, no later frame will tell. */
static void mourn(void)
{
	int left;

	l.deaths++;
	take_received();
	cr_assert_eq(ioctl(l.net.peer, SIOCOUTQ, &left), 0);
	if (!left) {
		l.lost += l.next_given - l.received;
		l.received = l.next_given;
	}
	step(random_below(2));
}

static void bury(void)
{
	int status = rig_reap(&l.net.rig);

	cr_assert_eq(status, CRASHES_STATUS, "%s: the server ended with status %d", l.order, status);
	mourn();
}

/* Lives with a successor until all that its predecessor died with is done, then has it go to its death. */
static void die_serving(const char *label, unsigned nth)
{
	uint64_t commands = l.commands;
	uint32_t sent;

	arm("later", label, nth);
	cr_assert(rig_try_respawn(&l.net.rig));
	sent = l.next_sent;
	/* A command that several servers in a row die with would be taken for what they die of. */
	drive(l.arrived >= sent && l.commands > commands);
	rig_go(&l.net.rig);
	drive(false);
	bury();
}

static bool begins(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

static bool in_recovery(const char *label)
{
	return strstr(label, "recover-") || begins(label, "resubmit");
}

static void die_recovering(const char *label)
{
	for (unsigned misses = 0; misses < MISSES_MAX; misses++) {
		uint64_t until;

		die_serving(misses % 2 || strstr(label, "recover-batch") ? "used-index after"
									 : "used-index before",
			    1 + random_below(6));
		arm("die", label, 1 + (misses ? 0 : random_below(4)));
		if (rig_try_respawn(&l.net.rig)) {
			until = clock_ns() + 20 * NS_PER_MS;
			drive(clock_ns() > until);
		}
		if (l.net.rig.lost) {
			bury();
			return;
		}
		rig_kill(&l.net.rig);
		mourn();
	}
	cr_assert_fail("%s was not reached", label);
}

static bool gives_back(const char *label)
{
	return strstr(label, "unmark");
}

/* Has a successor stop the receive ring, of which it holds buffers then that no frame came for. */
static void die_giving_back(const char *label)
{
	for (unsigned misses = 0; misses < MISSES_MAX; misses++) {
		uint64_t commands = l.commands;

		arm("later", label, 1 + (misses ? 0 : random_below(2)));
		cr_assert(rig_try_respawn(&l.net.rig));
		drive(l.commands > commands);
		rig_go(&l.net.rig);
		if (!rig_try_stop_ring(&l.net.rig, 0)) {
			bury();
			return;
		}
		rig_kill(&l.net.rig);
		mourn();
	}
	cr_assert_fail("%s was not reached", label);
}

static void die_at(const char *label)
{
	if (in_recovery(label))
		die_recovering(label);
	else if (gives_back(label))
		die_giving_back(label);
	else
		die_serving(label, 1 + random_below(20));
}

static unsigned wanted_hits(void)
{
	const char *hits = getenv("BULKHEAD_HITS"), *all = getenv("BULKHEAD_LONG");

	return hits ? (unsigned)atoi(hits) : all && *all ? 100 : 2;
}

static unsigned read_labels(char *text, size_t size, const char **labels, bool packed)
{
	char *rest = text, *label;
	unsigned n = 0;

	rig_crash_list(true, text, size);
	while ((label = strsep(&rest, "\n"))) {
		unsigned i = 0;

		/* Those of a failure are reached only where something fails. */
		if (!*label || begins(label, packed ? "split " : "packed ") || begins(label, "failure") ||
		    begins(label, "move ")) /* test-blk-move's */
			continue;
		while (i < n && strcmp(labels[i], label))
			i++;
		cr_assert_lt(i, POINTS_MAX);
		labels[i] = label;
		n = MAX(n, i + 1);
	}
	cr_assert_gt(n, 30, "only %u points", n);
	return n;
}

static void begin(uint64_t features)
{
	struct net_options options = { .kind = NET_PACKET,
				       .control = true,
				       .state_fd = state_create(),
				       .rig = { .ring_features = features, .crash = "" } };

	memset(&l, 0, sizeof(l));
	l.random = 1;
	memset(l.slot_of, 0xff, sizeof(l.slot_of));
	net_start(&l.net, &options);
	l.slots = rig_alloc(&l.net.rig, SLOTS * 512, 512);
	l.command = rig_alloc(&l.net.rig, 64, 64);
	rig_kill(&l.net.rig);
}

static void end(void)
{
	uint64_t over = clock_ns() + RIG_DEADLINE_S * NS_PER_S;

	l.net.rig.options.crash = "";
	rig_respawn(&l.net.rig);
	while (l.under_way - l.commanded) {
		step(false);
		cr_assert(clock_ns() < over, "%u chains are lost", l.under_way);
		cr_assert_eq(loop_run_once(l.net.rig.loop, 0), 0);
	}
	net_stop(&l.net);
}

static void all_points(const char *what, uint64_t features)
{
	static char text[8192];
	const char *labels[POINTS_MAX];
	unsigned n;

#ifdef BH_SANITIZE_THREAD
	cr_skip_test("each of the many servers would wait for the thread sanitizer's start");
#endif
	n = read_labels(text, sizeof(text), labels, features & RING_F_PACKED);
	begin(features);
	for (unsigned i = 0; i < n; i++) {
		for (unsigned k = 0; k < wanted_hits(); k++)
			die_at(labels[i]);
	}
	end();
	note("%s: %u points, %u deaths; %llu frames sent: 0 lost, %llu twice; %llu received: %llu lost, 0 "
	     "twice; "
	     "%llu commands",
	     what, n, l.deaths, (unsigned long long)l.sent, (unsigned long long)l.doubled,
	     (unsigned long long)l.given, (unsigned long long)l.lost, (unsigned long long)l.commands);
	cr_assert_leq(l.doubled, (uint64_t)l.deaths * SLOTS);
	cr_assert_leq(l.lost, (uint64_t)l.deaths * WINDOW);
}

Test(net_crash, f52_every_point_split_direct)
{
	all_points("split direct", 0);
}

Test(net_crash, f52_every_point_split_indirect)
{
	all_points("split indirect", RING_F_INDIRECT | RING_F_EVENT_IDX);
}

Test(net_crash, f52_every_point_packed_direct)
{
	all_points("packed direct", RING_F_PACKED | RING_F_EVENT_IDX);
}

Test(net_crash, f52_every_point_packed_indirect)
{
	all_points("packed indirect", RING_F_PACKED | RING_F_INDIRECT);
}
