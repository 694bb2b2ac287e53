/* SPDX-License-Identifier: Apache-2.0 */
/* blk-server's system calls, beyond those that every server needs: lists of tables, ended by NULL. */
#ifndef SYSCALLS_H
#define SYSCALLS_H

#include "sandbox.h"

extern const struct sandbox_rule *const blk_stage_one[];
extern const struct sandbox_rule *const blk_steady[];
extern const struct sandbox_rule *const blk_io[];
extern const struct sandbox_rule blk_drain[]; /* one table */

#endif
