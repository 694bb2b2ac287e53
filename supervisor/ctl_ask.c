/* SPDX-License-Identifier: Apache-2.0 */
/* What `bulkhead ctl` passes on to a process: a change of a device's properties, and its counters. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clean.h"
#include "machine.h"
#include "machine_priv.h"

#define ANSWER_NS (5 * NS_PER_S)

static void refuse(struct bus_ctl_request *req, int err, const struct bus_msg *reply)
{
	char text[BUS_TEXT_MAX];

	if (reply && *reply->error.text)
		snprintf(text, sizeof(text), "%s", reply->error.text);
	else
		snprintf(text, sizeof(text), "the process does not answer: %s", strerror(-err));
	bus_ctl_refuse(req, err, text);
}

struct child *ctl_find_child(struct machine *m, const char *id)
{
	struct device *d = machine_device(m, id), *helped = machine_helped(m, id);
	struct device *windowed = machine_windowed(m, id);

	if (d)
		return d->external ? NULL : &d->slot[d->active];
	if (helped)
		return &helped->helper.child;
	if (windowed)
		return &windowed->window[windowed->active];
	return strcmp(id, "core") ? NULL : &m->core;
}

/* A device or a helper that stays away until somebody revives it. */
static bool is_given_up(struct machine *m, const char *id)
{
	const struct device *d = machine_device(m, id), *helped = machine_helped(m, id);

	return d ? d->state == DEVICE_FAILED : helped && helped->helper.failed;
}

/* What is asked of it can't be had at the moment, or before something is done for it. */
static void refuse_away(struct machine *m, struct bus_ctl_request *req, const char *id)
{
	char text[BUS_TEXT_MAX];

	if (!is_given_up(m, id)) {
		bus_ctl_refuse(req, -EAGAIN, "its process does not serve at the moment; try again");
		return;
	}
	snprintf(text, sizeof(text), "%s was given up; revive it first: bulkhead ctl %s revive %s", id,
		 m->conf->name, id);
	bus_ctl_refuse(req, -ENODEV, text);
}

void ctl_ask(struct ctl_question *q, struct child *child, const struct bus_msg *msg, uint64_t timeout_ns,
	     bus_reply_fn fn)
{
	int err = -EAGAIN;

	if (child->state == CHILD_READY && !child->adopted)
		err = bus_request(child->bus, msg, timeout_ns, fn, q);
	if (!err)
		return;
	refuse_away(q->machine, q->req, q->id);
	free(q);
}

struct ctl_question *ctl_new_question(struct machine *m, struct bus_ctl_request *req, const char *id)
{
	struct ctl_question *q = calloc(1, sizeof(*q));

	if (!q) {
		bus_ctl_refuse(req, -ENOMEM, "out of memory");
		return NULL;
	}
	q->machine = m;
	q->req = req;
	snprintf(q->id, sizeof(q->id), "%s", id);
	return q;
}

/* ---- set ---- */

void ctl_on_changed(void *arg, int err, const struct bus_msg *reply)
{
	CLEAN_FREE struct ctl_question *q = arg;
	char key[BUS_NAME_MAX];

	snprintf(key, sizeof(key), "%.*s", (int)strcspn(q->change, "="), q->change);
	/* A link that nobody is at the other end of comes up when somebody is. */
	if (q->set && (!err || err == -ENOTCONN))
		device_note_set(q->set, key, strchr(q->change, '=') + 1);
	if (err) {
		refuse(q->req, err, reply);
		return;
	}
	say_info("%s: %s on request", q->id, q->change);
	machine_publish(q->machine, q->id, "device-changed", "%s", q->change);
	bus_ctl_answer(q->req, NULL);
}

/* The device of that id, if it has a server of ours; else req is answered. */
static struct device_link *find_ours(struct machine *m, struct bus_ctl_request *req, const char *id)
{
	struct device_link *l = machine_link(m, id);

	if (!l)
		bus_ctl_refuse(req, -ENOENT,
			       !strcmp(id, "core") || machine_helped(m, id)
				   ? "it is a process of the machine's, and no device; status lists all"
				   : "there is no such device; status lists all");
	else if (l->device->external)
		bus_ctl_refuse(req, -EOPNOTSUPP, "its back end is run by somebody else");
	return l && !l->device->external ? l : NULL;
}

