/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rate limit that several processes share: two token buckets, of bytes and of operations, in words of shared memory
 * that outlives each of them. Any thread of any process; no lock, so there is none that a dead process could hold.
 *
 * A bucket is one time: when it will be full again. Taking moves that time on, by an atomic addition that either happened or
 * did not; who dies between the two buckets leaves his successor with one request too much. What is taken may be more than
 * is there, and is paid off before the next is let through; so no size starves, and over any time no more passes than the
 * rate gives, one burst, and one request of each who shares it.
 *
 * Whoever can write the words can let everything or nothing through, to all who share them and to nobody else.
 */
#ifndef BASE_QUOTA_H
#define BASE_QUOTA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "limit.h"

#define QUOTA_WORDS 8 /* 0 at first */

enum quota_key { QUOTA_BPS, QUOTA_IOPS, QUOTA_BPS_BURST, QUOTA_IOPS_BURST, QUOTA_KEYS };

extern const char *const quota_names[QUOTA_KEYS]; /* "bps", "iops", "bps-burst", "iops-burst" */

/* The number of a key's value, "10M" or "0": -EINVAL if it is none, -ERANGE if it is more than can be kept. */
int quota_parse(enum quota_key key, const char *value, uint64_t *number);

/* Gives the words these numbers (0: no limit; of bursts: what the rate gives in 100 ms), unless somebody has before. */
void quota_init(_Atomic uint64_t *words, const uint64_t numbers[QUOTA_KEYS]);

/* Changes one. What was taken too much is kept, in bytes or operations, as far as one request can be that large. */
void quota_set(_Atomic uint64_t *words, enum quota_key key, uint64_t number, uint64_t now_ns);

/* The nanoseconds until it is worth asking again; 0: something may be taken now. */
uint64_t quota_wait(const _Atomic uint64_t *words, uint64_t now_ns);

/* Takes, whatever is there. */
void quota_take(_Atomic uint64_t *words, uint64_t now_ns, uint64_t bytes, uint64_t ops);

/* Whether there is any limit; a hint, for a path that need not ask. */
static inline bool quota_is_set(const _Atomic uint64_t *words)
{
	return atomic_load_explicit(&words[QUOTA_BPS], memory_order_relaxed) ||
	       atomic_load_explicit(&words[QUOTA_IOPS], memory_order_relaxed);
}

#endif
