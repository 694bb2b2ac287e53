/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queues of a blk-server that move from thread to thread under load: no request is lost, none is completed twice, and what
 * was acknowledged is on the disk; also when the server dies in the middle of a move, at each place where it can.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bus.h"
#include "clean.h"
#include "clock.h"
#include "config.h"
#include "cpus.h"
#include "crash.h"
#include "crashes.h"
#include "fd.h"
#include "flight.h"
#include "load.h"
#include "note.h"
#include "num.h"
#include "placing.h"
#include "state.h"
#include "supervise.h"

#define QUEUES  4
#define THREADS 2

TestSuite(blk_move, .timeout = 180);

static struct load l;
static struct supervisor s;
static unsigned place[QUEUES],
    was;           /* the thread of each; of the one that moves, the one that it comes from */
static int moving; /* the queue that does; -1: none */
static unsigned moves;
static bool dying; /* the server is to */
static int state_fd;
static int flight_fd; /* 0: none */

static void set_up(uint64_t ring_features, unsigned queues, unsigned threads, const char *crash)
{
	static const char *args[] = { "--id", "disk0", "--bus", NULL, NULL };
	struct rig_options options = { .args = args,
				       .queues = queues,
				       .io_threads = threads,
				       .ring_features = ring_features,
				       .crash = crash,
				       .flight_fd = flight_fd };

	options.state_fd = state_fd = state_create();
	cr_assert_gt(state_fd, 0);
	supervisor_open(&s);
	args[3] = s.dir;
	load_start(&l, &options);
	supervisor_expect(&s, &l.rig);
	for (unsigned q = 0; q < queues; q++)
		place[q] = q % threads;
	moving = -1;
}

static void tear_down(void)
{
	load_finish(&l);
	supervisor_ask_ok(&s, BUS_SHUTDOWN);
	rig_stop(&l.rig);
	supervisor_close(&s);
	close(state_fd);
}

static void ask_move(unsigned queue, unsigned thread)
{
	struct bus_msg msg = { .type = BUS_MOVE_QUEUE, .move_queue = { .queue = queue } };

	snprintf(msg.move_queue.thread, sizeof(msg.move_queue.thread), "io%u", thread);
	was = place[queue];
	place[queue] = thread;
	moving = (int)queue;
	supervisor_ask(&s, &msg);
}

/* Has another queue move as soon as the last one has. */
static void go_on_moving(void)
{
	loop_run_once(s.loop, 0);
	if (moving >= 0 && !s.answered)
		return;
	if (dying && moving >= 0 && s.err)
		return; /* it is dead */
	if (moving >= 0) {
		cr_assert_eq(s.err, 0, "queue %d: %s", moving, s.reply->error.text);
		moves++;
	}
	moving = (int)load_random(&l, QUEUES);
	ask_move((unsigned)moving, 1 - place[moving]);
}

static void finish_move(void)
{
	while (moving >= 0 && !s.answered) {
		load_step(&l);
		loop_run_once(s.loop, (int64_t)NS_PER_MS);
		loop_run_once(l.rig.loop, 0);
	}
	moving = -1;
}

/* Every queue is served by one thread, the one that is expected; or, of one that may have moved, the one before. */
static void check_places(int doubtful)
{
	unsigned seen = 0;

	supervisor_ask_ok(&s, BUS_GET_LOOPS);
	cr_assert_eq(s.reply->loops.count, 1 + THREADS);
	cr_assert_str_eq(s.reply->loops.loop[0].name, "main");
	for (unsigned t = 0; t < THREADS; t++) {
		const struct bus_loop *loop = &s.reply->loops.loop[1 + t];

		for (unsigned q = 0; q < QUEUES; q++) {
			if (!(loop->queues >> q & 1))
				continue;
			seen++;
			cr_assert(t == place[q] || ((int)q == doubtful && t == was),
				  "queue %u is served by io%u, not io%u", q, t, place[q]);
			place[q] = t;
		}
	}
	cr_assert_eq(seen, QUEUES, "%u queues are served", seen);
}

static unsigned wanted(const char *name, unsigned few)
{
	const char *env = getenv(name);

	return env ? (unsigned)atoi(env) : few;
}

