/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device is taken over from a supervisor that died: its processes (child_claim.c), and what it was at. All time that a
 * step had left is given anew, since whoever was to take it had nobody to tell.
 */
#include "device_priv.h"

static void go_on(struct device *d)
{
	uint64_t now = clock_ns();

	if (d->state == DEVICE_STARTING)
		loop_arm_timer(d->timer, now + d->policy.start_ns);
	else if (d->state == DEVICE_WAITING)
		loop_arm_timer(d->timer, now);
	device_upgrade_go_on(d);
	device_plan_spare(d);
}

int device_adopt(struct device *d)
{
	bool by_order[KEEPER_SLOTS] = { false }, lost[KEEPER_SLOTS] = { false };
	bool ordered[KEEPER_SLOTS] = { false }, shut[KEEPER_SLOTS] = { false }; /* windows */
	struct keeper_found found;
	int err;

	for (size_t i = 0; i < KEEPER_SLOTS && !d->external; i++) {
		by_order[i] = d->slot[i].state == CHILD_STOPPING;
		ordered[i] = d->windowed && d->window[i].state == CHILD_STOPPING;
		err = child_claim(&d->slot[i], i != d->active, &found, &lost[i]);
		if (err)
			return err;
		for (size_t l = 0; l < d->links; l++)
			d->link[l].front[i] = found.held[KEEPER_HELD_FRONT + l];
	}
	/* The core says it again, maybe only when the next connection was given to it. */
	for (size_t l = 0; l < d->links; l++)
		d->link[l].down = false;
	err = device_adopt_windows(d, shut);
	if (!err)
		err = device_helper_adopt(d);
	if (err)
		return err;
	go_on(d);
	for (size_t i = 0; i < KEEPER_SLOTS; i++)
		if (lost[i])
			child_lost(&d->slot[i], by_order[i]);
	for (size_t i = 0; i < KEEPER_SLOTS; i++)
		if (shut[i] && !lost[i]) /* of a pair one death is told */
			child_lost(&d->window[i], ordered[i]);
	device_adopt_pairs(d);
	/* A spare that was to make room may be gone. */
	device_upgrade_vanished(d);
	return 0;
}
