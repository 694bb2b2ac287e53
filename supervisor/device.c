/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device. Theory of operation: once its process was reaped (child.c), a new socketpair is made, the successor
 * started, and the core given its end. The device is up when its process has said READY and the core has said
 * DEVICE_UP. A death leads to a restart, at once or after a back-off if the process hardly served, until there were too
 * many in too short a time.
 */
#include "device.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "num.h"

#define BACKOFF_FIRST_NS (50 * NS_PER_MS)
#define BACKOFF_MAX_NS   NS_PER_S
#define LONG_LIFE_NS     NS_PER_S /* of service, after which a death is not taken for the same fault again */
#define STATUS_WRONG     2        /* exit status of a process that refuses its options */

static double ms(uint64_t from, uint64_t to)
{
	return from && to > from ? (double)(to - from) / (double)NS_PER_MS : 0.0;
}

static const char *state_name(const struct device *d)
{
	static const char *const names[] = {
		[DEVICE_IDLE] = "idle",         [DEVICE_STARTING] = "starting", [DEVICE_UP] = "up",
		[DEVICE_STOPPING] = "stopping", [DEVICE_WAITING] = "waiting",   [DEVICE_FAILED] = "failed",
	};
	return names[d->state];
}

/* ---- becoming up ---- */

static void report_start(struct device *d)
{
	const struct device_times *t = &d->now;

	if (!d->recovering) {
		say_info("%s is up in %.1f ms", d->id, ms(t->begun, MAX(t->linked, t->ready)));
		return;
	}
	d->last = *t;
	if (d->external) {
		say_info("%s is back after %.1f ms", d->id, ms(t->sign, MAX(t->linked, t->ready)));
		return;
	}
	say_info("%s is back after %.1f ms: detect %.1f, reap %.1f, wait %.1f, spawn %.1f, hello %.1f, "
		 "handshake %.1f, ready %.1f",
		 d->id, ms(t->sign, MAX(t->linked, t->ready)), ms(t->sign, t->noticed),
		 ms(t->noticed, t->reaped), ms(t->reaped, t->begun), ms(t->begun, t->spawned),
		 ms(t->spawned, t->hello), ms(t->hello, t->linked), ms(t->hello, t->ready));
}

static void check_up(struct device *d)
{
	if (d->state != DEVICE_STARTING || !d->linked || !d->now.ready)
		return;
	d->state = DEVICE_UP;
	d->served = true;
	d->absences = 0;
	loop_disarm_timer(d->timer);
	report_start(d);
	d->recovering = false;
	d->now.sign = 0; /* that was its predecessor's; there is none of its own yet */
	d->ops->up(d->arg, d);
}

void device_linked(struct device *d)
{
	if (d->state != DEVICE_STARTING || d->linked)
		return;
	d->linked = true;
	d->now.linked = clock_ns();
	if (d->external)
		d->now.ready = d->now.linked;
	check_up(d);
}

static void on_ready(void *arg, struct child *child)
{
	struct device *d = arg;

	d->now.spawned = child->times.spawned;
	d->now.hello = child->times.hello;
	d->now.ready = child->times.ready;
	check_up(d);
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

static void start_later(struct device *d)
{
	uint64_t wait = 0;

	if (d->short_lives > 1)
		wait = MIN(BACKOFF_FIRST_NS << MIN(d->short_lives - 2, 10U), BACKOFF_MAX_NS);
	d->state = DEVICE_WAITING;
	loop_arm_timer(d->timer, clock_ns() + wait);
}

/* It is gone and reaped: starts it again, now or later, or gives it up. */
static void after_death(struct device *d, bool wrong)
{
	/* Somebody else's back end that is not back yet does not die by that; it may stay away as long as it likes. */
	bool absent = d->external && d->served && !d->now.hello;
	bool short_life = !d->now.ready || clock_ns() - d->now.ready < LONG_LIFE_NS;

	d->short_lives = short_life ? d->short_lives + 1 : 0;
	if (wrong || (!absent && too_many(d))) {
		d->state = DEVICE_FAILED;
		loop_disarm_timer(d->timer);
		if (!wrong)
			say_error("%s: given up, it died more than %u times in %u s; the guest's requests to "
				  "it wait for ever",
				  d->id, d->policy.restarts, d->policy.restarts_s);
		d->ops->given_up(d->arg, d, wrong);
		return;
	}
	d->nrestarts++;
	d->recovering = true;
	start_later(d);
}

/* The beginning of an outage is whatever told us first. */
static void take_death_times(struct device *d, const struct child_times *t)
{
	d->now.noticed = t->noticed;
	d->now.reaped = t->reaped;
	if (t->sign && (!d->now.sign || t->sign < d->now.sign))
		d->now.sign = t->sign;
	if (!d->now.sign)
		d->now.sign = t->noticed;
}

static void on_died(void *arg, struct child *child, const struct child_death *death)
{
	struct device *d = arg;
	bool refused = death->code == CLD_EXITED && death->status == STATUS_WRONG;

	take_death_times(d, &child->times);
	if (death->by_order) {
		d->state = DEVICE_IDLE;
		loop_disarm_timer(d->timer);
		d->ops->ended(d->arg, d);
		return;
	}
	after_death(d, refused && !d->nrestarts && !child->times.ready);
}

void device_unlinked(struct device *d, const char *reason)
{
	bool was = d->linked;

	if (!d->now.sign || d->state == DEVICE_UP)
		d->now.sign = clock_ns();
	d->linked = false;
	if (d->external && (d->state == DEVICE_UP || d->state == DEVICE_STARTING)) {
		if (d->state == DEVICE_UP)
			say_warn("%s: the back end is gone: %s", d->id, reason);
		d->now.noticed = d->now.reaped = clock_ns();
		after_death(d, false);
		return;
	}
	/*
	 * For one that is still starting this may be about its predecessor, whose end the core saw later than we did; if
	 * it is about this one, the deadline of its start will tell.
	 */
	if (was && d->state == DEVICE_UP)
		child_kill(&d->child, reason);
}

/* ---- starting ---- */

static void start_failed(struct device *d)
{
	d->now.noticed = d->now.reaped = clock_ns();
	after_death(d, false);
}

static void start_process(struct device *d)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		say_error_errno(errno, "%s: can't make its socket", d->id);
		start_failed(d);
		return;
	}
	if (child_start(&d->child, &pair[1], 1))
		start_failed(d);
	else if (d->ops->hand_over(d->arg, d, pair[0]))
		child_kill(&d->child, "the core takes no descriptor");
	close(pair[0]);
	close(pair[1]);
}

