/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is kept of a process that died without being told to: a file with how it ended and what its flight recorder
 * held. The supervisor puts into words how a process ended; the keeper, which alone may open files, takes a copy of the
 * region when it reaps, and has the file written when it is asked to (keeper_report.c), while others wait for nothing.
 */
#ifndef SUPERVISOR_REPORT_H
#define SUPERVISOR_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "flight.h"
#include "vmconf.h"

#define REPORT_TEXT_MAX 1024 /* bytes of the words, their NUL included */
#define REPORT_PATH_MAX 512
#define REPORT_KEPT     16   /* files of one machine; the oldest go */
#define REPORT_HEAD     4096 /* bytes of a file before the region */
#define REPORT_MAGIC    "bulkhead crash report 1\n"

/* ---- the supervisor's side ---- */

/* If the process left word of a forbidden system call: "the forbidden system call ...", for a person. */
bool report_forbidden(const struct flight *flight, char *text, size_t size);

/* The words of a report, a line each: process, how long it lived, how it ended. The keeper puts machine, device and time
 * before them. */
struct report_words {
	const char *process, *version, *how;
	int pid;
	uint64_t life_ns; /* how long it ran */
};
void report_put(const struct report_words *words, char text[REPORT_TEXT_MAX]);

/* ---- the keeper's side ---- */

/* The directory for reports if none is given, for this user. -ENOENT if there is no place for it. */
int report_default_dir(char *path, size_t size);

struct report_file {
	const char *machine, *id;
	struct timespec when;        /* it was reaped, CLOCK_REALTIME */
	const char *text;            /* of report_put */
	const struct flight *flight; /* what the recorder held; NULL: nothing */
};

/* Makes dir with all above it if need be, and the file in it; removes the machine's oldest ones. path is the file's.
 * -errno. */
int report_write(const char *dir, const struct report_file *file, char path[REPORT_PATH_MAX]);

/* ---- bulkhead trace ---- */

int report_trace(int argc, char **argv);

#endif
