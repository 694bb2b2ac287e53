/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a dead server left to the kernel lands before its successor begins, or never: its storage holds a request while it is
 * killed and reaped, and gives it back when the driver has long gone on. With io_uring being reaped is no fence (blk-server's
 * fence.h). FAULTS 48.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "flight.h"
#include "rig.h"
#include "supervise.h"
#include "temp_dir.h"

TestSuite(blk_fence, .timeout = 120);

#define BLOCK 4096
#define IMAGE (1 << 20)

static struct scene {
	struct rig rig;
	char dir[128], file[160], backing[160];
	int backing_fd;
	pid_t slow;
	FILE *words; /* what slow-file says */
	struct flight *flight;
	bool waited;
	uint64_t gpa;
} s;

/* ---- slow storage ---- */

/* Waits for the next line, which is to be this one. */
static void expect(const char *line)
{
	char text[32] = "";

	cr_assert_not_null(fgets(text, sizeof(text), s.words), "slow-file is gone");
	text[strcspn(text, "\n")] = '\0';
	cr_assert_str_eq(text, line);
}

static void tell(int sig, const char *answer)
{
	cr_assert_eq(kill(s.slow, sig), 0);
	expect(answer);
}

static void start_slow_file(void)
{
	const char *top = getenv("top_builddir");
	char program[4096], ready[32] = "";
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	snprintf(program, sizeof(program), "%s/tests/support/slow-file", top ? top : "../..");
	s.slow = fork();
	cr_assert_geq(s.slow, 0);
	if (!s.slow) {
		prctl(PR_SET_PDEATHSIG, SIGTERM); /* a failed test leaves none behind */
		dup2(ends[1], 1);
		close(ends[0]);
		close(ends[1]);
		execl(program, "slow-file", s.file, s.backing, NULL);
		_exit(127);
	}
	close(ends[1]);
	s.words = fdopen(ends[0], "r");
	if (!fgets(ready, sizeof(ready), s.words) || strcmp(ready, "ready\n"))
		cr_skip_test("no FUSE file can be mounted here");
}

/* args: further options, or NULL. */
static void start(const char **args, bool readonly, bool by_hand)
{
	struct rig_options options = { .args = args,
				       .flight_fd = flight_create(1),
				       .engine = "io_uring",
				       .device = s.file,
				       .image_bytes = IMAGE,
				       .readonly = readonly,
				       .by_hand = by_hand,
				       .ring_features = RING_F_EVENT_IDX };
	static uint8_t block[BLOCK];
	int fd;

	if (geteuid() != 0)
		cr_skip_test("only root can mount a file of its own");
	cr_assert(temp_dir_make(s.dir, sizeof(s.dir)));
	snprintf(s.file, sizeof(s.file), "%s/slow", s.dir);
	snprintf(s.backing, sizeof(s.backing), "%s/backing", s.dir);
	fd = open(s.file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_geq(fd, 0);
	close(fd);
	s.backing_fd = open(s.backing, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_geq(s.backing_fd, 0);
	cr_assert_eq(ftruncate(s.backing_fd, IMAGE), 0);
	rig_fill(block, 0, BLOCK, 1);
	cr_assert_eq(pwrite(s.backing_fd, block, BLOCK, 0), BLOCK);
	start_slow_file();
	cr_assert_eq(flight_map(options.flight_fd, true, &s.flight), 0);
	rig_start(&s.rig, &options);
	s.gpa = rig_alloc(&s.rig, BLOCK, BLOCK);
}

static void stop(void)
{
	int status;

	rig_stop(&s.rig);
	kill(s.slow, SIGTERM);
	cr_assert_eq(waitpid(s.slow, &status, 0), s.slow);
	fclose(s.words);
	close(s.backing_fd);
	unlink(s.backing);
	unlink(s.file);
	rmdir(s.dir);
}

static bool disk_has(uint64_t seed)
{
	static uint8_t block[BLOCK];

	cr_assert_eq(pread(s.backing_fd, block, BLOCK, 0), BLOCK);
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
	tell(SIGUSR1, "holding");
	rig_add(&s.rig, 0, type, 0, s.gpa, BLOCK);
	expect("held");
	rig_kill(&s.rig);
	tell(SIGHUP, "passing");
	flight_reset(s.flight);
	rig_respawn(&s.rig);
	s.waited = waits();
	if (s.waited)
		tell(SIGUSR2, "free");
	cr_assert_eq(rig_wait(&s.rig, 0).status, VIRTIO_BLK_S_OK);
	rig_until(&s.rig, !flight_get(&flight_queue(s.flight, 0)->since)); /* at the end of its pass */
}

/* What was held is given back now, unless that was before. */
static void release(void)
{
	if (!s.waited)
		tell(SIGUSR2, "free");
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
	const char *const args[] = { "blk-server", "--socket", socket,      "--image", s.file,
				     "--engine",   "io_uring", "--sandbox", "off",     NULL };

	start(NULL, false, true);
	snprintf(socket, sizeof(socket), "%s/other", s.dir);
	rig_fill(rig_ptr(&s.rig, s.gpa), 0, BLOCK, 2);
	tell(SIGUSR1, "holding");
	rig_add(&s.rig, 0, VIRTIO_BLK_T_OUT, 0, s.gpa, BLOCK);
	expect("held");
	rig_kill(&s.rig);
	cr_assert_eq(rig_run(args, out, sizeof(out)), 2);
	cr_assert(strstr(out, "is in use by another process"), "%s", out);
	tell(SIGUSR2, "free");
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
	tell(SIGUSR1, "holding");
	slow = rig_add(&s.rig, 0, VIRTIO_BLK_T_OUT, 0, s.gpa, BLOCK);
	expect("held");
	cr_assert_eq(bus_request(sup.bus, &drain, RIG_DEADLINE_S * NS_PER_S, on_drained, &err), 0);
	supervisor_ask_ok(&sup, BUS_PING);
	tell(SIGHUP, "passing");
	quick = rig_add(&s.rig, 0, VIRTIO_BLK_T_IN, 8, rig_alloc(&s.rig, BLOCK, BLOCK), BLOCK);
	cr_assert_eq(err, 0, "it is not drained");
	supervisor_ask_ok(&sup, BUS_RESUME);
	cr_assert_eq(err, -ECANCELED);
	supervisor_until(&sup, rig_get(&s.rig, 0, &done));
	cr_assert_eq(done.status, VIRTIO_BLK_S_OK);
	cr_assert_eq(done.slot, quick);
	tell(SIGUSR2, "free");
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
	tell(SIGUSR1, "holding");
	rig_add(&s.rig, 0, VIRTIO_BLK_T_OUT, 0, s.gpa, BLOCK);
	expect("held");
	supervisor_ask_for(&sup, BUS_DRAIN);
	supervisor_ask_ok(&sup, BUS_PING);
	supervisor_expect(&sup, &s.rig);
	supervisor_ask_ok(&sup, BUS_RESUME);
	supervisor_ask_for(&sup, BUS_DRAIN);
	supervisor_ask_ok(&sup, BUS_PING); /* or this is the answer to the drain: an error */
	sup.answered = false;
	tell(SIGUSR2, "free");
	supervisor_until(&sup, sup.answered);
	cr_assert_eq(sup.err, 0, "%s", sup.reply->error.text);
	cr_assert_eq(rig_wait(&s.rig, 0).status, VIRTIO_BLK_S_OK);
	supervisor_ask_ok(&sup, BUS_SHUTDOWN);
	stop();
	supervisor_close(&sup);
}
