/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device's program is replaced while it is in use. Theory of operation: the new program is started in the spare's
 * slot, and nothing of the old process is touched before the new one is ready. Then the old one finishes the requests
 * that it has taken and takes no more, is told to end, and is reaped; the core is given the new one's socket, as after
 * a death, but with nothing in flight except what the old one keeps until somebody says when to go on. From there on a
 * spare of the old program waits beside the new process for a time of trial: should that die or not be taken up by the
 * core, the old program is back as after any death. Only after the trial do both slots run the new program.
 *
 * An old process that dies or hangs on its last steps needs no care: its requests are resubmitted by the new one.
 *
 * Where a window stands before the server (device_window.c) either's program is replaced alone, and the pair all the same.
 *
 * Of a device that was given up there is no old process: the new program starts in its place and has the same time of
 * trial, alone. Should it not last, the device is given up as it was, with its old program.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "device_priv.h"
#include "num.h"

#define CLEAR_NS  (5 * NS_PER_S)
#define DRAIN_NS  (5 * NS_PER_S) /* for what the storage has in hand */
#define STOP_NS   (2 * NS_PER_S)
#define TRIAL_NS  (3 * NS_PER_S)
#define RESUME_NS (5 * NS_PER_S)

#define CANT_RESUME "it can't be told to serve on"

static size_t old_slot(const struct device *d)
{
	return 1 - d->upgrade.slot;
}

/* Whose program it is, in the keeper's plan. */
static size_t place_of(const struct device *d, size_t slot)
{
	return d->index + slot + (d->upgrade.window ? KEEPER_WINDOW : 0);
}

static const char *name_of(const struct device *d)
{
	return d->upgrade.window ? DEVICE_WINDOW : d->process;
}

static void finish(struct device *d, int err, const char *text)
{
	device_done_fn done = d->upgrade.done;

	loop_disarm_timer(d->trial_timer);
	d->upgrade.step = UPGRADE_NONE;
	d->upgrade.done = NULL;
	if (err)
		say_warn("%s: not upgraded: %s", d->id, text);
	if (done)
		done(d->upgrade.arg, err, text);
}

/* The slot that was to be the new program's is the old one's again. */
static void give_slot_back(struct device *d)
{
	int err = keeper_same_program(d->keeper, place_of(d, d->upgrade.slot), place_of(d, old_slot(d)));

	if (err)
		say_error_errno(err, "%s: the old program can't be had for the spare", d->id);
}

bool device_upgrade_in_place(const struct device *d)
{
	return (d->upgrade.step == UPGRADE_LINKING || d->upgrade.step == UPGRADE_TRIAL) && !d->upgrade.drain;
}

/* Ends before anything happened to the old process. */
static void refuse(struct device *d, int err, const char *why)
{
	give_slot_back(d);
	device_stop_slot(d, d->upgrade.slot, 0);
	finish(d, err, why);
	device_plan_spare(d);
}

void device_upgrade_abort(struct device *d, int err, const char *why)
{
	if (d->upgrade.step == UPGRADE_NONE)
		return;
	give_slot_back(d);
	finish(d, err, why);
}

/* ---- the new process ---- */

static void start_in_place(struct device *d)
{
	d->upgrade.step = UPGRADE_LINKING;
	d->active = d->upgrade.slot;
	snprintf(d->upgrade.why, sizeof(d->upgrade.why), "the new process could not be started");
	device_start_again(d);
}

static void start_new(struct device *d)
{
	const char *path = *d->upgrade.program ? d->upgrade.program : NULL;
	char what[128], why[BUS_TEXT_MAX];
	int err = keeper_program(d->keeper, place_of(d, d->upgrade.slot), path, what, sizeof(what));

	if (err) {
		snprintf(why, sizeof(why), "%s: %s", path ? path : name_of(d), *what ? what : strerror(-err));
		finish(d, err, why);
		device_plan_spare(d);
		return;
	}
	if (d->state == DEVICE_FAILED) {
		start_in_place(d);
		return;
	}
	d->upgrade.step = UPGRADE_STARTING;
	err = device_start_slot(d, d->upgrade.slot);
	if (err)
		refuse(d, err, "the new program can't be started");
}

void device_upgrade(struct device *d, bool window, const char *path, device_done_fn done, void *arg)
{
	char text[BUS_TEXT_MAX];

	if (d->external) {
		done(arg, -EOPNOTSUPP, "its back end is run by somebody else");
		return;
	}
	if ((d->state != DEVICE_UP && d->state != DEVICE_FAILED) || d->upgrade.step != UPGRADE_NONE) {
		snprintf(text, sizeof(text), "not possible while it is %s",
			 d->upgrade.step != UPGRADE_NONE ? "being upgraded" : device_state_name(d));
		done(arg, -EBUSY, text);
		return;
	}
	d->upgrade = (struct device_upgrade) {
		.step = UPGRADE_CLEARING, .slot = device_other(d), .window = window, .done = done, .arg = arg
	};
	snprintf(d->upgrade.program, sizeof(d->upgrade.program), "%s", path ? path : "");
	loop_disarm_timer(d->spare_timer);
	say_info("%s: upgrading %s to %s", d->id, name_of(d),
		 path ? path : "the program that is installed now");
	if (!device_stop_slot(d, device_other(d), CLEAR_NS))
		device_upgrade_vanished(d);
}

