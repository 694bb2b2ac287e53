/* SPDX-License-Identifier: Apache-2.0 */
/* What a device needs besides its server: net-user or nbd-dial, which has the host's network. All on the loop's thread; all do
 * nothing for a device without one. */
#ifndef SUPERVISOR_DEVICE_HELPER_H
#define SUPERVISOR_DEVICE_HELPER_H

#include "device.h"

/* Sets up, with the device's own fields set; dir as for device_init. -errno. */
int device_helper_init(struct device *d, const char *dir);

/* Starts it, with former deaths forgotten. Errors count as deaths. */
void device_helper_start(struct device *d);

/* It serves, or there is none. */
/* Whether the device is to be given up, as its helper was and the guest is to know; and has its process killed then. */
bool device_helper_condemns(const struct device *d);
void device_helper_check(struct device *d);

bool device_helper_is_ready(const struct device *d);

/* There is no process. */
bool device_helper_is_gone(const struct device *d);

/* Ends it in order, and kills it after deadline_ns. device_check_stopped follows if there is one. */
void device_helper_stop(struct device *d, uint64_t deadline_ns);

/* Starts it again after it was given up. */
void device_helper_revive(struct device *d, device_done_fn done, void *arg);

/*
 * Replaces it by a process of the program at path (NULL: what is installed now); the guest's connections through it are
 * reset. One that does not become ready is replaced by the program before. done is called when it is known how it ended.
 */
void device_helper_upgrade(struct device *d, const char *path, device_done_fn done, void *arg);

/* Takes over from a supervisor that died, as device_adopt. -errno. */
int device_helper_adopt(struct device *d);

/* Its part of the status; a new reference. */
json_t *device_helper_json(const struct device *d);

void device_helper_fini(struct device *d);

#endif
