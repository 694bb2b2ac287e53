/* SPDX-License-Identifier: Apache-2.0 */
/* The options of a server: those that every server has, then the device's own. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "log.h"
#include "num.h"
#include "parse.h"
#include "server_priv.h"

#define OPTIONS_MAX 64 /* common and own together */

static int set_socket(void *arg, const char *value)
{
	((struct options *)arg)->socket = value;
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

/* A number between min and max into *to. */
static int set_number(const char *value, unsigned min, unsigned max, unsigned *to)
{
	uint64_t v;
	int err = parse_u64(value, min, max, &v);

	if (!err)
		*to = (unsigned)v;
	return err;
}

static int set_fd(const char *value, int *to)
{
	unsigned fd;
	int err = set_number(value, 3, 1023, &fd);

	if (!err)
		*to = (int)fd;
	return err;
}

static int set_vhost_fd(void *arg, const char *value)
{
	return set_fd(value, &((struct options *)arg)->vhost_fd);
}

static int set_flight_fd(void *arg, const char *value)
{
	return set_fd(value, &((struct options *)arg)->flight_fd);
}

static int set_state_fd(void *arg, const char *value)
{
	return set_fd(value, &((struct options *)arg)->state_fd);
}

static int set_anchor_fd(void *arg, const char *value)
{
	return set_fd(value, &((struct options *)arg)->anchor_fd);
}

/* How many queues of this device the limit of rings allows, options_parse says. */
static int set_queues(void *arg, const char *value)
{
	return set_number(value, 1, SERVER_QUEUES_MAX, &((struct options *)arg)->queues);
}

static int set_io_threads(void *arg, const char *value)
{
	return set_number(value, 1, SERVER_IO_THREADS_MAX, &((struct options *)arg)->io_threads);
}

static int set_poll_max(void *arg, const char *value)
{
	return set_number(value, 0, 1000000, &((struct options *)arg)->poll_max_us);
}

static int set_sandbox(void *arg, const char *value)
{
	int on = parse_on_off(value);

	((struct options *)arg)->sandbox = on > 0;
	return on < 0 ? on : 0;
}

static int set_log_level(void *arg, const char *value)
{
	int level = log_level_parse(value);

	(void)arg;
	if (level < 0)
		return level;
	log_set_level((enum log_level)level);
	return 0;
}

static const struct server_option common[] = {
	{ "socket", "PATH", "Listen on this unix socket for a vhost-user front end.",
	  "the path of a unix socket", set_socket },
	{ "vhost-fd", "N", "Serve the front end on this inherited, connected socket instead.",
	  "a descriptor from 3 to 1023", set_vhost_fd },
	{ "id", "NAME", "Name of the device in log lines and statistics.", "a name of 1 to 31 characters",
	  set_id },
	{ "bus", "DIR", "Dial the control bus in this directory.", "a directory", set_bus },
	{ "flight-fd", "N", "Record what happens in this inherited memory.", "a descriptor from 3 to 1023",
	  set_flight_fd },
	{ "state-fd", "N", "Keep what a successor is to know in this inherited memory.",
	  "a descriptor from 3 to 1023", set_state_fd },
	{ "anchor-fd", "N", "Tell this inherited socket when a death is over.", "a descriptor from 3 to 1023",
	  set_anchor_fd },
	{ "queues", "N", "Offer this many queues (1).", "a number from 1 to 64", set_queues },
	{ "io-threads", "N", "Spread the queues over this many I/O threads (1).", "a number from 1 to 16",
	  set_io_threads },
	{ "poll-max-us", "N", "Poll for at most this long before sleeping, in microseconds (16).",
	  "a number from 0 to 1000000", set_poll_max },
	{ "sandbox", "on|off", "Confine the process (on).", "on or off", set_sandbox },
	{ "log-level", "LEVEL", "Log error, warning, info or debug lines (info).",
	  "error, warning, info or debug", set_log_level },
	{ "help", NULL, "Print this and exit.", NULL, NULL },
	{ "version", NULL, "Print the version and exit.", NULL, NULL },
	{ .name = NULL },
};

static void print_options(const struct server_option *table)
{
	for (const struct server_option *o = table; o->name; o++) {
		char left[64];

		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "",
			 o->value ? o->value : "");
		printf("  %-24s %s\n", left, o->help);
	}
}

