/* SPDX-License-Identifier: Apache-2.0 */
/* What machines answer, in words and tables for people. */
#ifndef SUPERVISOR_CLIENT_PRINT_H
#define SUPERVISOR_CLIENT_PRINT_H

#include <jansson.h>

/* The answers to ctl status, upgrade (of device) and stats. */
void client_print_status(const json_t *root);
void client_print_upgrade(const char *device, const json_t *root);
void client_print_stats(json_t *root);

/* The list that ps shows: the status of each machine, or what can be said of it without its help. */
void client_print_machines(const json_t *list);

#endif
