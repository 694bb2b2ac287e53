/* SPDX-License-Identifier: Apache-2.0 */
/* Our threads: names that a signal handler can read without a system call, and how much memory a stack takes. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#define THREAD_NAME_MAX 16 /* bytes, the NUL included */

/* Names the calling thread; a longer name is cut. */
void thread_set_name(const char *name);

/* The calling thread's name; "" if thread_set_name was not called. Async-signal-safe. */
const char *thread_get_name(void);

/* Threads that start from now on, libraries' too, have stacks of 1 MiB: a limit on memory counts them whole. 0 or -errno. */
int thread_shrink_stacks(void);

#endif
