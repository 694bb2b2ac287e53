/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disks that share a server. What is its process's may be said of any of them: those that say it must agree, and it holds
 * for all.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "num.h"
#include "options_priv.h"

#define FIELD(name, n) offsetof(struct vmconf_device, name), (n) * sizeof(((struct vmconf_device *)0)->name)

static const struct {
	const char *key;
	size_t at, size; /* of the value; 0: it is text, see io_threads */
} commons[] = {
	[COMMON_IO_THREADS] = { "io-threads", 0, 0 },
	[COMMON_POLL_MAX] = { "poll-max-us", FIELD(poll_max_us, 1) },
	[COMMON_ENGINE] = { "engine", FIELD(disk.engine, 1) },
	[COMMON_SPARE] = { "spare", FIELD(spare, 1) },
	[COMMON_RESTARTS] = { "restarts", FIELD(restarts, 2) },
	[COMMON_ON_FAILURE] = { "on-failure", FIELD(on_failure, 1) },
};
_Static_assert(ARRAY_SIZE(commons) == COMMONS, "each has its row");
_Static_assert(offsetof(struct vmconf_device, restarts_s) ==
		   offsetof(struct vmconf_device, restarts) + sizeof(unsigned),
	       "the two are compared and copied as one");

static bool is_member(const struct vmconf *conf, size_t i, const struct vmconf_device *of)
{
	return !strcmp(conf->device[i].server, of->server);
}

static bool is_same(enum options_common c, const struct vmconf_device *a, const struct vmconf_device *b)
{
	if (!commons[c].size)
		return !strcmp(a->io_threads, b->io_threads);
	return !memcmp((const char *)a + commons[c].at, (const char *)b + commons[c].at, commons[c].size);
}

static int copy(enum options_common c, struct vmconf_device *to, const struct vmconf_device *from,
		struct vmconf_error *error)
{
	if (!commons[c].size)
		return options_keep(&to->io_threads, from->io_threads, error);
	memcpy((char *)to + commons[c].at, (const char *)from + commons[c].at, commons[c].size);
	return 0;
}

/* Has all disks of a server agree on one thing, if one of them says it. */
static int agree(struct vmconf *conf, const struct vmconf_device *first, enum options_common c,
		 struct vmconf_error *error)
{
	const struct vmconf_device *by = NULL;

	for (size_t i = 0; i < conf->ndevices; i++) {
		const struct vmconf_device *device = &conf->device[i];

		if (!is_member(conf, i, first) || !(device->commons & 1U << c))
			continue;
		if (!by)
			by = device;
		else if (!is_same(c, by, device))
			return vmconf_refuse(
			    error, "--disk: %s of %s and of %s differ, and server=\"%s\" is one process",
			    commons[c].key, by->id, device->id, first->server);
	}
	for (size_t i = 0; by && i < conf->ndevices; i++)
		if (is_member(conf, i, first) && &conf->device[i] != by &&
		    copy(c, &conf->device[i], by, error))
			return -EINVAL;
	return 0;
}

static int place(struct vmconf *conf, size_t first, struct vmconf_error *error)
{
	struct vmconf_device *leader = &conf->device[first];
	struct vmconf_error why = { "" };
	unsigned disks = 0, queues = 0;
	int err = options_set_threads(leader, &why);

	for (size_t i = first; !err && i < conf->ndevices; i++) {
		if (!is_member(conf, i, leader))
			continue;
		queues += conf->device[i].queues;
		if (++disks > VMCONF_SHARED_MAX)
			err = vmconf_refuse(&why, "server=\"%s\" has more than %d disks", leader->server,
					    VMCONF_SHARED_MAX);
		else if (queues > VMCONF_QUEUES_MAX)
			err = vmconf_refuse(&why, "server=\"%s\" has more than %d queues together",
					    leader->server, VMCONF_QUEUES_MAX);
		else
			err = options_set_map(&leader->placing, &conf->device[i], &why);
	}
	if (!err)
		err = options_place_finish(leader, &why);
	return err ? vmconf_refuse(error, "--disk: %s", why.text) : 0;
}

static int check_disk(const struct vmconf *conf, const struct vmconf_device *device,
		      struct vmconf_error *error)
{
	struct vmconf_error why;

	if (device->disk.nbd)
		return vmconf_refuse(error, "--disk: server=\"%s\" does not go with nbd", device->server);
	for (size_t i = 0; i < conf->ndevices; i++)
		if (!strcmp(device->server, conf->device[i].id))
			return vmconf_refuse(
			    error,
			    "--disk: server=\"%s\" is the id of a device; a server has a name of its own",
			    device->server);
	if (options_check_engine(&device->disk, &why))
		return vmconf_refuse(error, "--disk: %s, and %s shares its server", why.text, device->id);
	return 0;
}

int options_servers(struct vmconf *conf, struct vmconf_error *error)
{
	for (size_t i = 0; i < conf->ndevices; i++) {
		bool first = vmconf_leader(conf, i) == i;

		if (!*conf->device[i].server)
			continue;
		for (enum options_common c = COMMON_NONE + 1; first && c < COMMONS; c++)
			if (agree(conf, &conf->device[i], c, error))
				return -EINVAL;
		if (check_disk(conf, &conf->device[i], error) || (first && place(conf, i, error)))
			return -EINVAL;
	}
	return 0;
}
