/* SPDX-License-Identifier: Apache-2.0 */
/* What net-server may ask of the kernel beyond what every server may; see server.h for the stages. */
#ifndef NET_SYSCALLS_H
#define NET_SYSCALLS_H

#include "sandbox.h"

extern const struct sandbox_rule *const net_stage_one[];
extern const struct sandbox_rule *const net_steady[];
extern const struct sandbox_rule *const net_io[];

#endif
