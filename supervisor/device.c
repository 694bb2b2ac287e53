/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device. Theory of operation: it has two slots for processes. The active one serves; the other may hold a spare,
 * ready but for a front end. Once the active process is dead and its writes are over (child.c), and not before, the
 * core is given the socket of its successor: the spare's, or that of a new process. The device is up when its process
 * has said READY and the core DEVICE_UP.
 *
 * A death leads to a restart. A spare takes over at once, since spares are rationed by themselves; a new process is
 * started at once or, if those before hardly served, after a time that grows to what the limit of restarts allows for.
 * Too many deaths in too short a time, and the device's policy rules. Waiting costs nothing but the guest's time: the
 * rings and the in-flight region are where they were, so it makes no difference after how long they are taken up.
 */
#include "device.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "device_priv.h"
#include "num.h"

#define BACKOFF_FIRST_NS (50 * NS_PER_MS)
#define CHANGE_NS        (5 * NS_PER_S) /* for a process that is told to end because another takes over */

static void start_later(struct device *d);

const char *device_state_name(const struct device *d)
{
	static const char *const names[] = {
		[DEVICE_IDLE] = "idle",         [DEVICE_STARTING] = "starting", [DEVICE_UP] = "up",
		[DEVICE_CHANGING] = "changing", [DEVICE_STOPPING] = "stopping", [DEVICE_WAITING] = "waiting",
		[DEVICE_FAILED] = "failed",
	};
	return names[d->state];
}

uint64_t device_pace_ns(const struct device *d)
{
	uint64_t each = d->policy.restarts_s * NS_PER_S / MAX(d->policy.restarts, 1U);

	return MIN(each, NS_PER_S);
}

static void answer_revival(struct device *d, int err, const char *text)
{
	device_done_fn done = d->revived;

	d->revived = NULL;
	if (done)
		done(d->revived_arg, err, text);
}

/* ---- becoming up ---- */

/* A guest is to find all there when it starts, and so is who revived it; else the two don't wait for each other. */
static bool waits_for_helper(const struct device *d)
{
	bool may_come = !d->helper.failed || device_helper_condemns(d);

	return !device_helper_is_ready(d) && (!d->was_up || (d->revived && may_come));
}

static void answer_up(struct device *d)
{
	if (d->helper.failed)
		answer_revival(d, -EIO, "it serves, but what it needs died too often again and was given up");
	else
		answer_revival(d, 0, NULL);
}

void device_check_up(struct device *d)
{
	if (d->state != DEVICE_STARTING || !device_is_linked(d) || !d->now.ready || waits_for_helper(d))
		return;
	d->state = DEVICE_UP;
	d->was_up = true;
	d->absences = 0;
	loop_disarm_timer(d->timer);
	device_report_start(d);
	d->recovering = false;
	d->now.sign = 0; /* that was its predecessor's; there is none of its own yet */
	device_upgrade_up(d);
	answer_up(d);
	device_plan_spare(d);
	d->ops->up(d->arg, d);
	device_helper_check(d);
}

static void on_ready(void *arg, struct child *child)
{
	struct device *d = arg;
	size_t slot = device_slot_of(d, child);
	const struct child_times *t = &d->slot[slot].times;

	if (!device_slot_is_ready(d, slot))
		return; /* its other half has to be, too */
	if (slot != d->active) {
		if (!device_upgrade_ready(d))
			say_debug("%s: process %d is ready as spare", d->id, (int)child->pid);
		return;
	}
	/* What it did as a spare, before it was needed, is no part of the way back. */
	d->now.spawned = MAX(t->spawned, d->now.begun);
	d->now.hello = MAX(t->hello, d->now.begun);
	d->now.ready = child->times.ready;
	device_repeat_sets(d);
	device_check_up(d);
}

/* ---- losing it ---- */

/* Counts a death; true if there were too many. */
static bool too_many(struct device *d)
{
	uint64_t now = clock_ns(), window = d->policy.restarts_s * NS_PER_S, recent = 0;

	d->death[d->ndeaths++ % DEVICE_DEATHS_MAX] = now;
	for (size_t i = 0; i < MIN(d->ndeaths, (size_t)DEVICE_DEATHS_MAX); i++)
		recent += now - d->death[i] <= window;
	return recent > d->policy.restarts;
}

static void forget_deaths(struct device *d)
{
	d->ndeaths = 0;
	d->short_lives = d->absences = 0;
	d->spare_deaths = 0;
}

