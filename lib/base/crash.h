/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Places where a test has a process die, to see what its successor makes of it. Nothing at all unless compiled with
 * BH_CRASH_POINTS, as only programs of tests are, together with what says when to die (tests/support/crash.c).
 *
 * A label is two parts, "STEP when": unique in a program but for the two ring formats, which share the labels of what
 * they have in common; labels that begin with "split " or "packed " are one format's, those that begin with "failure "
 * are reached only where something fails, those with "qcow2 " only by a server of such an image, and those with
 * "unmark" only in a device that gives requests back.
 */
#ifndef BASE_CRASH_H
#define BASE_CRASH_H

/* Calls that a test can have fail (CRASH_FAULT). */
enum crash_op {
	CRASH_READ = 1,
	CRASH_WRITE,
	CRASH_FSYNC,
	CRASH_PUNCH,
	CRASH_ZERO,
	CRASH_SUBMIT,
	CRASH_DSYNC
};

#ifdef BH_CRASH_POINTS

#include <stdbool.h>
#include <stdint.h>

struct crash_point {
	const char *label;
};

void crash_here(const struct crash_point *point);
void crash_here_at(const char *label, uint64_t what);
int64_t crash_result(const char *label, int64_t result);
bool crash_fault(enum crash_op op, uint64_t off, uint64_t len, int64_t *result);

/* The linker gathers pointers to all of them in one section, where the table of points comes from. */
#define CRASH_DEFINE_(name)                                                                                  \
	static const struct crash_point crash_point_ = { name };                                             \
	static const struct crash_point *const crash_entry_ __attribute__((section("crash_points"), used)) = \
	    &crash_point_

#define CRASH_POINT(name)                                                                                    \
	do {                                                                                                 \
		CRASH_DEFINE_(name);                                                                         \
		crash_here(&crash_point_);                                                                   \
	} while (0)

#define CRASH_POINT_IF(condition, name)                                                                      \
	do {                                                                                                 \
		CRASH_DEFINE_(name);                                                                         \
		if (condition)                                                                               \
			crash_here(&crash_point_);                                                           \
	} while (0)

/* No points of their own: the process dies whenever it comes here with the number that the test chose; and what a test
 * wants as the result of something. */
#define CRASH_POINT_AT(label, what) crash_here_at(label, what)
#define CRASH_RESULT(label, result) crash_result(label, result)

/* Whether a call of this kind on these bytes is to come to *result, and not to be made. */
#define CRASH_FAULT(op, off, len, result) crash_fault(op, off, len, result)

#else

#define CRASH_POINT(name)                 ((void)0)
#define CRASH_POINT_IF(condition, name)   ((void)0)
#define CRASH_POINT_AT(name, what)        ((void)0)
#define CRASH_RESULT(name, result)        (result)
#define CRASH_FAULT(op, off, len, result) ((void)(result), false)

#endif
#endif
