/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor's end of a control bus. */
#include "supervise.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bus_end.h"
#include "clock.h"
#include "sandbox.h"
#include "temp_dir.h"

static void on_message(void *arg, const struct bus_msg *msg)
{
	struct supervisor *s = arg;

	if (msg->type == BUS_HELLO) {
		s->hello = true;
		s->first = *msg;
	} else if (msg->type == BUS_READY) {
		s->ready = true;
		s->ready_first = !s->hello;
	} else if (msg->type == BUS_RECOVERED) {
		if (s->nrecovered < SUPERVISOR_RECOVERIES_MAX)
			s->recoveries[s->nrecovered] = *msg;
		s->nrecovered++;
		s->recovered = *msg;
	} else if (msg->type == BUS_IO_ERROR) {
		s->nio_errors++;
		snprintf(s->io_error, sizeof(s->io_error), "%s", msg->io_error.text);
	}
}

void supervisor_open(struct supervisor *s)
{
	static const struct bus_ops ops = { .message = on_message,
					    .connected = bus_end_connected,
					    .malformed = bus_end_malformed };

	memset(s, 0, sizeof(*s));
	s->reply = calloc(1, sizeof(*s->reply));
	cr_assert_not_null(s->reply);
	cr_assert(temp_dir_make(s->dir, sizeof(s->dir)));
	snprintf(s->socket, sizeof(s->socket), "%s/bus", s->dir);
	cr_assert_eq(loop_new("supervisor", &s->loop), 0);
	cr_assert_eq(bus_listen(s->loop, s->socket, getpid(), &ops, s, &s->bus), 0);
	if (geteuid() == 0) {
		cr_assert_eq(chown(s->dir, SANDBOX_NOBODY, SANDBOX_NOBODY), 0);
		cr_assert_eq(chown(s->socket, SANDBOX_NOBODY, SANDBOX_NOBODY), 0);
	}
}

void supervisor_expect(struct supervisor *s, struct rig *rig)
{
	s->rig = rig;
	s->hello = s->ready = false;
	bus_expect(s->bus, rig->pid);
	supervisor_until(s, s->ready);
}

void supervisor_close(struct supervisor *s)
{
	bus_close(s->bus);
	loop_free(s->loop);
	unlink(s->socket);
	rmdir(s->dir);
	free(s->reply);
}

static void on_reply(void *arg, int err, const struct bus_msg *reply)
{
	struct supervisor *s = arg;

	s->answered = true;
	s->err = err;
	if (reply)
		*s->reply = *reply;
}

void supervisor_ask(struct supervisor *s, const struct bus_msg *msg)
{
	s->answered = false;
	memset(s->reply, 0, sizeof(*s->reply));
	cr_assert_eq(bus_request(s->bus, msg, RIG_DEADLINE_S * NS_PER_S, on_reply, s), 0);
}

void supervisor_ask_for(struct supervisor *s, enum bus_type type)
{
	struct bus_msg *msg = calloc(1, sizeof(*msg));

	cr_assert_not_null(msg);
	msg->type = type;
	supervisor_ask(s, msg);
	free(msg);
}

void supervisor_ask_ok(struct supervisor *s, enum bus_type type)
{
	supervisor_ask_for(s, type);
	supervisor_until(s, s->answered);
	cr_assert_eq(s->err, 0);
}

int supervisor_set(struct supervisor *s, const char *key, const char *value, const char **why)
{
	struct bus_msg msg = { .type = BUS_SET };

	snprintf(msg.set.key, sizeof(msg.set.key), "%s", key);
	snprintf(msg.set.value, sizeof(msg.set.value), "%s", value);
	supervisor_ask(s, &msg);
	supervisor_until(s, s->answered);
	if (why)
		*why = s->err ? s->reply->error.text : "";
	return s->err;
}

uint64_t supervisor_stat(struct supervisor *s, const char *name)
{
	supervisor_ask_ok(s, BUS_GET_STATS);
	cr_assert_eq(s->reply->type, BUS_STATS);
	for (uint32_t i = 0; i < s->reply->stats.count; i++)
		if (!strcmp(s->reply->stats.stat[i].name, name))
			return s->reply->stats.stat[i].value;
	cr_assert_fail("no counter %s", name);
	return 0;
}
