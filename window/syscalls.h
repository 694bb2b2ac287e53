/* SPDX-License-Identifier: Apache-2.0 */
/* The window's system calls beyond those that every server needs: tables for sandbox_compile. */
#ifndef WINDOW_SYSCALLS_H
#define WINDOW_SYSCALLS_H

#include "sandbox.h"

extern const struct sandbox_rule *const window_stage_one[];
extern const struct sandbox_rule *const window_steady[];
extern const struct sandbox_rule *const window_io[];

#endif
