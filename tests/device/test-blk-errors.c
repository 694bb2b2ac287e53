/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the host refuses, by faults put under the engine: each error, of each call, at each place of the disk. The driver is
 * told of it and of nothing else, and what comes after is served. Names begin with the fault's number.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <endian.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bus.h"
#include "clock.h"
#include "crash.h"
#include "note.h"
#include "num.h"
#include "rig.h"
#include "state.h"
#include "supervise.h"

TestSuite(blk_errors, .timeout = 120);

#define IMAGE (16ULL << 20)
#define BLOCK 16384U

static struct rig rig;
static uint64_t gpa;
static unsigned threads;   /* 0: one */
static const char *engine; /* NULL: the default */

/* A test that each engine has to stand. */
#define EACH_ENGINE(name)                                                                                    \
	static void name(void);                                                                              \
	Test(blk_errors, name)                                                                               \
	{                                                                                                    \
		name();                                                                                      \
	}                                                                                                    \
	Test(blk_errors, name##_io_uring)                                                                    \
	{                                                                                                    \
		engine = "io_uring";                                                                         \
		name();                                                                                      \
	}                                                                                                    \
	static void name(void)

/* Where a request lies: at the start of the disk, amid it, at its end. */
static const uint64_t places[] = { 0, IMAGE / 2, IMAGE - BLOCK };

/* How a request comes to a call. */
static const struct call {
	const char *name;
	uint32_t type;
	enum crash_op op;
	unsigned skew; /* of its buffer: off it goes through a bounce buffer */
} calls[] = {
	{ "read", VIRTIO_BLK_T_IN, CRASH_READ, 0 },
	{ "read by a bounce buffer", VIRTIO_BLK_T_IN, CRASH_READ, 8 },
	{ "write", VIRTIO_BLK_T_OUT, CRASH_WRITE, 0 },
	{ "write by a bounce buffer", VIRTIO_BLK_T_OUT, CRASH_WRITE, 8 },
	{ "discard", VIRTIO_BLK_T_DISCARD, CRASH_PUNCH, 0 },
	{ "write zeroes", VIRTIO_BLK_T_WRITE_ZEROES, CRASH_ZERO, 0 },
};

static void start_with(const char *const *args, int state_fd)
{
	struct rig_options options = { .crash = "",
				       .args = args,
				       .state_fd = state_fd,
				       .engine = engine,
				       .queues = 2,
				       .io_threads = threads };

	rig_start(&rig, &options);
	cr_assert_not(rig.lost);
	gpa = rig_alloc(&rig, 2 * BLOCK, 4096);
}

static void start(void)
{
	start_with(NULL, 0);
}

/* The next calls of a kind that touch these bytes come to this. */
static void inject(enum crash_op op, uint64_t from, uint64_t to, int64_t result, int times)
{
	atomic_store(&rig.told->op, 0);
	atomic_store(&rig.told->result, result);
	atomic_store(&rig.told->from, from);
	atomic_store(&rig.told->to, to);
	atomic_store(&rig.told->times, times);
	atomic_store(&rig.told->hits, 0);
	atomic_store(&rig.told->op, (int)op);
}

static unsigned hits(void)
{
	return atomic_load(&rig.told->hits);
}

static bool is_range(uint32_t type)
{
	return type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES;
}

/* Puts a request's data at its buffer, and asks for it; its slot. */
static int ask(const struct call *c, uint64_t off, uint64_t seed)
{
	uint64_t buf = gpa + c->skew;

	if (is_range(c->type)) {
		struct virtio_blk_discard_write_zeroes range = { .sector = htole64(off / 512),
								 .num_sectors = htole32(BLOCK / 512) };

		memcpy(rig_ptr(&rig, buf), &range, sizeof(range));
		return rig_add(&rig, 0, c->type, 0, buf, sizeof(range));
	}
	rig_fill(rig_ptr(&rig, buf), off, BLOCK, seed);
	return rig_add(&rig, 0, c->type, off / 512, buf, BLOCK);
}

static uint8_t request(const struct call *c, uint64_t off, uint64_t seed)
{
	ask(c, off, seed);
	return rig_wait(&rig, 0).status;
}

/* The whole image is what it was made to be, and is read and written. */
static void write_image(uint64_t seed)
{
	static uint8_t block[BLOCK];

	for (uint64_t off = 0; off < IMAGE; off += BLOCK) {
		rig_fill(block, off, BLOCK, seed);
		cr_assert_eq(pwrite(rig.image_fd, block, BLOCK, (off_t)off), BLOCK);
	}
	cr_assert_eq(fsync(rig.image_fd), 0);
}

static void check_block(uint64_t off, uint64_t seed, const char *what)
{
	static uint8_t block[BLOCK];

	cr_assert_eq(fsync(rig.image_fd), 0);
	rig_read_image(&rig, off, block, BLOCK);
	cr_assert(rig_check(block, off, BLOCK, seed), "%s", what);
}

static void check_serves(uint64_t off, uint64_t seed)
{
	static const struct call read = { "read", VIRTIO_BLK_T_IN, CRASH_READ, 0 };

	inject(CRASH_READ, 0, 0, 0, 0);
	cr_assert_eq(request(&read, off, 0), VIRTIO_BLK_S_OK);
	cr_assert(rig_check(rig_ptr(&rig, gpa), off, BLOCK, seed));
}

/* Each of these errors of each call at each place: reported, nothing else touched, served again. */
static void matrix(const int *errors, size_t n)
{
	unsigned cells = 0;

	write_image(1);
	for (size_t e = 0; e < n; e++)
		for (size_t c = 0; c < ARRAY_SIZE(calls); c++)
			for (size_t p = 0; p < ARRAY_SIZE(places); p++, cells++) {
				const char *what = calls[c].name;
				uint64_t off = places[p];

				inject(calls[c].op, off, off + 1, -errors[e], 1);
				cr_expect_eq(request(&calls[c], off, 2), VIRTIO_BLK_S_IOERR, "%s: %s at %llu",
					     what, strerrorname_np(errors[e]), (unsigned long long)off);
				cr_assert_eq(hits(), 1, "%s is not made by this call", what);
				check_block(off, 1, what);
				check_serves(off, 1);
				cr_assert_eq(request(&calls[2], off, 3), VIRTIO_BLK_S_OK);
				check_block(off, 3, what);
				cr_assert_eq(request(&calls[2], off, 1), VIRTIO_BLK_S_OK);
			}
	note("%u faults injected, all survived", cells);
	rig_stop(&rig);
}

EACH_ENGINE(f49_no_room_on_each_call_at_each_place)
{
	static const int errors[] = { ENOSPC, EDQUOT, EFBIG };

	start();
	matrix(errors, ARRAY_SIZE(errors));
}

EACH_ENGINE(f50_broken_medium_on_each_call_at_each_place)
{
	static const int errors[] = { EIO, EREMOTEIO, ENODATA, ETIMEDOUT, ENOMEM };

	start();
	matrix(errors, ARRAY_SIZE(errors));
}

static uint8_t flush(void)
{
	rig_add(&rig, 1, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	return rig_wait(&rig, 1).status;
}

/* Whatever it failed with: no later one may say that all is well, of this server or the next ones. */
EACH_ENGINE(f50_a_failed_flush_is_never_retried_into_success)
{
	static const int errors[] = { EIO, ENOSPC, EDQUOT, EREMOTEIO, ENOMEM };

	for (size_t e = 0; e < ARRAY_SIZE(errors); e++) {
		start_with(NULL, state_create());
		write_image(1);
		cr_assert_eq(flush(), VIRTIO_BLK_S_OK);
		inject(CRASH_FSYNC, 0, UINT64_MAX, -errors[e], 1);
		cr_expect_eq(flush(), VIRTIO_BLK_S_IOERR);
		cr_assert_eq(hits(), 1);
		for (unsigned i = 0; i < 3; i++)
			cr_expect_eq(flush(), VIRTIO_BLK_S_IOERR, "after %s", strerrorname_np(errors[e]));
		rig_kill(&rig);
		rig_respawn(&rig);
		cr_expect_eq(flush(), VIRTIO_BLK_S_IOERR, "a successor after %s", strerrorname_np(errors[e]));
		check_serves(0, 1);
		rig_stop(&rig);
	}
}

/* What comes back short is carried on from there, also if the rest then fails. */
EACH_ENGINE(f51_short_transfers_at_each_place)
{
	static const int64_t parts[] = { 512, 4096, BLOCK - 512 };

	start();
	if (rig.config.physical_block_exp > 3)
		cr_skip_test("its blocks are larger than the parts");
	write_image(1);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		for (size_t c = 0; c < 4; c++)
			for (size_t p = 0; p < ARRAY_SIZE(places); p++)
				for (int times = 1; times <= 3; times++) {
					uint64_t off = places[p];

					inject(calls[c].op, off, off + BLOCK, parts[i], times);
					cr_assert_eq(request(&calls[c], off, 2), VIRTIO_BLK_S_OK,
						     "%s, %lld bytes", calls[c].name, (long long)parts[i]);
					cr_assert_geq(hits(), 1);
					if (calls[c].type == VIRTIO_BLK_T_OUT)
						check_block(off, 2, calls[c].name);
					else
						cr_assert(rig_check(rig_ptr(&rig, gpa + calls[c].skew), off,
								    BLOCK, 1),
							  "%s", calls[c].name);
					inject(CRASH_WRITE, 0, 0, 0, 0);
					cr_assert_eq(request(&calls[2], off, 1), VIRTIO_BLK_S_OK);
				}
	rig_stop(&rig);
}

EACH_ENGINE(f51_interrupted_transfers_go_on)
{
	start();
	write_image(1);
	for (size_t c = 0; c < 4; c++)
		for (size_t p = 0; p < ARRAY_SIZE(places); p++) {
			inject(calls[c].op, places[p], places[p] + 1, -EINTR, 3);
			cr_assert_eq(request(&calls[c], places[p], 1), VIRTIO_BLK_S_OK, "%s", calls[c].name);
			cr_assert_eq(hits(), 3);
			check_block(places[p], 1, calls[c].name);
		}
	rig_stop(&rig);
}

/* A queue whose submissions are refused for now, taken in part, or interrupted, loses nothing and repeats nothing. */
EACH_ENGINE(f51_submissions_taken_later_or_in_part)
{
	static const int64_t results[] = { -EAGAIN, -EINTR, 1, 3 };

	start();
	write_image(1);
	for (size_t i = 0; i < ARRAY_SIZE(results); i++) {
		struct rig_done done;

		inject(CRASH_SUBMIT, 0, 1, results[i], 10);
		for (unsigned n = 0; n < 16; n++)
			rig_stage(&rig, 0, VIRTIO_BLK_T_IN, n * (BLOCK / 512), gpa, BLOCK);
		rig_publish(&rig, 0);
		for (unsigned n = 0; n < 16; n++) {
			done = rig_wait(&rig, 0);
			cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
			cr_assert_eq(done.len, BLOCK + 1);
		}
		cr_assert_geq(hits(), 1);
	}
	check_serves(0, 1);
	rig_stop(&rig);
}

/* One transfer of a batch that is refused for good takes no other with it. */
EACH_ENGINE(f51_a_submission_refused_for_good)
{
	unsigned failed = 0;

	start();
	inject(CRASH_SUBMIT, 0, 1, -EIO, 1);
	for (unsigned n = 0; n < 16; n++)
		rig_stage(&rig, 0, VIRTIO_BLK_T_IN, n * (BLOCK / 512), gpa, BLOCK);
	rig_publish(&rig, 0);
	for (unsigned n = 0; n < 16; n++)
		failed += rig_wait(&rig, 0).status != VIRTIO_BLK_S_OK;
	cr_assert_eq(failed, 1);
	rig_stop(&rig);
}

/* ---- the write cache ---- */

#define WCE offsetof(struct virtio_blk_config, wce)

static uint8_t wce(void)
{
	uint8_t value;

	rig_get_config(&rig, WCE, &value, 1);
	return value;
}

/* Whether a write is stable when it is answered: then it is one that this fault is for. */
static bool is_stable(const struct call *c)
{
	inject(CRASH_DSYNC, 0, IMAGE, -EIO, 1);
	cr_assert_eq(request(c, 0, 1) == VIRTIO_BLK_S_IOERR, hits() == 1);
	return hits() == 1;
}

Test(blk_errors, writes_are_stable_as_the_driver_chooses)
{
	start();
	cr_assert(rig.info.features >> VIRTIO_BLK_F_CONFIG_WCE & 1);
	cr_assert_eq(wce(), 1);
	cr_assert_not(is_stable(&calls[2]));
	cr_assert_eq(rig_set_config(&rig, WCE, 0), 0);
	cr_assert_eq(wce(), 0);
	cr_assert(is_stable(&calls[2]));
	cr_assert(is_stable(&calls[3]));
	cr_assert_eq(rig_set_config(&rig, WCE, 1), 0);
	cr_assert_not(is_stable(&calls[2]));
	cr_assert_neq(rig_set_config(&rig, WCE, 2), 0);
	rig_stop(&rig);
}

/* What was written before is made stable by the change, and if that fails the driver hears of it. */
Test(blk_errors, f50_a_change_to_write_through_flushes)
{
	start();
	inject(CRASH_FSYNC, 0, 1, -EIO, 1);
	cr_assert_eq(rig_set_config(&rig, WCE, 0), 0);
	cr_assert_eq(hits(), 1);
	cr_assert_eq(flush(), VIRTIO_BLK_S_IOERR);
	rig_stop(&rig);
}

/* A driver that does not flush gets what it was promised. */
Test(blk_errors, writes_of_a_driver_without_flushes_are_stable)
{
	struct rig_options options = { .crash = "", .refuse = 1ULL << VIRTIO_BLK_F_FLUSH };

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 2 * BLOCK, 4096);
	cr_assert(is_stable(&calls[2]));
	rig_stop(&rig);
}

/* ---- policies ---- */

/* Carried on after pauses, until it is through; the driver sees nothing of it. */
Test(blk_errors, f49_retry)
{
	const char *const args[] = { "--on-error", "retry", NULL };

	start_with(args, 0);
	write_image(1);
	for (size_t c = 0; c < ARRAY_SIZE(calls); c++) {
		uint64_t since = clock_ns();

		inject(calls[c].op, places[1], places[1] + 1, -ENOSPC, 2);
		cr_assert_eq(request(&calls[c], places[1], 2), VIRTIO_BLK_S_OK, "%s", calls[c].name);
		cr_assert_eq(hits(), 2);
		cr_assert_geq(clock_ns() - since, 300 * NS_PER_MS, "no pause");
		if (calls[c].type == VIRTIO_BLK_T_OUT)
			check_block(places[1], 2, calls[c].name);
	}
	/* What the request itself got wrong is told at once, and so is a flush. */
	inject(CRASH_PUNCH, 0, 1, -EOPNOTSUPP, 1);
	cr_assert_eq(request(&calls[4], 0, 0), VIRTIO_BLK_S_UNSUPP);
	inject(CRASH_FSYNC, 0, 1, -EIO, 1);
	cr_assert_eq(flush(), VIRTIO_BLK_S_IOERR);
	rig_stop(&rig);
}

static void set_up(struct supervisor *s, const char *policy)
{
	static const char *args[] = { "--id", "disk0", "--on-error", NULL, "--bus", NULL, NULL };

	supervisor_open(s);
	args[3] = policy;
	args[5] = s->dir;
	start_with(args, state_create());
	supervisor_expect(s, &rig);
}

static void tear_down(struct supervisor *s)
{
	supervisor_ask_ok(s, BUS_SHUTDOWN);
	rig_stop(&rig);
	supervisor_close(s);
}

/* Kept until there is an order, through the deaths of servers. */
Test(blk_errors, f49_stop_until_there_is_room)
{
	static struct supervisor s;
	struct rig_done done;

	set_up(&s, "enospc");
	write_image(1);
	inject(CRASH_WRITE, 0, 1, -ENOSPC, 1000000);
	ask(&calls[2], 0, 2);
	supervisor_until(&s, s.nio_errors == 1);
	cr_assert(strstr(s.io_error, "No space left"), "%s", s.io_error);
	cr_assert_not(rig_get(&rig, 0, &done));
	cr_assert_eq(supervisor_set(&s, "retry", "now", NULL), 0);
	supervisor_until(&s, s.nio_errors == 2);
	cr_assert_not(rig_get(&rig, 0, &done));
	rig_kill(&rig);
	s.hello = s.ready = false;
	rig_respawn(&rig);
	bus_expect(s.bus, rig.pid);
	supervisor_until(&s, s.ready && s.nio_errors == 3);
	cr_assert_not(rig_get(&rig, 0, &done));
	/* Others are served meanwhile. */
	inject(CRASH_WRITE, 0, 0, 0, 0);
	cr_assert_eq(rig_request(&rig, 1, VIRTIO_BLK_T_IN, 512, gpa + BLOCK, BLOCK).status, VIRTIO_BLK_S_OK);
	cr_assert_eq(supervisor_set(&s, "retry", "now", NULL), 0);
	supervisor_until(&s, rig_get(&rig, 0, &done));
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	check_block(0, 2, "after there was room");
	/* Another error is none that a person can do something about. */
	inject(CRASH_WRITE, 0, 1, -EIO, 1);
	cr_assert_eq(request(&calls[2], 0, 3), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(s.nio_errors, 3);
	tear_down(&s);
}

/* A drain gets its answer all the same, and nobody else hears of what is kept; it is carried on afterwards. */
Test(blk_errors, f50_stop_and_drain)
{
	static struct supervisor s;
	struct rig_done done;

	set_up(&s, "stop");
	write_image(1);
	inject(CRASH_READ, 0, IMAGE, -EIO, 1000000);
	for (unsigned i = 0; i < 5; i++)
		ask(&calls[0], i * BLOCK, 0);
	supervisor_until(&s, supervisor_stat(&s, "kept") == 5);
	supervisor_ask_ok(&s, BUS_DRAIN);
	/* Not even by an order: nothing is done while it is drained. */
	cr_assert_eq(supervisor_set(&s, "retry", "now", NULL), 0);
	cr_assert_eq(supervisor_stat(&s, "returned"), 0);
	cr_assert_eq(supervisor_stat(&s, "kept"), 5);
	inject(CRASH_READ, 0, 0, 0, 0);
	supervisor_ask_ok(&s, BUS_RESUME);
	for (unsigned i = 0; i < 5; i++) {
		supervisor_until(&s, rig_get(&rig, 0, &done));
		cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	}
	tear_down(&s);
}

/* Has one request kept of which a later one was answered, so that it can't be given back to the ring. */
static void keep_one(struct supervisor *s)
{
	struct rig_done done;

	write_image(1);
	inject(CRASH_WRITE, 0, BLOCK, -ENOSPC, 1000000);
	ask(&calls[2], 0, 2);
	supervisor_until(s, supervisor_stat(s, "kept") == 1);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 512, gpa + BLOCK, BLOCK).status, VIRTIO_BLK_S_OK);
	cr_assert_not(rig_get(&rig, 0, &done));
}

