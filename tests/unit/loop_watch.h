/* SPDX-License-Identifier: Apache-2.0 */
/* A descriptor that is always ready, for the loop's tests: counts its calls and may remove or change another. */
#ifndef UNIT_LOOP_WATCH_H
#define UNIT_LOOP_WATCH_H

#include "loop.h"

struct watch {
	struct loop_fd *h;
	struct watch *victim; /* removed by the handler */
	uint32_t mod;         /* if not ~0: the victim is told to watch this instead */
	uint32_t events;
	int fd, calls;
};

/* A loop's function, its argument a struct watch. */
void watch_ready(void *arg, uint32_t events);
/* Makes the descriptor, the caller's to close, and has the loop watch it. */
void watch_add(struct loop *loop, struct watch *w, uint32_t events);

#endif
