/* SPDX-License-Identifier: Apache-2.0 */
/* These options, and the memory that one of them names. */
#include "child_options.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "bus_msg.h"
#include "flight.h"
#include "log.h"

static int set_id(void *arg, const char *value)
{
	((struct child_options *)arg)->id = value;
	return *value && strlen(value) < BUS_NAME_MAX ? 0 : -EINVAL;
}

static int set_bus(void *arg, const char *value)
{
	((struct child_options *)arg)->bus = value;
	return *value ? 0 : -EINVAL;
}

static int set_flight_fd(void *arg, const char *value)
{
	return option_fd(value, &((struct child_options *)arg)->flight_fd);
}

static int set_sandbox(void *arg, const char *value)
{
	struct child_options *o = arg;

	return option_sandbox(value, &o->sandbox, &o->sandbox_log);
}

const struct server_option child_option_table[] = {
	{ "id", "NAME", "Name of the device in log lines and statistics.", "a name of 1 to 31 characters",
	  set_id },
	{ "bus", "DIR", "Dial the control bus in this directory.", "a directory", set_bus },
	{ "flight-fd", "N", "Record what happens in this inherited memory.", "a descriptor from 3 to 1023",
	  set_flight_fd },
	{ "sandbox", "on|off|log",
	  "Confine the process (on); log: forbid no system call, have the kernel log it.", "on, off or log",
	  set_sandbox },
	{ "log-level", "LEVEL", "Log error, warning, info or debug lines (info).",
	  "error, warning, info or debug", option_log_level },
	OPTION_HELP_AND_VERSION,
	{ .name = NULL },
};

int child_open_flight(const struct child_options *o, struct flight **flight)
{
	int err = o->flight_fd < 0 ? flight_alloc(0, flight) : flight_map(o->flight_fd, true, flight);

	if (err)
		log_error_errno(err, "--flight-fd %d: must be memory made for it", o->flight_fd);
	else if (o->flight_fd >= 0)
		close(o->flight_fd);
	return err;
}