/* There is room now. */
static void room(struct supervisor *s)
{
	struct rig_done done;

	cr_assert_not(rig_get(&rig, 0, &done));
	inject(CRASH_WRITE, 0, 0, 0, 0);
	cr_assert_eq(supervisor_set(s, "retry", "now", NULL), 0);
	supervisor_until(s, rig_get(&rig, 0, &done));
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	check_block(0, 2, "after there was room");
}

/* What is kept changes the thread with its queue, and goes on there. */
Test(blk_errors, f49_kept_while_the_queue_moves)
{
	struct bus_msg msg = { .type = BUS_MOVE_QUEUE };
	static struct supervisor s;

	threads = 2;
	set_up(&s, "stop");
	keep_one(&s);
	for (unsigned i = 1; i < 6; i++) {
		snprintf(msg.move_queue.thread, sizeof(msg.move_queue.thread), "io%u", i % 2);
		supervisor_ask(&s, &msg);
		supervisor_until(&s, s.answered);
		cr_assert_eq(s.err, 0);
	}
	cr_assert_eq(supervisor_stat(&s, "kept"), 1);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 512, gpa + BLOCK, BLOCK).status, VIRTIO_BLK_S_OK);
	room(&s);
	tear_down(&s);
}

/* As for another program: the process ends in order, what is kept stays in flight, and its successor keeps it. */
static void hand_over(struct supervisor *s)
{
	supervisor_ask_ok(s, BUS_DRAIN);
	supervisor_ask_ok(s, BUS_SHUTDOWN);
	cr_assert_eq(rig_reap(&rig), 0);
	s->hello = s->ready = false;
	s->nio_errors = 0;
	rig_respawn(&rig);
	bus_expect(s->bus, rig.pid);
	supervisor_until(s, s->ready && s->nio_errors == 1);
}

