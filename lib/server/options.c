/* SPDX-License-Identifier: Apache-2.0 */
/* The options of a server: those that every server has, then the device's own. */
#include <errno.h>
#include <string.h>

#include "log.h"
#include "num.h"
#include "parse.h"
#include "server_priv.h"

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

static int set_vhost_fd(void *arg, const char *value)
{
	return option_fd(value, &((struct options *)arg)->vhost_fd);
}

static int set_flight_fd(void *arg, const char *value)
{
	return option_fd(value, &((struct options *)arg)->flight_fd);
}

static int set_state_fd(void *arg, const char *value)
{
	return option_fd(value, &((struct options *)arg)->state_fd);
}

static int set_anchor_fd(void *arg, const char *value)
{
	return option_fd(value, &((struct options *)arg)->anchor_fd);
}

/* How many queues of this device the limit of rings allows, options_parse says. */
static int set_queues(void *arg, const char *value)
{
	return option_number(value, 1, SERVER_QUEUES_MAX, &((struct options *)arg)->queues);
}

static int set_io_threads(void *arg, const char *value)
{
	return placing_set_threads(&((struct options *)arg)->placing, value);
}

/* What of it there is, options_parse says. */
static int set_map(void *arg, const char *value)
{
	((struct options *)arg)->map = value;
	return *value ? 0 : -EINVAL;
}

static int set_poll_max(void *arg, const char *value)
{
	return option_number(value, 0, 1000000, &((struct options *)arg)->poll_max_us);
}

static int set_sandbox(void *arg, const char *value)
{
	return option_switch(value, &((struct options *)arg)->sandbox);
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
	{ "io-threads", "N|NAME[@CPUS]:...", "Serve the queues on this many I/O threads, or on these (1).",
	  PLACING_THREADS_FORM, set_io_threads },
	{ "map", "QUEUE:NAME,...", "Which I/O thread serves which queue, or 1:1 (round-robin).",
	  PLACING_MAP_FORM, set_map },
	{ "poll-max-us", "N", "Poll for at most this long before sleeping, in microseconds (16).",
	  "a number from 0 to 1000000", set_poll_max },
	{ "sandbox", "on|off", "Confine the process (on).", "on or off", set_sandbox },
	{ "log-level", "LEVEL", "Log error, warning, info or debug lines (info).",
	  "error, warning, info or debug", option_log_level },
	OPTION_HELP_AND_VERSION,
	{ .name = NULL },
};

/* -1 to go on, else the exit status. */
static int place_queues(struct options *opts)
{
	int err = placing_set_map(&opts->placing, opts->queues, opts->map);

	if (err == -ERANGE)
		log_error("--io-threads %u: must be at most the number of queues (%u)", opts->placing.threads,
			  opts->queues);
	else if (err)
		log_error("--map %s: must be " PLACING_MAP_FORM
			  ", of the %u queues and the names of --io-threads",
			  opts->map, opts->queues);
	return err ? 2 : -1;
}

int options_parse(int argc, char **argv, const struct server_device *device, void *dev, struct options *opts)
{
	unsigned most = (SERVER_QUEUES_MAX - device->control_ring) / MAX(device->rings_per_queue, 1U);
	const struct option_set set = { .program = device->program,
					.summary = device->summary,
					.usage = "(--socket PATH | --vhost-fd N)",
					.table = { { device->options, dev }, { common, opts } } };
	int status;

	*opts = (struct options) { .vhost_fd = -1,
				   .flight_fd = -1,
				   .state_fd = -1,
				   .anchor_fd = -1,
				   .id = device->kind,
				   .queues = 1,
				   .sandbox = true,
				   .poll_max_us = 16 };
	status = option_parse(argc, argv, &set);
	if (status >= 0)
		return status;
	if (!opts->socket == (opts->vhost_fd < 0)) {
		log_error("give --socket PATH or --vhost-fd N, one of them");
		return 2;
	}
	if (opts->queues > most) {
		log_error("--queues %u: must be at most %u", opts->queues, most);
		return 2;
	}
	return place_queues(opts);
}
