/* SPDX-License-Identifier: Apache-2.0 */
/* How busy the thread of a loop is: what of the time since somebody last asked it had a processor. */
#ifndef LOOP_METER_H
#define LOOP_METER_H

#include <sys/types.h>
#include <time.h>

#include "loop.h"

struct loop_meter {
	const struct loop *loop;
	pid_t thread;    /* its id, as this process sees it */
	clockid_t clock; /* its processor time */
	uint64_t cpu_ns, at_ns;
};

struct loop_load {
	uint64_t busy_ns, over_ns; /* so much of so long: polling counts as busy */
	struct loop_stats stats;
};

/* On the thread that runs the loop, before anybody reads. */
void loop_meter_begin(struct loop_meter *m, const struct loop *loop);

/* Since it was last read, or began. One thread of the process at a time. */
void loop_meter_read(struct loop_meter *m, struct loop_load *out);

#endif
