/* SPDX-License-Identifier: Apache-2.0 */
/* Has a thread of another process make a system call that it never would: by ptrace, from the address of the call that
 * it waits in. For tests of what becomes of a forbidden one. */
#ifndef INJECT_H
#define INJECT_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Call nr, in the thread of process pid that has this name (NULL: the main thread), with all arguments as they are;
 * by the 32-bit interface if asked. Returns at once with 0, or -errno (-EPERM: this user may not trace it; -ESRCH: no
 * such thread). Waits up to ten seconds for the thread to wait in a system call.
 */
int inject_call(pid_t pid, const char *thread, long nr, bool by_32);

/* Has a thread of another process stand still until inject_let_go, the others go on: its id, or -errno as above. */
pid_t inject_hold(pid_t pid, const char *thread);
void inject_let_go(pid_t tid);

#endif
