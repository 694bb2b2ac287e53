/* SPDX-License-Identifier: Apache-2.0 */
/* Answers to the supervisor that servers and other children give alike. */
#include "reply.h"

#include <stdio.h>

#include "bus.h"
#include "log.h"

void reply_ok(struct bus *bus, uint64_t id)
{
	struct bus_msg msg = { .type = BUS_OK };
	int err = bus_reply(bus, id, &msg);

	if (err)
		log_warn_errno(err, "the supervisor can't be answered");
}

void reply_add_stat(void *arg, const char *name, uint64_t value)
{
	struct bus_msg *msg = arg;
	struct bus_stat *stat = &msg->stats.stat[msg->stats.count];

	if (msg->stats.count == BUS_STATS_MAX)
		return;
	msg->stats.count++;
	snprintf(stat->name, sizeof(stat->name), "%s", name);
	stat->value = value;
}
