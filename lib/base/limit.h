/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rate limit: two token buckets, of bytes and of operations, which what passes takes from together. Whole numbers all
 * the way, so that over any time exactly what the rate says goes through, after one burst. Any thread; never blocks.
 *
 * What a bucket lacks can be kept in words outside of the process, so that a restart does not fill it.
 */
#ifndef BASE_LIMIT_H
#define BASE_LIMIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lock.h"

#define LIMIT_RATE_MAX  (1ULL << 40) /* a second */
#define LIMIT_BURST_MAX (1ULL << 32)

struct limit_rate {
	uint64_t rate;  /* a second; 0: no limit */
	uint64_t burst; /* the most that passes at once; 0: what the rate gives in 100 ms, at least 1 */
};

struct limit_rates {
	struct limit_rate bytes, ops;
};

/* Where a limit stands, for a successor: LIMIT_WORDS words of shared memory (lib/state), 0 at first. */
#define LIMIT_WORDS 3

struct limit_bucket {
	uint64_t rate, size; /* size and level in billionths of a byte or operation */
	int64_t level;       /* below 0: what was larger than the whole bucket is being paid off */
};

struct limit {
	struct lock lock;
	struct limit_bucket bytes GUARDED_BY(lock);
	struct limit_bucket ops GUARDED_BY(lock);
	uint64_t at_ns GUARDED_BY(lock); /* of the levels, by the clock of clock_ns */
	_Atomic uint64_t *words;
};

/* A limit that lets all pass. words: NULL, or where what is taken is noted. */
void limit_init(struct limit *l, _Atomic uint64_t *words);
void limit_fini(struct limit *l);

/* -ERANGE if a rate or burst is above its maximum; then nothing changes. */
int limit_check(const struct limit_rates *rates);

/* Changes the rates. A bucket keeps its level, so that setting a limit again and again gives nothing; one that had no
 * limit starts full. -ERANGE as above. */
int limit_set(struct limit *l, const struct limit_rates *rates, uint64_t now_ns);

/* Goes on where the words say that a predecessor was, which is no more than full and no deeper in debt than one take of
 * the largest cost, in bytes and operations, leaves it, whatever stands there. Not before it is known that nobody else
 * takes any more. */
void limit_resume(struct limit *l, uint64_t now_ns, uint32_t bytes, uint32_t ops);

/*
 * Takes bytes and ops at once: 0, or, with nothing taken, the nanoseconds until it is worth asking again. What is larger
 * than a bucket passes when the bucket is full, and is then paid off.
 */
uint64_t limit_take(struct limit *l, uint64_t now_ns, uint32_t bytes, uint32_t ops);

/* Gives back what was taken and not used, as where a back end could not take a packet after all. */
void limit_return(struct limit *l, uint32_t bytes, uint32_t ops);

/* Whether there is any limit; a hint, for a path that need not ask. */
static inline bool limit_is_set(const struct limit *l)
{
	return __atomic_load_n(&l->bytes.rate, __ATOMIC_RELAXED) ||
	       __atomic_load_n(&l->ops.rate, __ATOMIC_RELAXED);
}

#endif
