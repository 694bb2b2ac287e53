/* SPDX-License-Identifier: Apache-2.0 */
/* The core's system-call tables, for sandbox_compile; each list ends with NULL. */
#ifndef CORE_SYSCALLS_H
#define CORE_SYSCALLS_H

#include "sandbox.h"

extern const struct sandbox_rule
    *const syscalls_stage_one[]; /* from before the kernel image is read until READY */
extern const struct sandbox_rule *const syscalls_steady[]; /* every thread, vCPUs' too, from READY on */
extern const struct sandbox_rule *const syscalls_vcpu[];   /* on top of it, for vCPU threads */

#endif
