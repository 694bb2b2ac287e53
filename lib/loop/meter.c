/* SPDX-License-Identifier: Apache-2.0 */
/* How busy the thread of a loop is, by the kernel's account of its processor time. */
#include <pthread.h>
#include <unistd.h>

#include "clock.h"
#include "loop_meter.h"

static uint64_t cpu_time(clockid_t clock)
{
	struct timespec ts;

	/* It fails for a thread that has ended. */
	if (clock_gettime(clock, &ts))
		return 0;
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

void loop_meter_begin(struct loop_meter *m, const struct loop *loop)
{
	m->loop = loop;
	m->thread = gettid();
	if (pthread_getcpuclockid(pthread_self(), &m->clock))
		m->clock = CLOCK_THREAD_CPUTIME_ID;
	m->cpu_ns = cpu_time(m->clock);
	m->at_ns = clock_ns();
}

void loop_meter_read(struct loop_meter *m, struct loop_load *out)
{
	uint64_t cpu = cpu_time(m->clock), now = clock_ns();

	out->busy_ns = cpu > m->cpu_ns ? cpu - m->cpu_ns : 0;
	out->over_ns = now - m->at_ns;
	loop_get_stats(m->loop, &out->stats);
	m->cpu_ns = cpu;
	m->at_ns = now;
}
