/* SPDX-License-Identifier: Apache-2.0 */
/* System calls of net-user; lists of tables ended by NULL. */
#ifndef NET_USER_SYSCALLS_H
#define NET_USER_SYSCALLS_H

#include "sandbox.h"

extern const struct sandbox_rule *const user_stage_one[];
extern const struct sandbox_rule *const user_steady[];     /* all threads, without a bus */
extern const struct sandbox_rule *const user_steady_bus[]; /* ... and with one */
extern const struct sandbox_rule *const user_net[];        /* the network's thread, which has libslirp */

#endif
