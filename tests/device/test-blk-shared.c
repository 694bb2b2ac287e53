/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two disks of one blk-server, each with its front end and load: they share its threads and its end, and nothing else. Whatever
 * it dies of, both find all that they had in flight, once.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bus.h"
#include "clock.h"
#include "crashes.h"
#include "load.h"
#include "note.h"
#include "num.h"
#include "supervise.h"

TestSuite(blk_shared, .timeout = 300);

/* Deaths in a row after which neither recovery came to a point. Which of the two is in the middle of a batch is a matter of
 * luck, and what is to be done of a batch depends on the format of the ring, of which each has one. */
#define MISSES_MAX 60

static struct load one, two;

static void start(const struct rig_options *options)
{
	struct rig_options lodger = { .lodger = true,
				      .queues = 2,
				      .engine = options->engine,
				      .ring_features = RING_F_PACKED | RING_F_EVENT_IDX };
	struct rig_options all = *options;

	load_start(&two, &lodger);
	all.beside = &two.rig;
	load_start(&one, &all);
}

/* Has both loads go on until the condition holds or the server is gone. */
#define both_until(condition)                                                                                \
	do {                                                                                                 \
		struct load_watch first_ = load_watch(&one), second_ = load_watch(&two);                     \
		for (unsigned turn_ = 0;; turn_++) {                                                         \
			load_step(&one);                                                                     \
			load_step(&two);                                                                     \
			if (one.rig.lost || two.rig.lost || (condition))                                     \
				break;                                                                       \
			load_wait(turn_ % 2 ? &one : &two, turn_ % 2 ? &first_ : &second_);                  \
		}                                                                                            \
	} while (0)

static void stop(void)
{
	two.depth = one.depth = 0;
	both_until(!load_in_flight(&one) && !load_in_flight(&two));
	load_finish(&two);
	load_stop(&one);
}

static void died(void)
{
	load_died(&one);
	load_died(&two);
}

/* ---- deaths ---- */

static void storm(const char *engine)
{
	struct rig_options options = { .queues = 2,
				       .io_threads = 2,
				       .engine = engine,
				       .ring_features = RING_F_EVENT_IDX | RING_F_INDIRECT };

	start(&options);
	for (unsigned i = 0; i < 10; i++) {
		uint64_t until;

		/* On a busy machine it could be twice in hand what a process is killed with, and be taken for poison. */
		both_until(!one.at_death && !two.at_death);
		until = clock_ns() + load_random(&one, 20 * NS_PER_MS);
		both_until(clock_ns() >= until);
		rig_kill(&one.rig);
		died();
		rig_respawn(&one.rig);
	}
	both_until(!one.at_death && !two.at_death);
	stop();
	note("%llu and %llu requests", (unsigned long long)one.completed, (unsigned long long)two.completed);
}

Test(blk_shared, kills)
{
	storm(NULL);
}

Test(blk_shared, kills_with_io_uring)
{
	storm("io_uring");
}

