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

/* One that waits for the answer of a process. */
struct ctl_question {
	struct machine *machine;
	struct bus_ctl_request *req;
	char id[BUS_NAME_MAX];
	struct device_set *set;    /* of SET: of the device or group */
	char change[BUS_TEXT_MAX]; /* what is to be changed, for the log; of SET "KEY=VALUE" */
};

/* The process that goes by an id: the core, a device's server, or with ".user" after it the helper of one; or NULL. */
struct child *ctl_find_child(struct machine *m, const char *id);

/* A question, or NULL after a refusal; and asks child, within so long. fn frees the question, unless that fails. */
struct ctl_question *ctl_new_question(struct machine *m, struct bus_ctl_request *req, const char *id);
void ctl_ask(struct ctl_question *q, struct child *child, const struct bus_msg *msg, uint64_t timeout_ns,
	     bus_reply_fn fn);

/* For ctl_ask: the end of a change, q->change. */
void ctl_on_changed(void *arg, int err, const struct bus_msg *reply);

/* ---- ctl_loops.c ---- */

void ctl_loops(struct machine *m, struct bus_ctl_request *req);
void ctl_move_queue(struct machine *m, struct bus_ctl_request *req, const char *const *argv);
void ctl_pin(struct machine *m, struct bus_ctl_request *req, const char *const *argv);

/* ---- machine_error.c ---- */

/* A disk's server keeps a request that failed; or a port's tap is gone. */
void machine_io_error(void *arg, struct device_link *l, const char *text);

/* Before the vCPUs run again: has such requests tried again; and after it: stands again if that was in vain. */
void machine_retry(struct machine *m);
/* It was to be stopped for such a request and is not. */
void machine_runs_on(struct machine *m, const char *why);
void machine_resumed(struct machine *m);

/* ---- machine_fail.c ---- */

/* Tells the guest which devices that were given up need a reset; of those that the kernel still works for it does so later. */
void machine_fail_devices(void *arg);

/* ---- machine_power.c ---- */

void machine_on_signal(void *arg, uint32_t events);
void machine_on_grace_over(void *arg);

#endif
