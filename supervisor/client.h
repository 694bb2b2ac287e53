/* SPDX-License-Identifier: Apache-2.0 */
/* The commands that speak to running machines: ctl, events and ps. Each returns an exit status. */
#ifndef SUPERVISOR_CLIENT_H
#define SUPERVISOR_CLIENT_H

#include <stdio.h>

/* The words after the command's own. */
int client_ctl(int argc, char **argv);
int client_events(int argc, char **argv);
int client_ps(int argc, char **argv);

void client_ctl_help(FILE *to);
void client_events_help(FILE *to);
void client_ps_help(FILE *to);

#endif
