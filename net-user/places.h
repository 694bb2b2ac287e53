/* SPDX-License-Identifier: Apache-2.0 */
/* The descriptors of libslirp, and what the loop watches them for. */
#ifndef NET_USER_PLACES_H
#define NET_USER_PLACES_H

#include <stdbool.h>
#include <stdint.h>

#include "loop.h"
#include "net.h"

/* One descriptor, found by its number. */
struct place {
	struct loop_fd *watch; /* NULL: the descriptor is not libslirp's, or it never wanted anything of it */
	uint32_t registered;   /* with the loop */
	uint32_t ready;        /* since libslirp last asked */
	uint64_t pass;         /* the last one that wanted something */
	int fd;
	bool owned;             /* by libslirp */
	bool listening, listed; /* in active */
};

struct places {
	struct loop *loop;
	struct place place[NET_FILES_MAX];
	unsigned files,
	    files_max; /* descriptors that libslirp has, and may have before it begins no more connections */
	int active[NET_FILES_MAX]; /* those registered with the loop */
	unsigned actives;
	uint64_t pass;
};

/* *p is all zero; hard: the hard limit of descriptors is the one that will be in force. */
void places_init(struct places *p, struct loop *loop, bool hard);
void places_fini(struct places *p);

/* A descriptor of libslirp comes and goes; below 0 it is one that could not be had. */
void places_add(struct places *p, int fd);
void places_remove(struct places *p, int fd);

/* The same for one that was opened for a forwarded port, of which libslirp does not tell. Before the sandbox. */
void places_add_forward(struct places *p, int fd);

/* Whether libslirp may open a descriptor more: for a connection, or (more: there is a reserve) for datagrams. */
bool places_have_room(const struct places *p, bool more);

/* Begins a pass: everything that is wanted is named anew by places_want, then places_end leaves the rest. */
void places_begin(struct places *p);
void places_end(struct places *p);

/* Wants SLIRP_POLL_* of fd; held: nothing that would bring more for the guest. What libslirp is to ask for by, or -1. */
int places_want(struct places *p, int fd, int events, bool held);

/* The SLIRP_POLL_* that what places_want answered is ready for. */
int places_ready(struct places *p, int index);

#endif
