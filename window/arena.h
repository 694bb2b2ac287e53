/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of the window, given out in runs: what a queue's requests lie in. One thread's; nothing of it is shared. */
#ifndef WINDOW_ARENA_H
#define WINDOW_ARENA_H

#include <stdint.h>

#define ARENA_NONE UINT32_MAX

struct arena {
	uint64_t *free; /* a bit for each page */
	uint32_t pages, words;
	uint32_t low;  /* the first word that may have a free page */
	uint32_t left; /* free pages */
};

/* 0 or -ENOMEM. */
int arena_init(struct arena *a, uint32_t pages);
void arena_free(struct arena *a);

/* All pages are free. */
void arena_clear(struct arena *a);

/* The first of n pages in a row, as low as there are any, so that few are touched; or ARENA_NONE. n is not 0. */
uint32_t arena_take(struct arena *a, uint32_t n);
void arena_give(struct arena *a, uint32_t first, uint32_t n);

#endif
