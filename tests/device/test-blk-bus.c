/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server on the control bus, with the test as its supervisor. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bus.h"
#include "clock.h"
#include "inflight_priv.h"
#include "num.h"
#include "rig.h"
#include "sandbox.h"
#include "temp_dir.h"

TestSuite(blk_bus, .timeout = 60);

struct supervisor {
	struct rig rig;
	char dir[64], socket[80];
	struct loop *loop;
	struct bus *bus;
	bool hello, ready, ready_first;
	unsigned nrecovered;
	struct bus_msg recovered;
	struct bus_msg first;
	/* The last answer. */
	bool answered;
	int err;
	struct bus_msg *reply;
};

static void on_message(void *arg, const struct bus_msg *msg)
{
	struct supervisor *s = arg;

	if (msg->type == BUS_HELLO) {
		s->hello = true;
		s->first = *msg;
	} else if (msg->type == BUS_READY) {
		s->ready = true;
		s->ready_first = !s->hello;
	} else if (msg->type == BUS_RECOVERED) {
		s->nrecovered++;
		s->recovered = *msg;
	}
}

static void on_connected(void *arg, bool up)
{
	(void)arg;
	(void)up;
}

static void on_malformed(void *arg, unsigned count, const char *what)
{
	(void)arg;
	cr_assert_fail("malformed message %u: %s", count, what);
}

static const struct bus_ops ops = { .message = on_message,
				    .connected = on_connected,
				    .malformed = on_malformed };

