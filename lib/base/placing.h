/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which I/O thread of a server serves which of its queues, and on which processors each thread may run, as a command line
 * says it: --io-threads and --map of the servers, io-threads= and map= of the supervisor.
 */
#ifndef BASE_PLACING_H
#define BASE_PLACING_H

#include <stdbool.h>
#include <stdint.h>

#include "cpus.h"

#define PLACING_THREADS_MAX 16
#define PLACING_QUEUES_MAX  64
#define PLACING_NAME_MAX    16 /* bytes of a thread's name, its NUL included: what the kernel keeps */

struct placing {
	unsigned threads;
	bool said,
	    named; /* they, or only how many, or neither: then they are as many as "1:1" takes, or one */
	unsigned queues; /* of all devices that the threads serve */
	unsigned own;    /* so many of the threads were given to queues by "1:1", one to each */
	struct {
		char name[PLACING_NAME_MAX];
		bool pinned;
		cpu_set_t cpus; /* if pinned */
	} thread[PLACING_THREADS_MAX];
	uint8_t of[PLACING_QUEUES_MAX]; /* the thread of each queue, once all are there */
};

/* What both can be, to complete "must be ..." */
#define PLACING_THREADS_FORM                                                                                 \
	"a number from 1 to 16, or names with colons between them, each with @CPUS or without"
#define PLACING_MAP_FORM "round-robin, 1:1, or QUEUE:THREAD with commas between them"

/*
 * The threads: "4" for io0 to io3; or "a:b@0-3,8": names of 1 to 15 letters, digits, - and _, a letter first, each once,
 * none of them "main", some with the processors that they may run on. -EINVAL for anything else.
 */
int placing_set_threads(struct placing *p, const char *value);

/*
 * Adds so many queues of a device, once the threads are set, or not. map is NULL or "round-robin"; "1:1": each queue gets a
 * thread that no other queue, of this device or another, gets by "1:1"; or "0:a,1-3:b": queues that it does not name go round
 * all threads. -EINVAL if it is nothing of that, names what does not exist, or there are too few threads.
 */
int placing_set_map(struct placing *p, unsigned queues, const char *map);

/* Once the queues of all devices are there: has those go round that do. -ERANGE if the threads were said to be so many, and the
 * queues are fewer. */
int placing_finish(struct placing *p);

/* The place of the thread of this name, or -ENOENT. */
int placing_find(const struct placing *p, const char *name);

#endif
