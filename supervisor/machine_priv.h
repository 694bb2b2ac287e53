/* SPDX-License-Identifier: Apache-2.0 */
/* The handlers that machine_init.c registers: what the files of a machine share. */
#ifndef SUPERVISOR_MACHINE_PRIV_H
#define SUPERVISOR_MACHINE_PRIV_H

#include "machine.h"

/* ---- machine.c ---- */

extern const struct child_ops machine_core_ops;
extern const struct device_ops machine_device_ops;

/* Looks whether all processes have ended. */
void machine_on_all_ended(void *arg);
void machine_on_keeper_dead(void *arg, uint32_t events);

/* ---- ctl_ask.c: argv as the client gave it ---- */

void ctl_set(struct machine *m, struct bus_ctl_request *req, const char *const *argv);
void ctl_resize(struct machine *m, struct bus_ctl_request *req, const char *const *argv);
void ctl_stats(struct machine *m, struct bus_ctl_request *req, const char *const *argv);

/* ---- machine_power.c ---- */

void machine_on_signal(void *arg, uint32_t events);
void machine_on_grace_over(void *arg);

#endif
