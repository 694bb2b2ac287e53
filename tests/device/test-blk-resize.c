/* SPDX-License-Identifier: Apache-2.0 */
/* A disk that grows while it is in use. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bus.h"
#include "clock.h"
#include "inject.h"
#include "num.h"
#include "rig.h"
#include "slow_file.h"
#include "supervise.h"

TestSuite(blk_resize, .timeout = 60);

#define OLD (16ULL << 20)
#define NEW (24ULL << 20)

static struct rig rig;

static void start(struct supervisor *s, struct rig_options options)
{
	static const char *args[] = { "--id", "disk0", "--bus", NULL, NULL };

	supervisor_open(s);
	args[3] = s->dir;
	options.args = args;
	options.queues = 2;
	rig_start(&rig, &options);
	supervisor_expect(s, &rig);
}

static void set_up(struct supervisor *s, bool readonly)
{
	start(s, (struct rig_options) { .readonly = readonly });
}

static void tear_down(struct supervisor *s)
{
	supervisor_ask_ok(s, BUS_SHUTDOWN);
	rig_stop(s->rig);
	supervisor_close(s);
}

static uint64_t capacity(void)
{
	uint64_t sectors;

	rig_get_config(&rig, 0, &sectors, sizeof(sectors));
	return sectors * 512;
}

/* Writes and reads what was beyond the old end, and finds what is beyond the new one refused. */
static void check_end(uint64_t end)
{
	uint64_t gpa = rig_alloc(&rig, 8192, 4096), last = end - 4096;

	rig_fill(rig_ptr(&rig, gpa), last, 4096, end);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_OUT, last / 512, gpa, 4096).status, VIRTIO_BLK_S_OK);
	cr_assert_eq(rig_request(&rig, 1, VIRTIO_BLK_T_IN, last / 512, gpa + 4096, 4096).status,
		     VIRTIO_BLK_S_OK);
	cr_assert(rig_check(rig_ptr(&rig, gpa + 4096), last, 4096, end));
	cr_assert_eq(rig_request(&rig, 1, VIRTIO_BLK_T_IN, last / 512 + 1, gpa, 4096).status,
		     VIRTIO_BLK_S_IOERR);
}

static void end_with_successor(struct supervisor *s)
{
	s->hello = s->ready = false;
	rig_respawn(&rig);
	cr_assert_eq(rig.config.capacity * 512, NEW, "a successor has the new size");
	bus_expect(s->bus, rig.pid);
	supervisor_until(s, s->ready);
	check_end(NEW);
	tear_down(s);
}

Test(blk_resize, a_disk_grows_and_the_driver_is_told)
{
	struct supervisor s;
	uint8_t before[4096], after[4096];

	set_up(&s, false);
	check_end(OLD);
	rig_read_image(&rig, OLD - 4096, before, sizeof(before));
	cr_assert_eq(supervisor_set(&s, "size", "24M", NULL), 0);
	supervisor_until(&s, rig.config_changes == 1);
	cr_assert_eq(capacity(), NEW);
	rig_read_image(&rig, OLD - 4096, after, sizeof(after));
	cr_assert_eq(memcmp(before, after, sizeof(before)), 0, "what there was is as it was");
	check_end(NEW);
	/* A second time there is nothing to tell. */
	cr_assert_eq(supervisor_set(&s, "size", "24M", NULL), 0);
	supervisor_ask_ok(&s, BUS_PING);
	cr_assert_eq(rig.config_changes, 1);
	rig_kill(&rig);
	end_with_successor(&s);
}

