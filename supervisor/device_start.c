/* SPDX-License-Identifier: Apache-2.0 */
/* A device's process is started, or its spare is taken, and the core is given its socket. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "clean.h"
#include "device_priv.h"

#define TAKE_NS (2 * NS_PER_S) /* for the core and a spare that is ready */

static void begin(struct device *d, bool warm)
{
	struct device_times before = d->now;

	d->now = (struct device_times) { .warm = warm, .begun = clock_ns() };
	if (d->recovering) {
		d->now.sign = before.sign;
		d->now.noticed = before.noticed;
		d->now.reaped = before.reaped;
	}
	d->slotless = false;
	for (size_t i = 0; i < d->links; i++)
		d->link[i].linked = d->link[i].told = false;
	d->state = DEVICE_STARTING;
	loop_arm_timer(d->timer, d->now.begun + (warm ? TAKE_NS : d->policy.start_ns));
}

/* The keeper forgets the sockets first: what it still holds was certainly not given to the core, as who adopts the machine
 * will read it. So none is given if it may not have. */
static void give_active(struct device *d)
{
	const int flight[2] = { d->flight_reader[d->active],
				d->windowed ? d->flight_reader[KEEPER_WINDOW + d->active] : -1 };
	int err = keeper_forget(d->keeper, d->index + d->active);
	const char *why = err ? "the keeper may still hold its socket" : "the core takes no descriptor";

	for (size_t i = 0; i < d->links && !err; i++)
		err = device_give(&d->link[i], d->link[i].front[d->active], flight);
	device_close_fronts(d, d->active);
	if (err)
		child_kill(device_active(d), why);
}

/* Each process has its own connection to the peer, since one that dies may leave half a frame behind. */
static int dial(struct device *d, size_t slot, int *fd)
{
	*fd = keeper_connect(d->keeper, d->index + slot);
	d->away = *fd < 0;
	if (d->away && !d->absences++)
		say_warn_errno(*fd, "%s: can't connect to its peer", d->id);
	return d->away ? *fd : 0;
}

int device_start_slot(struct device *d, size_t slot)
{
	CLEAN_FD int stream = -1;
	int fds[KEEPER_PASSED_MAX], held[VMCONF_SHARED_MAX], err = d->streams ? dial(d, slot, &stream) : 0;
	size_t nfds = d->links;

	if (err)
		return err;
	err = device_make_fronts(d, slot, fds, held);
	if (!err)
		err = device_start_window(d, slot, &fds[0]);
	if (!err) {
		d->slot[slot].restricted = d->restricted;
		if (d->streams)
			fds[nfds++] = stream;
		err = child_start(&d->slot[slot], fds, nfds, held, d->links);
		for (size_t i = 0; i < d->links; i++)
			close(fds[i]);
	}
	if (err)
		device_close_fronts(d, slot);
	/* The rest of a pair ends, and with it the start is over. */
	if (err && d->windowed)
		child_kill(&d->window[slot], "its server can't be started");
	return err;
}

void device_take_spare(struct device *d)
{
	struct child *c = device_spare(d);

	d->active = device_other(d);
	begin(d, device_slot_is_ready(d, d->active));
	d->now.spawned = c->times.spawned;
	d->now.hello = c->times.hello;
	if (d->now.warm) {
		d->now.ready = d->now.begun;
		device_repeat_sets(d);
	}
	give_active(d);
}

static void start_external(struct device *d)
{
	CLEAN_FD int fd = keeper_connect(d->keeper, d->index);
	const int flight[2] = { -1, -1 };
	int err = fd < 0 ? fd : device_give(&d->link[0], fd, flight);

	if (!err) {
		d->now.spawned = d->now.hello = clock_ns();
		return;
	}
	if (!d->absences++)
		say_warn_errno(err, "%s: can't connect to the back end", d->id);
	device_external_lost(d, strerror(-err));
}

/* Where something remains of the last process in the active slot the other one is as good, if it is free. */
static bool find_slot(struct device *d)
{
	bool same_program = d->upgrade.step == UPGRADE_NONE || d->upgrade.step == UPGRADE_REVERTING;

	if (device_slot_is_stray(d, d->active) || device_slot_is_stray(d, device_other(d)))
		return false; /* it may serve the core until its end */
	if (!device_slot_remains(d, d->active))
		return true;
	if (!same_program || !device_slot_is_idle(d, device_other(d)) ||
	    device_slot_remains(d, device_other(d)))
		return false;
	d->active = device_other(d);
	return true;
}

void device_vanished(struct device *d)
{
	if (d->slotless && d->state == DEVICE_WAITING)
		loop_arm_timer(d->timer, clock_ns());
}

static void start_own(struct device *d)
{
	int err = device_start_slot(d, d->active);

	if (!err)
		give_active(d);
	else if (d->away)
		device_external_lost(d, strerror(-err));
	else if (device_slot_is_idle(d, d->active))
		device_start_failed(d);
}

void device_start_active(struct device *d)
{
	if (!d->external && !find_slot(d)) {
		d->slotless = true;
		d->state = DEVICE_WAITING;
		return;
	}
	begin(d, false);
	if (d->external)
		start_external(d);
	else
		start_own(d);
}