static void start_external(struct device *d)
{
	CLEAN_FD int fd = keeper_connect(d->keeper, d->index);
	int err = fd < 0 ? fd : d->ops->hand_over(d->arg, d, fd);

	if (!err) {
		d->now.spawned = d->now.hello = clock_ns();
		return;
	}
	if (!d->absences++)
		say_warn_errno(err, "%s: can't connect to the back end", d->id);
	start_failed(d);
}

static void start(struct device *d)
{
	struct device_times before = d->now;

	d->now = (struct device_times) { .begun = clock_ns() };
	if (d->recovering) {
		d->now.sign = before.sign;
		d->now.noticed = before.noticed;
		d->now.reaped = before.reaped;
	}
	d->linked = false;
	d->state = DEVICE_STARTING;
	loop_arm_timer(d->timer, d->now.begun + d->policy.start_ns);
	if (d->external)
		start_external(d);
	else
		start_process(d);
}

static void on_timer(void *arg)
{
	struct device *d = arg;

	if (d->state == DEVICE_WAITING)
		start(d);
	else if (d->state == DEVICE_STARTING && d->external)
		after_death(d, false);
	else if (d->state == DEVICE_STARTING && d->child.state == CHILD_READY)
		child_kill(&d->child, "the core did not take it up in time");
}

void device_start(struct device *d)
{
	d->ndeaths = 0;
	d->short_lives = d->absences = 0;
	d->recovering = d->served = false;
	memset(&d->now, 0, sizeof(d->now));
	start(d);
}

/* ---- ending ---- */

void device_stop(struct device *d, uint64_t deadline_ns)
{
	loop_disarm_timer(d->timer);
	d->state = DEVICE_STOPPING;
	if (!d->external && child_stop(&d->child, deadline_ns))
		return;
	d->state = DEVICE_IDLE;
	d->ops->ended(d->arg, d);
}

/* ---- status ---- */

json_t *device_child_json(const char *id, const char *process, const char *state, const struct child *child)
{
	struct bus_counters counters = { 0 };

	if (child && child->bus)
		bus_get_counters(child->bus, &counters);
	return json_pack("{s:s, s:s, s:s, s:i, s:I, s:I}", "id", id, "process", process, "state", state,
			 "pid", child && child->pidfd >= 0 ? (int)child->pid : 0, "malformed_messages",
			 (json_int_t)counters.malformed, "refused_peers", (json_int_t)counters.refused_peers);
}

/* What the last recovery took, step by step, in ms; null if there was none. */
static json_t *recovery_json(const struct device *d)
{
	const struct device_times *t = &d->last;

	if (!t->sign)
		return json_null();
	return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "total",
			 ms(t->sign, MAX(t->linked, t->ready)), "detect", ms(t->sign, t->noticed), "reap",
			 ms(t->noticed, t->reaped), "wait", ms(t->reaped, t->begun), "spawn",
			 ms(t->begun, t->spawned), "hello", ms(t->spawned, t->hello), "handshake",
			 ms(t->hello, t->linked), "ready", ms(t->hello, t->ready));
}

json_t *device_json(const struct device *d)
{
	json_t *json = device_child_json(d->id, d->process, state_name(d), d->external ? NULL : &d->child);

	json_object_set_new(json, "restarts", json_integer((json_int_t)d->nrestarts));
	json_object_set_new(json, "last_recovery_ms", recovery_json(d));
	return json;
}

/* ---- the whole ---- */

static void on_message(void *arg, struct child *child, const struct bus_msg *msg)
{
	(void)arg;
	say_debug("%s: message %d is not for the supervisor", child->id, (int)msg->type);
}

static const struct child_ops device_child_ops = {
	.ready = on_ready,
	.died = on_died,
	.message = on_message,
};

int device_init(struct device *d, const char *bus_path)
{
	struct child *c = &d->child;
	int err = loop_add_timer(d->loop, on_timer, d, &d->timer);

	d->state = DEVICE_IDLE;
	if (err || d->external)
		return err;
	c->loop = d->loop;
	c->keeper = d->keeper;
	c->ops = &device_child_ops;
	c->arg = d;
	c->index = d->index;
	c->process = d->process;
	c->kind = "blk";
	c->device = d->id;
	memcpy(c->id, d->id, sizeof(c->id));
	c->start_ns = d->policy.start_ns;
	return child_init(c, bus_path);
}

void device_fini(struct device *d)
{
	if (!d->external)
		child_fini(&d->child);
	loop_del_timer(TAKE_PTR(d->timer));
}
