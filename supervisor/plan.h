/* SPDX-License-Identifier: Apache-2.0 */
/* Turns a machine's settings into what is to be started: checks and opens every file, finds the programs, and
 * writes each child's options (docs/architecture.md lists them). */
#ifndef SUPERVISOR_PLAN_H
#define SUPERVISOR_PLAN_H

#include "keeper.h"
#include "rundir.h"
#include "vmconf.h"

struct plan_files {
	int kvm, kernel, initrd;
	int image[VMCONF_DEVICES_MAX];
	bool direct[VMCONF_DEVICES_MAX];
	/* Flight recorders, by index in the keeper's plan: for the child, and to be read; -1: it has none. */
	int flight[KEEPER_CHILDREN_MAX], flight_reader[KEEPER_CHILDREN_MAX];
	char *core, *blk; /* programs */
};

/* Checks and opens all that conf names, changing nothing. -EINVAL with one line that names the option. */
int plan_open(const struct vmconf *conf, struct plan_files *files, struct vmconf_error *error);

/* Closes and frees. */
void plan_close(struct plan_files *files);

/* The user id of child i of the machine, if root starts it. */
uid_t plan_uid(const struct vmconf *conf, size_t i);

/* Fills in the keeper's plan; it borrows from conf, files and dir. -ENOMEM. */
int plan_fill(struct keeper_plan *plan, const struct vmconf *conf, const struct plan_files *files,
	      const struct rundir *dir);

void plan_free(struct keeper_plan *plan);

#endif
