/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine that stands because a disk has no room for what its guest writes, or can't be read: the server keeps the
 * request, the vCPUs are stopped before the guest can wonder, and a person makes room and has it resumed. The request
 * is tried again first; should it fail again, the machine stands again.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"
#include "machine_priv.h"

#define ANSWER_NS (5 * NS_PER_S)

/* Whether it keeps requests until somebody resumes the machine. Only such a device's process may have it stand. */
static bool keeps_requests(const struct machine *m, const struct device *d)
{
	const struct vmconf_device *conf = &m->conf->device[d - m->device];

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

void machine_io_error(void *arg, struct device *d, const char *text)
{
	struct machine *m = arg;
	char line[sizeof(m->io_error)];

	snprintf(line, sizeof(line), "%s: %s", d->id, text);
	logs_plain(line);
	text = line + strlen(d->id) + 2;
	if (!keeps_requests(m, d)) {
		say_debug("%s: speaks of an I/O error, which it is not to: %s", d->id, text);
		return;
	}
	if (strcmp(line, m->io_error) != 0) {
		memcpy(m->io_error, line, sizeof(line));
		say_warn("%s; the machine stands until bulkhead ctl %s resume", m->io_error, m->conf->name);
		machine_publish(m, d->id, "io-error", "%s", text);
	}
	machine_resumed(m);
}

static void on_told(void *arg, int err, const struct bus_msg *reply)
{
	const struct device *d = arg;

	(void)reply;
	/* One that died has a successor, which tries what it finds anyway. */
	if (err)
		say_debug("%s: not told to try again: %s", d->id, strerror(-err));
}

void machine_retry(struct machine *m)
{
	struct bus_msg msg = { .type = BUS_SET, .set = { .key = "retry", .value = "now" } };

	*m->io_error = '\0';
	for (size_t i = 0; i < m->ndevices; i++) {
		struct device *d = &m->device[i];
		struct child *c = &d->slot[d->active];

		if (keeps_requests(m, d) && c->state == CHILD_READY && !c->adopted)
			bus_request(c->bus, &msg, ANSWER_NS, on_told, d);
	}
}
