/* SPDX-License-Identifier: Apache-2.0 */
/* Answers the questions of a disk's servers, and keeps the connections that they were given (dial.h). */
#ifndef NBD_DIAL_KEEP_H
#define NBD_DIAL_KEEP_H

#include <stdint.h>

#include "target.h"

struct keep;
struct loop;
struct loop_pool;

/* Answers what comes on fd, which stays the caller's; t is borrowed. gone(arg): nobody can ask any more. 0 or -errno. */
int keep_new(struct loop *loop, struct loop_pool *pool, int fd, const struct target *t,
	     void (*gone)(void *arg), void *arg, struct keep **out);

/* Names and values of what it counted. */
void keep_stats(const struct keep *k, void (*add)(void *to, const char *name, uint64_t value), void *to);

#endif
