/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process of ours that somebody has taken over. taken.c is linked into the real programs (taken-blk-server and so on), which
 * the real supervisor starts in their place: they come to be as ever, with exactly the descriptors, ids and filters that they
 * always have, and at each stage of their confinement try what is in the tables of try_*.c.
 *
 * What a process is to do, and what came of it, stands in a file beside the program that it maps before it is confined, so
 * that it needs no descriptor for it: PROGRAM.ID.page in the folder of argv[0]. Without that file it is what it always is.
 */
#ifndef TAKEN_H
#define TAKEN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TAKEN_TRIES 320
#define TAKEN_NAME  64

/* Where in its life, under which filter. */
enum taken_stage {
	TAKEN_ANCHOR, /* process 1 of a server's namespaces, once it has given up everything */
	TAKEN_ONE,    /* the main thread in stage one, before it has read a byte from anyone */
	TAKEN_STEADY, /* the main thread in the steady stage, before the front end speaks */
	TAKEN_THREAD, /* a thread with its own filter: of I/O, of a vCPU, of the network */
	TAKEN_SERVES, /* the main thread again, while the guest runs */
	TAKEN_STAGES
};

/* What came of an attempt; below 0: it was refused with this error. */
enum taken_outcome {
	TAKEN_NOT_TRIED,
	TAKEN_TRAPPED, /* by the filter */
	TAKEN_RUNNING, /* it is being tried; one that stays so ended the process */
	TAKEN_WORKED,  /* what must not be possible is done */
	TAKEN_IS_TASK  /* so it is, but what the process is for */
};

struct taken_page {
	/* What is to be done. */
	_Atomic uint32_t stages;   /* a bit for each in which all is tried */
	uint32_t host_pid;         /* a process of the host's: the supervisor */
	uint32_t tcp_port;         /* on which somebody listens at the host's 127.0.0.1 */
	char abstract[TAKEN_NAME]; /* the same for an abstract socket, without its leading NUL */
	char socket[108];          /* ... and for one with a path */
	char neighbour[108];       /* another device's bus socket */
	char image[256];           /* another disk's image */
	char attack[TAKEN_NAME];   /* what is done to others then (attack.h) */
	_Atomic uint32_t
	    attack_ms; /* ... for so long: it begins when this is set, and the process clears it */
	/* What came of it. */
	_Atomic uint32_t claimed; /* the first process that finds it open takes it, for good */
	_Atomic uint32_t done;    /* a bit for each stage that was tried */
	_Atomic uint32_t serves;  /* the main loop runs, under the steady filter */
	char fds[4096];           /* what was open at its start: "0 /dev/null\n" and so on */
	char name[TAKEN_TRIES][TAKEN_NAME];
	_Atomic int32_t outcome[TAKEN_STAGES][TAKEN_TRIES];
};

/* ---- for the attempts ---- */

/* Programs, as bits. */
enum taken_program {
	TAKEN_BLK = 1,
	TAKEN_NET = 2,
	TAKEN_USER = 4,
	TAKEN_DIAL = 8,
	TAKEN_CORE = 16,
};

#define TAKEN_NR 1000 /* -TAKEN_NR: the filter trapped it */

struct taken_try {
	const char *name;
	long (*fn)(const struct taken_page *page); /* or a plain call: */
	long nr;
	long arg[6];
	unsigned task; /* programs whose task it is */
	bool set_up;   /* stage one may do it */
	bool steady;   /* pointless, or no harm, before the steady stage */
};

struct taken_table {
	const struct taken_try *try;
	size_t n;
};

extern const struct taken_table taken_files, taken_network, taken_processes, taken_kernel, taken_memory;

/* A system call; the error as -errno, or -TAKEN_NR. */
long taken_call(long nr, long a, long b, long c, long d, long e, long f);
#define CALL_6(nr, a, b, c, d, e, f, ...)                                                                    \
	taken_call(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(...) CALL_6(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

/* Any descriptor that there can be: does(fd), until it works for one. What came of the last that is open. */
#define TAKEN_FDS 64
long taken_each_fd(long (*does)(int fd));

#endif
