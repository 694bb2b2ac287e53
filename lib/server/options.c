/* SPDX-License-Identifier: Apache-2.0 */
/* The options of a server: those that every server has, then the device's own. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "log.h"
#include "num.h"
#include "parse.h"
#include "server_priv.h"

static int set_socket(void *arg, const char *value)
{
	((struct export_options *)arg)->socket = value;
	return *value ? 0 : -EINVAL;
}

static int set_id(void *arg, const char *value)
{
	struct options *o = arg;

	o->id = value;
	return *value && strlen(value) < BUS_NAME_MAX ? 0 : -EINVAL;
}

static int set_bus(void *arg, const char *value)
{
	((struct options *)arg)->bus = value;
	return *value ? 0 : -EINVAL;
}

static int set_vhost_fd(void *arg, const char *value)
{
	return option_fd(value, &((struct export_options *)arg)->vhost_fd);
}

static int set_flight_fd(void *arg, const char *value)
{
	return option_fd(value, &((struct options *)arg)->flight_fd);
}

static int set_state_fd(void *arg, const char *value)
{
	return option_fd(value, &((struct export_options *)arg)->state_fd);
}

static int set_anchor_fd(void *arg, const char *value)
{
	return option_fd(value, &((struct options *)arg)->anchor_fd);
}

/* How many queues of this device the limit of rings allows, options_parse says. */
static int set_queues(void *arg, const char *value)
{
	return option_number(value, 1, SERVER_QUEUES_MAX, &((struct export_options *)arg)->queues);
}

static int set_io_threads(void *arg, const char *value)
{
	return placing_set_threads(&((struct options *)arg)->placing, value);
}

/* What of it there is, options_parse says. */
static int set_map(void *arg, const char *value)
{
	((struct export_options *)arg)->map = value;
	return *value ? 0 : -EINVAL;
}

static int set_poll_max(void *arg, const char *value)
{
	return option_number(value, 0, 1000000, &((struct options *)arg)->poll_max_us);
}

static int set_sandbox(void *arg, const char *value)
{
	struct options *o = arg;

	return option_sandbox(value, &o->sandbox, &o->sandbox_log);
}

/* What is said of one device. */
static const struct server_option of_one[] = {
	{ "socket", "PATH", "Listen on this unix socket for a vhost-user front end.",
	  "the path of a unix socket", set_socket },
	{ "vhost-fd", "N", "Serve the front end on this inherited, connected socket instead.",
	  "a descriptor from 3 to 1023", set_vhost_fd },
	{ "state-fd", "N", "Keep what a successor is to know in this inherited memory.",
	  "a descriptor from 3 to 1023", set_state_fd },
	{ "queues", "N", "Offer this many queues (1).", "a number from 1 to 64", set_queues },
	{ "map", "QUEUE:NAME,...", "Which I/O thread serves which queue, or 1:1 (round-robin).",
	  PLACING_MAP_FORM, set_map },
	{ .name = NULL },
};

static const struct server_option of_process[] = {
	{ "id", "NAME", "Name of the process, or its only device, in log lines and statistics.",
	  "a name of 1 to 31 characters", set_id },
	{ "bus", "DIR", "Dial the control bus in this directory.", "a directory", set_bus },
	{ "flight-fd", "N", "Record what happens in this inherited memory.", "a descriptor from 3 to 1023",
	  set_flight_fd },
	{ "anchor-fd", "N", "Tell this inherited socket when a death is over.", "a descriptor from 3 to 1023",
	  set_anchor_fd },
	{ "io-threads", "N|NAME[@CPUS]:...", "Serve the queues on this many I/O threads, or on these (1).",
	  PLACING_THREADS_FORM, set_io_threads },
	{ "poll-max-us", "N", "Poll for at most this long before sleeping, in microseconds (32).",
	  "a number from 0 to 1000000", set_poll_max },
	{ "sandbox", "on|off|log",
	  "Confine the process (on); log: forbid no system call, have the kernel log it.", "on, off or log",
	  set_sandbox },
	{ "log-level", "LEVEL", "Log error, warning, info or debug lines (info).",
	  "error, warning, info or debug", option_log_level },
	OPTION_HELP_AND_VERSION,
	{ .name = NULL },
};

/* ---- several devices ---- */

enum { TABLE_DEVICE, TABLE_SEVERAL, TABLE_EXPORT, TABLE_PROCESS };

struct parsing {
	struct server *server;
	struct option_set set; /* its tables take what is said of the last export */
};

