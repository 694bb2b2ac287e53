/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long a device was away, step by step: detect (from the first sign to the pidfd), reap, then either wait (the
 * back-off), spawn, hello, handshake and ready of a new process or take and handshake of a spare; and, if the rings were
 * live, replay (of what was in flight) and first completion as the new process tells them.
 */
#include "device_priv.h"
#include "num.h"

static uint64_t end_of(const struct device_times *t)
{
	return MAX(t->linked, t->ready);
}

static void log_recovery(const struct device *d, const struct device_times *t)
{
	double total = device_ms(t->sign, end_of(t)), detect = device_ms(t->sign, t->noticed);
	double reap = device_ms(t->noticed, t->reaped);

	if (d->external)
		say_info("%s is back after %.1f ms", d->id, total);
	else if (t->warm)
		say_info("%s is back after %.1f ms by its spare: detect %.1f, reap %.1f, take %.1f, "
			 "handshake %.1f",
			 d->id, total, detect, reap, device_ms(t->reaped, t->given),
			 device_ms(t->given, t->linked));
	else
		say_info(
		    "%s is back after %.1f ms: detect %.1f, reap %.1f, wait %.1f, spawn %.1f, hello %.1f, "
		    "handshake %.1f, ready %.1f",
		    d->id, total, detect, reap, device_ms(t->reaped, t->begun),
		    device_ms(t->begun, t->spawned), device_ms(t->spawned, t->hello),
		    device_ms(t->hello, t->linked), device_ms(t->hello, t->ready));
}

static void log_replay(const struct device *d, const struct device_times *t)
{
	say_info(
	    "%s took up its rings: %u requests again, %u of them failed as poisoned; replay %.1f ms, first "
	    "completion %.1f ms",
	    d->id, t->resubmitted, t->poisoned, device_ms(t->rings, t->replayed),
	    device_ms(t->rings, t->first));
	if (t->poisoned)
		d->ops->event(d->arg, d, "device-poisoned", "requests that processes died of were failed");
}

void device_report_start(struct device *d)
{
	const struct device_times *t = &d->now;

	if (!t->resumed)
		d->now.rings = 0; /* that was for a driver that has only begun */
	if (d->upgrade.step == UPGRADE_LINKING && !device_upgrade_in_place(d))
		return; /* that is reported otherwise */
	if (!d->recovering) {
		say_info("%s is up in %.1f ms", d->id, device_ms(t->begun, end_of(t)));
		return;
	}
	d->last = *t;
	log_recovery(d, t);
	if (t->rings && device_all_told(d))
		log_replay(d, t);
}

/* Is it possible that the process did this then? It must not make us report nonsense. 0: it had nothing to do. */
static bool is_plausible(uint64_t at, uint64_t from, uint64_t now)
{
	return !at || (at >= from && at <= now);
}

void device_recovered(struct device *d, const struct bus_msg *msg)
{
	uint64_t rings = msg->recovered.start_ns, now = clock_ns();
	struct device_times *t = &d->now;
	struct device_link *l = device_find_link(d, msg->recovered.device);

	/* It is said again on each new connection, and of each start by a driver; the first one is what counts. */
	if (!l || l->told || (d->state == DEVICE_UP && !t->resumed))
		return;
	if (!rings || !is_plausible(rings, t->begun, now) ||
	    !is_plausible(msg->recovered.replayed_ns, rings, now) ||
	    !is_plausible(msg->recovered.first_ns, rings, now)) {
		say_warn("%s: %s says that it recovered at an impossible time", d->id, d->process);
		return;
	}
	l->told = true;
	l->resubmitted += msg->recovered.resubmitted;
	l->poisoned += msg->recovered.poisoned;
	/* Of several devices: from the first ring of all to when the last one has what it waited for. */
	t->rings = t->rings ? MIN(t->rings, rings) : rings;
	t->replayed = MAX(t->replayed, msg->recovered.replayed_ns);
	t->first = MAX(t->first, msg->recovered.first_ns);
	t->resubmitted += msg->recovered.resubmitted;
	t->poisoned += msg->recovered.poisoned;
	if (d->state != DEVICE_UP || !d->last.sign || d->last.begun != t->begun)
		return; /* to be reported when it is up; or a first start: nothing was lost */
	d->last.rings = t->rings;
	d->last.replayed = t->replayed;
	d->last.first = t->first;
	if (device_all_told(d))
		log_replay(d, t);
}

static void add(json_t *json, const char *name, uint64_t from, uint64_t to)
{
	json_object_set_new(json, name, json_real(device_ms(from, to)));
}

/* What the last recovery took, step by step, in ms; null if there was none. */
json_t *device_recovery_json(const struct device *d)
{
	const struct device_times *t = &d->last;
	json_t *json;

	if (!t->sign)
		return json_null();
	json = json_object();
	add(json, "total", t->sign, end_of(t));
	add(json, "detect", t->sign, t->noticed);
	add(json, "reap", t->noticed, t->reaped);
	if (t->warm) {
		add(json, "take", t->reaped, t->given);
		add(json, "handshake", t->given, t->linked);
	} else {
		add(json, "wait", t->reaped, t->begun);
		add(json, "spawn", t->begun, t->spawned);
		add(json, "hello", t->spawned, t->hello);
		add(json, "handshake", t->hello, t->linked);
		add(json, "ready", t->hello, t->ready);
	}
	if (t->rings) {
		add(json, "replay", t->rings, t->replayed);
		add(json, "first_completion", t->rings, t->first);
		add(json, "stall", t->sign, MAX(t->first, end_of(t)));
	}
	return json;
}

