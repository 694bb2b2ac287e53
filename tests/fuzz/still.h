/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time and descriptors that stand still until a target moves them: the linker has clock_gettime, the epoll calls and
 * eventfd of what is tested end here (--wrap, and the budget of log lines), so that a loop of lib/loop runs the same
 * for the same input and makes no system call. One loop at a time.
 */
#ifndef FUZZ_STILL_H
#define FUZZ_STILL_H

#include <stdint.h>

#include "loop.h"

/* As at the beginning: no loop, no descriptor, the first nanosecond. */
void still_reset(void);

/* No descriptor is any more, as behind a process that died. */
void still_close(void);

/* A descriptor that is only watched; to close it does nothing. */
int still_fd(void);

/* Has fd be ready for events, once; those that nobody watches for are kept until somebody does. */
void still_raise(int fd, uint32_t events);

/* Time that passes. */
void still_advance(uint64_t ns);

/* Runs passes of the loop as long as there is something to do now, at most so many. */
void still_run(struct loop *loop, unsigned passes);

#endif
