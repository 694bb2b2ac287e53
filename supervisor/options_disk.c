/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of a disk, and the kinds of values that several options have. */
#include "options_priv.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "num.h"
#include "parse.h"

int options_keep(char **to, const char *value, struct vmconf_error *error)
{
	if (!*value)
		return vmconf_refuse(error, "is empty; a path is needed");
	free(*to);
	*to = strdup(value);
	return *to ? 0 : vmconf_refuse(error, "out of memory");
}

int options_choice(const char *value, const char *first, const char *second, bool *is_second,
		   struct vmconf_error *error)
{
	*is_second = !strcmp(value, second);
	if (!*is_second && strcmp(value, first))
		return vmconf_refuse(error, "\"%s\" is not possible; allowed: %s, %s", value, first, second);
	return 0;
}

int options_restarts(const char *value, unsigned *restarts, unsigned *restarts_s, struct vmconf_error *error)
{
	const char *slash = strchr(value, '/');
	uint64_t n, s;
	char first[8];

	snprintf(first, sizeof(first), "%.*s", slash ? (int)(slash - value) : 0, value);
	if (!slash || slash - value >= (ptrdiff_t)sizeof(first) || parse_u64(first, 0, 1000, &n) ||
	    parse_u64(slash + 1, 1, 86400, &s))
		return vmconf_refuse(
		    error, "\"%s\" is not N/SECONDS with N from 0 to 1000, SECONDS from 1 to 86400", value);
	*restarts = (unsigned)n;
	*restarts_s = (unsigned)s;
	return 0;
}

static int disk_id(struct vmconf_disk *disk, const char *value, struct vmconf_error *error)
{
	static const char *const taken[] = { "core", "ctl", "events", "keeper", "lock" };

	if (!vmconf_name_ok(value))
		return vmconf_refuse(
		    error, "id=\"%s\" is not a name: 1 to %d of a-z A-Z 0-9 - _, a letter or digit first",
		    value, BUS_NAME_MAX - 1);
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		if (!strcmp(value, taken[i]))
			return vmconf_refuse(error, "id=\"%s\" is Bulkhead's own; choose another name",
					     value);
	memcpy(disk->id, value, strlen(value) + 1);
	return 0;
}

static int disk_format(struct vmconf_disk *disk, const char *value, struct vmconf_error *error)
{
	(void)disk;
	return strcmp(value, "raw")
		   ? vmconf_refuse(error, "format=\"%s\" is not possible; allowed: raw", value)
		   : 0;
}

static int disk_readonly(struct vmconf_disk *disk, const char *value, struct vmconf_error *error)
{
	int on = parse_on_off(value);

	if (on < 0)
		return vmconf_refuse(error, "readonly=\"%s\" is not possible; allowed: on, off", value);
	disk->readonly = on;
	return 0;
}

static int disk_queues(struct vmconf_disk *disk, const char *value, struct vmconf_error *error)
{
	uint64_t v;

	if (parse_u64(value, 1, VMCONF_QUEUES_MAX, &v))
		return vmconf_refuse(error, "queues=\"%s\" is not a number from 1 to %d", value,
				     VMCONF_QUEUES_MAX);
	disk->queues = (unsigned)v;
	return 0;
}

static int disk_cache(struct vmconf_disk *disk, const char *value, struct vmconf_error *error)
{
	bool buffered;

	if (options_choice(value, "direct", "buffered", &buffered, error))
		return vmconf_refuse(error, "cache=\"%s\" is not possible; allowed: direct, buffered", value);
	disk->cache = buffered ? CACHE_BUFFERED : CACHE_DIRECT;
	return 0;
}

static int disk_spare(struct vmconf_disk *disk, const char *value, struct vmconf_error *error)
{
	int on = parse_on_off(value);

	if (on < 0)
		return vmconf_refuse(error, "spare=\"%s\" is not possible; allowed: on, off", value);
	disk->spare = on;
	return 0;
}

static int disk_restarts(struct vmconf_disk *disk, const char *value, struct vmconf_error *error)
{
	struct vmconf_error why;

	if (options_restarts(value, &disk->restarts, &disk->restarts_s, &why))
		return vmconf_refuse(error, "restarts=%s", why.text);
	disk->own_restarts = true;
	return 0;
}