/* The id of a process, or null: 0 would be taken for one, by kill for that of everybody's own group. */
static json_t *pid_json(const struct child *child)
{
	return child && child->pidfd >= 0 ? json_integer(child->pid) : json_null();
}

json_t *device_child_json(const char *id, const char *process, const char *state, const struct child *child)
{
	/* It may not end, and not be replaced, before its storage gives back what it has of it. */
	bool there = child && child->pidfd >= 0;
	const char *killed_for = there && child->killed ? child->reason : NULL;
	struct bus_counters counters = { 0 };

	if (killed_for)
		state = "killed";
	else if (there && child->dead)
		state = "dead";
	if (child && child->bus)
		bus_get_counters(child->bus, &counters);
	return json_pack("{s:s, s:s, s:s, s:s*, s:o, s:s, s:I, s:I}", "id", id, "process", process, "state",
			 state, "killed_for", killed_for, "pid", pid_json(child), "version",
			 child ? child->version : "", "malformed_messages", (json_int_t)counters.malformed,
			 "refused_peers", (json_int_t)counters.refused_peers);
}

const char *device_child_state(const struct child *child)
{
	static const char *const names[] = {
		[CHILD_IDLE] = "idle",
		[CHILD_STARTING] = "starting",
		[CHILD_READY] = "up",
		[CHILD_STOPPING] = "stopping",
	};

	return names[child->state];
}

static const char *spare_state(const struct device *d, const struct child *spare)
{
	static const char *const names[] = {
		[CHILD_IDLE] = "none",
		[CHILD_STARTING] = "starting",
		[CHILD_READY] = "ready",
		[CHILD_STOPPING] = "stopping",
	};

	if (spare->state == CHILD_IDLE && !d->policy.spare)
		return "off";
	return names[spare->state];
}

/* What its process says of storage that is away, in words that it can spoil: since when, and how many requests wait for it. */
static json_t *away_json(const struct device_link *l, const struct child *active)
{
	unsigned all = active->flight ? flight_queues(active->flight) : 0;
	uint64_t now = clock_ns(), since = now, requests = 0;
	const struct device *d = l->device;
	json_t *json;

	for (unsigned i = l->first_ring; i < MIN(l->first_ring + l->rings, all); i++) {
		const struct flight_queue *q = flight_queue(active->flight, i);
		uint64_t from = flight_get(&q->since);

		if (!from)
			continue;
		since = MIN(since, from);
		requests += flight_get(&q->held);
	}
	if (since == now)
		return NULL;
	json = json_pack("{s:s, s:f}", "what", d->helper.process ? "NBD server" : "predecessor", "for_s",
			 (double)(now - since) / (double)NS_PER_S);
	/* In the other case nothing is taken off the rings. */
	if (d->helper.process)
		json_object_set_new(json, "requests", json_integer((json_int_t)(requests & INT32_MAX)));
	return json;
}

static json_t *group_json(const struct device_group *group)
{
	return json_pack("{s:s, s:o}", "id", group->id, "limits", device_limits_json(group->set));
}

/* The same while it opens its storage. */
static json_t *opening_json(const struct device_link *l)
{
	uint64_t now = clock_ns(), since = MIN(device_waits_since(l->device), now);

	return json_pack("{s:s, s:s?, s:f}", "what", "storage", "name", l->storage, "for_s",
			 (double)(now - since) / (double)NS_PER_S);
}

json_t *device_json(const struct device_link *l)
{
	const struct device *d = l->device;
	const struct child *active = d->external ? NULL : &d->slot[d->active];
	const struct child *spare = d->external ? NULL : &d->slot[device_other(d)];
	json_t *json = device_child_json(l->id, d->process, device_state_name(d), active);
	json_t *away = active && active->state == CHILD_READY ? away_json(l, active) : NULL;

	if (device_waits_since(d))
		away = opening_json(l);
	if (d->shared)
		json_object_set_new(json, "server", json_string(d->id));
	if (away)
		json_object_set_new(json, "away", away);
	json_object_set_new(json, "restarts", json_integer((json_int_t)d->nrestarts));
	json_object_set_new(json, "refuses_writes", json_boolean(d->restricted));
	if (d->engine)
		json_object_set_new(json, "engine", json_string(d->engine));
	if (active)
		json_object_set_new(json, "limits", device_limits_json(l->set));
	if (l->group)
		json_object_set_new(json, "group", group_json(l->group));
	if (active && device_network_link(l))
		json_object_set_new(json, "link", json_string(device_network_link(l)));
	if (spare) {
		json_object_set_new(json, "spare", json_string(spare_state(d, spare)));
		json_object_set_new(json, "spare_pid", pid_json(spare));
	}
	if (*d->last_death)
		json_object_set_new(json, "last_death", json_string(d->last_death));
	json_object_set_new(json, "resubmitted", json_integer((json_int_t)l->resubmitted));
	json_object_set_new(json, "poisoned", json_integer((json_int_t)l->poisoned));
	if (d->last.sign)
		json_object_set_new(json, "last_recovery_by", json_string(d->last.warm ? "spare" : "start"));
	json_object_set_new(json, "last_recovery_ms", device_recovery_json(d));
	if (d->helper.process)
		json_object_set_new(json, "helper", device_helper_json(d));
	if (d->windowed)
		json_object_set_new(json, "window", device_window_json(d));
	return json;
}
