/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a dead server left to the kernel lands before its successor begins, or never: its storage holds a request while it is
 * killed and reaped, and gives it back when the driver has long gone on. With io_uring being reaped is no fence (blk-server's
 * fence.h). FAULTS 48.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "flight.h"
#include "rig.h"
#include "slow_file.h"
#include "supervise.h"

TestSuite(blk_fence, .timeout = 120);

#define BLOCK 4096
#define IMAGE (1 << 20)

static struct scene {
	struct rig rig;
	struct slow_file slow;
	struct flight *flight;
	bool waited;
	uint64_t gpa;
} s;

/* args: further options, or NULL. */
static void start(const char **args, bool readonly, bool by_hand)
{
	struct rig_options options = { .args = args,
				       .flight_fd = flight_create(1),
				       .engine = "io_uring",
				       .device = s.slow.file,
				       .image_bytes = IMAGE,
				       .readonly = readonly,
				       .by_hand = by_hand,
				       .ring_features = RING_F_EVENT_IDX };
	static uint8_t block[BLOCK];

	slow_file_start(&s.slow, IMAGE);
	rig_fill(block, 0, BLOCK, 1);
	cr_assert_eq(pwrite(s.slow.backing_fd, block, BLOCK, 0), BLOCK);
	cr_assert_eq(flight_map(options.flight_fd, true, &s.flight), 0);
	rig_start(&s.rig, &options);
	s.gpa = rig_alloc(&s.rig, BLOCK, BLOCK);
}

static void stop(void)
{
	rig_stop(&s.rig);
	slow_file_stop(&s.slow);
}

static bool disk_has(uint64_t seed)
{
	static uint8_t block[BLOCK];

	cr_assert_eq(pread(s.slow.backing_fd, block, BLOCK, 0), BLOCK);
	return rig_check(block, 0, BLOCK, seed);
}

/* ---- the successor ---- */

/* Whether it says that something is held, while it has taken nothing: it has the rings, and waits for the storage. */
static bool waits(void)
{
	const struct flight_queue *q = flight_queue(s.flight, 0);
	uint64_t end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;

	while (!flight_get(&q->taken) && clock_ns() < end)
		if (flight_get(&q->held) && flight_get(&q->since))
			return !flight_get(&q->taken);
	return false;
}

/* Has the storage hold a request, kills the server meanwhile, and has another one take it up. */
static void die_with(uint32_t type)
{
	slow_file_tell(&s.slow, SIGUSR1, "holding");
	rig_add(&s.rig, 0, type, 0, s.gpa, BLOCK);
	slow_file_expect(&s.slow, "held");
	rig_kill(&s.rig);
	slow_file_tell(&s.slow, SIGHUP, "passing");
	flight_reset(s.flight);
	rig_respawn(&s.rig);
	s.waited = waits();
	if (s.waited)
		slow_file_tell(&s.slow, SIGUSR2, "free");
	cr_assert_eq(rig_wait(&s.rig, 0).status, VIRTIO_BLK_S_OK);
	rig_until(&s.rig, !flight_get(&flight_queue(s.flight, 0)->since)); /* at the end of its pass */
}

/* What was held is given back now, unless that was before. */
static void release(void)
{
	if (!s.waited)
		slow_file_tell(&s.slow, SIGUSR2, "free");
}

Test(blk_fence, f48_no_write_of_the_dead_lands_on_a_later_one)
{
	start(NULL, false, false);
	rig_fill(rig_ptr(&s.rig, s.gpa), 0, BLOCK, 2);
	die_with(VIRTIO_BLK_T_OUT);
	rig_fill(rig_ptr(&s.rig, s.gpa), 0, BLOCK, 3);
	cr_assert_eq(rig_request(&s.rig, 0, VIRTIO_BLK_T_OUT, 0, s.gpa, BLOCK).status, VIRTIO_BLK_S_OK);
	cr_assert(disk_has(3));
	release();
	cr_expect(disk_has(3), "a write of the dead server landed on one of its successor");
	cr_expect(s.waited, "the successor did not wait");
	stop();
}

/* The guest has its buffer back, and what the dead server reads there would overwrite what it does with it. */
Test(blk_fence, f48_no_read_of_the_dead_lands_in_a_buffer_that_was_given_back)
{
	start(NULL, true, false);
	die_with(VIRTIO_BLK_T_IN);
	cr_assert(rig_check(rig_ptr(&s.rig, s.gpa), 0, BLOCK, 1));
	rig_fill(rig_ptr(&s.rig, s.gpa), 0, BLOCK, 3);
	release();
	cr_expect(rig_check(rig_ptr(&s.rig, s.gpa), 0, BLOCK, 3), "a read of the dead server landed");
	cr_expect(s.waited, "the successor did not wait");
	stop();
}