static void storm(uint64_t ring_features)
{
	unsigned n = wanted("BULKHEAD_MOVES", 300);

	set_up(ring_features, QUEUES, THREADS, NULL);
	load_until(&l, (go_on_moving(), moves >= n));
	cr_assert_not(l.rig.lost, "the server is gone");
	finish_move();
	check_places(-1);
	note("%u moves, %llu requests", moves, (unsigned long long)l.completed);
	tear_down();
}

Test(blk_move, split_under_load)
{
	storm(RING_F_EVENT_IDX | RING_F_INDIRECT);
}

Test(blk_move, packed_under_load)
{
	storm(RING_F_PACKED);
}

/* ---- deaths ---- */

/* The successor finishes what its predecessor died with, by the mapping that was in force. */
static void succeed(const char *label)
{
	int doubtful;

	supervisor_until(&s, s.answered || moving < 0);
	cr_assert_eq(rig_reap(&l.rig), CRASHES_STATUS, "%s", label);
	load_died(&l);
	doubtful = moving;
	moving = -1;
	rig_try_respawn(&l.rig);
	supervisor_expect(&s, &l.rig);
	check_places(doubtful);
	load_until(&l, !l.at_death);
	if (!l.rig.lost)
		check_places(-1);
}

static void die_at(const char *label, uint64_t ring_features, unsigned times)
{
	static char order[128];
	unsigned n;

	set_up(ring_features, QUEUES, THREADS, order);
	for (n = 0; n < times; n++) {
		rig_kill(&l.rig);
		load_died(&l);
		/* Each successor dies, too. */
		snprintf(order, sizeof(order), "die=%s:%u", label, 1 + load_random(&l, 6));
		rig_respawn(&l.rig);
		supervisor_expect(&s, &l.rig);
		dying = true;
		load_until(&l, (go_on_moving(), false));
		dying = false;
		cr_assert(l.rig.lost, "%s was not reached", label);
		order[0] = '\0';
		succeed(label);
	}
	tear_down();
}

static void all_points(uint64_t ring_features)
{
	static char text[8192];
	char *rest = text, *label;
	unsigned points = 0, times = wanted("BULKHEAD_HITS", 2);

#ifdef BH_SANITIZE_THREAD
	cr_skip_test("each of the many servers would wait for the thread sanitizer's start");
#endif
	rig_crash_list(false, text, sizeof(text));
	while ((label = strsep(&rest, "\n"))) {
		if (strncmp(label, "move ", 5))
			continue;
		points++;
		die_at(label, ring_features, times);
	}
	cr_assert_geq(points, 7, "only %u points", points);
	fprintf(stderr, "# %u points, %u deaths each; 0 requests lost, 0 twice, 0 wrong\n", points, times);
}

Test(blk_move, death_at_every_point_split)
{
	all_points(RING_F_EVENT_IDX);
}

Test(blk_move, death_at_every_point_packed)
{
	all_points(RING_F_PACKED | RING_F_INDIRECT);
}

/* ---- what else may happen meanwhile ---- */

static void count(void *arg, int err, const struct bus_msg *reply)
{
	(void)reply;
	cr_expect_eq(err, 0);
	++*(unsigned *)arg;
}

/* What comes after the order to leave is for the new thread. */
Test(blk_move, drains_in_the_middle_of_moves)
{
	struct bus_msg msg = { .type = BUS_MOVE_QUEUE };
	unsigned done = 0, asked = 0;

	set_up(RING_F_EVENT_IDX, QUEUES, THREADS, NULL);
	for (unsigned i = 0; i < 40; i++) {
		uint64_t until = clock_ns() + load_random(&l, NS_PER_MS);

		load_until(&l, clock_ns() >= until);
		msg.move_queue.queue = i % QUEUES;
		snprintf(msg.move_queue.thread, sizeof(msg.move_queue.thread), "io%u", i / QUEUES % THREADS);
		cr_assert_eq(bus_request(s.bus, &msg, 20 * NS_PER_S, count, &done), 0);
		asked++;
		supervisor_ask_ok(&s, BUS_DRAIN);
		supervisor_ask_ok(&s, BUS_RESUME);
		supervisor_until(&s, done == asked);
	}
	tear_down();
}