static bool begins(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

static bool in_recovery(const char *label)
{
	return strstr(label, "recover-") || begins(label, "resubmit");
}

/* Where the predecessor of one that is to die in its recovery dies: with a batch that the driver has seen, or not. */
static const char *before_recovery(const char *label, unsigned tries)
{
	bool seen = strstr(label, "recover-batch") || (!strstr(label, "recover-available") && tries % 2);

	return seen ? "used-index after" : "used-index before";
}

/* The server dies where it comes to label for the nth time, for either of its disks: while it serves, or while it recovers, if
 * there is something for it to do there. Whether it did. */
static bool die_at(char *order, size_t size, const char *label, unsigned nth)
{
	bool early = in_recovery(label);
	uint64_t end;

	snprintf(order, size, "%s=%s:%u", early ? "die" : "later", label, nth);
	rig_try_respawn(&one.rig);
	if (!one.rig.lost)
		both_until(!one.at_death && !two.at_death);
	if (early && !one.rig.lost && !two.rig.lost)
		return false;
	if (!one.rig.lost)
		rig_go(&one.rig);
	end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;
	if (!one.rig.lost)
		both_until(clock_ns() >= end);
	cr_assert_eq(rig_reap(&one.rig), CRASHES_STATUS, "%s: it ended in another way", order);
	died();
	return true;
}

Test(blk_shared, every_point)
{
	static char text[8192], order[160];
	struct rig_options options = { .queues = 1, .io_threads = 2, .ring_features = RING_F_EVENT_IDX };
	char *rest = text, *label;
	unsigned points = 0, most = 0;

#ifdef BH_SANITIZE_THREAD
	cr_skip_test("each of the many servers would wait for the thread sanitizer's start; the kills do");
#endif
	rig_crash_list(false, text, sizeof(text));
	snprintf(order, sizeof(order), "later=call before:1");
	options.crash = order;
	start(&options);
	cr_assert_not(one.rig.lost);
	rig_kill(&one.rig);
	died();
	while ((label = strsep(&rest, "\n"))) {
		unsigned tries = 0;

		if (!*label || begins(label, "move ") || begins(label, "qcow2 ") ||
		    begins(label, "failure") || strstr(label, "unmark"))
			continue;
		points++;
		one.depth = two.depth = 8;
		/* Nothing is in hand where those die that others are to die of in their recovery. */
		while ((in_recovery(label) && !die_at(order, sizeof(order), before_recovery(label, tries),
						      1 + load_random(&one, 4))) ||
		       !die_at(order, sizeof(order), label, 1 + load_random(&one, tries ? 2 : 8))) {
			both_until(load_in_flight(&one) && load_in_flight(&two));
			rig_kill(&one.rig);
			died();
			cr_assert_lt(++tries, MISSES_MAX, "%s was not reached", label);
		}
		most = MAX(most, tries);
	}
	one.rig.options.crash = "";
	rig_respawn(&one.rig);
	both_until(!one.at_death && !two.at_death);
	stop();
	note("%u points, each at the %uth try at the latest; 0 requests lost, 0 twice, 0 wrong", points,
	     most + 1);
	cr_assert_gt(points, 30);
}

/* ---- one process to its supervisor ---- */

static struct supervisor s;

static void set_up(void)
{
	static const char *args[] = { "--id", "store", "--bus", NULL, NULL };
	struct rig_options options = {
		.args = args, .io_threads = 2, .queues = 2, .ring_features = RING_F_EVENT_IDX
	};

	supervisor_open(&s);
	args[3] = s.dir;
	start(&options);
	supervisor_expect(&s, &one.rig);
}

static void tear_down(void)
{
	supervisor_ask_ok(&s, BUS_SHUTDOWN);
	rig_stop(&one.rig);
	supervisor_close(&s);
}

/* The answer to a message: 0 or the error. */
static int ask(const struct bus_msg *msg)
{
	supervisor_ask(&s, msg);
	supervisor_until(&s, s.answered);
	return s.err;
}

static uint64_t stat_of(const char *device, const char *name)
{
	struct bus_msg msg = { .type = BUS_GET_STATS };

	snprintf(msg.get_stats.device, sizeof(msg.get_stats.device), "%s", device);
	cr_assert_eq(ask(&msg), 0);
	for (uint32_t i = 0; i < s.reply->stats.count; i++)
		if (!strcmp(s.reply->stats.stat[i].name, name))
			return s.reply->stats.stat[i].value;
	cr_assert_fail("no counter %s", name);
	return 0;
}

static int set(const char *device, const char *key, const char *value)
{
	struct bus_msg msg = { .type = BUS_SET };

	snprintf(msg.set.device, sizeof(msg.set.device), "%s", device);
	snprintf(msg.set.key, sizeof(msg.set.key), "%s", key);
	snprintf(msg.set.value, sizeof(msg.set.value), "%s", value);
	return ask(&msg);
}

static void request(struct load *l, unsigned queue)
{
	cr_assert_eq(rig_request(&l->rig, queue, VIRTIO_BLK_T_OUT, 0, l->buffers[0], LOAD_BLOCK).status,
		     VIRTIO_BLK_S_OK);
}

Test(blk_shared, each_has_its_own_counters_and_settings)
{
	set_up();
	cr_expect_str_eq(s.first.hello.name, "store");
	request(&one, 0);
	for (unsigned i = 0; i < 3; i++)
		request(&two, i % 2);
	cr_expect_eq(stat_of("one", "writes"), 1);
	cr_expect_eq(stat_of("two", "writes"), 3);
	cr_expect_eq(stat_of("two", "queue1.requests"), 1);
	cr_expect_eq(set("two", "size", "32M"), 0);
	supervisor_until(&s, two.rig.config_changes == 1);
	cr_expect_eq(one.rig.config_changes, 0, "the other one did not grow");
	rig_get_config(&two.rig, 0, &two.rig.config, sizeof(two.rig.config));
	cr_expect_eq(two.rig.config.capacity, (32U << 20) / 512);
	cr_expect_eq(one.rig.config.capacity, (16U << 20) / 512);
	cr_expect_eq(set("three", "size", "32M"), -ENOENT);
	tear_down();
}

static uint64_t queues_of(const char *thread)
{
	supervisor_ask_ok(&s, BUS_GET_LOOPS);
	for (uint32_t i = 0; i < s.reply->loops.count; i++)
		if (!strcmp(s.reply->loops.loop[i].name, thread))
			return s.reply->loops.loop[i].queues;
	cr_assert_fail("no loop %s", thread);
	return 0;
}

/* The queues of the second follow on those of the first, and go round with them. */
Test(blk_shared, they_share_threads)
{
	struct bus_msg msg = { .type = BUS_MOVE_QUEUE,
			       .move_queue = { .device = "two", .queue = 1, .thread = "io0" } };

	set_up();
	cr_expect_eq(queues_of("io0"), 1 << 0 | 1 << 2);
	cr_expect_eq(queues_of("io1"), 1 << 1 | 1 << 3);
	cr_expect_eq(ask(&msg), 0);
	cr_expect_eq(queues_of("io0"), 1 << 0 | 1 << 2 | 1 << 3);
	request(&two, 1);
	msg.move_queue.queue = 2;
	cr_expect_eq(ask(&msg), -ENOENT, "each counts its own");
	request(&one, 1);
	tear_down();
}

static void add(struct load *l, unsigned queue, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		rig_add(&l->rig, queue, VIRTIO_BLK_T_IN, 0, l->buffers[queue], LOAD_BLOCK);
}

static void wait_for(struct load *l, unsigned queue, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		cr_assert_eq(rig_wait(&l->rig, queue).status, VIRTIO_BLK_S_OK);
}

/* How many requests the device says were done again, by the one message that is about it. */
static unsigned resubmitted(const char *device)
{
	const struct bus_msg *about = NULL;

	for (unsigned i = 0; i < s.nrecovered; i++) {
		if (strcmp(s.recoveries[i].recovered.device, device))
			continue;
		cr_assert_null(about, "it is said twice of %s", device);
		about = &s.recoveries[i];
	}
	cr_assert_not_null(about, "nothing is said of %s", device);
	return about->recovered.resubmitted;
}

/* Each tells of itself what its start came to: of one of them, a request that its limit holds back is in hand. */
Test(blk_shared, both_tell_what_was_recovered)
{
	set_up();
	cr_assert_eq(set("two", "bps", "512"), 0);
	add(&two, 0, 3);
	supervisor_until(&s, stat_of("two", "throttled"));
	rig_kill(&one.rig);
	s.hello = s.ready = false;
	s.nrecovered = 0;
	rig_respawn(&one.rig);
	bus_expect(s.bus, one.rig.pid);
	supervisor_until(&s, s.ready);
	cr_assert_eq(set("two", "bps", "0"), 0);
	supervisor_until(&s, s.nrecovered == 2);
	cr_expect_eq(resubmitted("one"), 0);
	cr_expect_eq(resubmitted("two"), 1);
	wait_for(&two, 0, 3);
	tear_down();
}

/* A queue that moves looks at its ring when it is there: whatever it may take, it takes then. */
static void move_there_and_back(const char *device)
{
	struct bus_msg msg = { .type = BUS_MOVE_QUEUE };

	snprintf(msg.move_queue.device, sizeof(msg.move_queue.device), "%s", device);
	snprintf(msg.move_queue.thread, sizeof(msg.move_queue.thread), "io1");
	cr_assert_eq(ask(&msg), 0);
	snprintf(msg.move_queue.thread, sizeof(msg.move_queue.thread), "io0");
	cr_assert_eq(ask(&msg), 0);
}

/* What the process must do to let another take its place it does for all, and takes it back for all. */
Test(blk_shared, drains_both)
{
	set_up();
	request(&one, 0);
	request(&two, 0);
	supervisor_ask_ok(&s, BUS_DRAIN);
	add(&one, 0, 2);
	add(&two, 0, 3);
	move_there_and_back("one");
	move_there_and_back("two");
	cr_expect_eq(stat_of("one", "requests"), 1);
	cr_expect_eq(stat_of("two", "requests"), 1);
	supervisor_ask_ok(&s, BUS_RESUME);
	wait_for(&one, 0, 2);
	wait_for(&two, 0, 3);
	tear_down();
}

/* ---- by hand ---- */

/* The front end of one goes and comes again, each with requests in hand, and the other one does not notice. With the process
 * both sockets go, as rig_stop makes sure. */
Test(blk_shared, front_ends_come_and_go)
{
	struct rig_options lodger = { .lodger = true }, options = { .by_hand = true, .beside = &two.rig };

	load_start(&two, &lodger);
	load_start(&one, &options);
	for (unsigned i = 0; i < 20; i++) {
		struct load *goes = i % 2 ? &one : &two, *stays = i % 2 ? &two : &one;

		add(goes, 0, 4);
		add(stays, 0, 4);
		rig_disconnect(&goes->rig);
		wait_for(stays, 0, 4);
		request(stays, 0);
		add(stays, 0, 4);
		rig_connect(&goes->rig);
		wait_for(goes, 0, 4);
		request(goes, 0);
		wait_for(stays, 0, 4);
		cr_assert_not(stays->rig.lost);
	}
	rig_stop(&one.rig);
}
