/* SPDX-License-Identifier: Apache-2.0 */
/* A device that was given up, of which the guest is told that it needs a reset (on-failure=needs-reset). */
#include "machine.h"
#include "machine_priv.h"

#include <errno.h>
#include <stdio.h>

#include "clock.h"

#define AGAIN_NS (20 * NS_PER_MS)

static void on_answer(void *arg, int err, const struct bus_msg *reply)
{
	(void)arg;
	(void)reply;
	if (err && err != -ECANCELED)
		say_warn_errno(err, "the core can't tell the guest that a device needs a reset");
}

/*
 * Its process is dead, but what that began may still read the guest's memory, or write to it, which a guest that resets the
 * device takes back.
 */
static bool is_quiet(const struct machine *m, const struct device *d)
{
	for (size_t i = 0; i < d->links; i++)
		if (keeper_is_quiet(m->keeper, d->link[i].conf) == -EAGAIN)
			return false;
	return true;
}

static void fail(struct machine *m, const struct device *d)
{
	for (size_t i = 0; i < d->links; i++) {
		struct bus_msg msg = { .type = BUS_FAIL_DEVICE };
		int err;

		snprintf(msg.fail_device.device, sizeof(msg.fail_device.device), "%s", d->link[i].id);
		err = bus_request(m->core.bus, &msg, CORE_ANSWER_NS, on_answer, m);
		if (err)
			on_answer(m, err, NULL);
	}
}

void machine_fail_devices(void *arg)
{
	struct machine *m = arg;
	bool wait = false;

	for (size_t i = 0; i < m->ndevices; i++) {
		const struct device *d = &m->device[i];

		if (d->state != DEVICE_FAILED || d->policy.on_failure != FAILURE_NEEDS_RESET || m->failed[i])
			continue;
		m->failed[i] = is_quiet(m, d);
		if (m->failed[i])
			fail(m, d);
		wait |= !m->failed[i];
	}
	if (wait)
		loop_arm_timer(m->fail_timer, clock_ns() + AGAIN_NS);
}