void device_upgrade_vanished(struct device *d)
{
	size_t slot = device_other(d);

	if (d->upgrade.step == UPGRADE_CLEARING && device_slot_is_idle(d, slot) &&
	    !device_slot_remains(d, slot))
		start_new(d);
}

/* ---- the old one's last steps ---- */

static void stop_old(struct device *d)
{
	d->upgrade.step = UPGRADE_STOPPING;
	d->upgrade.stop = clock_ns();
	device_stop_slot(d, old_slot(d), STOP_NS);
}

/* One that was drained and does not hear of this rests for ever, and does not even look as if it hung. */
static void on_resumed_again(void *arg, int err, const struct bus_msg *reply)
{
	struct child *c = arg;

	(void)reply;
	if (!err || err == -ECANCELED || c->state != CHILD_READY)
		return;
	if (err == -EPIPE) /* that is most likely its death */
		child_doubt(c, CANT_RESUME);
	else
		child_kill(c, CANT_RESUME);
}

static void tell_resume(struct child *c, bus_reply_fn then)
{
	const struct bus_msg msg = { .type = BUS_RESUME };

	if (bus_request(c->bus, &msg, RESUME_NS, then, c))
		child_kill(c, CANT_RESUME);
}

/* One missed answer may be a supervisor that was itself stopped. */
static void on_resumed(void *arg, int err, const struct bus_msg *reply)
{
	struct child *c = arg;

	if (err == -ETIMEDOUT && c->state == CHILD_READY)
		tell_resume(c, on_resumed_again);
	else
		on_resumed_again(c, err, reply);
}

void device_serve_on(struct device *d)
{
	tell_resume(device_active(d), on_resumed);
}

/* The old one is to serve on as if nothing had been. */
static void resume_old(struct device *d, int err, const char *why)
{
	d->state = DEVICE_UP;
	device_serve_on(d);
	refuse(d, err, why);
}

static void on_drained(void *arg, int err, const struct bus_msg *reply)
{
	struct device *d = arg;

	char why[BUS_TEXT_MAX] = "the old process did not finish its requests in time";

	if (d->upgrade.step != UPGRADE_DRAINING)
		return;
	if (err && reply && *reply->error.text)
		snprintf(why, sizeof(why), "the old process: %.400s", reply->error.text);
	if (err && err != -EPIPE) /* that is most likely its death */
		resume_old(d, err, why);
	else
		stop_old(d);
}

bool device_upgrade_ready(struct device *d)
{
	struct bus_msg msg = { .type = BUS_DRAIN };
	int err;

	if (d->upgrade.step != UPGRADE_STARTING)
		return false;
	if (device_active(d)->adopted)
		return true; /* device_upgrade_back follows */
	d->upgrade.step = UPGRADE_DRAINING;
	d->upgrade.drain = clock_ns();
	d->state = DEVICE_CHANGING;
	err = bus_request(device_active(d)->bus, &msg, DRAIN_NS, on_drained, d);
	if (err)
		on_drained(d, err, NULL);
	return true;
}

void device_upgrade_go_on(struct device *d)
{
	if (d->upgrade.step == UPGRADE_TRIAL)
		loop_arm_timer(d->trial_timer, clock_ns() + TRIAL_NS);
	if (d->upgrade.step == UPGRADE_DRAINING) {
		d->upgrade.step = UPGRADE_STARTING;
		d->state = DEVICE_UP;
	}
}

void device_upgrade_back(struct device *d)
{
	if (device_slot_is_ready(d, device_other(d)) && !device_spare(d)->adopted &&
	    !device_active(d)->adopted)
		device_upgrade_ready(d);
}

void device_upgrade_hung(struct device *d, const char *reason)
{
	if (d->upgrade.step != UPGRADE_DRAINING)
		return;
	stop_old(d);
	child_kill(&d->slot[old_slot(d)], reason);
}

/* ---- deaths ---- */

bool device_upgrade_tries(const struct device *d, const struct child *child)
{
	return child == &d->slot[d->upgrade.slot] &&
	       (d->upgrade.step == UPGRADE_STARTING || d->upgrade.step == UPGRADE_DRAINING ||
		d->upgrade.step == UPGRADE_STOPPING ||
		(d->upgrade.step == UPGRADE_LINKING && device_upgrade_in_place(d)));
}

