/* SPDX-License-Identifier: Apache-2.0 */
/* System calls of nbd-dial; lists of tables ended by NULL. */
#ifndef NBD_DIAL_SYSCALLS_H
#define NBD_DIAL_SYSCALLS_H

#include "sandbox.h"

extern const struct sandbox_rule *const dial_stage_one[];
extern const struct sandbox_rule *const dial_steady[];

#endif