static int disk_on_failure(struct vmconf_disk *disk, const char *value, struct vmconf_error *error)
{
	static const char *const words[] = {
		[FAILURE_QUARANTINE] = "quarantine",
		[FAILURE_READ_ONLY] = "read-only",
		[FAILURE_NEEDS_RESET] = "needs-reset",
		[FAILURE_STOP] = "stop",
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (strcmp(value, words[i]))
			continue;
		disk->on_failure = (enum vmconf_failure)i;
		return 0;
	}
	return vmconf_refuse(
	    error, "on-failure=\"%s\" is not possible; allowed: quarantine, read-only, needs-reset, stop",
	    value);
}

static int disk_hang_timeout(struct vmconf_disk *disk, const char *value, struct vmconf_error *error)
{
	uint64_t v;

	if (parse_u64(value, 0, VMCONF_HANG_MAX, &v))
		return vmconf_refuse(error,
				     "hang-timeout=\"%s\" is not a number of milliseconds from 0 to %d",
				     value, VMCONF_HANG_MAX);
	disk->hang_timeout_ms = (unsigned)v;
	return 0;
}

static int disk_path(struct vmconf_disk *disk, const char *value, struct vmconf_error *error)
{
	return options_keep(&disk->path, value, error);
}

static int disk_vhost_user(struct vmconf_disk *disk, const char *value, struct vmconf_error *error)
{
	if (strlen(value) > VMCONF_SOCKET_MAX)
		return vmconf_refuse(error, "vhost-user=\"%s\" has %zu bytes; a socket's path can have %d",
				     value, strlen(value), VMCONF_SOCKET_MAX);
	return options_keep(&disk->vhost_user, value, error);
}

static const struct {
	const char *key;
	int (*parse)(struct vmconf_disk *disk, const char *value, struct vmconf_error *error);
	bool own; /* only for an image of which we run the server */
} disk_keys[] = {
	{ "path", disk_path, true },
	{ "id", disk_id, false },
	{ "format", disk_format, true },
	{ "readonly", disk_readonly, true },
	{ "queues", disk_queues, true },
	{ "cache", disk_cache, true },
	{ "spare", disk_spare, true },
	{ "restarts", disk_restarts, false },
	{ "on-failure", disk_on_failure, false },
	{ "hang-timeout", disk_hang_timeout, true },
	{ "vhost-user", disk_vhost_user, false },
};

int options_disk(struct vmconf_disk *disk, char *value, struct vmconf_error *error)
{
	bool given[ARRAY_SIZE(disk_keys)] = { false };
	char *key, *val;
	int got;

	while ((got = parse_next_pair(&value, &key, &val)) > 0) {
		size_t i = 0;

		while (i < ARRAY_SIZE(disk_keys) && strcmp(key, disk_keys[i].key))
			i++;
		if (i == ARRAY_SIZE(disk_keys))
			return vmconf_refuse(
			    error,
			    "\"%s\" is no key of a disk; allowed: path, id, format, readonly, "
			    "queues, cache, spare, restarts, on-failure, hang-timeout, vhost-user%s%s",
			    key, val ? "" : "; an image is path=", val ? "" : key);
		if (!val || !*val)
			return vmconf_refuse(error, "\"%s\" needs a value: %s=...", key, key);
		if (given[i])
			return vmconf_refuse(error, "\"%s\" is given twice; once is allowed", key);
		given[i] = true;
		if (disk_keys[i].parse(disk, val, error))
			return -EINVAL;
	}
	if (got < 0)
		return vmconf_refuse(error, "\"%s\" has an empty key; allowed: path=FILE[,KEY=VALUE...]",
				     value);
	if (!given[0] && !disk->vhost_user)
		return vmconf_refuse(
		    error, "names no image; allowed: path=FILE[,KEY=VALUE...] or vhost-user=SOCKET");
	for (size_t i = 0; disk->vhost_user && i < ARRAY_SIZE(disk_keys); i++)
		if (given[i] && disk_keys[i].own)
			return vmconf_refuse(
			    error,
			    "\"%s\" does not go with vhost-user; allowed beside it: id, restarts, on-failure",
			    disk_keys[i].key);
	if (disk->vhost_user && disk->on_failure == FAILURE_READ_ONLY)
		return vmconf_refuse(error, "on-failure=\"read-only\" does not go with vhost-user; allowed: "
					    "quarantine, needs-reset, stop");
	return 0;
}
