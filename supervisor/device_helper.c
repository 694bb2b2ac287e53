/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a device needs besides its server: the process that has the host's network for it, so that the server needs none:
 * net-user for a port, nbd-dial for a disk.
 * The core knows nothing of it, and neither its death nor that of the server is the other's: the socket between them is
 * the keeper's. It is restarted by the device's policy; given up, it stays away until it is revived, and the guest sees
 * a network on which nobody answers, unless the policy wants it to be told: then its device is given up with it.
 */
#include "device_helper.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "clean.h"
#include "device_priv.h"
#include "num.h"

#define BACKOFF_FIRST_NS (50 * NS_PER_MS)

static bool too_many(struct device *d)
{
	struct device_helper *h = &d->helper;
	uint64_t now = clock_ns(), window = d->policy.restarts_s * NS_PER_S, recent = 0;

	h->death[h->ndeaths++ % DEVICE_DEATHS_MAX] = now;
	for (size_t i = 0; i < MIN(h->ndeaths, (size_t)DEVICE_DEATHS_MAX); i++)
		recent += now - h->death[i] <= window;
	return recent > d->policy.restarts;
}

static void answer(struct device *d, int err, const char *text)
{
	device_done_fn done = d->helper.revived;

	d->helper.revived = NULL;
	if (done)
		done(d->helper.revived_arg, err, text);
}

static void start_later(struct device *d)
{
	struct device_helper *h = &d->helper;
	uint64_t wait = 0;

	if (h->short_lives > 1)
		wait = MIN(BACKOFF_FIRST_NS << MIN(h->short_lives - 2, 10U), device_pace_ns(d));
	h->waiting = true;
	loop_arm_timer(h->timer, clock_ns() + wait);
}

static bool is_port(const struct device *d)
{
	return !strcmp(d->kind, "net");
}

static const char *what_now(const struct device *d)
{
	if (d->policy.on_failure == FAILURE_STOP)
		return "the machine ends";
	if (d->policy.on_failure == FAILURE_NEEDS_RESET)
		return "the device is given up with it";
	return is_port(d) ? "the guest has no network until it is revived"
			  : "nobody connects to the disk's NBD server until it is revived";
}

/* What the death of one means to the guest. */
static const char *what_is_lost(const struct device *d)
{
	return is_port(d) ? "the guest's connections through it are reset"
			  : "the server keeps the connections that it has";
}

static void give_up(struct device *d, bool wrong)
{
	struct device_helper *h = &d->helper;

	h->failed = true;
	if (!wrong)
		say_error("%s: %s given up, it died more than %u times in %u s, the last one %s; %s", d->id,
			  h->process, d->policy.restarts, d->policy.restarts_s, h->last_death, what_now(d));
	answer(d, -EIO, "it died too often again and was given up");
	d->ops->given_up(d->arg, d, wrong);
	device_helper_check(d);
	if (!d->ops->ending(d->arg))
		device_check_up(d); /* it was revived with this one, and waited for it */
}

bool device_helper_condemns(const struct device *d)
{
	return d->helper.failed && d->policy.on_failure == FAILURE_NEEDS_RESET;
}

/* As long as its server lives, nobody may tell the guest that the device is of no use. */
void device_helper_check(struct device *d)
{
	if (device_helper_condemns(d) && !d->ops->ending(d->arg) &&
	    (d->state == DEVICE_UP || d->state == DEVICE_STARTING))
		child_kill(device_active(d), "what it needs was given up");
}

static void gone(struct device *d, bool wrong, bool short_life)
{
	struct device_helper *h = &d->helper;

	h->short_lives = short_life ? h->short_lives + 1 : 0;
	if (wrong || too_many(d)) {
		give_up(d, wrong);
		return;
	}
	h->restarts++;
	start_later(d);
}

static void upgrade_failed(struct device *d, const char *why);

static void start(struct device *d)
{
	struct device_helper *h = &d->helper;

	h->waiting = child_remains(&h->child); /* on_vanished goes on */
	if (h->waiting || !child_start(&h->child, NULL, 0, NULL, 0))
		return;
	snprintf(h->last_death, sizeof(h->last_death), "could not be started");
	if (h->upgrading)
		upgrade_failed(d, h->last_death);
	else
		gone(d, false, true);
}

static void on_timer(void *arg)
{
	struct device *d = arg;

	if (d->helper.waiting && d->helper.child.state == CHILD_IDLE)
		start(d);
}

/* ---- another program ---- */

#define UPGRADE_STOP_NS (5 * NS_PER_S)

static size_t place(const struct device *d)
{
	return d->index + KEEPER_HELPER;
}

