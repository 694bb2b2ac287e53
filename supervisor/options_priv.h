/* SPDX-License-Identifier: Apache-2.0 */
/* What options.c and options_disk.c share. All return 0, or -EINVAL with the reason in error. */
#ifndef SUPERVISOR_OPTIONS_PRIV_H
#define SUPERVISOR_OPTIONS_PRIV_H

#include "vmconf.h"

/* Keeps a copy of a text in *to. */
int options_keep(char **to, const char *value, struct vmconf_error *error);

/* One of two words into false (first) or true (second). */
int options_choice(const char *value, const char *first, const char *second, bool *is_second,
		   struct vmconf_error *error);

/* N/SECONDS: how many deaths in how long. */
int options_restarts(const char *value, unsigned *restarts, unsigned *restarts_s, struct vmconf_error *error);

/* Reads KEY=VALUE,... of a disk; value is modified. */
int options_disk(struct vmconf_disk *disk, char *value, struct vmconf_error *error);

#endif