Test(blk_resize, what_is_no_growth_is_refused)
{
	static const char *const sizes[] = { "0", "8M", "16777215",  "24000100", "x",
					     "",  "-1", "99999999T", "7E" };
	struct supervisor s;
	const char *why;
	struct stat st;

	set_up(&s, false);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		cr_expect_eq(supervisor_set(&s, "size", sizes[i], &why), -EINVAL, "size %s", sizes[i]);
		cr_expect(*why, "size %s: no word why", sizes[i]);
	}
	cr_assert_eq(supervisor_set(&s, "size", "8M", &why), -EINVAL);
	cr_expect(strstr(why, "does not shrink"), "%s", why);
	cr_assert_eq(fstat(rig.image_fd, &st), 0);
	cr_assert_eq(st.st_size, (off_t)OLD);
	cr_assert_eq(capacity(), OLD);
	check_end(OLD);
	cr_assert_eq(rig.config_changes, 0);
	tear_down(&s);
}

/* One that may not be written has to be enlarged by somebody else. */
Test(blk_resize, an_image_that_grew_is_announced_on_demand)
{
	struct supervisor s;
	const char *why;

	set_up(&s, true);
	cr_assert_eq(supervisor_set(&s, "size", "24M", &why), -EROFS);
	cr_assert_eq(ftruncate(rig.image_fd, (off_t)NEW + 4096 + 300), 0);
	cr_assert_eq(capacity(), OLD, "not before it is asked for");
	cr_assert_eq(supervisor_set(&s, "size", "20M", &why), -EINVAL, "less than the image has");
	cr_assert_eq(supervisor_set(&s, "size", "image", NULL), 0);
	supervisor_until(&s, rig.config_changes == 1);
	cr_assert_eq(capacity(), NEW + 4096);
	tear_down(&s);
}

static void grow_when_ready(void *arg)
{
	struct supervisor *s = arg;

	bus_expect(s->bus, rig.pid);
	supervisor_until(s, s->ready);
	cr_assert_eq(ftruncate(rig.image_fd, (off_t)NEW), 0);
}

Test(blk_resize, a_spare_that_was_opened_before_has_the_new_size)
{
	struct supervisor s;

	set_up(&s, false);
	rig_kill(&rig);
	s.hello = s.ready = false;
	rig_respawn_spare(&rig, grow_when_ready, &s);
	cr_assert_eq(rig.config.capacity * 512, NEW);
	check_end(NEW);
	tear_down(&s);
}

/* ---- slow storage ---- */

struct answer {
	bool there;
	int err;
};

static void on_answer(void *arg, int err, const struct bus_msg *reply)
{
	struct answer *a = arg;

	(void)reply;
	*a = (struct answer) { .there = true, .err = err };
}

static void begin_to_grow(struct supervisor *s, struct answer *a)
{
	const struct bus_msg msg = { .type = BUS_SET, .set = { .key = "size", .value = "24M" } };

	*a = (struct answer) { .there = false };
	cr_assert_eq(bus_request(s->bus, &msg, RIG_DEADLINE_S * NS_PER_S, on_answer, a), 0);
}

/* A file is to grow whose storage holds that. */
static void grow_slowly(struct slow_file *slow, struct supervisor *s, struct answer *a)
{
	slow_file_start(slow, OLD);
	start(s, (struct rig_options) { .device = slow->file, .image_bytes = OLD });
	check_end(OLD);
	slow_file_tell(slow, SIGUSR1, "holding");
	begin_to_grow(s, a);
	slow_file_expect(slow, "held");
}

/* Meanwhile the main loop does what it is asked for: not to answer would be taken for a hang. */
static void check_meanwhile(struct supervisor *s, const struct answer *a)
{
	const char *why;

	supervisor_ask_ok(s, BUS_PING);
	cr_expect_eq(supervisor_set(s, "size", "32M", &why), -EBUSY);
	cr_expect(strstr(why, "being resized already"), "%s", why);
	cr_expect_eq(supervisor_set(s, "bps", "1G", &why), 0, "%s", why);
	cr_assert_not(a->there);
	cr_assert_eq(capacity(), OLD);
	cr_assert_eq(rig.config_changes, 0);
}

