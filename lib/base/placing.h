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
	unsigned threads; /* 0: not said */
	unsigned queues;  /* of all devices that the threads serve */
	bool named;       /* the threads' names were given */
	struct {
		char name[PLACING_NAME_MAX];
		bool pinned;
		cpu_set_t cpus; /* if pinned */
	} thread[PLACING_THREADS_MAX];
	uint8_t of[PLACING_QUEUES_MAX]; /* the thread of each queue */
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
 * Gives each of so many queues its thread, once the threads are set (or none: then there is one, or for "1:1" one for each
 * queue). map is NULL or "round-robin"; "1:1", which takes as many threads as queues; or "0:a,1-3:b": queues that it does
 * not name go round all threads. -EINVAL if it is nothing of that or names what does not exist. The queues of another
 * device come after those that are there already.
 */
int placing_set_map(struct placing *p, unsigned queues, const char *map);

/* Once all queues are there: -ERANGE if there are more threads by number than queues. */
int placing_check(const struct placing *p);

/* The place of the thread of this name, or -ENOENT. */
int placing_find(const struct placing *p, const char *name);

#endif
