/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine that stands because a disk has no room for what its guest writes, or can't be read: the server keeps the
 * request, the vCPUs are stopped before the guest can wonder, and a person makes room and has it resumed. The request
 * is tried again first; should it fail again, the machine stands again.
 *
 * A port's server says in the same way that its tap is gone. That is shown, and the machine runs on.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clean.h"
#include "machine.h"
#include "machine_priv.h"

#define ANSWER_NS (5 * NS_PER_S)

/* Whether it keeps requests until somebody resumes the machine. Only such a device's process may have it stand. */
static bool keeps_requests(const struct machine *m, const struct device_link *l)
{
	const struct vmconf_device *conf = &m->conf->device[l->conf];

	return conf->kind == KIND_DISK &&
	       (conf->disk.on_error == ERROR_STOP || conf->disk.on_error == ERROR_ENOSPC);
}

void machine_resumed(struct machine *m)
{
	/* A guest that was asked to power off needs its processors for that. */
	if (!*m->io_error || m->state != MACHINE_RUNNING || m->wanted || m->asked)
		return;
	m->wanted = BUS_PAUSE;
	ctl_ask_again(m);
}

static bool has_tap(const struct machine *m, const struct device_link *l)
{
	const struct vmconf_device *conf = &m->conf->device[l->conf];

	return conf->kind == KIND_NET && *conf->net.tap;
}

/* All processes of a port have the same queues of its tap, so it is not there for a successor either. Each says it. */
static void lose_link(struct machine *m, struct device_link *l, const char *text)
{
	if (l->lost)
		return;
	l->lost = true;
	machine_publish(m, l->id, "link-lost", "%s", text);
}

void machine_io_error(void *arg, struct device_link *l, const char *text)
{
	struct machine *m = arg;
	char line[sizeof(m->io_error)];

	snprintf(line, sizeof(line), "%s: %s", l->id, text);
	logs_plain(line);
	text = line + strlen(l->id) + 2;
	if (has_tap(m, l)) {
		lose_link(m, l, text);
		return;
	}
	if (!keeps_requests(m, l)) {
		say_debug("%s: speaks of an I/O error, which it is not to: %s", l->id, text);
		return;
	}
	if (strcmp(line, m->io_error) != 0) {
		memcpy(m->io_error, line, sizeof(line));
		say_warn("%s; the machine stands until bulkhead ctl %s resume", m->io_error, m->conf->name);
		machine_publish(m, l->id, "io-error", "%s", text);
	}
	machine_resumed(m);
}

void machine_runs_on(struct machine *m, const char *why)
{
	if (!*m->io_error)
		return; /* whoever asked for a pause is gone */
	say_error("%s: the machine could not be stopped, and may see how long it waits: %s", m->io_error,
		  why);
	machine_publish(m, "machine", "not-paused", "%s", why);
}

static void not_told(struct machine *m, const struct device_link *l, const char *why)
{
	say_warn("%s: not told to try again what it keeps: %s; bulkhead ctl %s resume does it again", l->id,
		 why, m->conf->name);
	machine_publish(m, l->id, "not-retried", "%s", why);
}

/* A disk that was told to try again. */
struct told {
	struct machine *machine;
	const struct device_link *link;
};

static void on_told(void *arg, int err, const struct bus_msg *reply)
{
	CLEAN_FREE struct told *t = arg;

	/* One that died has a successor, which tries what it finds anyway. */
	if (err && err != -EPIPE && err != -ECANCELED)
		not_told(t->machine, t->link, reply ? reply->error.text : strerror(-err));
}

static void tell(struct machine *m, struct device_link *l)
{
	struct device *d = l->device;
	struct bus_msg msg = { .type = BUS_SET, .set = { .key = "retry", .value = "now" } };
	struct told *t = calloc(1, sizeof(*t));
	int err = -ENOMEM;

	snprintf(msg.set.device, sizeof(msg.set.device), "%s", device_link_name(l));
	if (t) {
		*t = (struct told) { .machine = m, .link = l };
		err = bus_request(d->slot[d->active].bus, &msg, ANSWER_NS, on_told, t);
	}
	if (!err)
		return;
	free(t);
	not_told(m, l, strerror(-err));
}

void machine_retry(struct machine *m)
{
	*m->io_error = '\0';
	for (size_t i = 0; i < m->ndevices; i++) {
		struct device *d = &m->device[i];
		const struct child *c = &d->slot[d->active];

		for (size_t l = 0; l < d->links && c->state == CHILD_READY && !c->adopted; l++)
			if (keeps_requests(m, &d->link[l]))
				tell(m, &d->link[l]);
	}
}