static void finish_upgrade(struct device *d, int err, const char *text)
{
	device_done_fn done = d->helper.upgraded;

	d->helper.upgrading = false;
	d->helper.upgraded = NULL;
	if (err)
		say_warn("%s: %s not upgraded: %s", d->id, d->helper.process, text);
	if (done)
		done(d->helper.upgraded_arg, err, text);
}

void device_helper_upgrade(struct device *d, const char *path, device_done_fn done, void *arg)
{
	struct device_helper *h = &d->helper;
	char what[128], why[BUS_TEXT_MAX];
	int err;

	if (h->upgrading || (!h->failed && (h->child.state != CHILD_READY || h->child.adopted))) {
		done(arg, -EBUSY, "not possible while it does not serve");
		return;
	}
	err = keeper_same_program(d->keeper, d->index + KEEPER_BEFORE, place(d));
	if (err) {
		done(arg, err, "its own program can't be kept to go back to");
		return;
	}
	err = keeper_program(d->keeper, place(d), path, what, sizeof(what));
	if (err) {
		snprintf(why, sizeof(why), "%s: %s", path ? path : h->process, *what ? what : strerror(-err));
		done(arg, err, why);
		return;
	}
	say_info("%s: upgrading %s to %s", d->id, h->process,
		 path ? path : "the program that is installed now");
	h->upgrading = true;
	h->upgraded = done;
	h->upgraded_arg = arg;
	h->was_failed = h->failed;
	if (h->failed)
		device_helper_start(d);
	else
		child_stop(&h->child, UPGRADE_STOP_NS);
}

/* The new process came to nothing: the program before serves again, unless it had been given up. */
static void upgrade_failed(struct device *d, const char *why)
{
	const struct device_helper *h = &d->helper;
	int err = keeper_same_program(d->keeper, place(d), d->index + KEEPER_BEFORE);
	char text[BUS_TEXT_MAX];

	if (err)
		say_error_errno(err, "%s: the old program can't be had", d->id);
	snprintf(text, sizeof(text), "the new process %.400s", why);
	finish_upgrade(d, -EIO, text);
	if (h->was_failed)
		give_up(d, true);
	else
		start(d);
}

/* Goes on with the upgrade after a death. */
static void upgrade_died(struct device *d, bool by_order)
{
	struct device_helper *h = &d->helper;

	if (!by_order) {
		upgrade_failed(d, h->last_death);
		return;
	}
	say_warn("%s: %s is replaced; %s", d->id, h->process, what_is_lost(d));
	h->last_noticed = h->child.times.noticed;
	start(d);
}

static void upgrade_ready(struct device *d)
{
	const struct device_helper *h = &d->helper;
	char json[BUS_TEXT_MAX], away[BUS_TEXT_MAX] = "";

	if (!h->upgrading)
		return;
	/* No request waited: the server has nothing to do with it. */
	if (!h->was_failed)
		snprintf(away, sizeof(away), ",\"away_ms\":%.3f,\"lost\":\"%s\"",
			 device_ms(h->last_noticed, h->child.times.ready), what_is_lost(d));
	snprintf(json, sizeof(json), "{\"device\":\"%s\"%.400s}", d->id, away);
	say_info("%s: %s upgraded", d->id, h->process);
	d->ops->event(d->arg, d, "helper-upgraded", h->process);
	finish_upgrade(d, 0, json);
}

/* ---- what it does ---- */

static void on_ready(void *arg, struct child *child)
{
	struct device *d = arg;

	if (d->helper.restarts && d->was_up)
		say_info("%s: %s is back after %.1f ms", d->id, child->process,
			 device_ms(d->helper.last_noticed, child->times.ready));
	answer(d, 0, NULL);
	upgrade_ready(d);
	if (d->was_up)
		d->ops->helper_up(d->arg, d);
	device_check_up(d);
}

static void on_died(void *arg, struct child *child, const struct child_death *death)
{
	struct device *d = arg;
	struct device_helper *h = &d->helper;
	bool refused = death->code == CLD_EXITED && death->status == CHILD_STATUS_WRONG;
	bool served = child->times.ready;

	if (d->state == DEVICE_STOPPING) {
		device_check_stopped(d);
		return;
	}
	if (d->ops->ending(d->arg))
		return;
	if (!death->by_order)
		child_describe(child, death, h->last_death, sizeof(h->last_death));
	if (h->upgrading) {
		upgrade_died(d, death->by_order);
		return;
	}
	h->last_noticed = child->times.noticed;
	if (served) {
		say_warn("%s: %s %s; %s", d->id, child->process, h->last_death, what_is_lost(d));
		d->ops->event(d->arg, d, is_port(d) ? "connections-reset" : "helper-died", h->last_death);
	}
	gone(d, refused && !d->was_up && !served,
	     !served || clock_ns() - child->times.ready < device_pace_ns(d));
}

