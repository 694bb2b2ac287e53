/* SPDX-License-Identifier: Apache-2.0 */
/* `bulkhead adopt`: becomes the supervisor of a machine whose own one died. */
#ifndef SUPERVISOR_ADOPT_H
#define SUPERVISOR_ADOPT_H

#include <stdbool.h>
#include <stdio.h>

#include "vmconf.h"

/* The words after the command's own; an exit status, of the machine once that is taken over. */
int adopt_command(int argc, char **argv);
void adopt_help(FILE *to);

/* Whether the machine of conf is there and waits for a supervisor. */
bool adopt_waits(const struct vmconf *conf);

/* Takes it over and runs it until its end, with the settings that it was started with; the exit status. */
int adopt_run(const char *name, const char *run_dir);

#endif
