/* SPDX-License-Identifier: Apache-2.0 */
/* vmm-core/control: what a supervisor hears on the first connection of the bus, and on every later one. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chipset.h"
#include "bus_end.h"
#include "clock.h"
#include "core.h"
#include "temp_dir.h"

#define DEADLINE (30 * NS_PER_S)

/* ---- the rest of the core ---- */

struct device {
	const char *id;
};

const char *device_id(const struct device *d)
{
	return d->id;
}

static unsigned failed;

void device_fail(struct device *d)
{
	cr_assert_str_eq(d->id, "disk1");
	failed++;
}

struct core_device *core_find_device(struct core *core, const char *id, size_t len)
{
	for (unsigned i = 0; i < core->opts->n_devices; i++)
		if (!strncmp(core->devices[i].device->id, id, len))
			return &core->devices[i];
	return NULL;
}

int core_resume(struct core *core)
{
	(void)core;
	return 0;
}

int core_pause(struct core *core)
{
	(void)core;
	return 0;
}

void core_quit(struct core *core, int status)
{
	(void)core;
	(void)status;
}

void chipset_power_button(struct chipset *c)
{
	(void)c;
}

void stats_fill(const struct core *core, struct bus_msg *msg)
{
	(void)core;
	(void)msg;
}

/* ---- a supervisor ---- */

#define HEARD_MAX 16

static struct loop *loop;
static struct bus *sup;
static char dir[64], path[96], heard[HEARD_MAX][64];
static unsigned n_heard;

static void on_message(void *arg, const struct bus_msg *msg)
{
	static const char *const names[BUS_TYPE_COUNT] = {
		[BUS_HELLO] = "hello",       [BUS_READY] = "ready",       [BUS_DEVICE_UP] = "up ",
		[BUS_DEVICE_DOWN] = "down ", [BUS_DEVICE_HUNG] = "hung ", [BUS_GUEST_ENDED] = "ended"
	};

	(void)arg;
	cr_assert_lt(n_heard, HEARD_MAX);
	cr_assert_not_null(names[msg->type]);
	snprintf(heard[n_heard++], sizeof(heard[0]), "%s%s", names[msg->type],
		 msg->type == BUS_DEVICE_UP     ? msg->device_up.device
		 : msg->type == BUS_DEVICE_DOWN ? msg->device_down.device
		 : msg->type == BUS_DEVICE_HUNG ? msg->device_hung.device
						: "");
}

/* Runs until these and no others were heard; the last one is the last that comes. */
static void hear(const char *const *want, unsigned n)
{
	uint64_t deadline = clock_ns() + DEADLINE;

	while (n_heard < n && clock_ns() < deadline)
		loop_run_once(loop, (int64_t)(50 * NS_PER_MS));
	cr_assert_eq(n_heard, n, "%u messages, the last is %s", n_heard,
		     n_heard ? heard[n_heard - 1] : "none");
	for (unsigned i = 0; i < n; i++)
		cr_assert_str_eq(heard[i], want[i]);
	n_heard = 0;
}
#define HEAR(...)                                                                                            \
	do {                                                                                                 \
		static const char *const want[] = { __VA_ARGS__ };                                           \
		hear(want, sizeof(want) / sizeof(want[0]));                                                  \
	} while (0)

/* ---- the core under test ---- */

static struct device disks[2] = { { "disk0" }, { "disk1" } };
static struct options opts = { .id = "core", .bus_dir = dir, .n_devices = 2 };
static struct core core = { .opts = &opts, .state = CORE_WAITING };

static void check(void *arg)
{
	(void)arg;
}

