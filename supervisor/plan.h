/* SPDX-License-Identifier: Apache-2.0 */
/* Turns a machine's settings into what is to be started: checks and opens every file, finds the programs, and
 * writes each child's options (docs/architecture.md lists them). */
#ifndef SUPERVISOR_PLAN_H
#define SUPERVISOR_PLAN_H

#include "files_tap.h"
#include "keeper.h"
#include "rundir.h"
#include "vmconf.h"

struct plan_files {
	int kvm, kernel, initrd;
	int image[VMCONF_DEVICES_MAX];
	int backing[VMCONF_DEVICES_MAX][VMCONF_BACKING_MAX]; /* the files below it; -1: none */
	bool direct[VMCONF_DEVICES_MAX];
	struct files_tap tap[VMCONF_DEVICES_MAX];
	int packet[VMCONF_DEVICES_MAX]
		  [2]; /* between a device's server and the process with the host's network */
	int listener[VMCONF_DEVICES_MAX]; /* on which peers connect */
	const char *listens_at[VMCONF_DEVICES_MAX];
	int state[VMCONF_DEVICES_MAX]; /* memory that all servers of a device share, one after the other */
	int group[VMCONF_GROUPS_MAX];  /* the limits of each, shared by the servers of its disks */
	/* Flight recorders, by index in the keeper's plan: for the child, and to be read; -1: it has none. */
	int flight[KEEPER_CHILDREN_MAX], flight_reader[KEEPER_CHILDREN_MAX];
	char *core, *blk, *net, *user, *dial, *window; /* programs */
};

/* Checks and opens all that conf names but networks; changes nothing. -EINVAL with one line that names the option. */
int plan_open(const struct vmconf *conf, struct plan_files *files, struct vmconf_error *error);

/* Opens networks, once it is known that no machine of this name runs, since taps and bridges are changed. The same. */
int plan_open_nets(const struct vmconf *conf, struct plan_files *files, struct vmconf_error *error);

/* Takes back what plan_open_nets changed, if there is no keeper to do it at the end. */
void plan_undo(const struct plan_files *files);

/* Closes what networks are joined by, which the keeper has by now and the supervisor has no use for. */
void plan_close_nets(struct plan_files *files);

/* Closes and frees. */
void plan_close(struct plan_files *files);

/* The user id of child i of the machine, if root starts it. */
uid_t plan_uid(const struct vmconf *conf, size_t i);

/* plan_fill.c: fills in the keeper's plan; it borrows from conf, files and dir. -ENOMEM. */
int plan_fill(struct keeper_plan *plan, const struct vmconf *conf, struct plan_files *files,
	      const struct rundir *dir);

/* Makes the control groups of the machine and of each child, once plan is filled in. -EINVAL with the reason. */
int plan_cgroups(struct keeper_plan *plan, const struct vmconf *conf, struct vmconf_error *error);

void plan_free(struct keeper_plan *plan);

#endif
