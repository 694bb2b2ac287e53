/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control groups (cgroups v2): one for each process of a machine, in one of the machine's, in a folder that was made over
 * to this user. They bound what rlimits do not count, and give each process its share of the processors.
 */
#ifndef SUPERVISOR_CGROUP_H
#define SUPERVISOR_CGROUP_H

#include <stddef.h>
#include <stdint.h>

#include "vmconf.h"

/* What a process may take. */
struct cgroup_limits {
	uint64_t memory; /* bytes of all kinds: memory.max */
	unsigned tasks;  /* processes and threads: pids.max */
	unsigned weight; /* of its share of the processors, 1 to 10000: cpu.weight */
};

struct cgroup {
	char *path;       /* FOLDER/bulkhead-NAME; NULL: there is none */
	unsigned missing; /* bits of cgroup_controllers that were not made over */
};

#define CGROUP_CONTROLLERS 3
extern const char *const cgroup_controllers[CGROUP_CONTROLLERS];

/* Whether groups can be made in the folder that conf names, if it names one; changes nothing. -EINVAL with the reason. */
int cgroup_check(const struct vmconf *conf, struct vmconf_error *error);

/*
 * Makes the machine's group; nothing if conf names no folder. With "self" this process moves to a group "bulkhead" beside
 * it. The name's lock is held (rundir_take): what a dead machine of this name left is taken over, and -EINVAL if processes
 * are in it.
 */
int cgroup_make(const struct vmconf *conf, struct cgroup *group, struct vmconf_error *error);

/* Makes the group of a process, with its limits as far as there are controllers; *path is the caller's. -EINVAL. */
int cgroup_add(const struct cgroup *group, const char *id, const struct cgroup_limits *limits, char **path,
	       struct vmconf_error *error);

/* How often the kernel has ended a process of the group for want of memory. */
unsigned long cgroup_oom_kills(const char *path);

/* Ends all that is left in the groups, removes them and frees; group may be NULL. Blocks until they are empty, at most a second. */
void cgroup_remove(struct cgroup *group);

#endif
