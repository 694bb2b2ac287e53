/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What holds for a device: the limits and a port's link, as options or a person said, or as they are if nobody said anything.
 * Its server keeps that for its successors, but in memory that it can write itself (lib/state): so each successor of a port's is
 * told all of it once more, by who was asked. A disk is another matter: its size is in the image, and its limits harm nobody
 * but itself or those who share them in that very memory; they are noted for people.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clean.h"
#include "device_priv.h"
#include "num.h"
#include "quota.h"
#include "vmconf.h"

#define ANSWER_NS (5 * NS_PER_S)

static bool is_limit(const char *key)
{
	for (size_t i = 0; i < QUOTA_KEYS; i++)
		if (!strcmp(key, quota_names[i]))
			return true;
	for (size_t i = 0; i < LIMITS; i++)
		if (!strcmp(key, vmconf_limit_names[i]))
			return true;
	return false;
}

void device_note_set(struct device_set *set, const char *key, const char *value)
{
	struct device_set *s = set;

	/* The others ask for something to be done, which is over then. */
	if ((!is_limit(key) && strcmp(key, "link")) || strlen(key) >= sizeof(s->key) ||
	    strlen(value) >= sizeof(s->value))
		return;
	while (s < set + DEVICE_SETS_MAX && *s->key && strcmp(s->key, key))
		s++;
	if (s == set + DEVICE_SETS_MAX)
		return; /* no kind of device has so many */
	memcpy(s->key, key, strlen(key) + 1);
	memcpy(s->value, value, strlen(value) + 1);
}

json_t *device_limits_json(const struct device_set *set)
{
	json_t *limits = json_object();

	for (const struct device_set *s = set; s < set + DEVICE_SETS_MAX && *s->key; s++)
		if (is_limit(s->key) && strcmp(s->value, "0"))
			json_object_set_new(limits, s->key, json_string(s->value));
	return limits;
}

const char *device_network_link(const struct device_link *l)
{
	if (l->lost)
		return "gone";
	for (const struct device_set *s = l->set; s < l->set + DEVICE_SETS_MAX && *s->key; s++)
		if (!strcmp(s->key, "link"))
			return s->value;
	return NULL;
}

struct repeated {
	const struct device *device;
	char key[BUS_NAME_MAX];
};

static void on_repeated(void *arg, int err, const struct bus_msg *reply)
{
	CLEAN_FREE struct repeated *r = arg;

	(void)reply;
	/* One that left is told of as a death; a link that nobody is at the other end of comes up when somebody is, if ever. */
	if (err && err != -EPIPE && err != -ECANCELED && err != -ENOTCONN)
		say_warn_errno(err, "%s: its new process does not take the %s that was set", r->device->id,
			       r->key);
}

void device_repeat_sets(struct device *d)
{
	bool port = !strcmp(d->kind, "net");
	struct child *child = device_active(d);
	struct device_set *set = d->link[0].set;

	for (struct device_set *s = set; port && s < set + DEVICE_SETS_MAX && *s->key; s++) {
		struct repeated *r = calloc(1, sizeof(*r));
		struct bus_msg msg = { .type = BUS_SET };
		int err = -ENOMEM;

		memcpy(msg.set.key, s->key, sizeof(s->key));
		memcpy(msg.set.value, s->value, sizeof(s->value));
		if (r) {
			r->device = d;
			memcpy(r->key, s->key, sizeof(r->key));
			err = bus_request(child->bus, &msg, ANSWER_NS, on_repeated, r);
		}
		if (!err)
			continue;
		say_warn_errno(err, "%s: its new process is not told of the %s that was set", d->id, s->key);
		free(r);
	}
}
