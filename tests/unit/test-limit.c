/* SPDX-License-Identifier: Apache-2.0 */
/* lib/base/limit: what goes through in a time is what the rate says, by a clock that the tests move. */
#include "limit.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>

#include "clock.h"
#include "num.h"

#define YEAR (365ULL * 24 * 3600 * NS_PER_S)

static struct limit l;
static _Atomic uint64_t words[LIMIT_WORDS];
static uint64_t now;

static void set_up(void)
{
	now = 5 * NS_PER_S;
	limit_init(&l, words);
}

static void tear_down(void)
{
	limit_fini(&l);
}

TestSuite(limit, .init = set_up, .fini = tear_down);

static void set(uint64_t rate, uint64_t burst, uint64_t ops, uint64_t ops_burst)
{
	const struct limit_rates rates = { .bytes = { rate, burst }, .ops = { ops, ops_burst } };

	cr_assert_eq(limit_set(&l, &rates, now), 0);
}

/* Waits for as long as it is told to; how long that was. */
static uint64_t take(uint32_t bytes, uint32_t ops)
{
	uint64_t begin = now, wait;

	while ((wait = limit_take(&l, now, bytes, ops)))
		now += wait;
	return now - begin;
}

/* All that passes without waiting. */
static uint64_t drain(uint32_t bytes)
{
	uint64_t sum = 0;

	while (!limit_take(&l, now, bytes, 1))
		sum += bytes;
	return sum;
}

Test(limit, without_one_all_passes)
{
	cr_assert_not(limit_is_set(&l));
	for (int i = 0; i < 1000; i++)
		cr_assert_eq(limit_take(&l, now, UINT32_MAX, UINT32_MAX), 0);
	set(1, 1, 0, 0);
	cr_assert(limit_is_set(&l));
	set(0, 0, 0, 0);
	cr_assert_not(limit_is_set(&l));
	cr_assert_eq(limit_take(&l, now, UINT32_MAX, UINT32_MAX), 0);
}

Test(limit, one_burst_then_the_rate)
{
	set(1000, 5000, 0, 0);
	cr_assert_eq(drain(100), 5000);
	cr_assert_eq(limit_take(&l, now, 100, 1), 100 * NS_PER_MS);
	now += 100 * NS_PER_MS - 1;
	cr_assert_eq(limit_take(&l, now, 100, 1), 1);
	now++;
	cr_assert_eq(limit_take(&l, now, 100, 1), 0);
	cr_assert_neq(limit_take(&l, now, 1, 1), 0);
	now += 60 * NS_PER_S;
	cr_assert_eq(drain(100), 5000, "a pause fills it, and no more");
}

/* Rates that no number of nanoseconds divides, taken in pieces of all sizes over a week: not one byte too many, and not
 * one too few but what does not make up the next piece. */
Test(limit, is_exact_over_long_times)
{
	static const uint64_t rates[] = { 7, 999983, 1000000007, 123456789123 };

	for (unsigned r = 0; r < ARRAY_SIZE(rates); r++) {
		uint64_t begin = now, sum = 0, burst = 3000, next = 1;
		unsigned seed = r;

		set(0, 0, 0, 0);
		set(rates[r], burst, 0, 0);
		for (unsigned i = 0; i < 200000; i++) {
			next = (seed = seed * 1103515245 + 12345) >> 16;
			next = next % 2999 + 1;
			take((uint32_t)next, 1);
			sum += next;
			/* Less than what the piece waited for, so that it is never full. */
			now += seed % 3;
		}
		__extension__ unsigned __int128 allowed =
		    (unsigned __int128)rates[r] * (now - begin) + (unsigned __int128)burst * NS_PER_S;
		__extension__ unsigned __int128 taken = (unsigned __int128)sum * NS_PER_S;

		cr_assert(taken <= allowed, "rate %lu: more than allowed", (unsigned long)rates[r]);
		/* It waited for the last piece to the nanosecond, and then for up to two more each. */
		cr_assert(allowed - taken <=
			      (unsigned __int128)rates[r] * 3 * 200000 + (unsigned __int128)burst * NS_PER_S,
			  "rate %lu: too few", (unsigned long)rates[r]);
	}
}

