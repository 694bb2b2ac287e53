/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device's spare: a process that is started, confined and ready but for a front end, and waits to take over. Its own
 * death is not the device's: another one is started, less and less often if they keep dying. None is started while the
 * device itself keeps dying: then there is something wrong that a spare would only share.
 */
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#include "device_priv.h"
#include "num.h"

#define FIRST_NS                                                                                             \
	(1 * NS_PER_S) /* after the device came up for the first time, when the guest has its start to do */
#define AGAIN_NS     (20 * NS_PER_MS) /* after a recovery */
#define RETRY_NS     (100 * NS_PER_MS)
#define RETRY_MAX_NS (60 * NS_PER_S)
#define LONG_LIFE_NS (10 * NS_PER_S)

static bool wanted(struct device *d)
{
	bool trial = d->upgrade.step == UPGRADE_TRIAL && !device_upgrade_in_place(d);

	return !d->external && d->state == DEVICE_UP && (d->policy.spare || trial) &&
	       (trial || d->upgrade.step == UPGRADE_NONE) && device_slot_is_idle(d, device_other(d)) &&
	       !device_slot_remains(d, device_other(d));
}

void device_plan_spare(struct device *d)
{
	uint64_t wait = AGAIN_NS;

	loop_disarm_timer(d->spare_timer);
	if (!wanted(d))
		return;
	if (!d->nrestarts && d->upgrade.step != UPGRADE_TRIAL)
		wait = FIRST_NS;
	else if (d->short_lives)
		wait = device_pace_ns(d);
	if (d->spare_deaths)
		wait = MAX(wait, MIN(RETRY_NS << MIN(d->spare_deaths - 1, 16U), RETRY_MAX_NS));
	loop_arm_timer(d->spare_timer, clock_ns() + wait);
}

void device_on_spare_timer(void *arg)
{
	struct device *d = arg;

	if (!wanted(d) || !device_start_slot(d, device_other(d)))
		return;
	d->spare_deaths++;
	device_plan_spare(d);
}

void device_spare_died(struct device *d, const struct child *spare, const struct child_death *death)
{
	uint64_t ready = spare->times.ready;
	char text[BUS_TEXT_MAX];

	if (!death->by_order) {
		child_describe(spare, death, text, sizeof(text));
		d->spare_deaths = ready && clock_ns() - ready > LONG_LIFE_NS ? 1 : d->spare_deaths + 1;
		say_warn("%s: its spare %s; the device itself is not affected", d->id, text);
	}
	device_plan_spare(d);
}
