/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices that one process serves, each with a link to the core: the socket between the two until the core has it, and
 * what the core says of it. The process is up when all are linked, and what befalls one of them befalls the process.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clean.h"
#include "device_priv.h"
#include "num.h"

void device_init_links(struct device *d)
{
	for (size_t i = 0; i < d->links; i++) {
		d->link[i].device = d;
		for (size_t slot = 0; slot < KEEPER_SLOTS; slot++)
			d->link[i].front[slot] = -1;
	}
}

const char *device_link_name(const struct device_link *l)
{
	return l->device->links > 1 ? l->id : "";
}

bool device_is_linked(const struct device *d)
{
	for (size_t i = 0; i < d->links; i++)
		if (!d->link[i].linked)
			return false;
	return true;
}

struct device_link *device_find_link(struct device *d, const char *name)
{
	for (size_t i = 0; i < d->links; i++)
		if (!strcmp(name, device_link_name(&d->link[i])))
			return &d->link[i];
	say_warn("%s: %s speaks of a device that it does not serve", d->id, d->process);
	return NULL;
}

/* ---- sockets ---- */

int device_make_fronts(struct device *d, size_t slot, int *fds, int *held)
{
	for (size_t i = 0; i < d->links; i++) {
		int pair[2], err;

		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
			err = -errno;
			say_error_errno(err, "%s: can't make its socket", d->link[i].id);
			while (i--)
				close(fds[i]);
			return err;
		}
		d->link[i].front[slot] = held[i] = pair[0];
		fds[i] = pair[1];
	}
	return 0;
}

void device_close_fronts(struct device *d, size_t slot)
{
	for (size_t i = 0; i < d->links; i++) {
		clean_fd(&d->link[i].front[slot]);
		d->link[i].front[slot] = -1;
	}
}

int device_give(struct device_link *l, int fd, const int flight[2])
{
	struct device *d = l->device;
	int err = d->ops->hand_over(d->arg, l, fd, flight);

	if (err)
		return err;
	l->stale = l->given && !l->down;
	l->given = true;
	l->down = false;
	d->now.given = clock_ns();
	return 0;
}

/* ---- what the core says ---- */

void device_linked(struct device_link *l, bool resumed)
{
	struct device *d = l->device;

	if (d->state != DEVICE_STARTING || l->linked)
		return;
	l->linked = true;
	l->resumed = resumed;
	l->stale = false; /* the core has said all that there was about the predecessor */
	d->now.linked = clock_ns();
	d->now.resumed |= resumed;
	if (d->external)
		d->now.ready = d->now.linked;
	device_check_up(d);
}

void device_unlinked(struct device_link *l, const char *reason)
{
	struct device *d = l->device;

	/*
	 * This may be about the predecessor, whose end the core saw later than we did. If the core never saw that, we take
	 * its first word about the present one for it; then the deadline will tell.
	 */
	if (l->stale) {
		l->stale = false;
		return;
	}
	l->down = true;
	if (d->state == DEVICE_UP || !d->now.sign)
		d->now.sign = clock_ns();
	l->linked = false;
	if (d->state != DEVICE_UP && d->state != DEVICE_STARTING)
		return;
	if (d->external)
		device_external_lost(d, reason);
	else
		child_doubt(device_active(d), reason);
}

void device_hung(struct device_link *l, const struct bus_msg *msg)
{
	const char *name = device_link_name(l);
	struct device *d = l->device;
	char reason[BUS_TEXT_MAX];

	snprintf(reason, sizeof(reason), "%s%squeue %u made no progress for %.0f ms: %.400s", name,
		 *name ? ": " : "", msg->device_hung.queue,
		 (double)msg->device_hung.stalled_ns / (double)NS_PER_MS, msg->device_hung.reason);
	if (d->external) {
		say_warn("%s: %s", d->id, reason);
		return;
	}
	/* The core tells it once. In a start, it is about the present one if that one's end of the handshake came before. */
	if (d->state == DEVICE_UP || (d->state == DEVICE_STARTING && l->linked)) {
		d->ops->event(d->arg, d, "device-hung", reason);
		child_kill(device_active(d), reason);
	} else if (d->state == DEVICE_CHANGING) {
		device_upgrade_hung(d, reason);
	}
}

/* ---- what the server says ---- */

bool device_all_told(const struct device *d)
{
	for (size_t i = 0; i < d->links; i++)
		if (d->link[i].resumed && !d->link[i].told)
			return false;
	return true;
}

void device_io_error(struct device *d, const struct bus_msg *msg)
{
	struct device_link *l = device_find_link(d, msg->io_error.device);

	if (l)
		d->ops->io_error(d->arg, l, msg->io_error.text);
}
