/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times are in sixteenths of a nanosecond, which 64 bits hold for 36 years of a host's running, so that what a small
 * request costs is right to a percent at any rate that a disk has. Costs are rounded up.
 */
#include "quota.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "num.h"
#include "parse.h"

#define TICKS    16ULL /* of a nanosecond */
#define TICKS_S  (TICKS * NS_PER_S)
#define COST_MAX (1ULL << 62)
#define DEBT_MAX (1ULL << 36) /* units: more than one request can be */

/* The words: the numbers of enum quota_key, when each bucket will be full, and whether there are numbers. */
enum { WORD_FULL = QUOTA_KEYS, WORD_SET = QUOTA_KEYS + 2 };
enum { BYTES, OPS };

_Static_assert(WORD_SET < QUOTA_WORDS, "there are so many");

const char *const quota_names[QUOTA_KEYS] = {
	[QUOTA_BPS] = "bps",
	[QUOTA_IOPS] = "iops",
	[QUOTA_BPS_BURST] = "bps-burst",
	[QUOTA_IOPS_BURST] = "iops-burst",
};

static uint64_t get(const _Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_relaxed);
}

int quota_parse(enum quota_key key, const char *value, uint64_t *number)
{
	int err = parse_size(value, number);

	if (!err && *number > (key < QUOTA_BPS_BURST ? QUOTA_RATE_MAX : QUOTA_BURST_MAX))
		err = -ERANGE;
	return err;
}

int quota_parse_pair(enum quota_key rate_key, const char *value, uint64_t *rate, uint64_t *burst)
{
	const char *slash = strchrnul(value, '/');
	char word[32];
	int err;

	if (slash - value >= (ptrdiff_t)sizeof(word))
		return -EINVAL;
	snprintf(word, sizeof(word), "%.*s", (int)(slash - value), value);
	*burst = 0;
	err = quota_parse(rate_key, word, rate);
	return err || !*slash ? err : quota_parse(rate_key + QUOTA_BPS_BURST, slash + 1, burst);
}

void quota_init(_Atomic uint64_t *words, const uint64_t numbers[QUOTA_KEYS])
{
	if (atomic_load(&words[WORD_SET]) == 1)
		return;
	for (size_t i = 0; i < QUOTA_KEYS; i++)
		atomic_store(&words[i], numbers[i]);
	atomic_store(&words[WORD_SET], 1);
}

/* The ticks in which a rate gives so many units. */
static uint64_t ticks(uint64_t units, uint64_t rate)
{
	__extension__ typedef unsigned __int128 wide;
	wide cost = ((wide)units * TICKS_S + rate - 1) / rate;

	return cost < COST_MAX ? (uint64_t)cost : COST_MAX;
}

static uint64_t rate_of(const _Atomic uint64_t *words, unsigned bucket)
{
	return MIN(get(&words[bucket]), QUOTA_RATE_MAX);
}

static uint64_t burst_ticks(const _Atomic uint64_t *words, unsigned bucket, uint64_t rate)
{
	uint64_t burst = get(&words[QUOTA_BPS_BURST + bucket]);

	return burst ? ticks(MIN(burst, QUOTA_BURST_MAX), rate) : MAX(TICKS_S / 10, ticks(1, rate));
}

/* How long one rate takes for what another gives in so many ticks: not in whole units, so that a change gives nothing. */
static uint64_t convert(uint64_t left, uint64_t from, uint64_t to)
{
	__extension__ typedef unsigned __int128 wide;
	wide cost;

	if (!to)
		return 0;
	cost = ((wide)left * from + to - 1) / to;
	return (uint64_t)MIN(cost, (wide)ticks(DEBT_MAX, to));
}

void quota_forgive(_Atomic uint64_t *words, uint64_t now_ns, uint64_t bytes, uint64_t ops)
{
	const uint64_t units[] = { [BYTES] = bytes, [OPS] = ops };

	for (unsigned bucket = BYTES; bucket <= OPS; bucket++) {
		uint64_t rate = rate_of(words, bucket), most;

		if (!rate)
			continue;
		most = now_ns * TICKS + burst_ticks(words, bucket, rate) + ticks(units[bucket], rate);
		if (get(&words[WORD_FULL + bucket]) > most)
			atomic_store(&words[WORD_FULL + bucket], most);
	}
}

void quota_set(_Atomic uint64_t *words, enum quota_key key, uint64_t number, uint64_t now_ns)
{
	uint64_t now = now_ns * TICKS;

	if (key <= QUOTA_IOPS) {
		_Atomic uint64_t *word = &words[WORD_FULL + key];
		uint64_t full = get(word), rate = rate_of(words, key), then;

		do
			then = full > now ? now + convert(full - now, rate, number) : full;
		while (!atomic_compare_exchange_weak(word, &full, then));
	}
	atomic_store(&words[key], number);
	atomic_store(&words[WORD_SET], 1);
}

static void take_of(_Atomic uint64_t *words, unsigned bucket, uint64_t now, uint64_t units,
		    struct quota_turn *turn)
{
	uint64_t rate = rate_of(words, bucket), cost, full = 0;

	if (rate && units) {
		cost = ticks(units, rate);
		full = get(&words[WORD_FULL + bucket]);
		while (!atomic_compare_exchange_weak(&words[WORD_FULL + bucket], &full,
						     full > UINT64_MAX - cost ? UINT64_MAX
									      : MAX(full, now) + cost))
			;
	}
	if (turn) {
		turn->at[bucket] = full;
		turn->rate[bucket] = rate;
	}
}

void quota_take(_Atomic uint64_t *words, uint64_t now_ns, uint64_t bytes, uint64_t ops,
		struct quota_turn *turn)
{
	take_of(words, BYTES, now_ns * TICKS, bytes, turn);
	take_of(words, OPS, now_ns * TICKS, ops, turn);
}

static void return_of(_Atomic uint64_t *words, unsigned bucket, uint64_t units)
{
	uint64_t rate = rate_of(words, bucket), cost, full;

	if (!rate || !units)
		return;
	cost = ticks(units, rate);
	full = get(&words[WORD_FULL + bucket]);
	while (
	    !atomic_compare_exchange_weak(&words[WORD_FULL + bucket], &full, full > cost ? full - cost : 0))
		;
}

void quota_return(_Atomic uint64_t *words, uint64_t bytes, uint64_t ops)
{
	return_of(words, BYTES, bytes);
	return_of(words, OPS, ops);
}

static uint64_t wait_of(const _Atomic uint64_t *words, unsigned bucket, uint64_t now, struct quota_turn *turn)
{
	uint64_t rate = rate_of(words, bucket), *at = &turn->at[bucket], most;

	if (!rate || *at <= now)
		return 0;
	/* After a change there are still as many units before it, and never more than the bucket lacks. */
	if (rate != turn->rate[bucket])
		*at = now + convert(*at - now, turn->rate[bucket], rate);
	turn->rate[bucket] = rate;
	*at = MIN(*at, get(&words[WORD_FULL + bucket]));
	/* A whole one is there. */
	most = burst_ticks(words, bucket, rate) - ticks(1, rate);
	return *at <= now || *at - now <= most ? 0 : (*at - now - most) / TICKS + 1;
}

uint64_t quota_wait(const _Atomic uint64_t *words, uint64_t now_ns, struct quota_turn *turn)
{
	return MAX(wait_of(words, BYTES, now_ns * TICKS, turn), wait_of(words, OPS, now_ns * TICKS, turn));
}