static void set_up(void)
{
	static const struct bus_ops ops = { .message = on_message,
					    .connected = bus_end_connected,
					    .malformed = bus_end_malformed };

	cr_assert(temp_dir_make(dir, sizeof(dir)));
	snprintf(path, sizeof(path), "%s/bus", dir);
	cr_assert_eq(loop_new("test", &loop), 0);
	core.loop = loop;
	cr_assert_eq(flight_alloc(0, &core.flight), 0);
	flight_open_main(core.flight, &core.log);
	loop_bh_init(&core.check, loop, check, &core);
	for (unsigned i = 0; i < 2; i++)
		core.devices[i] = (struct core_device) { .core = &core, .device = &disks[i] };
	cr_assert_eq(bus_listen(loop, path, 0, &ops, NULL, &sup), 0);
	cr_assert_eq(control_start(&core), 0);
}

static void tear_down(void)
{
	bus_close(core.bus);
	bus_close(sup);
	loop_free(loop);
	unlink(path);
	rmdir(dir);
}

TestSuite(core_control, .init = set_up, .fini = tear_down, .timeout = 60);

static void reconnect(void)
{
	bus_expect(sup, 0);
}

Test(core_control, every_connection_is_told_how_things_stand)
{
	HEAR("hello");
	control_device_up(&core.devices[0], false, 1);
	control_device_up(&core.devices[1], false, 1);
	core.state = CORE_READY;
	control_ready(&core);
	HEAR("up disk0", "up disk1", "ready");
	reconnect();
	HEAR("hello", "up disk0", "up disk1", "ready");
	control_device_down(&core.devices[1], "gone");
	HEAR("down disk1");
	reconnect();
	HEAR("hello", "up disk0", "down disk1", "ready");
}

Test(core_control, a_device_on_its_way_is_not_spoken_of)
{
	HEAR("hello");
	control_device_up(&core.devices[0], false, 1);
	control_device_down(&core.devices[1], "gone");
	HEAR("up disk0", "down disk1");
	control_device_pending(&core.devices[0]);
	core.state = CORE_READY;
	reconnect();
	HEAR("hello", "down disk1", "ready");
}

Test(core_control, the_end_of_the_guest_is_told_again)
{
	HEAR("hello");
	core.state = CORE_ENDED;
	end_init(&core.end, loop, check, NULL);
	end_post(&core.end, END_POWEROFF, 0);
	control_guest_ended(&core);
	HEAR("ended");
	reconnect();
	HEAR("hello", "ready", "ended");
}

Test(core_control, a_device_that_hangs_is_told_again_until_it_is_replaced)
{
	HEAR("hello");
	control_device_up(&core.devices[1], false, 1);
	control_device_hung(&core.devices[1], 3, 1500 * NS_PER_MS, "stopped");
	HEAR("up disk1", "hung disk1");
	core.state = CORE_READY;
	reconnect();
	HEAR("hello", "up disk1", "hung disk1", "ready");
	control_device_pending(&core.devices[1]);
	control_device_up(&core.devices[1], true, 1);
	HEAR("up disk1");
	reconnect();
	HEAR("hello", "up disk1", "ready");
}

static int reply_err;
static bool replied;

static void on_reply(void *arg, int err, const struct bus_msg *reply)
{
	(void)arg;
	(void)reply;
	reply_err = err;
	replied = true;
}

static int fail(const char *id)
{
	struct bus_msg msg = { .type = BUS_FAIL_DEVICE };
	uint64_t deadline = clock_ns() + DEADLINE;

	snprintf(msg.fail_device.device, sizeof(msg.fail_device.device), "%s", id);
	replied = false;
	cr_assert_eq(bus_request(sup, &msg, DEADLINE, on_reply, NULL), 0);
	while (!replied && clock_ns() < deadline)
		loop_run_once(loop, (int64_t)(50 * NS_PER_MS));
	cr_assert(replied);
	return reply_err;
}

Test(core_control, a_device_is_given_up_by_its_name)
{
	HEAR("hello");
	cr_assert_eq(fail("disk1"), 0);
	cr_assert_eq(failed, 1);
	cr_assert_eq(fail("disk2"), -ENOENT);
	cr_assert_eq(failed, 1);
}
