/* SPDX-License-Identifier: Apache-2.0 */
/* What options.c and the files of the kinds of devices share. All return 0, or -EINVAL with the reason in error. */
#ifndef SUPERVISOR_OPTIONS_PRIV_H
#define SUPERVISOR_OPTIONS_PRIV_H

#include "vmconf.h"

/* Keeps a copy of a text in *to. */
int options_keep(char **to, const char *value, struct vmconf_error *error);

/* One of two words into false (first) or true (second). */
int options_choice(const char *value, const char *first, const char *second, bool *is_second,
		   struct vmconf_error *error);

/* Whether the value of a key can be the name of something. */
int options_check_name(const char *key, const char *value, struct vmconf_error *error);

/* N/SECONDS: how many deaths in how long. */
int options_restarts(const char *value, unsigned *restarts, unsigned *restarts_s, struct vmconf_error *error);

/* ---- devices ---- */

/* What disks that share a server have in common, as it is its process's. */
enum options_common {
	COMMON_NONE,
	COMMON_IO_THREADS,
	COMMON_POLL_MAX,
	COMMON_ENGINE,
	COMMON_SPARE,
	COMMON_RESTARTS,
	COMMON_ON_FAILURE,
	COMMONS
};

/* A key of a kind of device. */
struct options_key {
	const char *key;
	int (*parse)(struct vmconf_device *device, const char *value, struct vmconf_error *error);
	enum options_common common;
	bool own; /* only for a device of which we run the server */
	bool repeats;
	bool flag; /* on if it has no value */
	bool list; /* words after it that begin with a digit and have no value are more of it; repeats */
};

#define OPTIONS_KEYS_MAX 32

/* What the option of a kind of device takes. */
struct options_kind {
	const char *name;               /* "disk" */
	const char *form;               /* what is allowed, for people */
	const char *bare;               /* what a word without a value is likely to be, for people */
	const char *beside;             /* the keys that go with vhost-user, for people */
	const struct options_key *keys; /* ends with a NULL key */
};

/* Reads KEY=VALUE,... of a device; value is modified, given[i] becomes whether key i was there. */
int options_device(struct vmconf_device *device, const struct options_kind *kind, char *value, bool *given,
		   struct vmconf_error *error);

/* The keys that several kinds have. */
int options_id(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_server(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_queues(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_spare(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_device_restarts(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_on_failure(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_hang_timeout(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_vhost_user(struct vmconf_device *device, const char *value, struct vmconf_error *error);

/* The limits of a disk, and its group. */
int options_bps(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_iops(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_bps_burst(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_iops_burst(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_group(struct vmconf_device *device, const char *value, struct vmconf_error *error);

/* Reads what --limit-group takes. */
int options_limit_group(struct vmconf *conf, char *value, struct vmconf_error *error);

/* options_threads.c: the keys; and what they come to once the number of queues is known. */
int options_io_threads(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_map(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_poll_max(struct vmconf_device *device, const char *value, struct vmconf_error *error);
int options_place(struct vmconf_device *device, struct vmconf_error *error);
/* ... which is this one after the other; the map may be that of another disk. */
int options_set_threads(struct vmconf_device *device, struct vmconf_error *error);
int options_set_map(struct placing *placing, const struct vmconf_device *device, struct vmconf_error *error);
int options_place_finish(struct vmconf_device *device, struct vmconf_error *error);

/* Whether the engine can serve the format. */
int options_check_engine(const struct vmconf_disk *disk, struct vmconf_error *error);

/* options_server.c: what the disks of each server come to, once all are known. */
int options_servers(struct vmconf *conf, struct vmconf_error *error);

/* Reads what --disk takes, and what --net takes. */
int options_disk(struct vmconf_device *device, char *value, struct vmconf_error *error);
int options_net(struct vmconf_device *device, char *value, struct vmconf_error *error);

#endif
