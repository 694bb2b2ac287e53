/* SPDX-License-Identifier: Apache-2.0 */
/* The processor time of a process with all its threads and descendants. */
#ifndef BENCH_CPUTIME_H
#define BENCH_CPUTIME_H

#include <stdint.h>
#include <sys/types.h>

/* Nanoseconds that the scheduler has counted so far, user and system together (/proc/PID/task/TID/schedstat).
 * -errno if the process is gone. Threads that ended meanwhile are not in it. */
int cputime_ns(pid_t pid, uint64_t *ns);

#endif
