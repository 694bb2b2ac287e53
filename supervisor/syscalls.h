/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor's system calls once all of its threads run: a list of tables, ended by NULL. */
#ifndef SUPERVISOR_SYSCALLS_H
#define SUPERVISOR_SYSCALLS_H

#include "sandbox.h"

extern const struct sandbox_rule *const supervisor_steady[];

/* The same of the process that looks at an image for `bulkhead image`; it has one thread, and all of it open. */
extern const struct sandbox_rule *const supervisor_image[];

/* The one of supervisor_steady that is not constant: abort(), so that a death of that kind is seen as what it is. The second rule's
 * first argument is the process's own id. */
extern struct sandbox_rule supervisor_abort[];

#endif
