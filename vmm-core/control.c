/* SPDX-License-Identifier: Apache-2.0 */
/* The core's end of the bus: what the supervisor asks, and what it is told. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "chipset.h"
#include "clock.h"
#include "config.h"
#include "core.h"
#include "log.h"
#include "num.h"

#define LAST_WORDS NS_PER_S /* for the answer to SHUTDOWN to leave */

/* ---- requests ---- */

static void answer(struct core *core, const struct bus_msg *msg, int err, const char *why)
{
	const struct bus_msg ok = { .type = BUS_OK };

	if (err < 0)
		bus_reply_error(core->bus, msg->id, err, why);
	else
		bus_reply(core->bus, msg->id, &ok);
}

static void ping(struct core *core, const struct bus_msg *msg)
{
	answer(core, msg, 0, NULL);
}

static void get_stats(struct core *core, const struct bus_msg *msg)
{
	struct bus_msg reply = { .type = BUS_STATS };

	stats_fill(core, &reply);
	bus_reply(core->bus, msg->id, &reply);
}

static void get_loops(struct core *core, const struct bus_msg *msg)
{
	struct bus_msg reply = { .type = BUS_LOOPS };

	bus_add_loop(&reply, &core->meter, 0, 0);
	bus_reply(core->bus, msg->id, &reply);
}

static void resume(struct core *core, const struct bus_msg *msg)
{
	int r = core_resume(core);

	answer(core, msg, r, r == -EAGAIN ? "not every device has been there yet" : "the guest has ended");
}

static void pause_vcpus(struct core *core, const struct bus_msg *msg)
{
	int r = core_pause(core);

	answer(core, msg, r, r == -EAGAIN ? "the guest does not run yet" : "the guest has ended");
}

static void power_button(struct core *core, const struct bus_msg *msg)
{
	chipset_power_button(core->chipset);
	answer(core, msg, 0, NULL);
}

static void fail_device(struct core *core, const struct bus_msg *msg)
{
	const char *id = msg->fail_device.device;
	struct core_device *d = core_find_device(core, id, sizeof(msg->fail_device.device));

	if (d)
		device_fail(d->device);
	answer(core, msg, d ? 0 : -ENOENT, "no such device");
}

static void shut_down(struct core *core, const struct bus_msg *msg)
{
	answer(core, msg, 0, NULL);
	bus_flush(core->bus, LAST_WORDS);
	core_quit(core, 0);
}

static void (*const requests[BUS_TYPE_COUNT])(struct core *core, const struct bus_msg *msg) = {
	[BUS_PING] = ping,          [BUS_GET_STATS] = get_stats,     [BUS_GET_LOOPS] = get_loops,
	[BUS_RESUME] = resume,      [BUS_PAUSE] = pause_vcpus,       [BUS_POWER_BUTTON] = power_button,
	[BUS_SHUTDOWN] = shut_down, [BUS_FAIL_DEVICE] = fail_device,
};

static void on_message(void *arg, const struct bus_msg *msg)
{
	struct core *core = arg;

	if (msg->type != BUS_PING)
		flight_say(&core->log, FLIGHT_BUS, msg->type, bus_type_name(msg->type));
	if (msg->id == 0)
		return; /* the supervisor sends no events */
	if ((unsigned)msg->type < BUS_TYPE_COUNT && requests[msg->type])
		requests[msg->type](arg, msg);
	else
		answer(arg, msg, -EOPNOTSUPP, "not a request for the core");
}

static void on_malformed(void *arg, unsigned count, const char *what)
{
	(void)arg;
	log_warn_limited("malformed message on the bus: %s (%u so far)", what, count);
}

/* ---- events ---- */

static void tell(struct core *core, const struct bus_msg *msg)
{
	flight_say(&core->log, FLIGHT_SAID, msg->type, bus_type_name(msg->type));
	bus_event(core->bus, msg);
}

static void send_hello(struct core *core)
{
	struct bus_msg msg = { .type = BUS_HELLO, .hello = { .protocol = BUS_PROTOCOL, .kind = "core" } };

	snprintf(msg.hello.name, sizeof(msg.hello.name), "%s", core->opts->id);
	snprintf(msg.hello.version, sizeof(msg.hello.version), "%s", PACKAGE_VERSION);
	tell(core, &msg);
}