void ctl_resize(struct machine *m, struct bus_ctl_request *req, const char *const *argv)
{
	struct bus_msg msg = { .type = BUS_SET, .set.key = "size" };
	const struct device_link *l = find_ours(m, req, argv[0]);
	struct ctl_question *q;

	if (!l)
		return;
	if (strlen(argv[1]) >= sizeof(msg.set.value)) {
		bus_ctl_refuse(req, -EINVAL, "it is no size");
		return;
	}
	q = ctl_new_question(m, req, argv[0]);
	if (!q)
		return;
	snprintf(q->change, sizeof(q->change), "size=%s", argv[1]);
	snprintf(msg.set.device, sizeof(msg.set.device), "%s", device_link_name(l));
	snprintf(msg.set.value, sizeof(msg.set.value), "%s", argv[1]);
	ctl_ask(q, ctl_find_child(m, argv[0]), &msg, ANSWER_NS, ctl_on_changed);
}

#define GROUP "group:"

/* A disk of the group whose server serves, to be asked for all of them: they share the memory. */
static const char *find_member(struct machine *m, struct bus_ctl_request *req, const char *group)
{
	const char *away = NULL; /* one of them; one that comes back by itself if there is such */

	for (size_t i = 0; i < m->conf->ndevices; i++) {
		const char *id = m->conf->device[i].id;
		const struct child *c;

		if (!*group || strcmp(m->conf->device[i].disk.group, group))
			continue;
		c = ctl_find_child(m, id);
		if (!away || is_given_up(m, away))
			away = id;
		if (c && c->state == CHILD_READY && !c->adopted)
			return id;
	}
	if (away)
		refuse_away(m, req, away);
	else
		bus_ctl_refuse(req, -ENOENT, "there is no disk in such a group");
	return NULL;
}

void ctl_set(struct machine *m, struct bus_ctl_request *req, const char *const *argv)
{
	const char *equals = strchr(argv[1], '='), *id = argv[0];
	bool group = !strncmp(id, GROUP, strlen(GROUP));
	struct bus_msg msg = { .type = BUS_SET };
	struct device_link *l = NULL;
	struct ctl_question *q;

	if (group)
		id = find_member(m, req, id + strlen(GROUP));
	if (id)
		l = find_ours(m, req, id);
	if (!l)
		return;
	if (!equals || equals == argv[1] || (size_t)(equals - argv[1]) >= sizeof(msg.set.key) ||
	    strlen(equals + 1) >= sizeof(msg.set.value)) {
		bus_ctl_refuse(req, -EINVAL, "it is not KEY=VALUE");
		return;
	}
	q = ctl_new_question(m, req, argv[0]);
	if (!q)
		return;
	q->set = group ? l->group->set : l->set;
	snprintf(msg.set.device, sizeof(msg.set.device), "%s", device_link_name(l));
	snprintf(q->change, sizeof(q->change), "%s", argv[1]);
	if (snprintf(msg.set.key, sizeof(msg.set.key), "%s%.*s", group ? "group-" : "",
		     (int)(equals - argv[1]), argv[1]) >= (int)sizeof(msg.set.key)) {
		bus_ctl_refuse(req, -EINVAL, "it has no such key");
		free(q);
		return;
	}
	snprintf(msg.set.value, sizeof(msg.set.value), "%s", equals + 1);
	ctl_ask(q, ctl_find_child(m, id), &msg, ANSWER_NS, ctl_on_changed);
}

/* ---- stats ---- */

static void on_stats(void *arg, int err, const struct bus_msg *reply)
{
	CLEAN_FREE struct ctl_question *q = arg;
	CLEAN_FREE char *text = NULL;
	json_t *json;

	if (err) {
		refuse(q->req, err, reply);
		return;
	}
	json = json_object();
	for (uint32_t i = 0; i < reply->stats.count; i++)
		json_object_set_new(json, reply->stats.stat[i].name,
				    json_integer((json_int_t)reply->stats.stat[i].value));
	text = json_dumps(json, JSON_COMPACT);
	json_decref(json);
	if (text)
		bus_ctl_answer(q->req, text);
	else
		bus_ctl_refuse(q->req, -ENOMEM, "the counters can't be put into words");
}

void ctl_stats(struct machine *m, struct bus_ctl_request *req, const char *const *argv)
{
	struct child *child = ctl_find_child(m, argv[0]);
	const struct device_link *l = machine_link(m, argv[0]);
	const struct device *d = machine_device(m, argv[0]);
	struct bus_msg msg = { .type = BUS_GET_STATS };
	struct ctl_question *q;

	if (!child || (d && !l && d->links > 1)) {
		bus_ctl_refuse(req, -ENOENT,
			       child ? "it serves several devices; each of them has its own"
				     : "there is no process of ours by that id; status lists all");
		return;
	}
	if (l)
		snprintf(msg.get_stats.device, sizeof(msg.get_stats.device), "%s", device_link_name(l));
	q = ctl_new_question(m, req, argv[0]);
	if (q)
		ctl_ask(q, child, &msg, ANSWER_NS, on_stats);
}
