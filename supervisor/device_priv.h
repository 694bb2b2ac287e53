/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of a device share. */
#ifndef SUPERVISOR_DEVICE_PRIV_H
#define SUPERVISOR_DEVICE_PRIV_H

#include "clock.h"
#include "device.h"
#include "device_helper.h"

/* ---- device.c ---- */

static inline struct child *device_active(struct device *d)
{
	return &d->slot[d->active];
}

static inline size_t device_other(const struct device *d)
{
	return 1 - d->active;
}

/* The spare, or whatever else is in the other slot. */
static inline struct child *device_spare(struct device *d)
{
	return &d->slot[device_other(d)];
}

/* What deaths are apart if they never become too many; at most a second. Longer lives are no sign of a storm. */
uint64_t device_pace_ns(const struct device *d);

const char *device_state_name(const struct device *d);

/* Starts one that was given up as if it had not died before. */
void device_start_again(struct device *d);

/* It was given up; wrong as for device_ops. */
void device_fail(struct device *d, bool wrong);

/* The start failed; what was started of it is gone. */
void device_start_failed(struct device *d);

/* It is up if all that it takes is there. */
void device_check_up(struct device *d);

/* It has come to its end if all its processes have. */
void device_check_stopped(struct device *d);

/* The back end, or peer, that somebody else runs is away. */
void device_external_lost(struct device *d, const char *reason);

/* ---- device_start.c ---- */

/* Starts a process in a slot, with a socket of its own. -errno, logged. */
int device_start_slot(struct device *d, size_t slot);

/* Starts the active slot's process, as soon as that is possible, and passes it to the core. */
void device_start_active(struct device *d);

/* Nothing remains any more of the last process in one of the slots. */
void device_vanished(struct device *d);

/* What is in the other slot becomes active and is passed to the core; there must be something alive. */
void device_take_spare(struct device *d);

/* ---- device_link.c ---- */

void device_init_links(struct device *d);

/* The device that its server speaks of; NULL, and a warning, if there is none. */
struct device_link *device_find_link(struct device *d, const char *name);

/* A socket for each device: the server's ends into fds, the front ends' are kept, and are in held, too. 0 or -errno, logged. */
int device_make_fronts(struct device *d, size_t slot, int *fds, int *held);

/* The front ends' ends of the sockets of a slot's process: those that the core does not have. */
void device_close_fronts(struct device *d, size_t slot);

/* The core is to know this connection now, with the recorders of the server and of its window, -1 where there is none; what it
 * says about the one before may be still to come. */
int device_give(struct device_link *l, int fd, const int flight[2]);

/* The core is linked with all of its devices. */
bool device_is_linked(const struct device *d);

/* Those whose rings were live when they were linked have had their server say what came of it. */
bool device_all_told(const struct device *d);

/* Its server keeps a request, or has lost what it leads to. */
void device_io_error(struct device *d, const struct bus_msg *msg);

/* Since when (clock_ns) its active process, which has not said HELLO, waits for storage as it says; 0: it does not. */
uint64_t device_waits_since(const struct device *d);

/* ---- device_sets.c ---- */

/* The limits of a device or group that are in force: what was set of them, by key. */
json_t *device_limits_json(const struct device_set *set);
/* Of a network port: "gone", or else "up" or "down" as it was set; else NULL. */
const char *device_network_link(const struct device_link *l);

/* The active process, which is on the bus, may not know, or have forgotten, what was set. */
void device_repeat_sets(struct device *d);

/* ---- device_window.c: a slot's process, and its window if it has one ---- */

#define DEVICE_WINDOW "window" /* its program */

/* The slot of either. */
size_t device_slot_of(const struct device *d, const struct child *c);

/* Which of them has the core at its other end. */
struct child *device_front_child(struct device *d);

/* Both start or serve, and are not about to end; both are ready; neither runs; something remains of one; one is a stray. */
bool device_slot_is_alive(const struct device *d, size_t slot);
bool device_slot_is_ready(const struct device *d, size_t slot);
bool device_slot_is_idle(const struct device *d, size_t slot);
bool device_slot_remains(const struct device *d, size_t slot);
bool device_slot_is_stray(const struct device *d, size_t slot);

/* Asks both to end in order, as child_stop. */
bool device_stop_slot(struct device *d, size_t slot, uint64_t deadline_ns);

/* One of them died: true while the other one has to, too, which it is made to. Then the first death is the slot's. */
bool device_half_died(struct device *d, struct child *c, const struct child_death *death);
struct device_half device_take_first(struct device *d, size_t slot);

/* It dies because the other one did. */
bool device_is_second(const struct device *d, const struct child *c);

/* Starts a slot's window, if it is to have one, which takes the back end's end of the core's socket, *server; that is the server's
 * end of the one between the two then, and -1 on error. 0 or -errno, logged. */
int device_start_window(struct device *d, size_t slot, int *server);

/* As device_init, device_adopt and device_fini; lost[i] as child_claim has it. */
int device_init_windows(struct device *d, const char *dir, const struct child_ops *ops);
int device_adopt_windows(struct device *d, bool lost[KEEPER_SLOTS]);
void device_adopt_pairs(struct device *d);
void device_fini_windows(struct device *d);

/* The active one's part of the status; a new reference. */
json_t *device_window_json(const struct device *d);

/* ---- device_spare.c ---- */

/* Has a spare started in time, if there should be one and there is none. To be called whenever that may have changed. */
void device_plan_spare(struct device *d);

void device_on_spare_timer(void *arg);
void device_spare_died(struct device *d, const struct child *spare, const struct child_death *death);

/* ---- device_upgrade.c: what it makes of events; true if it dealt with them ---- */

bool device_upgrade_ready(struct device *d);
bool device_upgrade_spare_died(struct device *d, const struct child_death *death);
bool device_upgrade_active_died(struct device *d);
void device_upgrade_vanished(struct device *d);
void device_upgrade_up(struct device *d);

/* The new process starts, or is on trial, in the place of nothing: the device had been given up. */
bool device_upgrade_in_place(const struct device *d);

/* Whether it is the process of a new program that has not taken over yet. */
bool device_upgrade_tries(const struct device *d, const struct child *child);
void device_upgrade_hung(struct device *d, const char *reason);
void device_upgrade_abort(struct device *d, int err, const char *why);
void device_on_trial_timer(void *arg);

/* The active process is to serve, whether it was drained or not; one that can't be told so is killed. */
void device_serve_on(struct device *d);

/* An upgrade that a predecessor began: goes on at once, or when both processes are back. */
void device_upgrade_go_on(struct device *d);
void device_upgrade_back(struct device *d);

/* ---- device_times.c ---- */

static inline double device_ms(uint64_t from, uint64_t to)
{
	return from && to > from ? (double)(to - from) / (double)NS_PER_MS : 0.0;
}

/* Logs how long a start took, and keeps it if it was a recovery. */
void device_report_start(struct device *d);

/* The active process tells how it went on with the rings. */
void device_recovered(struct device *d, const struct bus_msg *msg);

json_t *device_recovery_json(const struct device *d);

#endif