/* The same without pauses: what is left when a piece just passed is less than one nanosecond's gain. */
Test(limit, loses_nothing_while_it_is_busy)
{
	const uint64_t rate = 999983, burst = 2;
	uint64_t begin = now, sum = 0;

	set(rate, burst, 0, 0);
	for (unsigned i = 0; i < 1000000; i++, sum++)
		take(1, 1);
	cr_assert_leq(sum * NS_PER_S, burst * NS_PER_S + rate * (now - begin));
	cr_assert_lt(burst * NS_PER_S + rate * (now - begin) - sum * NS_PER_S, rate);
}

Test(limit, what_is_larger_than_the_bucket_passes_and_is_paid_off)
{
	set(1000, 100, 0, 0);
	cr_assert_eq(limit_take(&l, now, 60000, 1), 0);
	cr_assert_eq(take(60000, 1), 60 * NS_PER_S);
	cr_assert_eq(take(1, 1), 60 * NS_PER_S - 99 * NS_PER_MS);
}

Test(limit, takes_both_or_nothing)
{
	set(1000, 1000, 10, 10);
	for (int i = 0; i < 10; i++)
		cr_assert_eq(limit_take(&l, now, 1, 1), 0);
	/* Operations are used up: bytes must not go while they wait. */
	for (int i = 0; i < 1000; i++)
		cr_assert_eq(limit_take(&l, now, 100, 1), 100 * NS_PER_MS);
	now += 100 * NS_PER_MS;
	cr_assert_eq(limit_take(&l, now, 990, 1), 0);
	cr_assert_eq(take(1000, 1), 990 * NS_PER_MS);
	set(1000, 1000, 0, 0);
	cr_assert_eq(take(100, UINT32_MAX), 100 * NS_PER_MS, "bytes alone");
}

Test(limit, what_is_given_back_can_be_taken_again)
{
	set(1000, 1000, 10, 10);
	cr_assert_eq(limit_take(&l, now, 1000, 10), 0);
	limit_return(&l, 1000, 10);
	cr_assert_eq(limit_take(&l, now, 1000, 10), 0);
	limit_return(&l, 1000, 10);
	limit_return(&l, 1000, 10);
	cr_assert_eq(drain(100), 1000, "but it is never more than full");
	/* Out of a debt. */
	now += 10 * NS_PER_S;
	cr_assert_eq(limit_take(&l, now, 50000, 1), 0);
	limit_return(&l, 40000, 0);
	cr_assert_eq(take(1000, 1), 10 * NS_PER_S);
}

Test(limit, the_largest_numbers)
{
	const struct limit_rates most = { { LIMIT_RATE_MAX, LIMIT_BURST_MAX },
					  { LIMIT_RATE_MAX, LIMIT_BURST_MAX } };
	struct limit_rates over = most;

	cr_assert_eq(limit_set(&l, &most, now), 0);
	for (int round = 0; round < 3; round++) {
		cr_assert_eq(limit_take(&l, now, UINT32_MAX, UINT32_MAX), 0);
		cr_assert_eq(limit_take(&l, now, 1, 1), 0, "one byte less than the bucket");
		cr_assert_neq(limit_take(&l, now, 1, 1), 0);
		now += 100 * YEAR;
	}
	over.bytes.rate++;
	cr_assert_eq(limit_set(&l, &over, now), -ERANGE);
	over = most;
	over.ops.burst++;
	cr_assert_eq(limit_set(&l, &over, now), -ERANGE);
	cr_assert_eq(limit_check(&over), -ERANGE);
	cr_assert_eq(limit_take(&l, now, UINT32_MAX, UINT32_MAX), 0, "nothing changed");
	/* The deepest debt there is, at the lowest rate. */
	set(1, 1, 0, 0);
	cr_assert_eq(limit_take(&l, now, UINT32_MAX, 1), 0);
	cr_assert_eq(limit_take(&l, now, UINT32_MAX, 1), UINT32_MAX * NS_PER_S);
	cr_assert_eq(limit_take(&l, UINT64_MAX, 1, 1), 0);
}

Test(limit, a_clock_that_another_thread_read_earlier)
{
	set(1000, 1000, 0, 0);
	drain(1000);
	now += NS_PER_S;
	cr_assert_eq(limit_take(&l, now, 1000, 1), 0);
	cr_assert_eq(limit_take(&l, now - NS_PER_S, 1, 1), NS_PER_MS);
	cr_assert_eq(limit_take(&l, now, 1, 1), NS_PER_MS, "it did not gain twice");
}