static void on_vanished(void *arg, struct child *child)
{
	struct device *d = arg;

	(void)child;
	if (d->helper.waiting)
		loop_arm_timer(d->helper.timer, clock_ns());
}

static void on_message(void *arg, struct child *child, const struct bus_msg *msg)
{
	(void)arg;
	say_debug("%s: message %d is not for the supervisor", child->id, (int)msg->type);
}

static bool may_end(void *arg)
{
	const struct device *d = arg;

	return d->ops->ending(d->arg);
}

static bool tried(void *arg, const struct child *child)
{
	const struct device *d = arg;

	(void)child;
	return d->helper.upgrading;
}

static const struct child_ops helper_ops = {
	.ready = on_ready,
	.died = on_died,
	.vanished = on_vanished,
	.message = on_message,
	.may_end = may_end,
	.tried = tried,
};

/* ---- what the device does with it ---- */

int device_helper_init(struct device *d, const char *dir)
{
	struct child *c = &d->helper.child;
	char folder[RUNDIR_SLOT_MAX], path[RUNDIR_PATH_MAX + RUNDIR_SLOT_MAX + 8];
	int err;

	if (!d->helper.process)
		return 0;
	c->loop = d->loop;
	c->keeper = d->keeper;
	c->ops = &helper_ops;
	c->arg = d;
	c->index = d->index + KEEPER_HELPER;
	c->process = c->kind = d->helper.process;
	c->device = d->id;
	memcpy(c->id, d->id, sizeof(c->id));
	c->start_ns = d->policy.start_ns;
	err = loop_add_timer(d->loop, on_timer, d, &d->helper.timer);
	if (!err)
		err = flight_map(d->flight[KEEPER_HELPER], true, &c->flight);
	if (err)
		return err;
	rundir_slot(folder, d->id, KEEPER_HELPER);
	snprintf(path, sizeof(path), "%s/%s/bus", dir, folder);
	return child_init(c, path);
}

void device_helper_start(struct device *d)
{
	struct device_helper *h = &d->helper;

	if (!h->process)
		return;
	h->failed = false;
	h->ndeaths = 0;
	h->short_lives = 0;
	start(d);
}

bool device_helper_is_ready(const struct device *d)
{
	return !d->helper.process || d->helper.child.state == CHILD_READY;
}

bool device_helper_is_gone(const struct device *d)
{
	return !d->helper.process || d->helper.child.state == CHILD_IDLE;
}

void device_helper_stop(struct device *d, uint64_t deadline_ns)
{
	answer(d, -ECANCELED, "the machine is ending");
	if (d->helper.upgrading)
		finish_upgrade(d, -ECANCELED, "the machine is ending");
	if (!d->helper.process)
		return;
	d->helper.waiting = false;
	loop_disarm_timer(d->helper.timer);
	child_stop(&d->helper.child, deadline_ns);
}

void device_helper_revive(struct device *d, device_done_fn done, void *arg)
{
	say_info("%s: %s revived on request", d->id, d->helper.process);
	d->helper.revived = done;
	d->helper.revived_arg = arg;
	device_helper_start(d);
}

int device_helper_adopt(struct device *d)
{
	struct device_helper *h = &d->helper;
	struct keeper_found found;
	bool by_order, lost;
	int err;

	if (!h->process)
		return 0;
	by_order = h->child.state == CHILD_STOPPING;
	err = child_claim(&h->child, false, &found, &lost);
	if (err)
		return err;
	if (lost)
		child_lost(&h->child, by_order);
	else if (h->waiting || (h->child.state == CHILD_IDLE && !h->failed && d->state != DEVICE_IDLE &&
				d->state != DEVICE_STOPPING))
		start_later(d); /* or it was just being replaced */
	return 0;
}

json_t *device_helper_json(const struct device *d)
{
	const struct device_helper *h = &d->helper;
	const char *state = h->failed ? "failed" : h->waiting ? "waiting" : device_child_state(&h->child);
	char id[RUNDIR_SLOT_MAX];
	json_t *json;

	rundir_slot(id, d->id, KEEPER_HELPER);
	json = device_child_json(id, h->process, state, &h->child);
	json_object_set_new(json, "restarts", json_integer((json_int_t)h->restarts));
	if (*h->last_death)
		json_object_set_new(json, "last_death", json_string(h->last_death));
	return json;
}

void device_helper_fini(struct device *d)
{
	if (!d->helper.process)
		return;
	child_fini(&d->helper.child);
	flight_free(d->helper.child.flight);
	loop_del_timer(TAKE_PTR(d->helper.timer));
}