/* The front end goes while queues are on their way: they arrive all the same. */
Test(blk_move, the_front_end_goes_meanwhile)
{
	set_up(0, QUEUES, THREADS, NULL);
	l.depth = 0;
	load_until(&l, !load_in_flight(&l));
	ask_move(0, 1);
	rig_disconnect(&l.rig);
	supervisor_until(&s, s.answered);
	cr_assert_eq(s.err, 0);
	check_places(-1);
	supervisor_ask_ok(&s, BUS_SHUTDOWN);
	rig_stop(&l.rig);
	supervisor_close(&s);
	close(state_fd);
}

Test(blk_move, what_is_not_there_can_not_move)
{
	struct bus_msg msg = { .type = BUS_MOVE_QUEUE, .move_queue = { .queue = QUEUES, .thread = "io0" } };

	set_up(0, QUEUES, THREADS, NULL);
	supervisor_ask(&s, &msg);
	supervisor_until(&s, s.answered);
	cr_expect_eq(s.err, -ENOENT);
	cr_expect_str_eq(s.reply->error.text, "there is no such queue");
	msg.move_queue.queue = 0;
	strcpy(msg.move_queue.thread, "io2");
	supervisor_ask(&s, &msg);
	supervisor_until(&s, s.answered);
	cr_expect_eq(s.err, -ENOENT);
	/* To where it is: done at once. */
	strcpy(msg.move_queue.thread, "io0");
	supervisor_ask(&s, &msg);
	supervisor_until(&s, s.answered);
	cr_expect_eq(s.err, 0);
	check_places(-1);
	tear_down();
}

/* ---- hangs ---- */