Test(limit, setting_it_again_fills_nothing)
{
	set(1000, 1000, 0, 0);
	cr_assert_eq(drain(10), 1000);
	for (int i = 0; i < 10; i++)
		set(1000, i % 2 ? 1000 : 100000, 0, 0);
	cr_assert_eq(drain(1), 0);
	set(1000000, 1000000, 0, 0);
	cr_assert_eq(drain(1), 0);
	cr_assert_eq(take(1000, 1), NS_PER_MS, "the new rate holds at once");
}

Test(limit, the_burst_that_nobody_named)
{
	set(1000, 0, 5, 0);
	cr_assert_eq(limit_take(&l, now, 100, 1), 0);
	cr_assert_eq(limit_take(&l, now, 1, 0), NS_PER_MS, "a tenth of a second's bytes");
	now += NS_PER_S;
	cr_assert_eq(limit_take(&l, now, 0, 1), 0);
	cr_assert_eq(limit_take(&l, now, 0, 1), 200 * NS_PER_MS,
		     "and one operation, if that is less than one");
}

/* ---- a successor ---- */

static void die(void)
{
	limit_fini(&l);
	limit_init(&l, words);
}

Test(limit, a_restart_fills_nothing)
{
	uint64_t sum = 0, begin = now;

	set(1000000, 1000, 0, 0);
	for (int i = 0; i < 1000; i++) {
		sum += drain(10);
		die();
		now += 1000;
		set(1000000, 1000, 0, 0);
		limit_resume(&l, now, UINT32_MAX, UINT32_MAX);
	}
	cr_assert_leq(sum, 1000 + (now - begin) / 1000);
	cr_assert_geq(sum, (now - begin) / 1000, "nor does it take anything");
}

Test(limit, the_first_of_all_starts_full)
{
	set(1000, 1000, 0, 0);
	limit_resume(&l, now, UINT32_MAX, UINT32_MAX);
	cr_assert_eq(drain(10), 1000);
}

Test(limit, a_spare_that_waits_changes_nothing)
{
	struct limit spare;
	const struct limit_rates rates = { .bytes = { 1000, 1000 } };

	set(1000, 1000, 0, 0);
	cr_assert_eq(drain(10), 1000);
	limit_init(&spare, words);
	cr_assert_eq(limit_set(&spare, &rates, now), 0);
	die();
	set(1000, 1000, 0, 0);
	limit_resume(&l, now, UINT32_MAX, UINT32_MAX);
	cr_assert_eq(drain(1), 0);
	limit_resume(&spare, now, UINT32_MAX, UINT32_MAX);
	cr_assert_neq(limit_take(&spare, now, 1, 1), 0);
	limit_fini(&spare);
}

Test(limit, words_that_anybody_wrote)
{
	static const uint64_t evil[] = { 0,          1,          INT64_MAX, (uint64_t)INT64_MIN,
					 UINT64_MAX, 1ULL << 62, 3ULL << 62 };
	const size_t n = ARRAY_SIZE(evil);

	for (size_t i = 0; i < n * n * n; i++) {
		words[0] = evil[i % n];
		words[1] = evil[i / n % n];
		words[2] = evil[i / n / n];
		die();
		set(1000, 1000, 10, 10);
		limit_resume(&l, now, 5000, 1);
		cr_assert_leq(drain(100), 1000, "never more than full");
		cr_assert_leq(take(100, 1), (5000 + 100) * NS_PER_S / 1000,
			      "nor deeper in debt than one frame");
		now += 1;
	}
}

/* ---- threads ---- */

static _Atomic uint64_t passed;

static void *taker(void *arg)
{
	uint64_t end = clock_ns() + 200 * NS_PER_MS;

	(void)arg;
	while (clock_ns() < end)
		if (!limit_take(&l, clock_ns(), 7, 1))
			atomic_fetch_add(&passed, 7);
	return NULL;
}

Test(limit, threads_share_it)
{
	uint64_t begin = now = clock_ns(), took;
	pthread_t threads[4];

	set(10000000, 1000, 0, 0);
	for (int i = 0; i < 4; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, taker, NULL), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	took = clock_ns() - begin;
	cr_assert_leq(passed, 1000 + took / 100);
	cr_assert_gt(passed, 1000);
}
