/* SPDX-License-Identifier: Apache-2.0 */
/* The run directory: RUN/NAME belongs to one running machine, is locked while it runs and gone when it has
 * ended. */
#ifndef SUPERVISOR_RUNDIR_H
#define SUPERVISOR_RUNDIR_H

#include <stdbool.h>
#include <sys/types.h>

#include "vmconf.h"

#define RUNDIR_PATH_MAX 256
#define RUNDIR_SLOT_MAX (BUS_NAME_MAX + 9)

struct rundir {
	int base_fd, dir_fd, lock_fd;
	char base[RUNDIR_PATH_MAX]; /* RUN */
	char path[RUNDIR_PATH_MAX]; /* RUN/NAME */
	char name[BUS_NAME_MAX];
	int stale_pid; /* the process of a dead machine whose directory was taken over, or 0 */
};

#define RUNDIR_NONE                                                                                          \
	{                                                                                                    \
		.base_fd = -1, .dir_fd = -1, .lock_fd = -1                                                   \
	}

/* The directory that run_dir names, or the default for this user (NULL), into path. */
int rundir_base(const char *run_dir, char *path, size_t size, struct vmconf_error *error);

/* Looks whether all sockets of conf would have possible names and be within the children's reach; changes nothing. */
int rundir_check(const struct vmconf *conf, struct vmconf_error *error);

/* Makes RUN if needed and RUN/NAME, locked for this process; takes over what a dead machine left there. */
int rundir_take(const struct vmconf *conf, struct rundir *dir, struct vmconf_error *error);

/* The name of the folder of a device's slot, helper or window: its id, or the id with an end that no id can have. */
void rundir_slot(char folder[RUNDIR_SLOT_MAX], const char *id, size_t slot);

/* Makes RUN/NAME/ID, into which only the group gid may look. */
int rundir_add(struct rundir *dir, const char *id, gid_t gid, struct vmconf_error *error);

/* Tells in the lock file whose machine it is: the supervisor's, or alone: that of a keeper without one. */
int rundir_set_owner(struct rundir *dir, pid_t pid, bool alone);

/* Removes the sockets on which nobody listens while there is no supervisor. */
void rundir_drop_sockets(struct rundir *dir);

/* Removes RUN/NAME with all that is in it, never following a link, and RUN if a machine made it and none uses it; closes all. */
void rundir_remove(struct rundir *dir);

/* Opens RUN to list its machines; -errno. */
int rundir_open_base(const char *path);

/* The process that holds RUN/NAME/lock, 0 if nobody does, -errno if there is none such. alone (NULL: no matter) tells
 * whether that is a keeper which waits for a supervisor. */
int rundir_owner(int base_fd, const char *name, bool *alone);

/* Refuses for want of a machine of that name, and says so if a dead one left its folder; -EINVAL. */
int rundir_refuse_absent(const char *base, const char *name, struct vmconf_error *error);

/* Finds RUN/NAME of a machine that may run, and whose it is, without taking it. -EINVAL with the reason. */
int rundir_look(const char *run_dir, const char *name, struct rundir *dir, uid_t *owner,
		struct vmconf_error *error);

/* Whether RUN/NAME/file is a socket, and no link to one. */
bool rundir_has_socket(const struct rundir *dir, const char *file);

#endif