/* A request that the storage has lost keeps its queue from moving; that it hangs is to be seen all the same. */
Test(blk_move, a_move_that_waits_hides_no_hang)
{
	static char order[128];
	const struct flight_queue *line;
	struct flight *f = NULL;
	uint64_t gpa, passes;

	flight_fd = flight_create(QUEUES);
	cr_assert_eq(flight_map(flight_fd, false, &f), 0);
	line = flight_queue(f, 0);
	set_up(RING_F_EVENT_IDX, QUEUES, THREADS, order);
	gpa = rig_alloc(&l.rig, 4096, 4096);
	atomic_store(&l.rig.told->result, CRASHES_LOST);
	atomic_store(&l.rig.told->to, 1 << 20);
	atomic_store(&l.rig.told->times, 1);
	atomic_store(&l.rig.told->op, CRASH_READ);
	rig_add(&l.rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	supervisor_until(&s, flight_get(&line->taken) == 1);
	ask_move(0, 1);
	supervisor_ask_ok(&s, BUS_PING); /* it has that order, too */
	passes = flight_get(&line->passes);
	fd_event_set(l.rig.queue[0].kick);
	supervisor_until(&s, flight_get(&line->passes) > passes);
	cr_expect_eq(flight_get(&line->held), 0);
	cr_expect_eq(flight_get(&line->done), 0);
	cr_expect_eq(flight_get(&line->resting), 0, "it passes for ordered to rest");
	rig_kill(&l.rig);
	rig_respawn(&l.rig);
	supervisor_expect(&s, &l.rig);
	cr_expect_eq(rig_wait(&l.rig, 0).status, VIRTIO_BLK_S_OK);
	tear_down();
	flight_free(f);
}

/* ---- processors ---- */

/* On which processors the thread of this name may run, as the kernel says it. */
static void allowed(const char *thread, char *out, size_t size)
{
	char path[128], line[256];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", l.rig.pid);
	dir = opendir(path);
	cr_assert_not_null(dir);
	*out = '\0';
	while ((entry = readdir(dir))) {
		bool is_it = false;
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/task/%.20s/status", l.rig.pid, entry->d_name);
		f = *entry->d_name == '.' ? NULL : fopen(path, "re");
		while (f && fgets(line, sizeof(line), f)) {
			line[strcspn(line, "\n")] = '\0';
			if (!strncmp(line, "Name:\t", 6))
				is_it = !strcmp(line + 6, thread);
			if (is_it && !strncmp(line, "Cpus_allowed_list:\t", 19))
				snprintf(out, size, "%s", line + 19);
		}
		if (f)
			fclose(f);
	}
	closedir(dir);
	cr_assert(*out, "there is no thread %s", thread);
}

static int pin(const char *thread, const char *cpus)
{
	struct bus_msg msg = { .type = BUS_PIN };

	snprintf(msg.pin.thread, sizeof(msg.pin.thread), "%s", thread);
	snprintf(msg.pin.cpus, sizeof(msg.pin.cpus), "%s", cpus);
	supervisor_ask(&s, &msg);
	supervisor_until(&s, s.answered);
	return s.err;
}

Test(blk_move, threads_are_pinned_and_stay_so)
{
	char before[256], cpus[256];

	set_up(0, QUEUES, THREADS, NULL);
	allowed("io1", before, sizeof(before));
	cr_assert_eq(pin("io0", "0"), 0);
	allowed("io0", cpus, sizeof(cpus));
	cr_expect_str_eq(cpus, "0");
	allowed("io1", cpus, sizeof(cpus));
	cr_expect_str_eq(cpus, before);
	cr_expect_eq(pin("io0", "1023"), -EINVAL, "there can be no such processor");
	cr_expect_eq(pin("io0", "0-"), -EINVAL);
	cr_expect_eq(pin("io2", "0"), -ENOENT);
	rig_kill(&l.rig);
	load_died(&l);
	rig_respawn(&l.rig);
	supervisor_expect(&s, &l.rig);
	allowed("io0", cpus, sizeof(cpus));
	cr_expect_str_eq(cpus, "0", "a successor runs elsewhere: %s", cpus);
	allowed("io1", cpus, sizeof(cpus));
	cr_expect_str_eq(cpus, before);
	tear_down();
}

/* ---- pins that a spare finds when it takes over ---- */

#define RECORD_CPUS (PLACING_THREADS_MAX + 1) /* sets, at its end; a byte for each before them */

/* What threads were pinned to, as lib/server keeps it. */
static struct pins {
	uint8_t bytes[STATE_RECORD_MAX];
	ssize_t len;
	cpu_set_t cpus[RECORD_CPUS];
} pins;

static void load_pins(void)
{
	struct state *state;

	cr_assert_eq(state_map(state_fd, &state), 0);
	pins.len = state_load(state, STATE_SERVER, pins.bytes, sizeof(pins.bytes));
	cr_assert_gt(pins.len, (ssize_t)sizeof(pins.cpus));
	memcpy(pins.cpus, pins.bytes + pins.len - sizeof(pins.cpus), sizeof(pins.cpus));
	state_free(state);
}

/* While the spare waits, its predecessor is given other processors: one that it can't have, and one that it can. */
static void change_pins(void *arg)
{
	struct state *state;

	(void)arg;
	supervisor_expect(&s, &l.rig); /* it has read what there is now */
	load_pins();
	CPU_ZERO(&pins.cpus[0]);
	CPU_SET(CPU_SETSIZE - 1, &pins.cpus[0]);
	CPU_ZERO(&pins.cpus[1]);
	CPU_SET(0, &pins.cpus[1]);
	memcpy(pins.bytes + pins.len - sizeof(pins.cpus), pins.cpus, sizeof(pins.cpus));
	cr_assert_eq(state_map(state_fd, &state), 0);
	state_save(state, STATE_SERVER, pins.bytes, (size_t)pins.len);
	state_free(state);
}

Test(blk_move, one_pin_that_fails_costs_no_other)
{
	char all[CPUS_TEXT_MAX], cpus[256];
	cpu_set_t mine;

	cr_assert_eq(sched_getaffinity(0, sizeof(mine), &mine), 0);
	if (!CPU_ISSET(0, &mine) || CPU_COUNT(&mine) < 2)
		cr_skip_test("there is one processor");
	cpus_format(&mine, all, sizeof(all));
	set_up(0, QUEUES, THREADS, NULL);
	cr_assert_eq(pin("io0", all), 0);
	cr_assert_eq(pin("io1", all), 0);
	l.depth = 0;
	load_until(&l, !load_in_flight(&l));
	rig_kill(&l.rig);
	rig_respawn_spare(&l.rig, change_pins, NULL);
	supervisor_until(&s, (allowed("io1", cpus, sizeof(cpus)), !strcmp(cpus, "0")));
	allowed("io0", cpus, sizeof(cpus));
	cr_expect_str_eq(cpus, all);
	load_pins();
	cr_expect(CPU_ISSET(CPU_SETSIZE - 1, &pins.cpus[0]), "what could not be had is forgotten");
	cr_expect_eq(CPU_COUNT(&pins.cpus[1]), 1);
	tear_down();
}