static void check_grown(struct supervisor *s, const struct answer *a)
{
	supervisor_until(s, a->there);
	cr_assert_eq(a->err, 0);
	supervisor_until(s, rig.config_changes == 1);
	cr_assert_eq(capacity(), NEW);
	check_end(NEW);
	tear_down(s);
}

Test(blk_resize, slow_storage_of_a_file_holds_nothing_else_up)
{
	struct slow_file slow;
	struct supervisor s;
	struct answer a;

	grow_slowly(&slow, &s, &a);
	check_meanwhile(&s, &a);
	slow_file_tell(&slow, SIGUSR2, "free");
	check_grown(&s, &a);
	slow_file_stop(&slow);
}

/* What it was asked for is done when it has ended, or not at all. */
Test(blk_resize, a_server_ends_while_its_file_grows)
{
	struct slow_file slow;
	struct supervisor s;
	struct answer a;

	grow_slowly(&slow, &s, &a);
	supervisor_ask_ok(&s, BUS_SHUTDOWN);
	slow_file_tell(&slow, SIGUSR2, "free");
	rig_stop(&rig);
	supervisor_close(&s);
	slow_file_stop(&slow);
}

/* ---- qcow2 ---- */

/* A disk that is shorter than what is below it: what it gets reads as zeroes. */
#define OVERLAY(options)                                                                                     \
	"yes x | head -c 20M >base && qemu-img create -q -f qcow2 " options " -F raw -b base image 16M"

static void need_qemu(void)
{
	if (system("command -v qemu-img >/dev/null"))
		cr_skip_test("qemu-img (qemu-utils) is not installed");
}

Test(blk_resize, a_qcow2_disk_grows_into_zeroes)
{
	struct supervisor s;
	uint64_t gpa;

	need_qemu();
	start(&s, (struct rig_options) { .make = OVERLAY(""), .backing = true });
	cr_assert_eq(capacity(), OLD);
	check_end(OLD);
	gpa = rig_alloc(&rig, 1 << 20, 4096);
	cr_assert_eq(supervisor_set(&s, "size", "24M", NULL), 0);
	supervisor_until(&s, rig.config_changes == 1);
	cr_assert_eq(capacity(), NEW);
	for (uint64_t off = OLD; off < NEW; off += 1 << 20) {
		const uint8_t *data = rig_ptr(&rig, gpa);

		cr_assert_eq(rig_request(&rig, 1, VIRTIO_BLK_T_IN, off / 512, gpa, 1 << 20).status,
			     VIRTIO_BLK_S_OK);
		cr_assert(!data[0] && !memcmp(data, data + 1, (1 << 20) - 1), "at %llu",
			  (unsigned long long)off);
	}
	check_end(NEW);
	rig_kill(&rig);
	rig_judge_image(&rig);
	end_with_successor(&s);
}

/* Whatever its thread waits for. */
Test(blk_resize, the_thread_of_its_tables_holds_nothing_else_up)
{
	struct supervisor s;
	struct answer a;
	pid_t held;

	need_qemu();
	start(&s, (struct rig_options) { .make = OVERLAY(""), .backing = true });
	check_end(OLD);
	held = inject_hold(rig.pid, "tables");
	if (held == -EPERM)
		cr_skip_test("this user may not trace it");
	cr_assert_gt(held, 0);
	begin_to_grow(&s, &a);
	check_meanwhile(&s, &a);
	inject_let_go(held);
	check_grown(&s, &a);
}

Test(blk_resize, a_qcow2_disk_that_can_not_hide_what_is_below_says_so)
{
	struct supervisor s;
	const char *why;

	need_qemu();
	start(&s, (struct rig_options) { .make = OVERLAY("-o compat=0.10"), .backing = true });
	check_end(OLD); /* answered when the image is open */
	cr_assert_neq(supervisor_set(&s, "size", "24M", &why), 0);
	cr_assert(strstr(why, "version 2"), "%s", why);
	cr_assert_eq(capacity(), OLD);
	check_end(OLD);
	tear_down(&s);
}
