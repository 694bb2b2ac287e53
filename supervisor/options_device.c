/* SPDX-License-Identifier: Apache-2.0 */
/* The keys that several kinds of devices have, how all are read, and the kinds of values that several options have. */
#include "options_priv.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "num.h"
#include "parse.h"

/* ---- kinds of values ---- */

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

/* ---- keys ---- */

int options_check_name(const char *key, const char *value, struct vmconf_error *error)
{
	if (vmconf_name_ok(value))
		return 0;
	return vmconf_refuse(error,
			     "%s=\"%s\" is not a name: 1 to %d of a-z A-Z 0-9 - _, a letter or digit first",
			     key, value, BUS_NAME_MAX - 1);
}

/* That of a process, which has a folder of that name. */
static int name_process(char *to, const char *key, const char *value, struct vmconf_error *error)
{
	static const char *const taken[] = { "core", "ctl", "events", "keeper", "lock" };

	if (options_check_name(key, value, error))
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		if (!strcmp(value, taken[i]))
			return vmconf_refuse(error, "%s=\"%s\" is Bulkhead's own; choose another name", key,
					     value);
	memcpy(to, value, strlen(value) + 1);
	return 0;
}

int options_id(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return name_process(device->id, "id", value, error);
}

int options_server(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return name_process(device->server, "server", value, error);
}

int options_queues(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	unsigned max = device->kind == KIND_NET ? VMCONF_PAIRS_MAX : VMCONF_QUEUES_MAX;
	uint64_t v;

	if (parse_u64(value, 1, max, &v))
		return vmconf_refuse(error, "queues=\"%s\" is not a number from 1 to %u", value, max);
	device->queues = (unsigned)v;
	return 0;
}

int options_spare(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	int on = parse_on_off(value);

	if (on < 0)
		return vmconf_refuse(error, "spare=\"%s\" is not possible; allowed: on, off", value);
	device->spare = on;
	return 0;
}

int options_device_restarts(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	struct vmconf_error why;

	if (options_restarts(value, &device->restarts, &device->restarts_s, &why))
		return vmconf_refuse(error, "restarts=%s", why.text);
	device->own_restarts = true;
	return 0;
}

int options_on_failure(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	static const char *const words[] = {
		[FAILURE_QUARANTINE] = "quarantine",
		[FAILURE_READ_ONLY] = "read-only",
		[FAILURE_NEEDS_RESET] = "needs-reset",
		[FAILURE_STOP] = "stop",
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (strcmp(value, words[i]) || (i == FAILURE_READ_ONLY && device->kind != KIND_DISK))
			continue;
		device->on_failure = (enum vmconf_failure)i;
		return 0;
	}
	return vmconf_refuse(error,
			     "on-failure=\"%s\" is not possible; allowed: quarantine, %sneeds-reset, stop",
			     value, device->kind == KIND_DISK ? "read-only, " : "");
}

int options_hang_timeout(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	uint64_t v;

	if (parse_u64(value, 0, VMCONF_HANG_MAX, &v))
		return vmconf_refuse(error,
				     "hang-timeout=\"%s\" is not a number of milliseconds from 0 to %d",
				     value, VMCONF_HANG_MAX);
	device->hang_timeout_ms = (unsigned)v;
	return 0;
}

int options_vhost_user(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	if (strlen(value) > VMCONF_SOCKET_MAX)
		return vmconf_refuse(error, "vhost-user=\"%s\" has %zu bytes; a socket's path can have %d",
				     value, strlen(value), VMCONF_SOCKET_MAX);
	return options_keep(&device->vhost_user, value, error);
}

/* ---- all of them ---- */

static int refuse_key(const struct options_kind *kind, const char *key, bool has_value,
		      struct vmconf_error *error)
{
	char all[BUS_TEXT_MAX] = "";

	for (const struct options_key *k = kind->keys; k->key; k++) {
		size_t len = strlen(all);

		snprintf(all + len, sizeof(all) - len, "%s%s", len ? ", " : "", k->key);
	}
	return vmconf_refuse(error, "\"%s\" is no key of a %s; allowed: %s%s%s%s", key, kind->name, all,
			     has_value ? "" : "; ", has_value ? "" : kind->bare, has_value ? "" : key);
}

int options_device(struct vmconf_device *device, const struct options_kind *kind, char *value, bool *given,
		   struct vmconf_error *error)
{
	const struct options_key *keys = kind->keys;
	const struct options_key *last = NULL;
	char *key, *val, on[] = "on";
	int got;

	while ((got = parse_next_pair(&value, &key, &val)) > 0) {
		size_t i = 0;

		if (last && last->list && !val && *key >= '0' && *key <= '9') {
			if (last->parse(device, key, error))
				return -EINVAL;
			continue;
		}
		while (keys[i].key && strcmp(key, keys[i].key))
			i++;
		last = &keys[i];
		if (!keys[i].key)
			return refuse_key(kind, key, val, error);
		if (!val && keys[i].flag)
			val = on;
		if (!val || !*val)
			return vmconf_refuse(error, "\"%s\" needs a value: %s=...", key, key);
		if (given[i] && !keys[i].repeats && !keys[i].list)
			return vmconf_refuse(error, "\"%s\" is given twice; once is allowed", key);
		given[i] = true;
		device->commons |= 1U << keys[i].common;
		if (keys[i].parse(device, val, error))
			return -EINVAL;
	}
	if (got < 0)
		return vmconf_refuse(error, "\"%s\" has an empty key; allowed: %s", value, kind->form);
	for (size_t i = 0; device->vhost_user && keys[i].key; i++)
		if (given[i] && keys[i].own)
			return vmconf_refuse(error,
					     "\"%s\" does not go with vhost-user; allowed beside it: %s",
					     keys[i].key, kind->beside);
	return 0;
}
