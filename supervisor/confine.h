/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor's own sandbox, for the time when it listens to its children. */
#ifndef SUPERVISOR_CONFINE_H
#define SUPERVISOR_CONFINE_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Gives up, for good and for every thread: all capabilities, being dumped or traced by its user, privileges by exec,
 * and all system calls but those of the tables in syscalls.c. What it keeps others do: the keeper starts processes.
 * -errno and *what the step.
 */
int confine_privileges(const char **what);           /* before the first thread */
int confine_calls(bool log_only, const char **what); /* when all threads run; sandbox_log_only if so said */

/* How many system calls that leaves. */
size_t confine_count(void);

#endif