void device_fail(struct device *d, bool wrong)
{
	d->state = DEVICE_FAILED;
	loop_disarm_timer(d->timer);
	device_upgrade_abort(d, -EIO, d->upgrade.why); /* no program could be started */
	answer_revival(d, -EIO, "it died too often again and was given up");
	d->ops->given_up(d->arg, d, wrong);
}

/* It died too often: what now is the policy's. */
static void give_up(struct device *d, bool wrong)
{
	static const char *const what_now[] = {
		[FAILURE_QUARANTINE] = "the guest's requests to it wait until it is revived",
		[FAILURE_READ_ONLY] = "the guest's requests to it wait until it is revived",
		[FAILURE_NEEDS_RESET] = "the guest is told that it needs a reset",
		[FAILURE_STOP] = "the machine ends",
	};
	bool read_only = d->policy.on_failure == FAILURE_READ_ONLY && !d->restricted && d->was_up;

	if (!d->external)
		device_stop_slot(d, device_other(d), CHANGE_NS);
	if (device_helper_condemns(d))
		say_error("%s: given up, as %s was; %s", d->id, d->helper.process,
			  what_now[d->policy.on_failure]);
	else if (!wrong)
		say_error("%s: given up, it died more than %u times in %u s, the last one %s; %s", d->id,
			  d->policy.restarts, d->policy.restarts_s, d->last_death,
			  read_only ? "it goes on and refuses writes" : what_now[d->policy.on_failure]);
	if (read_only) {
		d->restricted = true;
		forget_deaths(d);
		d->ops->event(d->arg, d, "device-read-only", "it died too often and refuses writes now");
		d->nrestarts++;
		start_later(d);
		return;
	}
	device_fail(d, wrong);
}

static void start_later(struct device *d)
{
	uint64_t wait = 0;

	d->recovering = true;
	if (d->short_lives > 1)
		wait = MIN(BACKOFF_FIRST_NS << MIN(d->short_lives - 2, 10U), device_pace_ns(d));
	d->state = DEVICE_WAITING;
	loop_arm_timer(d->timer, clock_ns() + wait);
}

static void replace(struct device *d)
{
	d->nrestarts++;
	if (d->external || !device_slot_is_alive(d, device_other(d))) {
		start_later(d);
		return;
	}
	d->recovering = true;
	device_take_spare(d);
}

/* It is gone and reaped: has it replaced, now or later, or gives it up. */
static void after_death(struct device *d, bool wrong)
{
	bool short_life = !d->now.ready || clock_ns() - d->now.ready < device_pace_ns(d);

	d->short_lives = short_life ? d->short_lives + 1 : 0;
	if (wrong || device_helper_condemns(d) || too_many(d))
		give_up(d, wrong);
	else
		replace(d);
}

/* The beginning of an outage is whatever told us first. */
static void take_death_times(struct device *d, const struct child_times *t)
{
	d->now.noticed = t->noticed;
	d->now.reaped = t->reaped;
	if (t->sign && (!d->now.sign || t->sign < d->now.sign))
		d->now.sign = t->sign;
	/* Of a pair the core may tell of the first death when that is known. */
	if (!d->now.sign || t->noticed < d->now.sign)
		d->now.sign = t->noticed;
}

/* Of a pair the first death is the one that counts, and the second the end of it. */
static void active_died(struct device *d, const struct child *child, const struct child_death *death,
			const struct child *last)
{
	bool refused = death->code == CLD_EXITED && death->status == CHILD_STATUS_WRONG;
	struct child_times times = child->times;

	times.reaped = last->times.reaped;
	take_death_times(d, &times);
	if (!death->by_order)
		child_describe(child, death, d->last_death, sizeof(d->last_death));
	if (device_upgrade_active_died(d))
		return;
	if (death->by_order)
		start_later(d); /* told to end, so that another can be started */
	else
		after_death(d, refused && !d->was_up && !child->times.ready);
}

void device_check_stopped(struct device *d)
{
	for (size_t i = 0; i < KEEPER_SLOTS; i++)
		if (!d->external && !device_slot_is_idle(d, i))
			return;
	if (!device_helper_is_gone(d))
		return;
	d->state = DEVICE_IDLE;
	d->ops->ended(d->arg, d);
}