/* Who opens the image by name has its lock, which goes when the ring goes that has the image. */
Test(blk_fence, f48_an_image_by_name_stays_locked_as_long)
{
	char socket[160], out[1024];
	const char *const args[] = { "blk-server", "--socket", socket,      "--image", s.slow.file,
				     "--engine",   "io_uring", "--sandbox", "off",     NULL };

	start(NULL, false, true);
	snprintf(socket, sizeof(socket), "%s/other", s.slow.dir);
	rig_fill(rig_ptr(&s.rig, s.gpa), 0, BLOCK, 2);
	slow_file_tell(&s.slow, SIGUSR1, "holding");
	rig_add(&s.rig, 0, VIRTIO_BLK_T_OUT, 0, s.gpa, BLOCK);
	slow_file_expect(&s.slow, "held");
	rig_kill(&s.rig);
	cr_assert_eq(rig_run(args, out, sizeof(out)), 2);
	cr_assert(strstr(out, "is in use by another process"), "%s", out);
	slow_file_tell(&s.slow, SIGUSR2, "free");
	rig_respawn(&s.rig);
	cr_assert_eq(rig_wait(&s.rig, 0).status, VIRTIO_BLK_S_OK);
	cr_assert(disk_has(2));
	stop();
}

static void on_drained(void *arg, int err, const struct bus_msg *reply)
{
	(void)reply;
	*(int *)arg = err;
}

/* An upgrade that waits in vain for slow storage leaves the old process serving, at once. */
Test(blk_fence, a_drain_that_is_taken_back_holds_nothing_up)
{
	const char *args[] = { "--id", "disk0", "--bus", NULL, NULL };
	const struct bus_msg drain = { .type = BUS_DRAIN };
	struct supervisor sup;
	struct rig_done done;
	int slow, quick, err = 0;

	supervisor_open(&sup);
	args[3] = sup.dir;
	start(args, false, false);
	supervisor_expect(&sup, &s.rig);
	slow_file_tell(&s.slow, SIGUSR1, "holding");
	slow = rig_add(&s.rig, 0, VIRTIO_BLK_T_OUT, 0, s.gpa, BLOCK);
	slow_file_expect(&s.slow, "held");
	cr_assert_eq(bus_request(sup.bus, &drain, RIG_DEADLINE_S * NS_PER_S, on_drained, &err), 0);
	supervisor_ask_ok(&sup, BUS_PING);
	slow_file_tell(&s.slow, SIGHUP, "passing");
	quick = rig_add(&s.rig, 0, VIRTIO_BLK_T_IN, 8, rig_alloc(&s.rig, BLOCK, BLOCK), BLOCK);
	cr_assert_eq(err, 0, "it is not drained");
	supervisor_ask_ok(&sup, BUS_RESUME);
	cr_assert_eq(err, -ECANCELED);
	supervisor_until(&sup, rig_get(&s.rig, 0, &done));
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	cr_assert_eq(done.slot, quick);
	slow_file_tell(&s.slow, SIGUSR2, "free");
	done = rig_wait(&s.rig, 0);
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	cr_assert_eq(done.slot, slow);
	supervisor_ask_ok(&sup, BUS_SHUTDOWN);
	stop();
	supervisor_close(&sup);
}

/* The supervisor dies while the server drains; its successor takes that back, and has it drain once more for its own upgrade. */
Test(blk_fence, a_drain_that_nobody_waits_for_is_not_in_the_way_of_another)
{
	const char *args[] = { "--id", "disk0", "--bus", NULL, NULL };
	struct supervisor sup;

	supervisor_open(&sup);
	args[3] = sup.dir;
	start(args, false, false);
	supervisor_expect(&sup, &s.rig);
	rig_fill(rig_ptr(&s.rig, s.gpa), 0, BLOCK, 2);
	slow_file_tell(&s.slow, SIGUSR1, "holding");
	rig_add(&s.rig, 0, VIRTIO_BLK_T_OUT, 0, s.gpa, BLOCK);
	slow_file_expect(&s.slow, "held");
	supervisor_ask_for(&sup, BUS_DRAIN);
	supervisor_ask_ok(&sup, BUS_PING);
	supervisor_expect(&sup, &s.rig);
	supervisor_ask_ok(&sup, BUS_RESUME);
	supervisor_ask_for(&sup, BUS_DRAIN);
	supervisor_ask_ok(&sup, BUS_PING); /* or this is the answer to the drain: an error */
	sup.answered = false;
	slow_file_tell(&s.slow, SIGUSR2, "free");
	supervisor_until(&sup, sup.answered);
	cr_assert_eq(sup.err, 0, "%s", sup.reply->error.text);
	cr_assert_eq(rig_wait(&s.rig, 0).status, VIRTIO_BLK_S_OK);
	supervisor_ask_ok(&sup, BUS_SHUTDOWN);
	stop();
	supervisor_close(&sup);
}
