/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server on the control bus, with the test as its supervisor. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bus.h"
#include "clock.h"
#include "config.h"
#include "inflight_priv.h"
#include "num.h"
#include "rig.h"
#include "supervise.h"

TestSuite(blk_bus, .timeout = 60);

static struct rig rig;

static void set_up_rings(struct supervisor *s, unsigned queues, uint16_t ring_size)
{
	static const char *args[] = { "--id", "disk0", "--bus", NULL, NULL };
	struct rig_options options = {
		.args = args, .queues = queues, .ring_size = ring_size, .ring_features = RING_F_EVENT_IDX
	};

	supervisor_open(s);
	args[3] = s->dir;
	rig_start(&rig, &options);
	supervisor_expect(s, &rig);
}

static void set_up(struct supervisor *s, unsigned queues)
{
	set_up_rings(s, queues, RIG_SIZE);
}

static void tear_down(struct supervisor *s)
{
	supervisor_ask_ok(s, BUS_SHUTDOWN);
	rig_stop(s->rig); /* checks that it exits with 0 */
	supervisor_close(s);
}

Test(blk_bus, hello_ready_ping_shutdown)
{
	struct supervisor s;

	set_up(&s, 1);
	cr_assert_not(s.ready_first);
	cr_assert_eq(s.first.hello.protocol, BUS_PROTOCOL);
	cr_assert_str_eq(s.first.hello.kind, "blk");
	cr_assert_str_eq(s.first.hello.name, "disk0");
	supervisor_ask_ok(&s, BUS_PING);
	tear_down(&s);
}

/* What the server keeps of such rings is so large that the queues' thread gives it back to the kernel. */
Test(blk_bus, largest_rings)
{
	struct supervisor s;
	uint64_t gpa;

	set_up_rings(&s, 4, RIG_SIZE_MAX);
	gpa = rig_alloc(&rig, 4096, 4096);
	for (unsigned i = 0; i < 3 * 4; i++) {
		if (i && i % 4 == 0)
			rig_reset_driver(&rig);
		cr_assert_eq(rig_request(&rig, i % 4, VIRTIO_BLK_T_OUT, 0, gpa, 4096).status,
			     VIRTIO_BLK_S_OK);
	}
	tear_down(&s);
}

/* How often the threads of the server have gone to sleep. */
static unsigned long sleeps(void)
{
	unsigned long sum = 0, n;
	char path[64], line[256];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", rig.pid);
	dir = opendir(path);
	cr_assert_not_null(dir);
	while ((entry = readdir(dir))) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/task/%.20s/status", rig.pid, entry->d_name);
		f = *entry->d_name == '.' ? NULL : fopen(path, "re");
		while (f && fgets(line, sizeof(line), f))
			if (sscanf(line, "voluntary_ctxt_switches: %lu", &n) == 1)
				sum += n;
		if (f)
			fclose(f);
	}
	closedir(dir);
	cr_assert_gt(sum, 0);
	return sum;
}

static void pass_time(uint64_t ns)
{
	struct timespec ts = { (time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S) };

	nanosleep(&ts, NULL);
}

/* Served, polled, asked: whatever was, nothing wakes it when there is nothing to do. */
Test(blk_bus, an_idle_server_does_not_wake, .timeout = 120)
{
	uint64_t gpa, end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;
	unsigned long before;
	struct supervisor s;

#ifdef BH_SANITIZE_THREAD
	cr_skip_test("the thread sanitizer has a thread of its own, which wakes ten times a second");
#endif
	set_up(&s, 2);
	gpa = rig_alloc(&rig, 4096, 4096);
	for (unsigned i = 0; i < 100; i++)
		cr_assert_eq(rig_request(&rig, i % 2, VIRTIO_BLK_T_IN, 0, gpa, 4096).status, VIRTIO_BLK_S_OK);
	supervisor_ask_ok(&s, BUS_GET_LOOPS);
	do {
		cr_assert_lt(clock_ns(), end, "it does not come to rest");
		before = sleeps();
		pass_time(11 * NS_PER_S); /* nng wakes once more ten seconds after a connection was made */
	} while (sleeps() != before);
	pass_time(5 * NS_PER_S);
	cr_assert_eq(sleeps(), before, "it woke %lu times", sleeps() - before);
	tear_down(&s);
}

Test(blk_bus, what_a_server_does_not_do_is_an_error)
{
	struct supervisor s;

	set_up(&s, 1);
	supervisor_ask_for(&s, BUS_POWER_BUTTON);
	supervisor_until(&s, s.answered);
	cr_assert_eq(s.err, -EOPNOTSUPP);
	tear_down(&s);
}

Test(blk_bus, statistics)
{
	struct supervisor s;
	uint64_t gpa;

	set_up(&s, 2);
	gpa = rig_alloc(s.rig, 4096, 4096);
	for (unsigned i = 0; i < 5; i++)
		cr_assert_eq(rig_request(s.rig, i % 2, VIRTIO_BLK_T_OUT, 0, gpa, 4096).status,
			     VIRTIO_BLK_S_OK);
	cr_assert_eq(rig_request(s.rig, 0, VIRTIO_BLK_T_IN, 1 << 30, gpa, 4096).status, VIRTIO_BLK_S_IOERR);
	cr_assert_eq(supervisor_stat(&s, "requests"), 6);
	cr_assert_eq(supervisor_stat(&s, "completed"), 6);
	cr_assert_eq(supervisor_stat(&s, "writes"), 5);
	cr_assert_eq(supervisor_stat(&s, "write_bytes"), 5 * 4096);
	cr_assert_eq(supervisor_stat(&s, "errors"), 1);
	cr_assert_eq(supervisor_stat(&s, "queue1.requests"), 2);
	tear_down(&s);
}