static void on_died(void *arg, struct child *child, const struct child_death *death)
{
	struct device *d = arg;
	size_t slot = device_slot_of(d, child);
	struct device_half first;

	device_close_fronts(d, slot);
	if (device_half_died(d, child, death))
		return;
	first = device_take_first(d, slot);
	if (d->state == DEVICE_STOPPING)
		device_check_stopped(d);
	else if (d->ops->ending(d->arg))
		say_debug("%s: not replaced, the machine is ending", d->id);
	else if (slot == d->active)
		active_died(d, first.child, &first.death, child);
	else if (!device_upgrade_spare_died(d, &first.death))
		device_spare_died(d, first.child, &first.death);
}

/* Nobody reaps a back end or peer of somebody else's. That it is away, however long, is no death of it. */
void device_external_lost(struct device *d, const char *reason)
{
	bool count = d->state == DEVICE_UP || !d->was_up;

	if (d->state == DEVICE_UP || (!d->was_up && !d->ndeaths))
		say_warn("%s: the back end is gone: %s", d->id, reason);
	snprintf(d->last_death, sizeof(d->last_death), "left: %s", reason);
	d->now.noticed = d->now.reaped = clock_ns();
	if (count) {
		after_death(d, false);
	} else {
		d->short_lives++;
		replace(d);
	}
}

void device_start_failed(struct device *d)
{
	d->now.noticed = d->now.reaped = clock_ns();
	snprintf(d->last_death, sizeof(d->last_death), "could not be started");
	after_death(d, false);
}

/* Processes that are not ready yet have deadlines of their own, which may be longer. */
static void on_timer(void *arg)
{
	struct device *d = arg;

	if (d->state == DEVICE_WAITING)
		device_start_active(d);
	else if (d->state == DEVICE_STARTING && d->external)
		device_external_lost(d, "it did not answer in time");
	else if (d->state == DEVICE_STARTING && !device_slot_is_ready(d, d->active))
		loop_arm_timer(d->timer, clock_ns() + d->policy.start_ns);
	else if (d->state == DEVICE_STARTING && !device_is_linked(d))
		child_kill(device_active(d), "the core did not take it up in time");
}

void device_start(struct device *d)
{
	forget_deaths(d);
	d->recovering = d->restricted = d->was_up = false;
	for (size_t i = 0; i < d->links; i++)
		d->link[i].given = false;
	memset(&d->now, 0, sizeof(d->now));
	device_helper_start(d);
	if (d->ops->ending(d->arg))
		return; /* it was given up at once */
	device_start_active(d);
}

bool device_has_failed(const struct device *d)
{
	return d->state == DEVICE_FAILED || d->helper.failed;
}

/* What it died of before counts no more. */
static void pardon(struct device *d)
{
	forget_deaths(d);
	d->restricted = false;
	if (d->helper.failed)
		device_helper_start(d);
}

void device_start_again(struct device *d)
{
	pardon(d);
	start_later(d);
}

void device_revive(struct device *d, device_done_fn done, void *arg)
{
	if (d->helper.failed && d->state != DEVICE_FAILED) {
		device_helper_revive(d, done, arg);
		return;
	}
	if (d->revived || d->upgrade.step ||
	    (d->state != DEVICE_FAILED && !(d->state == DEVICE_UP && d->restricted))) {
		done(arg, -EBUSY, d->state == DEVICE_UP ? "it serves already" : "it is on its way already");
		return;
	}
	say_info("%s: revived on request", d->id);
	d->revived = done;
	d->revived_arg = arg;
	if (d->state == DEVICE_FAILED) {
		device_start_again(d);
		return;
	}
	pardon(d);
	d->state = DEVICE_CHANGING;
	device_stop_slot(d, device_other(d), CHANGE_NS);
	device_stop_slot(d, d->active, CHANGE_NS);
}

/* ---- ending ---- */

void device_stop(struct device *d, uint64_t deadline_ns)
{
	device_upgrade_abort(d, -ECANCELED, "the machine is ending");
	answer_revival(d, -ECANCELED, "the machine is ending");
	loop_disarm_timer(d->timer);
	loop_disarm_timer(d->spare_timer);
	d->state = DEVICE_STOPPING;
	for (size_t i = 0; i < KEEPER_SLOTS && !d->external; i++)
		device_stop_slot(d, i, deadline_ns);
	device_helper_stop(d, deadline_ns);
	device_check_stopped(d);
}

/* ---- the whole ---- */