static int print_help(const struct server_device *device)
{
	printf("%s - %s\n\nUsage: %s (--socket PATH | --vhost-fd N) [options]\n\nOptions:\n", device->program,
	       device->summary, device->program);
	print_options(device->options);
	print_options(common);
	return fflush(stdout) ? 1 : 0;
}

static int print_version(const struct server_device *device)
{
	printf("%s %s\n", device->program, PACKAGE_VERSION);
	return fflush(stdout) ? 1 : 0;
}

/* The option that a word names, up to a '='; *number is its place in both tables together. */
static const struct server_option *find(const struct server_device *device, const char *word, bool *own,
					size_t *number)
{
	const struct server_option *const tables[] = { common, device->options };
	size_t len = strcspn(word, "="), n = 0;

	for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
		for (const struct server_option *o = tables[t]; o->name; o++, n++) {
			if (strlen(o->name) != len || strncmp(word, o->name, len) != 0)
				continue;
			*own = t == 1;
			*number = n;
			return o;
		}
	}
	return NULL;
}

/* Takes the option at argv[*i], its value with it. -1 to go on, else the exit status. */
static int take(int argc, char **argv, int *i, const struct server_device *device, void *dev,
		struct options *opts, bool *seen)
{
	const char *word = argv[*i], *value;
	const struct server_option *o = NULL;
	size_t number = 0;
	bool own = false;

	if (!strncmp(word, "--", 2))
		o = find(device, word + 2, &own, &number);
	if (!o) {
		log_error("%s: no such option; see %s --help", word, device->program);
		return 2;
	}
	value = strchr(word, '=');
	value = value ? value + 1 : NULL;
	if (o->value && !value && ++*i < argc)
		value = argv[*i];
	if (!o->value && value) {
		log_error("--%s takes no value", o->name);
		return 2;
	}
	if (!own && !strcmp(o->name, "help"))
		return print_help(device);
	if (!own && !strcmp(o->name, "version"))
		return print_version(device);
	if (o->value && !value) {
		log_error("--%s needs a value: %s", o->name, o->allowed);
		return 2;
	}
	if (number < OPTIONS_MAX && seen[number]) {
		log_error("--%s is given twice", o->name);
		return 2;
	}
	if (number < OPTIONS_MAX)
		seen[number] = true;
	if (o->set(own ? dev : opts, value) < 0) {
		log_error("--%s %s: must be %s", o->name, value ? value : "", o->allowed);
		return 2;
	}
	return -1;
}

int options_parse(int argc, char **argv, const struct server_device *device, void *dev, struct options *opts)
{
	unsigned most = (SERVER_QUEUES_MAX - device->control_ring) / MAX(device->rings_per_queue, 1U);
	bool seen[OPTIONS_MAX] = { false };

	*opts = (struct options) { .vhost_fd = -1,
				   .flight_fd = -1,
				   .state_fd = -1,
				   .anchor_fd = -1,
				   .id = device->kind,
				   .queues = 1,
				   .io_threads = 1,
				   .sandbox = true,
				   .poll_max_us = 16 };
	for (int i = 1; i < argc; i++) {
		int status = take(argc, argv, &i, device, dev, opts, seen);

		if (status >= 0)
			return status;
	}
	if (!opts->socket == (opts->vhost_fd < 0)) {
		log_error("give --socket PATH or --vhost-fd N, one of them");
		return 2;
	}
	if (opts->queues > most) {
		log_error("--queues %u: must be at most %u", opts->queues, most);
		return 2;
	}
	if (opts->io_threads > opts->queues) {
		log_error("--io-threads %u: must be at most the number of queues (%u)", opts->io_threads,
			  opts->queues);
		return 2;
	}
	return -1;
}