/* What comes while the server is drained waits in the ring. */
Test(blk_bus, drain_and_resume)
{
	struct supervisor s;
	struct rig_done done;
	uint64_t gpa, before;

	set_up(&s, 2);
	gpa = rig_alloc(s.rig, 64 * 65536, 4096);
	for (unsigned i = 0; i < 64; i++)
		rig_add(s.rig, i % 2, VIRTIO_BLK_T_OUT, i * 128, gpa + i * 65536, 65536);
	supervisor_ask_ok(&s, BUS_DRAIN);
	before = supervisor_stat(&s, "requests");
	cr_assert_eq(supervisor_stat(&s, "completed"), before, "drained with requests in flight");
	/* Whatever was taken before is there already; nothing more comes. */
	for (unsigned i = 0; i < before; i++) {
		cr_assert(rig_get(s.rig, 0, &done) || rig_get(s.rig, 1, &done));
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	}
	for (unsigned i = 0; i < 4; i++)
		rig_add(s.rig, i % 2, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	cr_assert_eq(supervisor_stat(&s, "requests"), before);
	supervisor_ask_ok(&s, BUS_RESUME);
	for (uint64_t i = before; i < 68; i++) {
		supervisor_until(&s, rig_get(s.rig, 0, &done) || rig_get(s.rig, 1, &done));
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	}
	cr_assert_eq(supervisor_stat(&s, "requests"), 68);
	tear_down(&s);
}

Test(blk_bus, what_a_disk_does_not_have_can_not_be_set)
{
	static struct bus_msg msg = { .type = BUS_SET, .set = { .key = "link", .value = "down" } };
	struct supervisor s;

	set_up(&s, 1);
	supervisor_ask(&s, &msg);
	supervisor_until(&s, s.answered);
	cr_assert_eq(s.err, -ENOENT);
	supervisor_ask_ok(&s, BUS_PING);
	tear_down(&s);
}

/* Under a supervisor the end of the front end's connection is not the server's. */
Test(blk_bus, survives_its_front_end)
{
	struct supervisor s;

	set_up(&s, 1);
	rig_disconnect(s.rig);
	supervisor_ask_ok(&s, BUS_PING);
	supervisor_ask_ok(&s, BUS_GET_STATS);
	tear_down(&s);
}

/* ---- what a start on rings that were served before comes to ---- */

static void restart(struct supervisor *s)
{
	s->hello = s->ready = false;
	s->nrecovered = 0;
	rig_respawn(s->rig);
	bus_expect(s->bus, s->rig->pid);
	supervisor_until(s, s->ready && s->nrecovered);
}

/* Adds a read that the dead server had taken, and of which the in-flight region says this (NOTE_). */
static int add_taken(struct supervisor *s, unsigned queue, uint64_t gpa, uint64_t counter, uint8_t note)
{
	const struct rig_queue *q = &s->rig->queue[queue];
	size_t step = inflight_queue_bytes(RIG_SIZE, false);
	struct inflight_split *r = (struct inflight_split *)(void *)(s->rig->inflight + queue * step);
	int slot = rig_add(s->rig, queue, VIRTIO_BLK_T_IN, 0, gpa, 4096), id = 0;

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
	gpa = rig_alloc(s.rig, 8 * 4096, 4096);
	supervisor_ask_ok(&s, BUS_PING); /* what it has to say about its own start is here before that */
	rig_kill(s.rig);
	add_taken(&s, 0, gpa, 10, 0);
	poison = add_taken(&s, 0, gpa + 4096, 11, NOTE_HAND | 2 * NOTE_GUILT_1);
	add_taken(&s, 1, gpa + 8192, 3, 0);
	rig_add(s.rig, 1, VIRTIO_BLK_T_IN, 0, gpa + 3 * 4096, 4096);
	begun = clock_ns();
	restart(&s);
	cr_expect_eq(s.recovered.recovered.resubmitted, 3);
	cr_expect_eq(s.recovered.recovered.poisoned, 1);
	cr_expect_gt(s.recovered.recovered.start_ns, begun);
	cr_expect_geq(s.recovered.recovered.replayed_ns, s.recovered.recovered.start_ns);
	cr_expect_geq(s.recovered.recovered.first_ns, s.recovered.recovered.start_ns);
	cr_expect_lt(s.recovered.recovered.first_ns, clock_ns());
	cr_expect_eq(supervisor_stat(&s, "resubmitted"), 3);
	cr_expect_eq(supervisor_stat(&s, "poisoned"), 1);
	cr_expect_eq(s.nrecovered, 1, "told %u times", s.nrecovered);
	for (unsigned i = 0; i < 4; i++) {
		struct rig_done done = rig_wait(s.rig, i / 2);
		bool feared = i < 2 && done.slot == poison;

		cr_expect_eq(done.status, feared ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
	}
	tear_down(&s);
}

Test(blk_bus, tells_that_nothing_was_in_flight)
{
	struct supervisor s;

	set_up(&s, 2);
	rig_kill(s.rig);
	restart(&s);
	cr_expect_eq(s.recovered.recovered.resubmitted, 0);
	cr_expect_eq(s.recovered.recovered.poisoned, 0);
	cr_expect_eq(s.recovered.recovered.first_ns, 0);
	cr_expect_gt(s.recovered.recovered.start_ns, 0);
	tear_down(&s);
}
