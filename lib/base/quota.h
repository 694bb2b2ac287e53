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
 * Whoever asks has taken, and the time that he found is his place in the line: he goes when it has come near enough, however
 * often he or others ask meanwhile. So those who share it take turns, request by request, and nobody who asks without end
 * gets ahead of one who sleeps. Who dies while he waits has taken for nothing; the line goes on.
 *
 * Whoever can write the words can let everything or nothing through, to all who share them and to nobody else.
 */
#ifndef BASE_QUOTA_H
#define BASE_QUOTA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define QUOTA_WORDS     8            /* 0 at first */
#define QUOTA_RATE_MAX  (1ULL << 40) /* a second */
#define QUOTA_BURST_MAX (1ULL << 32)

/* What quota_parse_pair takes. */
#define QUOTA_PAIR "a rate and perhaps a burst, as 10M/64K, at most 1T and 4G"

enum quota_key { QUOTA_BPS, QUOTA_IOPS, QUOTA_BPS_BURST, QUOTA_IOPS_BURST, QUOTA_KEYS };

extern const char *const quota_names[QUOTA_KEYS]; /* "bps", "iops", "bps-burst", "iops-burst" */

/* The number of a key's value, "10M" or "0": -EINVAL if it is none, -ERANGE if it is more than can be kept. */
int quota_parse(enum quota_key key, const char *value, uint64_t *number);

/* The same of "RATE" or "RATE/BURST" for a bucket's rate and burst, which is 0 if it is not named. */
int quota_parse_pair(enum quota_key rate_key, const char *value, uint64_t *rate, uint64_t *burst);

/* Gives the words these numbers (0: no limit; of bursts: what the rate gives in 100 ms), unless somebody has before. */
void quota_init(_Atomic uint64_t *words, const uint64_t numbers[QUOTA_KEYS]);

/* Changes one. What was taken too much is kept, to a part of a byte or an operation, as far as one request can be that large. */
void quota_set(_Atomic uint64_t *words, enum quota_key key, uint64_t number, uint64_t now_ns);

/* What is to be paid off is no more than all of a burst, and so many bytes and operations beyond it: for who knows that nobody
 * can have taken more, and that nobody else shares the words now. */
void quota_forgive(_Atomic uint64_t *words, uint64_t now_ns, uint64_t bytes, uint64_t ops);

/* A place in the line of each bucket; its owner's. */
struct quota_turn {
	uint64_t at[2], rate[2];
};

/* Takes, whatever is there. turn: the place for that, or NULL for one that can't wait. */
void quota_take(_Atomic uint64_t *words, uint64_t now_ns, uint64_t bytes, uint64_t ops,
		struct quota_turn *turn);

/* The nanoseconds until it is its turn, by the limits of now; 0: it is. */
uint64_t quota_wait(const _Atomic uint64_t *words, uint64_t now_ns, struct quota_turn *turn);

/* Takes back what was taken and is not used: those who come now have it. */
void quota_return(_Atomic uint64_t *words, uint64_t bytes, uint64_t ops);

/* Whether there is any limit; a hint, for a path that need not ask. */
static inline bool quota_is_set(const _Atomic uint64_t *words)
{
	return atomic_load_explicit(&words[QUOTA_BPS], memory_order_relaxed) ||
	       atomic_load_explicit(&words[QUOTA_IOPS], memory_order_relaxed);
}

#endif