#define until(s, condition)                                                                                  \
	do {                                                                                                 \
		uint64_t limit_ = clock_ns() + RIG_DEADLINE_S * NS_PER_S;                                    \
		while (!(condition)) {                                                                       \
			cr_assert(clock_ns() < limit_, "deadline: %s", #condition);                          \
			loop_run_once((s)->loop, (int64_t)(5 * NS_PER_MS));                                  \
			loop_run_once((s)->rig.loop, 0);                                                     \
		}                                                                                            \
	} while (0)

static void on_reply(void *arg, int err, const struct bus_msg *reply)
{
	struct supervisor *s = arg;

	s->answered = true;
	s->err = err;
	if (reply)
		*s->reply = *reply;
}

/* Sends a request; until the answer is there nothing else is to be expected. */
static void ask_message(struct supervisor *s, const struct bus_msg *msg)
{
	s->answered = false;
	memset(s->reply, 0, sizeof(*s->reply));
	cr_assert_eq(bus_request(s->bus, msg, RIG_DEADLINE_S * NS_PER_S, on_reply, s), 0);
}

static void ask(struct supervisor *s, enum bus_type type)
{
	struct bus_msg *msg = calloc(1, sizeof(*msg));

	cr_assert_not_null(msg);
	msg->type = type;
	ask_message(s, msg);
	free(msg);
}

static void ask_ok(struct supervisor *s, enum bus_type type)
{
	ask(s, type);
	until(s, s->answered);
	cr_assert_eq(s->err, 0);
}

static void set_up(struct supervisor *s, unsigned queues)
{
	static const char *args[] = { "--id", "disk0", "--bus", NULL, NULL };
	struct rig_options options = { .args = args, .queues = queues, .ring_features = RING_F_EVENT_IDX };

	memset(s, 0, sizeof(*s));
	s->reply = calloc(1, sizeof(*s->reply));
	cr_assert(temp_dir_make(s->dir, sizeof(s->dir)));
	snprintf(s->socket, sizeof(s->socket), "%s/bus", s->dir);
	args[3] = s->dir;
	cr_assert_eq(loop_new("supervisor", &s->loop), 0);
	cr_assert_eq(bus_listen(s->loop, s->socket, getpid(), &ops, s, &s->bus), 0);
	if (geteuid() == 0) {
		cr_assert_eq(chown(s->dir, SANDBOX_NOBODY, SANDBOX_NOBODY), 0);
		cr_assert_eq(chown(s->socket, SANDBOX_NOBODY, SANDBOX_NOBODY), 0);
	}
	rig_start(&s->rig, &options);
	bus_expect(s->bus, s->rig.pid);
	until(s, s->ready);
}

static void tear_down(struct supervisor *s)
{
	ask_ok(s, BUS_SHUTDOWN);
	rig_stop(&s->rig); /* checks that it exits with 0 */
	bus_close(s->bus);
	loop_free(s->loop);
	unlink(s->socket);
	rmdir(s->dir);
	free(s->reply);
}

static uint64_t stat_of(struct supervisor *s, const char *name)
{
	ask_ok(s, BUS_GET_STATS);
	cr_assert_eq(s->reply->type, BUS_STATS);
	for (uint32_t i = 0; i < s->reply->stats.count; i++)
		if (!strcmp(s->reply->stats.stat[i].name, name))
			return s->reply->stats.stat[i].value;
	cr_assert_fail("no counter %s", name);
	return 0;
}

Test(blk_bus, hello_ready_ping_shutdown)
{
	struct supervisor s;

	set_up(&s, 1);
	cr_assert_not(s.ready_first);
	cr_assert_eq(s.first.hello.protocol, BUS_PROTOCOL);
	cr_assert_str_eq(s.first.hello.kind, "blk");
	cr_assert_str_eq(s.first.hello.name, "disk0");
	ask_ok(&s, BUS_PING);
	tear_down(&s);
}

Test(blk_bus, what_a_server_does_not_do_is_an_error)
{
	struct supervisor s;

	set_up(&s, 1);
	ask(&s, BUS_POWER_BUTTON);
	until(&s, s.answered);
	cr_assert_eq(s.err, -EOPNOTSUPP);
	tear_down(&s);
}

Test(blk_bus, statistics)
{
	struct supervisor s;
	uint64_t gpa;

	set_up(&s, 2);
	gpa = rig_alloc(&s.rig, 4096, 4096);
	for (unsigned i = 0; i < 5; i++)
		cr_assert_eq(rig_request(&s.rig, i % 2, VIRTIO_BLK_T_OUT, 0, gpa, 4096).status,
			     VIRTIO_BLK_S_OK);
	cr_assert_eq(rig_request(&s.rig, 0, VIRTIO_BLK_T_IN, 1 << 30, gpa, 4096).status, VIRTIO_BLK_S_IOERR);
	cr_assert_eq(stat_of(&s, "requests"), 6);
	cr_assert_eq(stat_of(&s, "completed"), 6);
	cr_assert_eq(stat_of(&s, "writes"), 5);
	cr_assert_eq(stat_of(&s, "write_bytes"), 5 * 4096);
	cr_assert_eq(stat_of(&s, "errors"), 1);
	cr_assert_eq(stat_of(&s, "queue1.requests"), 2);
	tear_down(&s);
}

/* What comes while the server is drained waits in the ring. */
Test(blk_bus, drain_and_resume)
{
	struct supervisor s;
	struct rig_done done;
	uint64_t gpa, before;

	set_up(&s, 2);
	gpa = rig_alloc(&s.rig, 64 * 65536, 4096);
	for (unsigned i = 0; i < 64; i++)
		rig_add(&s.rig, i % 2, VIRTIO_BLK_T_OUT, i * 128, gpa + i * 65536, 65536);
	ask_ok(&s, BUS_DRAIN);
	before = stat_of(&s, "requests");
	cr_assert_eq(stat_of(&s, "completed"), before, "drained with requests in flight");
	/* Whatever was taken before is there already; nothing more comes. */
	for (unsigned i = 0; i < before; i++) {
		cr_assert(rig_get(&s.rig, 0, &done) || rig_get(&s.rig, 1, &done));
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	}
	for (unsigned i = 0; i < 4; i++)
		rig_add(&s.rig, i % 2, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	cr_assert_eq(stat_of(&s, "requests"), before);
	ask_ok(&s, BUS_RESUME);
	for (uint64_t i = before; i < 68; i++) {
		until(&s, rig_get(&s.rig, 0, &done) || rig_get(&s.rig, 1, &done));
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	}
	cr_assert_eq(stat_of(&s, "requests"), 68);
	tear_down(&s);
}

Test(blk_bus, a_disk_has_nothing_to_set)
{
	static struct bus_msg msg = { .type = BUS_SET, .set = { .key = "link", .value = "down" } };
	struct supervisor s;

	set_up(&s, 1);
	ask_message(&s, &msg);
	until(&s, s.answered);
	cr_assert_eq(s.err, -EOPNOTSUPP);
	ask_ok(&s, BUS_PING);
	tear_down(&s);
}

/* Under a supervisor the end of the front end's connection is not the server's. */
Test(blk_bus, survives_its_front_end)
{
	struct supervisor s;

	set_up(&s, 1);
	rig_disconnect(&s.rig);
	ask_ok(&s, BUS_PING);
	ask_ok(&s, BUS_GET_STATS);
	tear_down(&s);
}

/* ---- what a start on rings that were served before comes to ---- */

static void restart(struct supervisor *s)
{
	s->hello = s->ready = false;
	s->nrecovered = 0;
	rig_respawn(&s->rig);
	bus_expect(s->bus, s->rig.pid);
	until(s, s->ready && s->nrecovered);
}

/* Adds a read that the dead server had taken, and of which the in-flight region says this (NOTE_). */
static int add_taken(struct supervisor *s, unsigned queue, uint64_t gpa, uint64_t counter, uint8_t note)
{
	const struct rig_queue *q = &s->rig.queue[queue];
	size_t step = inflight_queue_bytes(RIG_SIZE, false);
	struct inflight_split *r = (struct inflight_split *)(void *)(s->rig.inflight + queue * step);
	int slot = rig_add(&s->rig, queue, VIRTIO_BLK_T_IN, 0, gpa, 4096), id = 0;

	while (q->slot_of[id] != slot)
		id++;
	r->desc[id].counter = counter;
	inflight_mark(&r->desc[id].inflight, note);
	return slot;
}

Test(blk_bus, tells_what_was_recovered)
{
	struct supervisor s;
	uint64_t gpa, begun;
	int poison;

	set_up(&s, 2);
	gpa = rig_alloc(&s.rig, 8 * 4096, 4096);
	ask_ok(&s, BUS_PING); /* what it has to say about its own start is here before that */
	rig_kill(&s.rig);
	add_taken(&s, 0, gpa, 10, 0);
	poison = add_taken(&s, 0, gpa + 4096, 11, NOTE_HAND | 2 * NOTE_GUILT_1);
	add_taken(&s, 1, gpa + 8192, 3, 0);
	rig_add(&s.rig, 1, VIRTIO_BLK_T_IN, 0, gpa + 3 * 4096, 4096);
	begun = clock_ns();
	restart(&s);
	cr_expect_eq(s.recovered.recovered.resubmitted, 3);
	cr_expect_eq(s.recovered.recovered.poisoned, 1);
	cr_expect_gt(s.recovered.recovered.start_ns, begun);
	cr_expect_geq(s.recovered.recovered.replayed_ns, s.recovered.recovered.start_ns);
	cr_expect_geq(s.recovered.recovered.first_ns, s.recovered.recovered.start_ns);
	cr_expect_lt(s.recovered.recovered.first_ns, clock_ns());
	cr_expect_eq(stat_of(&s, "resubmitted"), 3);
	cr_expect_eq(stat_of(&s, "poisoned"), 1);
	cr_expect_eq(s.nrecovered, 1, "told %u times", s.nrecovered);
	for (unsigned i = 0; i < 4; i++) {
		struct rig_done done = rig_wait(&s.rig, i / 2);
		bool feared = i < 2 && done.slot == poison;

		cr_expect_eq(done.status, feared ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
	}
	tear_down(&s);
}

Test(blk_bus, tells_that_nothing_was_in_flight)
{
	struct supervisor s;

	set_up(&s, 2);
	rig_kill(&s.rig);
	restart(&s);
	cr_expect_eq(s.recovered.recovered.resubmitted, 0);
	cr_expect_eq(s.recovered.recovered.poisoned, 0);
	cr_expect_eq(s.recovered.recovered.first_ns, 0);
	cr_expect_gt(s.recovered.recovered.start_ns, 0);
	tear_down(&s);
}
