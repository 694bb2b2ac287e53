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

static void pause_for(struct machine *m)
{
	m->wanted = BUS_PAUSE;
	ctl_ask_again(m);
}

void machine_io_error(void *arg, struct device *d, const char *text)
{
	struct machine *m = arg;

	snprintf(m->io_error, sizeof(m->io_error), "%s: %s", d->id, text);
	say_warn("%s; the machine stands until bulkhead ctl %s resume", m->io_error, m->conf->name);
	machine_publish(m, d->id, "io-error", "%s", text);
	if (m->state == MACHINE_RUNNING && !m->wanted)
		pause_for(m);
}

void machine_resumed(struct machine *m)
{
	if (*m->io_error && m->state == MACHINE_RUNNING && !m->wanted)
		pause_for(m);
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
		enum vmconf_on_error policy = m->conf->device[i].disk.on_error;

		if (policy != ERROR_STOP && policy != ERROR_ENOSPC)
			continue;
		if (c->state == CHILD_READY && !c->adopted)
			bus_request(c->bus, &msg, ANSWER_NS, on_told, d);
	}
}
