/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a test tells a program built with BH_CRASH_POINTS (lib/base/crash.h) what to do at its points: by the environment,
 * orders separated by ';':
 *   list             print the label of each point and exit
 *   die=LABEL:N      die when a point with this label is reached for the Nth time
 *   later=LABEL:N    the same, counted from when the test says go
 *   at=LABEL:N       die whenever CRASH_POINT_AT of this label is reached with the number N
 *   result=LABEL:N   CRASH_RESULT of this label gives N
 *   answer=LABEL:N   the same, from when the test says go
 *   go=fd:N          descriptor N is shared memory, a struct crashes_shared, by which the test says go, and what is to fail
 *   alloc=any:N      the Nth allocation fails (fail-alloc.c)
 */
#ifndef SUPPORT_CRASHES_H
#define SUPPORT_CRASHES_H

#include <stdatomic.h>
#include <stdint.h>

#define CRASHES_ENV    "BULKHEAD_CRASH"
#define CRASHES_LOST   INT64_MIN
#define CRASHES_STATUS 113 /* what a process exits with that died as it was told */

#define FAIL_ALLOC_TOLD "an allocation fails as told" /* the line on standard error */

struct crashes_shared {
	_Atomic int go;
	/* A call of kind op (enum crash_op) that touches bytes from .. to comes to result, so many times; with a result that is
	 * more than 0, it moves that many bytes (or submits that many transfers) only; CRASHES_LOST: it never comes back. */
	_Atomic int op; /* 0: none; set last */
	_Atomic int64_t result;
	_Atomic uint64_t from, to;
	_Atomic int times;
	_Atomic unsigned hits;
};

/* fail-alloc.c: the allocation of this number from now on fails. */
void fail_alloc_at(int64_t number);

#endif