static void begin_export(struct parsing *p, void *dev)
{
	struct export *e = &p->server->export[p->server->exports++];

	e->server = p->server;
	e->dev = dev;
	e->front.listener = -1;
	e->opts = (struct export_options) { .vhost_fd = -1, .state_fd = -1, .queues = 1 };
	p->set.table[TABLE_DEVICE].arg = dev;
	p->set.table[TABLE_EXPORT].arg = &e->opts;
}

/* The first one names what was said of a device before, if anything was. */
static int set_device(void *arg, const char *value)
{
	struct parsing *p = arg;
	struct server *s = p->server;
	void *dev;

	if (!*value || strlen(value) >= BUS_NAME_MAX)
		return -EINVAL;
	for (unsigned i = 0; i < s->exports; i++)
		if (s->export[i].opts.id && !strcmp(s->export[i].opts.id, value))
			return -EEXIST;
	if (!s->export->opts.id) {
		s->export->opts.id = value;
		return 1;
	}
	dev = s->exports < SERVER_DEVICES_MAX ? s->device->another() : NULL;
	if (!dev)
		return -E2BIG;
	begin_export(p, dev);
	s->export[s->exports - 1].opts.id = value;
	return OPTION_ANEW;
}

static const struct server_option several[] = {
	{ "device", "NAME", "Serve one more device; what is said of a device from here on is said of this.",
	  "a name of 1 to 31 characters that no other has, at most sixteen times", set_device },
	{ .name = NULL },
};

/* ---- what no single option can see ---- */

static int check_export(const struct export *e)
{
	const struct server_device *device = e->server->device;
	unsigned most = (SERVER_QUEUES_MAX - device->control_ring) / MAX(device->rings_per_queue, 1U);

	if (!e->opts.socket == (e->opts.vhost_fd < 0)) {
		log_error("%sgive --socket PATH or --vhost-fd N, one of them", e->prefix);
		return -EINVAL;
	}
	if (e->opts.queues > most) {
		log_error("%s--queues %u: must be at most %u", e->prefix, e->opts.queues, most);
		return -EINVAL;
	}
	return 0;
}

/* Gives the export its part of the queues and rings. */
static int place_export(struct export *e)
{
	struct server *s = e->server;
	struct placing *p = &s->opts.placing;

	e->queue = &s->queue[s->rings];
	e->set = &s->set[p->queues];
	e->rings = e->opts.queues * server_rings_of_set(s) + s->device->control_ring;
	if (e->rings > SERVER_QUEUES_MAX - s->rings) {
		log_error("%s--queues %u: all devices together can have %u", e->prefix, e->opts.queues,
			  SERVER_QUEUES_MAX);
		return -EINVAL;
	}
	s->rings += e->rings;
	if (!placing_set_map(p, e->opts.queues, e->opts.map))
		return 0;
	log_error("%s--map %s: must be " PLACING_MAP_FORM ", of the %u queues and the names of --io-threads",
		  e->prefix, e->opts.map, e->opts.queues);
	return -EINVAL;
}

static int place_queues(struct server *s)
{
	struct placing *p = &s->opts.placing;

	for (unsigned i = 0; i < s->exports; i++)
		if (place_export(&s->export[i]))
			return -EINVAL;
	if (!placing_finish(p))
		return 0;
	log_error("--io-threads %u: must be at most the number of queues (%u)", p->threads, p->queues);
	return -EINVAL;
}

static int finish(struct server *s)
{
	for (unsigned i = 0; i < s->exports; i++) {
		struct export *e = &s->export[i];

		if (!e->opts.id)
			e->opts.id = s->opts.id;
		if (s->exports > 1)
			snprintf(e->prefix, sizeof(e->prefix), "%s: ", e->opts.id);
		if (check_export(e))
			return -EINVAL;
	}
	return place_queues(s);
}

int options_parse(int argc, char **argv, struct server *s, void *dev)
{
	const struct server_device *device = s->device;
	struct parsing p = { .server = s,
			     .set = { .program = device->program,
				      .summary = device->summary,
				      .usage = "(--socket PATH | --vhost-fd N)",
				      .table = { [TABLE_DEVICE] = { device->options, NULL, true },
						 [TABLE_EXPORT] = { of_one, NULL, true },
						 [TABLE_PROCESS] = { of_process, &s->opts, false } } } };
	int status;

	if (device->another)
		p.set.table[TABLE_SEVERAL] = (struct option_table) { several, &p, false };
	s->opts = (struct options) {
		.flight_fd = -1, .anchor_fd = -1, .id = device->kind, .sandbox = true, .poll_max_us = 32
	};
	begin_export(&p, dev);
	status = option_parse(argc, argv, &p.set);
	if (status >= 0)
		return status;
	return finish(s) ? 2 : -1;
}
