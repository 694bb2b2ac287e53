/* SPDX-License-Identifier: Apache-2.0 */
/* What a process says of its event loops. */
#include <stdio.h>

#include "bus.h"

void bus_add_loop(struct bus_msg *msg, struct loop_meter *meter, uint64_t queues, uint64_t poll_max_ns)
{
	struct bus_loop *to = &msg->loops.loop[msg->loops.count];
	struct loop_load load;

	if (msg->loops.count == BUS_LOOPS_MAX)
		return;
	msg->loops.count++;
	loop_meter_read(meter, &load);
	*to = (struct bus_loop) {
		.thread = (uint32_t)meter->thread,
		.queues = queues,
		.busy_ns = load.busy_ns,
		.over_ns = load.over_ns,
		.passes = load.stats.passes,
		.sleeps = load.stats.sleeps,
		.poll_hits = load.stats.poll_hits,
		.poll_misses = load.stats.poll_misses,
		.poll_ns = load.stats.poll_ns,
		.poll_max_ns = poll_max_ns,
	};
	snprintf(to->name, sizeof(to->name), "%s", loop_name(meter->loop));
}
