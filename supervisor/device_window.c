/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands between a disk's server and the core, so that the server sees a window in place of the guest's memory. It
 * belongs to a slot as the server does: both are started together, ready together, told to end together, and neither
 * outlives the other. So to the rest of a device the two are one process, the server, which is dead when both are; how that
 * came about is how the first of them died. Only then may another pair take up the rings: the server's writes are over,
 * and the window, whose memory they came from, is no more.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "device_priv.h"
#include "num.h"

/* ---- the pair ---- */

size_t device_slot_of(const struct device *d, const struct child *c)
{
	return c >= d->window && c < d->window + KEEPER_SLOTS ? (size_t)(c - d->window)
							      : (size_t)(c - d->slot);
}

static struct child *other_half(struct device *d, size_t slot, const struct child *c)
{
	return c == &d->slot[slot] ? &d->window[slot] : &d->slot[slot];
}

struct child *device_front_child(struct device *d)
{
	return d->windowed ? &d->window[d->active] : device_active(d);
}

bool device_slot_is_ready(const struct device *d, size_t slot)
{
	return d->slot[slot].state == CHILD_READY && (!d->windowed || d->window[slot].state == CHILD_READY);
}

static bool is_alive(const struct child *c)
{
	return !c->killed && (c->state == CHILD_STARTING || c->state == CHILD_READY);
}

bool device_slot_is_alive(const struct device *d, size_t slot)
{
	return is_alive(&d->slot[slot]) && (!d->windowed || is_alive(&d->window[slot]));
}

bool device_slot_is_idle(const struct device *d, size_t slot)
{
	return d->slot[slot].state == CHILD_IDLE && (!d->windowed || d->window[slot].state == CHILD_IDLE);
}

bool device_slot_remains(const struct device *d, size_t slot)
{
	return child_remains(&d->slot[slot]) || (d->windowed && child_remains(&d->window[slot]));
}

bool device_slot_is_stray(const struct device *d, size_t slot)
{
	return d->slot[slot].stray || (d->windowed && d->window[slot].stray);
}

bool device_stop_slot(struct device *d, size_t slot, uint64_t deadline_ns)
{
	bool window = d->windowed && child_stop(&d->window[slot], deadline_ns);

	return child_stop(&d->slot[slot], deadline_ns) || window;
}

/* ---- death ---- */

/* One that refuses its options takes the other along as soon as any, and is what people have to know of. */
static bool has_refused(const struct child *c, const struct child_death *death)
{
	return death->code == CLD_EXITED && death->status == CHILD_STATUS_WRONG && !c->times.ready;
}

bool device_half_died(struct device *d, struct child *c, const struct child_death *death)
{
	size_t slot = device_slot_of(d, c);
	struct device_half *first = &d->first[slot];
	struct child *other = d->windowed ? other_half(d, slot, c) : NULL;

	if (!first->child || has_refused(c, death))
		*first = (struct device_half) { .child = c, .death = *death };
	if (!other || other->state == CHILD_IDLE)
		return false;
	if (other->state != CHILD_STOPPING)
		child_kill(other, c == &d->slot[slot] ? "its server is gone" : "its window is gone");
	return true;
}

struct device_half device_take_first(struct device *d, size_t slot)
{
	struct device_half first = d->first[slot];

	d->first[slot].child = NULL;
	return first;
}

bool device_is_second(const struct device *d, const struct child *c)
{
	const struct child *first = d->first[device_slot_of(d, c)].child;

	return first && first != c;
}

/* ---- starting ---- */

int device_start_window(struct device *d, size_t slot, int *server)
{
	int pair[2] = { -1, -1 }, fds[2], err;

	if (!d->windowed)
		return 0;
	err = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) ? -errno : 0;
	fds[0] = *server;
	fds[1] = pair[0];
	if (err)
		say_error_errno(err, "%s: can't make the socket of its window", d->id);
	else
		err = child_start(&d->window[slot], fds, ARRAY_SIZE(fds), NULL, 0);
	clean_fd(&fds[0]);
	clean_fd(&fds[1]);
	if (err)
		clean_fd(&pair[1]);
	*server = err ? -1 : pair[1];
	return err;
}

/* ---- the whole ---- */

static int init_window(struct device *d, size_t slot, const char *dir, const struct child_ops *ops)
{
	struct child *c = &d->window[slot];
	char folder[RUNDIR_SLOT_MAX], path[RUNDIR_PATH_MAX + RUNDIR_SLOT_MAX + 8];
	int err;

	c->loop = d->loop;
	c->keeper = d->keeper;
	c->ops = ops;
	c->arg = d;
	c->index = d->index + KEEPER_WINDOW + slot;
	c->process = c->kind = DEVICE_WINDOW;
	c->device = d->id;
	memcpy(c->id, d->id, sizeof(c->id));
	c->start_ns = d->policy.start_ns;
	err = flight_map(d->flight[KEEPER_WINDOW + slot], true, &c->flight);
	if (err)
		return err;
	rundir_slot(folder, d->id, KEEPER_WINDOW + slot);
	snprintf(path, sizeof(path), "%s/%s/bus", dir, folder);
	return child_init(c, path);
}

int device_init_windows(struct device *d, const char *dir, const struct child_ops *ops)
{
	int err = 0;

	for (size_t i = 0; i < KEEPER_SLOTS && d->windowed && !err; i++)
		err = init_window(d, i, dir, ops);
	return err;
}

int device_adopt_windows(struct device *d, bool lost[KEEPER_SLOTS])
{
	struct keeper_found found;
	int err = 0;

	for (size_t i = 0; i < KEEPER_SLOTS && d->windowed && !err; i++)
		err = child_claim(&d->window[i], false, &found, &lost[i]);
	return err;
}

/* What is left of a pair when one half was lost between two supervisors goes the same way. */
void device_adopt_pairs(struct device *d)
{
	for (size_t i = 0; i < KEEPER_SLOTS && d->windowed; i++) {
		if (d->slot[i].state == CHILD_IDLE)
			child_kill(&d->window[i], "its server is gone");
		else if (d->window[i].state == CHILD_IDLE)
			child_kill(&d->slot[i], "its window is gone");
	}
}

bool device_has_window(const struct device *d, const char *id)
{
	char name[RUNDIR_SLOT_MAX];

	rundir_slot(name, d->id, KEEPER_WINDOW);
	return d->windowed && !strcmp(name, id);
}

json_t *device_window_json(const struct device *d)
{
	const struct child *c = &d->window[d->active];
	char id[RUNDIR_SLOT_MAX];

	rundir_slot(id, d->id, KEEPER_WINDOW);
	return device_child_json(id, DEVICE_WINDOW, device_child_state(c), c);
}

void device_fini_windows(struct device *d)
{
	for (size_t i = 0; i < KEEPER_SLOTS && d->windowed; i++) {
		child_fini(&d->window[i]);
		flight_free(d->window[i].flight);
	}
}
