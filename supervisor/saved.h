/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a machine's next supervisor must know: the settings that it was started with, and its state, in memory that the
 * keeper holds. The state is written after every turn of the loop that changed it, as a whole, so that what is read is
 * what was true between two turns, however the writer ended. Descriptors are the keeper's (keeper.h).
 */
#ifndef SUPERVISOR_SAVED_H
#define SUPERVISOR_SAVED_H

#include <stdbool.h>

#include "machine.h"
#include "vmconf.h"

struct saved;

/* Makes the memory and puts the settings in; fd is the caller's. -errno. */
int saved_new(const struct vmconf *conf, int *fd, struct saved **out);

/* Whether a state was ever written: before, the machine is not yet all there. */
bool saved_is_there(int fd);

/* Maps the memory of a supervisor that is gone; fd stays the caller's. -errno. */
int saved_map(int fd, struct saved **out);

/* The settings, as vmconf_finish leaves them; conf is as vmconf_init left it. -EINVAL with the reason. */
int saved_settings(const struct saved *saved, struct vmconf *conf, struct vmconf_error *error);

/* Writes the state of m if it changed. What has no room or memory is told once, and the state before stays. */
void saved_write(struct saved *saved, const struct machine *m);

/* Puts the state into m, which machine_init has set up: plain fields only; nothing happens yet. -EINVAL. */
int saved_read(const struct saved *saved, struct machine *m);

/* NULL is ignored. */
void saved_free(struct saved *saved);

#endif
