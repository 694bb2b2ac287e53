/* SPDX-License-Identifier: Apache-2.0 */
/* A bit for each page, searched from below. */
#include "arena.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "num.h"

#define WORD 64U

static void set(struct arena *a, uint32_t first, uint32_t n, bool free)
{
	while (n) {
		uint32_t at = first % WORD, part = MIN(n, WORD - at);
		uint64_t mask = (part == WORD ? UINT64_MAX : (1ULL << part) - 1) << at;

		if (free)
			a->free[first / WORD] |= mask;
		else
			a->free[first / WORD] &= ~mask;
		first += part;
		n -= part;
	}
}

int arena_init(struct arena *a, uint32_t pages)
{
	*a = (struct arena) { .pages = pages, .words = (pages + WORD - 1) / WORD };
	a->free = calloc(a->words, sizeof(*a->free));
	if (!a->free)
		return -ENOMEM;
	arena_clear(a);
	return 0;
}

void arena_free(struct arena *a)
{
	free(a->free);
	a->free = NULL;
}

void arena_clear(struct arena *a)
{
	memset(a->free, 0, a->words * sizeof(*a->free));
	set(a, 0, a->pages, true);
	a->low = 0;
	a->left = a->pages;
}

/* Bits beyond the last page are never free, so no run goes past it. */
static uint32_t find(const struct arena *a, uint32_t n)
{
	uint32_t run = 0, i = a->low * WORD;

	while (i < a->words * WORD) {
		uint64_t word = a->free[i / WORD] >> i % WORD;
		uint32_t left = WORD - i % WORD, step;

		if (!(word & 1)) {
			step = word ? (uint32_t)__builtin_ctzll(word) : left;
			run = 0;
		} else {
			step = ~word ? (uint32_t)__builtin_ctzll(~word) : left;
			step = MIN(step, left);
			run += step;
		}
		i += step;
		if (run >= n)
			return i - run;
	}
	return ARENA_NONE;
}

uint32_t arena_take(struct arena *a, uint32_t n)
{
	uint32_t first = n <= a->left ? find(a, n) : ARENA_NONE;

	if (first == ARENA_NONE)
		return first;
	set(a, first, n, false);
	a->left -= n;
	while (a->low < a->words && !a->free[a->low])
		a->low++;
	return first;
}

void arena_give(struct arena *a, uint32_t first, uint32_t n)
{
	set(a, first, n, true);
	a->left += n;
	a->low = MIN(a->low, first / WORD);
}
