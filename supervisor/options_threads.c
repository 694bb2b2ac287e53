/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of a device that say which I/O threads its server has, and which of them serves which queue. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options_priv.h"
#include "parse.h"

#define POLL_MAX 1000000 /* us, as the servers take it */

/* Appends a word to a list with commas. */
static int append(char **to, const char *value, struct vmconf_error *error)
{
	char *longer = NULL;

	if (asprintf(&longer, "%s%s%s", *to ? *to : "", *to ? "," : "", value) < 0)
		return vmconf_refuse(error, "out of memory");
	free(*to);
	*to = longer;
	return 0;
}

int options_io_threads(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return append(&device->io_threads, value, error);
}

int options_map(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return append(&device->map, value, error);
}

int options_poll_max(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	uint64_t v;

	if (parse_u64(value, 0, POLL_MAX, &v))
		return vmconf_refuse(error, "poll-max-us=\"%s\" is not a number of microseconds from 0 to %d",
				     value, POLL_MAX);
	device->poll_max_us = (unsigned)v;
	return 0;
}

int options_set_threads(struct vmconf_device *device, struct vmconf_error *error)
{
	if (!device->io_threads || !placing_set_threads(&device->placing, device->io_threads))
		return 0;
	return vmconf_refuse(error, "io-threads=\"%s\" is not possible; allowed: " PLACING_THREADS_FORM,
			     device->io_threads);
}

int options_set_map(struct placing *placing, const struct vmconf_device *device, struct vmconf_error *error)
{
	if (!placing_set_map(placing, device->queues, device->map))
		return 0;
	return vmconf_refuse(error,
			     "map=\"%s\" is not possible; allowed: " PLACING_MAP_FORM
			     ", of %u queues and the names of io-threads",
			     device->map, device->queues);
}

int options_place_finish(struct vmconf_device *device, struct vmconf_error *error)
{
	if (!placing_finish(&device->placing))
		return 0;
	return vmconf_refuse(error, "io-threads=\"%s\" are more than there are queues (%u)",
			     device->io_threads, device->placing.queues);
}

int options_place(struct vmconf_device *device, struct vmconf_error *error)
{
	if (options_set_threads(device, error) || options_set_map(&device->placing, device, error))
		return -EINVAL;
	return options_place_finish(device, error);
}