static void on_message(void *arg, struct child *child, const struct bus_msg *msg)
{
	struct device *d = arg;

	if (msg->type == BUS_RECOVERED && child == device_front_child(d))
		device_recovered(d, msg);
	else if (msg->type == BUS_IO_ERROR && (child == device_active(d) || !strcmp(d->kind, "net")))
		device_io_error(d, msg);
	else
		say_debug("%s: message %d is not for the supervisor", child->id, (int)msg->type);
}

static void on_back(void *arg, struct child *child)
{
	struct device *d = arg;

	/* Its supervisor may have died before it could tell, or have drained it for an upgrade that comes to nothing now. */
	if (child == device_active(d) && child->state == CHILD_READY) {
		device_repeat_sets(d);
		device_serve_on(d);
	}
	device_upgrade_back(d);
}

static void on_vanished(void *arg, struct child *child)
{
	(void)child;
	device_vanished(arg);
	device_upgrade_vanished(arg);
	device_plan_spare(arg);
}

/* A server ends when its front end has closed the connection, so before we tell it to if the core is ending. */
static bool may_end(void *arg)
{
	const struct device *d = arg;

	return d->ops->ending(d->arg);
}

static bool tried(void *arg, const struct child *child)
{
	const struct device *d = arg;

	return device_upgrade_tries(d, &d->slot[device_slot_of(d, child)]) || device_is_second(d, child);
}

uint64_t device_waits_since(const struct device *d)
{
	const struct child *c = &d->slot[d->active];
	bool opens = !d->external && c->state == CHILD_STARTING && !c->times.hello && c->flight;

	return opens ? flight_get(&flight_main(c->flight)->since) : 0;
}

/* Who has it upgraded waits for an answer, and a spare that is killed harms nobody. */
static const char *waits(void *arg, const struct child *child)
{
	const struct device *d = arg;

	if (device_slot_of(d, child) != d->active || d->upgrade.step || !device_waits_since(d))
		return NULL;
	return d->links == 1 ? d->link[0].storage : "the files of its disks";
}

static const struct child_ops device_child_ops = {
	.back = on_back,
	.ready = on_ready,
	.died = on_died,
	.vanished = on_vanished,
	.message = on_message,
	.may_end = may_end,
	.tried = tried,
	.waits = waits,
};

static int init_slot(struct device *d, size_t slot, const char *dir)
{
	struct child *c = &d->slot[slot];
	char folder[RUNDIR_SLOT_MAX], path[RUNDIR_PATH_MAX + RUNDIR_SLOT_MAX + 8];
	int err;

	c->loop = d->loop;
	c->keeper = d->keeper;
	c->ops = &device_child_ops;
	c->arg = d;
	c->index = d->index + slot;
	c->process = d->process;
	c->kind = d->kind;
	c->device = d->id;
	memcpy(c->id, d->id, sizeof(c->id));
	c->start_ns = d->policy.start_ns;
	err = flight_map(d->flight[slot], true, &c->flight);
	if (err)
		return err;
	rundir_slot(folder, d->id, slot);
	snprintf(path, sizeof(path), "%s/%s/bus", dir, folder);
	return child_init(c, path);
}

int device_init(struct device *d, const char *dir)
{
	int err = loop_add_timer(d->loop, on_timer, d, &d->timer);

	d->state = DEVICE_IDLE;
	device_init_links(d);
	if (!err)
		err = loop_add_timer(d->loop, device_on_spare_timer, d, &d->spare_timer);
	if (!err)
		err = loop_add_timer(d->loop, device_on_trial_timer, d, &d->trial_timer);
	for (size_t i = 0; !err && i < KEEPER_SLOTS && !d->external; i++)
		err = init_slot(d, i, dir);
	if (!err)
		err = device_init_windows(d, dir, &device_child_ops);
	return err ? err : device_helper_init(d, dir);
}

void device_fini(struct device *d)
{
	for (size_t i = 0; i < KEEPER_SLOTS && !d->external; i++) {
		child_fini(&d->slot[i]);
		flight_free(d->slot[i].flight);
		device_close_fronts(d, i);
	}
	device_fini_windows(d);
	device_helper_fini(d);
	loop_del_timer(TAKE_PTR(d->timer));
	loop_del_timer(TAKE_PTR(d->spare_timer));
	loop_del_timer(TAKE_PTR(d->trial_timer));
}