Test(blk_errors, f49_kept_for_a_successor)
{
	static struct supervisor s;

	set_up(&s, "stop");
	keep_one(&s);
	for (unsigned i = 0; i < 4; i++) {
		struct rig_done done;

		hand_over(&s);
		cr_assert_not(rig_get(&rig, 0, &done));
	}
	/* That was no death of any server, so it is not suspected of it, and tried alone. */
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 512, gpa + BLOCK, BLOCK).status, VIRTIO_BLK_S_OK);
	room(&s);
	tear_down(&s);
}

/* One that only wants its ring stopped, as a driver's reset does, hears of the failure: nobody would have the request. */
Test(blk_errors, f49_not_kept_when_the_ring_stops)
{
	static struct supervisor s;
	struct rig_done done;

	set_up(&s, "stop");
	keep_one(&s);
	rig_stop_ring(&rig, 0);
	supervisor_until(&s, rig_get(&rig, 0, &done));
	cr_assert_eq(done.status, VIRTIO_BLK_S_IOERR);
	tear_down(&s);
}

Test(blk_errors, a_policy_that_waits_for_orders_needs_somebody_who_gives_them)
{
	const char *const args[] = { "blk-server", "--socket",   "/nowhere", "--image",
				     "/dev/null",  "--on-error", "stop",     NULL };
	char out[512];

	cr_assert_eq(rig_run(args, out, sizeof(out)), 2);
	cr_assert(strstr(out, "need --bus"), "%s", out);
}