bool device_upgrade_spare_died(struct device *d, const struct child_death *death)
{
	char text[BUS_TEXT_MAX], why[BUS_TEXT_MAX];

	child_describe(device_spare(d), death, text, sizeof(text));
	snprintf(why, sizeof(why), "the new process %.400s", text);
	switch (d->upgrade.step) {
	case UPGRADE_CLEARING:
		device_upgrade_vanished(d);
		return true;
	case UPGRADE_STARTING:
		refuse(d, -EIO, why);
		return true;
	case UPGRADE_DRAINING:
		resume_old(d, -EIO, why);
		return true;
	case UPGRADE_STOPPING:
		snprintf(d->upgrade.why, sizeof(d->upgrade.why), "%s", why);
		return true; /* too late for the old process to go on; its end comes next */
	case UPGRADE_NONE:
	case UPGRADE_LINKING:
	case UPGRADE_TRIAL:
	case UPGRADE_REVERTING:
		break;
	}
	return false;
}

/* The new process is gone: whatever there is of the old program comes up. */
static void revert(struct device *d)
{
	say_warn("%s: the old program takes over again: %s", d->id, d->upgrade.why);
	loop_disarm_timer(d->trial_timer);
	d->upgrade.step = UPGRADE_REVERTING;
	d->nrestarts++;
	d->recovering = true;
	give_slot_back(d);
	d->active = d->upgrade.slot;
	if (device_slot_is_alive(d, device_other(d))) {
		device_take_spare(d);
	} else {
		d->active = old_slot(d);
		device_start_active(d);
	}
}

bool device_upgrade_active_died(struct device *d)
{
	switch (d->upgrade.step) {
	case UPGRADE_CLEARING:
	case UPGRADE_STARTING:
		refuse(d, -EIO, "the old process died meanwhile");
		return false;
	case UPGRADE_DRAINING:
	case UPGRADE_STOPPING:
		if (!d->upgrade.stop)
			d->upgrade.stop = clock_ns();
		if (!device_slot_is_alive(d, device_other(d))) {
			revert(d);
			return true;
		}
		d->upgrade.step = UPGRADE_LINKING;
		device_take_spare(d);
		return true;
	case UPGRADE_LINKING:
	case UPGRADE_TRIAL:
		snprintf(d->upgrade.why, sizeof(d->upgrade.why), "the new process %.400s", d->last_death);
		if (device_upgrade_in_place(d)) {
			d->active = old_slot(d);
			device_fail(d, false);
		} else {
			revert(d);
		}
		return true;
	case UPGRADE_REVERTING:
		finish(d, -EIO, d->upgrade.why);
		break;
	case UPGRADE_NONE:
		break;
	}
	return false;
}

/* ---- the end ---- */

void device_upgrade_up(struct device *d)
{
	const struct device_times *t = &d->now;

	if (d->upgrade.step == UPGRADE_REVERTING) {
		finish(d, -EIO, d->upgrade.why);
	} else if (d->upgrade.step == UPGRADE_LINKING) {
		if (!device_upgrade_in_place(d))
			say_info("%s: handed over to version %s after %.1f ms: drain %.1f, stop %.1f, "
				 "handshake %.1f",
				 d->id, device_active(d)->version, device_ms(d->upgrade.drain, t->linked),
				 device_ms(d->upgrade.drain, d->upgrade.stop),
				 device_ms(d->upgrade.stop, t->given), device_ms(t->given, t->linked));
		d->upgrade.step = UPGRADE_TRIAL;
		loop_arm_timer(d->trial_timer, clock_ns() + TRIAL_NS);
	}
}

/* What is said of it: for how long requests waited, unless that was since it was given up. */
static void put_answer(const struct device *d, char *json, size_t size)
{
	const struct device_times *t = &d->now;

	if (device_upgrade_in_place(d))
		snprintf(json, size, "{\"device\":\"%s\"}", d->id);
	else
		snprintf(json, size,
			 "{\"device\":\"%s\",\"stall_ms\":%.3f,\"drain_ms\":%.3f,\"stop_ms\":%.3f,"
			 "\"handshake_ms\":%.3f}",
			 d->id, device_ms(d->upgrade.drain, t->linked),
			 device_ms(d->upgrade.drain, d->upgrade.stop), device_ms(d->upgrade.stop, t->given),
			 device_ms(t->given, t->linked));
}

void device_on_trial_timer(void *arg)
{
	struct device *d = arg;
	char json[BUS_TEXT_MAX];
	int err;

	if (d->upgrade.step != UPGRADE_TRIAL)
		return;
	err = keeper_same_program(d->keeper, place_of(d, old_slot(d)), place_of(d, d->upgrade.slot));
	if (err)
		say_error_errno(err, "%s: the spare stays with the old program", d->id);
	put_answer(d, json, sizeof(json));
	say_info("%s: upgraded", d->id);
	d->ops->event(d->arg, d, "device-upgraded", *d->upgrade.program ? d->upgrade.program : name_of(d));
	device_stop_slot(d, old_slot(d), CLEAR_NS);
	finish(d, 0, json);
	device_plan_spare(d);
}
