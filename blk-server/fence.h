/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What keeps a server back until the kernel is through with what its predecessors left to it: their writes would land on its
 * own, and what they read in the guest's memory after that was given back.
 *
 * With aio a process can't be reaped before that, and nothing is needed here. A ring of io_uring is taken down after the
 * process is gone, and nobody is told when that is done. But it holds the files that were registered with it until then. So
 * each server has an open file description of its own of memory that they share, has it registered with its rings, and
 * locks it, together with those of any others; who wants it alone waits until all rings of the dead are gone, which the
 * kernel alone decides. That takes it some tens of milliseconds, as two RCU grace periods go by. When the anchor
 * (lib/sandbox/anchor.c) saw from the rings that nothing is left, it says so in a word of the state, and nobody waits.
 */
#ifndef FENCE_H
#define FENCE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define FENCE_WORDS 1

struct fence {
	int fd; /* -1: none is needed */
	_Atomic uint64_t
	    *word; /* FENCE_WORDS of the state: not 0 while a server's transfers may be on their way */
	bool begun;
	_Atomic bool waits; /* for a predecessor's: no transfer may begin */
	uint64_t since;     /* ... so long (clock_ns) */
};

/* state_fd is the memory that servers of this disk share. 0 or -errno. */
int fence_open(struct fence *f, int state_fd, _Atomic uint64_t *word);
void fence_close(struct fence *f);

/* This server is about to have its first transfer: 0, or -EAGAIN as long as a predecessor's can go on, or another -errno. The
 * caller asks again: slow storage can make it long, and nothing else of the server is to wait for that. */
int fence_begin(struct fence *f);

/* Whether that was -EAGAIN; any thread. */
static inline bool fence_waits(const struct fence *f)
{
	return atomic_load_explicit(&f->waits, memory_order_acquire);
}

/* It has none any more, and will have none. Also in its anchor. */
void fence_end(struct fence *f);

#endif
