/* SPDX-License-Identifier: Apache-2.0 */
/* The names of our threads: what the kernel shows, and what a signal handler can read without a system call. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#define THREAD_NAME_MAX 16 /* bytes, the NUL included */

/* Names the calling thread; a longer name is cut. */
void thread_set_name(const char *name);

/* The calling thread's name; "" if thread_set_name was not called. Async-signal-safe. */
const char *thread_get_name(void);

#endif
