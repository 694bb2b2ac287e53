/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Token buckets in billionths: a bucket of rate r gains exactly r billionths in each nanosecond, so nothing is ever
 * rounded and nothing drifts. Sizes are at most 2^32 units, 4.3e18 billionths, and what one call takes is no more than
 * that; so levels stay within 63 bits, and what was gained in a long pause is capped before it is added.
 *
 * The words: levels and their time, stored one by one. A process that dies between two of them leaves its successor with
 * one packet, or one pause, too much.
 */
#include "limit.h"

#include <errno.h>

#include "num.h"

#define UNIT 1000000000ULL

enum { WORD_AT, WORD_BYTES, WORD_OPS };

static void keep(struct limit *l) REQUIRES(l->lock)
{
	if (!l->words)
		return;
	atomic_store_explicit(&l->words[WORD_BYTES], (uint64_t)l->bytes.level, memory_order_relaxed);
	atomic_store_explicit(&l->words[WORD_OPS], (uint64_t)l->ops.level, memory_order_relaxed);
	atomic_store_explicit(&l->words[WORD_AT], l->at_ns, memory_order_relaxed);
}

static void gain(struct limit_bucket *b, uint64_t ns)
{
	uint64_t lack = b->size - (uint64_t)b->level, gained;

	if (!num_mul(ns, b->rate, &gained) || gained > lack)
		gained = lack;
	b->level += (int64_t)gained;
}

static void refill(struct limit *l, uint64_t now_ns) REQUIRES(l->lock)
{
	/* Another thread may have looked at the clock after us and been here first. */
	if (now_ns <= l->at_ns)
		return;
	gain(&l->bytes, now_ns - l->at_ns);
	gain(&l->ops, now_ns - l->at_ns);
	l->at_ns = now_ns;
}

/* The nanoseconds until cost can be taken; 0: now. */
static uint64_t wait_of(const struct limit_bucket *b, uint64_t cost)
{
	int64_t need = (int64_t)MIN(cost, b->size);

	if (!b->rate || b->level >= need)
		return 0;
	return ((uint64_t)(need - b->level) + b->rate - 1) / b->rate;
}

static void pay(struct limit_bucket *b, uint64_t cost)
{
	if (b->rate)
		b->level -= (int64_t)cost;
}

static void unpay(struct limit_bucket *b, uint64_t cost)
{
	if (b->rate)
		b->level = MIN(b->level + (int64_t)cost, (int64_t)b->size);
}

void limit_init(struct limit *l, _Atomic uint64_t *words)
{
	*l = (struct limit) { .words = words };
	lock_init(&l->lock);
}

void limit_fini(struct limit *l)
{
	lock_destroy(&l->lock);
}

static bool is_ok(const struct limit_rate *r)
{
	return r->rate <= LIMIT_RATE_MAX && r->burst <= LIMIT_BURST_MAX;
}

int limit_check(const struct limit_rates *rates)
{
	return is_ok(&rates->bytes) && is_ok(&rates->ops) ? 0 : -ERANGE;
}

static uint64_t size_of(const struct limit_rate *r)
{
	uint64_t burst = r->burst ? r->burst : MAX(MIN(r->rate / 10, LIMIT_BURST_MAX), 1U);

	return burst * UNIT;
}

static void change(struct limit_bucket *b, const struct limit_rate *to)
{
	uint64_t size = to->rate ? size_of(to) : 0;

	b->level = b->rate ? MIN(b->level, (int64_t)size) : (int64_t)size;
	b->size = size;
	__atomic_store_n(&b->rate, to->rate, __ATOMIC_RELAXED);
}

int limit_set(struct limit *l, const struct limit_rates *rates, uint64_t now_ns)
{
	int err = limit_check(rates);

	if (err)
		return err;
	lock_take(&l->lock);
	refill(l, now_ns);
	change(&l->bytes, &rates->bytes);
	change(&l->ops, &rates->ops);
	lock_drop(&l->lock);
	return 0;
}

/* What stands in a word is a predecessor's, or anybody's. */
static void believe(struct limit_bucket *b, uint64_t word, uint32_t largest)
{
	const int64_t least = -(int64_t)(largest * UNIT);

	if (b->rate)
		b->level = MAX(MIN((int64_t)word, (int64_t)b->size), least);
}

void limit_resume(struct limit *l, uint64_t now_ns, uint32_t bytes, uint32_t ops)
{
	uint64_t at = l->words ? atomic_load_explicit(&l->words[WORD_AT], memory_order_relaxed) : 0;

	if (!at)
		return;
	lock_take(&l->lock);
	believe(&l->bytes, atomic_load_explicit(&l->words[WORD_BYTES], memory_order_relaxed), bytes);
	believe(&l->ops, atomic_load_explicit(&l->words[WORD_OPS], memory_order_relaxed), ops);
	l->at_ns = MIN(at, now_ns);
	refill(l, now_ns);
	lock_drop(&l->lock);
}

uint64_t limit_take(struct limit *l, uint64_t now_ns, uint32_t bytes, uint32_t ops)
{
	uint64_t wait;

	if (!limit_is_set(l))
		return 0;
	lock_take(&l->lock);
	refill(l, now_ns);
	wait = MAX(wait_of(&l->bytes, bytes * UNIT), wait_of(&l->ops, ops * UNIT));
	if (!wait) {
		pay(&l->bytes, bytes * UNIT);
		pay(&l->ops, ops * UNIT);
		keep(l);
	}
	lock_drop(&l->lock);
	return wait;
}

void limit_return(struct limit *l, uint32_t bytes, uint32_t ops)
{
	lock_take(&l->lock);
	unpay(&l->bytes, bytes * UNIT);
	unpay(&l->ops, ops * UNIT);
	keep(l);
	lock_drop(&l->lock);
}
