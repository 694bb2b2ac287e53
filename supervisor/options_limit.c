/* SPDX-License-Identifier: Apache-2.0 */
/* The limits of disks, and what --limit-group takes. */
#include <errno.h>
#include <string.h>

#include "num.h"
#include "options_priv.h"
#include "parse.h"

static int check(enum quota_key key, const char *value, uint64_t *number, struct vmconf_error *error)
{
	if (quota_parse(key, value, number))
		return vmconf_refuse(error, "%s=\"%s\" is not a number up to %s (suffixes K, M, G, T)",
				     quota_names[key], value, key < QUOTA_BPS_BURST ? "1T" : "4G");
	return 0;
}

static int set_limit(struct vmconf_device *device, enum quota_key key, const char *value,
		     struct vmconf_error *error)
{
	uint64_t number;

	if (check(key, value, &number, error))
		return -EINVAL;
	return options_keep(&device->disk.limit[key], value, error);
}

int options_bps(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return set_limit(device, QUOTA_BPS, value, error);
}

int options_iops(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return set_limit(device, QUOTA_IOPS, value, error);
}

int options_bps_burst(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return set_limit(device, QUOTA_BPS_BURST, value, error);
}

int options_iops_burst(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return set_limit(device, QUOTA_IOPS_BURST, value, error);
}

int options_group(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	if (options_check_name("group", value, error))
		return -EINVAL;
	memcpy(device->disk.group, value, strlen(value) + 1);
	return 0;
}

/* One pair of --limit-group; bit 0 of *given is the name's, the others the limits'. */
static int take_pair(const struct vmconf *conf, struct vmconf_group *group, const char *key,
		     const char *value, unsigned *given, struct vmconf_error *error)
{
	unsigned i = 0;

	if (strcmp(key, "id"))
		for (i = 1; i <= QUOTA_KEYS && strcmp(key, quota_names[i - 1]); i++)
			;
	if (i > QUOTA_KEYS)
		return vmconf_refuse(
		    error, "\"%s\" is no key of a group; allowed: id, bps, iops, bps-burst, iops-burst", key);
	if (!value || !*value)
		return vmconf_refuse(error, "\"%s\" needs a value: %s=...", key, key);
	if (*given >> i & 1)
		return vmconf_refuse(error, "\"%s\" is given twice; once is allowed", key);
	*given |= 1U << i;
	if (i && check((enum quota_key)(i - 1), value, &group->limit[i - 1], error))
		return -EINVAL;
	if (i)
		return options_keep(&group->word[i - 1], value, error);
	if (options_check_name("id", value, error))
		return -EINVAL;
	if (vmconf_find_group(conf, value) >= 0)
		return vmconf_refuse(error, "id=\"%s\" is given twice; each group needs its own", value);
	memcpy(group->id, value, strlen(value) + 1);
	return 0;
}

int options_limit_group(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	struct vmconf_group *group = &conf->group[conf->ngroups];
	unsigned given = 0;
	char *key, *val;
	int got;

	if (conf->ngroups == VMCONF_GROUPS_MAX)
		return vmconf_refuse(error, "\"%s\" is one too many; at most %d groups are possible", value,
				     VMCONF_GROUPS_MAX);
	while ((got = parse_next_pair(&value, &key, &val)) > 0)
		if (take_pair(conf, group, key, val, &given, error))
			return -EINVAL;
	if (got < 0)
		return vmconf_refuse(error, "\"%s\" has an empty key; allowed: id=ID[,bps=RATE...]", value);
	if (!*group->id)
		return vmconf_refuse(error, "names no group; allowed: id=ID[,bps=RATE...]");
	conf->ngroups++;
	return 0;
}
