/* SPDX-License-Identifier: Apache-2.0 */
/* Sets up a machine: its loop, the core, its devices, the endpoints; nothing is started yet. */
#include <stdio.h>
#include <sys/epoll.h>

#include "clean.h"
#include "clock.h"
#include "machine.h"
#include "machine_priv.h"

static void on_console_quit(void *arg)
{
	machine_quit(arg);
}

static int init_core(struct machine *m)
{
	struct child *c = &m->core;
	char path[RUNDIR_PATH_MAX + BUS_NAME_MAX + 8];
	int err;

	c->loop = m->loop;
	c->keeper = m->keeper;
	c->ops = &machine_core_ops;
	c->arg = m;
	c->index = 0;
	c->process = "vmm-core";
	c->kind = "core";
	c->start_ns = m->conf->start_timeout_s * NS_PER_S;
	snprintf(c->id, sizeof(c->id), "core");
	snprintf(path, sizeof(path), "%s/core/bus", m->dir->path);
	err = flight_map(m->files->flight[0], true, &c->flight);
	return err ? err : child_init(c, path);
}

/* Those that nobody named, too: what a successor finds in its memory may be anybody's. */
static void note_limits(struct device_link *l, const struct vmconf_device *conf)
{
	const struct vmconf_net *net = &conf->net;
	const struct vmconf_disk *disk = &conf->disk;

	for (size_t i = 0; conf->kind == KIND_DISK && i < QUOTA_KEYS; i++)
		device_note_set(l->set, quota_names[i], disk->limit[i] ? disk->limit[i] : "0");
	for (size_t i = 0; conf->kind == KIND_NET && i < LIMITS; i++)
		device_note_set(l->set, vmconf_limit_names[i], net->limit[i] ? net->limit[i] : "0");
	if (conf->kind == KIND_NET)
		device_note_set(l->set, "link", "up");
}

static void init_groups(struct machine *m)
{
	for (size_t i = 0; i < m->conf->ngroups; i++) {
		const struct vmconf_group *conf = &m->conf->group[i];

		m->group[i].id = conf->id;
		for (size_t k = 0; k < QUOTA_KEYS; k++)
			device_note_set(m->group[i].set, quota_names[k], conf->word[k] ? conf->word[k] : "0");
	}
}

static void add_links(struct machine *m, struct device *d, size_t first)
{
	const struct vmconf *conf = m->conf;

	for (size_t i = first; i < conf->ndevices; i++)
		if (vmconf_leader(conf, i) == first) {
			struct device_link *l = &d->link[d->links++];
			int group = vmconf_find_group(conf, conf->device[i].disk.group);

			snprintf(l->id, sizeof(l->id), "%s", conf->device[i].id);
			l->conf = i;
			l->first_ring = vmconf_first_ring(conf, i);
			l->rings = vmconf_rings(&conf->device[i]);
			l->storage = conf->device[i].disk.path;
			l->group = group < 0 ? NULL : &m->group[group];
			note_limits(l, &conf->device[i]);
		}
}

/* What serves device i, and others if it shares that. */
static int init_device(struct machine *m, size_t i)
{
	const struct vmconf_device *conf = &m->conf->device[i];
	struct device *d = &m->device[m->ndevices++];

	d->loop = m->loop;
	d->keeper = m->keeper;
	d->ops = &machine_device_ops;
	d->arg = m;
	d->index = KEEPER_INDEX(i, 0);
	d->external = conf->vhost_user;
	d->flight = &m->files->flight[d->index];
	d->flight_reader = &m->files->flight_reader[d->index];
	d->windowed = conf->disk.window;
	d->streams = conf->net.link == LINK_STREAM;
	d->kind = conf->kind == KIND_NET ? "net" : "blk";
	d->process = conf->vhost_user ? "vhost-user" : conf->kind == KIND_NET ? "net-server" : "blk-server";
	d->helper.process = vmconf_helper(conf);
	if (conf->kind == KIND_DISK && !conf->vhost_user && !conf->disk.nbd)
		d->engine = vmconf_engine_names[conf->disk.engine];
	d->policy = (struct device_policy) { .restarts = conf->restarts,
					     .restarts_s = conf->restarts_s,
					     .start_ns = m->conf->start_timeout_s * NS_PER_S,
					     .spare = conf->spare,
					     .on_failure = conf->on_failure };
	snprintf(d->id, sizeof(d->id), "%s", vmconf_process_id(conf));
	d->shared = *conf->server;
	add_links(m, d, i);
	return device_init(d, m->dir->path);
}

static int init_children(struct machine *m)
{
	int err = init_core(m);

	init_groups(m);
	for (size_t i = 0; !err && i < m->conf->ndevices; i++)
		if (vmconf_leader(m->conf, i) == i)
			err = init_device(m, i);
	return err;
}

int machine_init(struct machine *m, int signal_fd, const char **what)
{
	int err;

	m->desc_fd = -1;
	m->signal_fd = signal_fd;
	*what = "the event loop";
	err = loop_new("supervisor", &m->loop);
	if (err)
		return err;
	loop_bh_init(&m->ended_bh, m->loop, machine_on_all_ended, m);
	err = loop_add_timer(m->loop, machine_on_grace_over, m, &m->grace);
	if (!err)
		err = loop_add_timer(m->loop, machine_fail_devices, m, &m->fail_timer);
	if (!err)
		err = loop_add_fd(m->loop, signal_fd, EPOLLIN, machine_on_signal, m, &m->signal_watch);
	if (!err)
		err = loop_add_fd(m->loop, keeper_fd(m->keeper), EPOLLHUP | EPOLLRDHUP,
				  machine_on_keeper_dead, m, &m->keeper_watch);
	if (!err) {
		*what = "the bus";
		err = init_children(m);
	}
	if (!err) {
		*what = "the endpoints of ctl and events";
		err = ctl_open(m);
	}
	if (!err) {
		*what = "the console";
		err = console_start(m->console, m->loop, on_console_quit, m);
	}
	return err;
}

int machine_adopt(struct machine *m)
{
	bool by_order = m->core.state == CHILD_STOPPING, lost;
	struct keeper_found found;
	int err = child_claim(&m->core, false, &found, &lost);

	if (err)
		return err;
	m->desc_fd = found.held[KEEPER_HELD_DESC];
	if (found.held[KEEPER_HELD_CONSOLE] >= 0)
		err = console_take_core(m->console, &found.held[KEEPER_HELD_CONSOLE]);
	for (size_t i = 0; !err && i < m->ndevices; i++)
		err = device_adopt(&m->device[i]);
	if (!err && lost)
		child_lost(&m->core, by_order);
	loop_bh_post(&m->ended_bh); /* in case the last one ended unseen */
	return err;
}

void machine_fini(struct machine *m)
{
	if (!m->loop)
		return; /* there is nothing else either */
	child_fini(&m->core);
	flight_free(m->core.flight);
	for (size_t i = 0; i < m->ndevices; i++)
		device_fini(&m->device[i]);
	clean_fd(&m->desc_fd);
	bus_events_close(m->events);
}