void control_ready(struct core *core)
{
	const struct bus_msg msg = { .type = BUS_READY };

	tell(core, &msg);
}

void control_device_up(struct core_device *d, bool resumed, uint64_t handshake_ns)
{
	if (!d->core->bus)
		return;
	d->msg = (struct bus_msg) { .type = BUS_DEVICE_UP,
				    .device_up = { .handshake_ns = handshake_ns, .resumed = resumed } };
	snprintf(d->msg.device_up.device, sizeof(d->msg.device_up.device), "%s", device_id(d->device));
	tell(d->core, &d->msg);
}

void control_device_down(struct core_device *d, const char *reason)
{
	if (!d->core->bus)
		return;
	d->hung.type = BUS_NONE;
	d->msg = (struct bus_msg) { .type = BUS_DEVICE_DOWN };
	snprintf(d->msg.device_down.device, sizeof(d->msg.device_down.device), "%s", device_id(d->device));
	snprintf(d->msg.device_down.reason, sizeof(d->msg.device_down.reason), "%s", reason);
	tell(d->core, &d->msg);
}

void control_device_hung(struct core_device *d, unsigned queue, uint64_t stalled_ns, const char *reason)
{
	if (!d->core->bus)
		return;
	d->hung = (struct bus_msg) { .type = BUS_DEVICE_HUNG,
				     .device_hung = { .queue = queue, .stalled_ns = stalled_ns } };
	snprintf(d->hung.device_hung.device, sizeof(d->hung.device_hung.device), "%s", device_id(d->device));
	snprintf(d->hung.device_hung.reason, sizeof(d->hung.device_hung.reason), "%s", reason);
	tell(d->core, &d->hung);
}

void control_device_pending(struct core_device *d)
{
	d->msg.type = d->hung.type = BUS_NONE;
}

void control_guest_ended(struct core *core)
{
	static const enum bus_end ends[] = {
		[END_POWEROFF] = BUS_END_POWEROFF,     [END_RESET] = BUS_END_RESET,
		[END_PANIC] = BUS_END_PANIC,           [END_TRIPLE_FAULT] = BUS_END_CRASH,
		[END_DEBUG_EXIT] = BUS_END_DEBUG_EXIT, [END_KVM_ERROR] = BUS_END_CRASH,
	};
	enum end_reason reason = end_reason(&core->end);
	uint32_t value = end_value(&core->end);
	struct bus_msg msg = { .type = BUS_GUEST_ENDED, .guest_ended = { .end = ends[reason] } };

	if (reason == END_DEBUG_EXIT)
		msg.guest_ended.code = (int32_t)((value * 2 + 1) & 0xff);
	snprintf(msg.guest_ended.text, sizeof(msg.guest_ended.text), "%s (%u)", end_name(reason), value);
	tell(core, &msg);
}

/* A supervisor that (re)connected is told where things stand. */
static void on_connected(void *arg, bool up)
{
	struct core *core = arg;

	if (!up)
		return;
	send_hello(core);
	for (unsigned i = 0; i < core->opts->n_devices; i++) {
		if (core->devices[i].msg.type != BUS_NONE)
			tell(core, &core->devices[i].msg);
		if (core->devices[i].hung.type != BUS_NONE)
			tell(core, &core->devices[i].hung);
	}
	if (core->state != CORE_WAITING)
		control_ready(core);
	else
		loop_bh_post(&core->check);
	if (core->state == CORE_ENDED)
		control_guest_ended(core);
}

int control_start(struct core *core)
{
	static const struct bus_ops ops = { .message = on_message,
					    .connected = on_connected,
					    .malformed = on_malformed };
	const char *dir = core->opts->sandbox ? "/bus" : core->opts->bus_dir;
	char path[4096];
	int r;

	loop_meter_begin(&core->meter, core->loop);
	if (!core->opts->bus_dir)
		return 0;
	snprintf(path, sizeof(path), "%s/bus", dir);
	r = bus_dial(core->loop, path, &ops, core, &core->bus);
	if (r < 0)
		log_error_errno(r, "the bus at %s can't be dialled", path);
	return r;
}
