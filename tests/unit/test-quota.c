/* SPDX-License-Identifier: Apache-2.0 */
/* lib/base/quota: what goes through in a time is what the rate says, however many share it, by a clock that tests move. */
#include "quota.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "clock.h"
#include "num.h"

#define START (5 * NS_PER_S)

static _Atomic uint64_t words[QUOTA_WORDS];
static uint64_t now = START;

TestSuite(quota);

static void init(uint64_t bps, uint64_t iops, uint64_t bps_burst, uint64_t iops_burst)
{
	const uint64_t numbers[QUOTA_KEYS] = { [QUOTA_BPS] = bps,
					       [QUOTA_IOPS] = iops,
					       [QUOTA_BPS_BURST] = bps_burst,
					       [QUOTA_IOPS_BURST] = iops_burst };

	quota_init(words, numbers);
}

/* One who asks, has his place in line, and goes when it is his turn. */
struct asker {
	bool waits;
	struct quota_turn turn;
};

/* The nanoseconds until the next request of so many bytes may go. */
static uint64_t ask(struct asker *a, uint64_t bytes)
{
	if (!a->waits)
		quota_take(words, now, bytes, 1, &a->turn);
	a->waits = true;
	return quota_wait(words, now, &a->turn);
}

static struct asker one;

/* How many requests of so many bytes go through until then, by one who waits as long as he is told to. */
static uint64_t pass(uint64_t until, uint64_t bytes)
{
	uint64_t n = 0, wait;

	for (;;) {
		wait = ask(&one, bytes);
		if (now + wait >= until)
			break;
		now += wait;
		one.waits = false;
		n++;
		cr_assert_lt(n, 100000000ULL, "there is no limit");
	}
	now = until;
	return n;
}

/* How long whoever comes now waits. */
static uint64_t line(void)
{
	struct quota_turn turn;

	quota_take(words, now, 1, 1, &turn);
	quota_return(words, 1, 1);
	return quota_wait(words, now, &turn);
}

static void expect_near(uint64_t is, uint64_t wanted)
{
	cr_expect(is >= wanted - wanted / 100 - 1 && is <= wanted + wanted / 100 + 1, "%llu instead of %llu",
		  (unsigned long long)is, (unsigned long long)wanted);
}

Test(quota, without_one_all_passes)
{
	init(0, 0, 0, 0);
	cr_assert_not(quota_is_set(words));
	quota_take(words, now, 1ULL << 40, 1, NULL);
	cr_assert_eq(line(), 0);
}

Test(quota, bytes_of_any_size_pass_at_the_rate)
{
	static const uint64_t rates[] = { 512, 1 << 20, 1ULL << 30, 20ULL << 30 };
	static const uint64_t sizes[] = { 4096, 65536, 1 << 20 };

	for (size_t i = 0; i < ARRAY_SIZE(rates); i++)
		for (size_t j = 0; j < ARRAY_SIZE(sizes); j++) {
			uint64_t s = MAX(1000 * sizes[j] / rates[i], 1ULL);

			memset(words, 0, sizeof(words));
			one.waits = false;
			init(rates[i], 0, 0, 0);
			pass(now + NS_PER_S, sizes[j]); /* what was there at first */
			now += ask(&one, sizes[j]);
			expect_near(pass(now + s * NS_PER_S, sizes[j]), s * rates[i] / sizes[j]);
		}
}

Test(quota, a_burst_passes_at_once_and_comes_back)
{
	init(0, 100, 0, 50);
	expect_near(pass(now + 1, 0), 50);
	expect_near(pass(now + NS_PER_S, 0), 100);
	now += 10 * NS_PER_S;
	expect_near(pass(now + 1, 0), 50);
}

/* Not one more, though a moment has passed. */
Test(quota, a_burst_is_counted_to_the_one)
{
	init(0, 1, 0, 1);
	cr_assert_eq(line(), 0);
	quota_take(words, now, 0, 1, NULL);
	now += NS_PER_MS;
	expect_near(line(), NS_PER_S - NS_PER_MS);
	now += NS_PER_S;
	cr_assert_eq(line(), 0);
}

Test(quota, both_limits_hold)
{
	init(1 << 20, 100, 1, 1);
	expect_near(pass(now + 10 * NS_PER_S, 512), 1000);
	now += ask(&one, 512); /* the one that waits by now */
	one.waits = false;
	expect_near(pass(now + 10 * NS_PER_S, 1 << 20), 10);
}

/* It is not given twice, nor forgotten, by whoever opens it next. */
Test(quota, a_second_init_changes_nothing)
{
	init(1 << 20, 0, 1 << 20, 0);
	pass(now + 1, 4096);
	quota_set(words, QUOTA_BPS, 2 << 20, now);
	init(1 << 30, 0, 0, 0);
	expect_near(pass(now + 10 * NS_PER_S, 4096), 10 * (2 << 20) / 4096);
}

Test(quota, setting_again_and_again_gives_nothing)
{
	uint64_t n = 0;

	init(1 << 20, 0, 0, 0);
	pass(now + NS_PER_S, 4096);
	for (int i = 0; i < 1000; i++) {
		quota_set(words, QUOTA_BPS, i % 2 ? 1 << 20 : 8 << 20, now);
		n += pass(now + 1, 4096);
	}
	cr_assert_leq(n, (8 << 20) / 10 / 4096 + 26, "%llu: more than the largest burst",
		      (unsigned long long)n);
	quota_set(words, QUOTA_BPS, 1 << 20, now);
	now += ask(&one, 4096);
	expect_near(pass(now + 10 * NS_PER_S, 4096), 10 * (1 << 20) / 4096);
}

/* A debt stays as large as it is in bytes, not in time. */
Test(quota, a_change_takes_the_debt_along)
{
	init(1 << 20, 0, 1, 0);
	quota_take(words, now, 64 << 20, 1, NULL);
	expect_near(line(), 64 * NS_PER_S);
	quota_set(words, QUOTA_BPS, 64 << 20, now);
	expect_near(line(), NS_PER_S);
	quota_set(words, QUOTA_BPS, 0, now);
	cr_assert_eq(line(), 0);
}

/* Not even a part of one is given away: who starts anew is told all limits again. */
Test(quota, a_part_of_an_operation_is_owed_after_a_change)
{
	uint64_t owed;

	init(1, 1, 1, 1);
	quota_take(words, now, 1, 1, NULL);
	now += 60 * NS_PER_MS;
	owed = line();
	expect_near(owed, 940 * NS_PER_MS);
	for (unsigned i = 0; i < 1000; i++)
		for (unsigned key = 0; key < QUOTA_KEYS; key++)
			quota_set(words, key, 1, now);
	cr_assert_eq(line(), owed);
	quota_set(words, QUOTA_BPS, 0, now);
	cr_assert_eq(line(), owed, "the operations'");
	quota_set(words, QUOTA_IOPS, 2, now);
	expect_near(line(), 470 * NS_PER_MS);
}

/* So does a place in line, by whoever asks after the change. */
Test(quota, a_change_takes_those_along_who_wait)
{
	init(1 << 20, 0, 1, 0);
	quota_take(words, now, 64 << 20, 1, NULL);
	expect_near(ask(&one, 4096), 64 * NS_PER_S);
	quota_set(words, QUOTA_BPS, 32 << 20, now);
	expect_near(ask(&one, 4096), 2 * NS_PER_S);
	now += NS_PER_S;
	quota_set(words, QUOTA_BPS, 1 << 20, now);
	expect_near(ask(&one, 4096), 32 * NS_PER_S);
	quota_set(words, QUOTA_BPS, 0, now);
	cr_assert_eq(ask(&one, 4096), 0);
}

/* What was not used is there for the next, and for nobody twice. */
Test(quota, what_is_returned)
{
	struct quota_turn turn;

	init(0, 100, 0, 1);
	for (unsigned i = 0; i < 1000; i++)
		quota_take(words, now, 0, 1, &turn);
	for (unsigned i = 0; i < 1000; i++)
		quota_return(words, 0, 1);
	cr_assert_eq(line(), 0);
	expect_near(pass(now + 10 * NS_PER_S, 0), 1000);
}

/*
 * Who asks all the time comes no earlier than one who sleeps until he is told and then comes late, as sleepers do; and both
 * together have what the rate gives.
 */
Test(quota, who_asks_without_end_gets_his_share)
{
	const uint64_t step = 10 * NS_PER_US, late = 200 * NS_PER_US, end = START + 20 * NS_PER_S;
	struct asker restless = { 0 }, sleeper = { 0 };
	uint64_t wake = 0, n[2] = { 0 };

	init(0, 1000, 0, 1);
	for (; now < end; now += step) {
		if (!ask(&restless, 0)) {
			restless.waits = false;
			n[0]++;
		}
		while (now >= wake) {
			uint64_t wait = ask(&sleeper, 0);

			wake = wait ? now + wait + late : 0;
			if (wait)
				break;
			sleeper.waits = false;
			n[1]++;
		}
	}
	expect_near(n[0] + n[1], 20000);
	cr_assert_geq(n[1], 9000, "%llu of one, %llu of the other", (unsigned long long)n[0],
		      (unsigned long long)n[1]);
}

/* Places in line go by the order in which they were taken, whatever a request costs. */
Test(quota, in_the_order_of_asking)
{
	struct quota_turn turn[100];

	init(1 << 20, 0, 1, 0);
	for (size_t i = 0; i < ARRAY_SIZE(turn); i++)
		quota_take(words, now, 1 + i * 7919 % 65536, 1, &turn[i]);
	for (size_t i = 1; i < ARRAY_SIZE(turn); i++)
		cr_assert_lt(quota_wait(words, now, &turn[i - 1]), quota_wait(words, now, &turn[i]));
}

/* Whatever stands there, setting it anew leaves nobody waiting for longer than a request could have cost. */
Test(quota, what_somebody_else_wrote_can_be_mended)
{
	for (size_t i = 0; i < QUOTA_WORDS; i++)
		words[i] = UINT64_MAX;
	quota_take(words, now, UINT64_MAX, UINT64_MAX, &one.turn);
	one.waits = true;
	ask(&one, 0);
	for (unsigned key = 0; key < QUOTA_KEYS; key++)
		quota_set(words, key, 1ULL << 36, now);
	cr_assert_leq(ask(&one, 0), NS_PER_S);
	cr_assert_leq(line(), NS_PER_S);
}

/* A size above the burst does not starve, and whoever comes next waits for it. */
Test(quota, what_is_larger_than_a_burst_passes_and_is_paid_off)
{
	init(1000, 0, 100, 0);
	cr_assert_eq(ask(&one, 60000), 0);
	expect_near(line(), 60 * NS_PER_S - 100 * NS_PER_MS);
}

Test(quota, the_burst_that_nobody_named)
{
	init(1000, 5, 0, 0);
	quota_take(words, now, 99, 0, NULL);
	cr_assert_eq(line(), 0, "a tenth of a second's bytes");
	quota_take(words, now, 1, 0, NULL);
	cr_assert_neq(line(), 0);
	now += NS_PER_S;
	quota_take(words, now, 0, 1, NULL);
	cr_assert_neq(line(), 0, "and one operation, if that is less than one");
}

Test(quota, a_clock_that_another_thread_read_earlier)
{
	init(1000, 0, 1000, 0);
	quota_take(words, now, 2000, 1, NULL);
	quota_take(words, now - NS_PER_S, 1000, 1, NULL);
	expect_near(line(), 2 * NS_PER_S);
}

/* Who has gone may have written anything; its successor waits for a burst and what it could have taken beyond, no longer. */
Test(quota, what_nobody_can_have_taken_is_forgiven)
{
	static const uint64_t evil[] = { 0, 1, INT64_MAX, 1ULL << 63, UINT64_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(evil) * ARRAY_SIZE(evil); i++) {
		memset(words, 0, sizeof(words));
		init(1000, 10, 1000, 10);
		words[QUOTA_KEYS] = evil[i % ARRAY_SIZE(evil)];
		words[QUOTA_KEYS + 1] = evil[i / ARRAY_SIZE(evil)];
		quota_forgive(words, now, 5000, 1);
		cr_assert_leq(line(), 5 * NS_PER_S + 10 * NS_PER_MS);
	}
	memset(words, 0, sizeof(words));
	init(1000, 0, 1000, 0);
	quota_take(words, now, 4000, 1, NULL);
	quota_forgive(words, now, 5000, 1);
	expect_near(line(), 3 * NS_PER_S);
}

Test(quota, values)
{
	uint64_t v;

	cr_assert_eq(quota_parse(QUOTA_BPS, "10M", &v), 0);
	cr_assert_eq(v, 10 << 20);
	cr_assert_eq(quota_parse(QUOTA_IOPS, "0", &v), 0);
	cr_assert_eq(quota_parse(QUOTA_IOPS, "-1", &v), -EINVAL);
	cr_assert_eq(quota_parse(QUOTA_BPS, "2T", &v), -ERANGE);
	cr_assert_eq(quota_parse(QUOTA_BPS_BURST, "5G", &v), -ERANGE);
}

Test(quota, pairs_of_values)
{
	static const char *const wrong[] = { "",     "/",    "10/",
					     "/10",  "10/x", "1/2/3",
					     "-1/5", "many", "0000000000000000000000000000000001" };
	uint64_t rate, burst = 5;

	cr_assert_eq(quota_parse_pair(QUOTA_BPS, "10M", &rate, &burst), 0);
	cr_assert(rate == 10 << 20 && burst == 0);
	cr_assert_eq(quota_parse_pair(QUOTA_IOPS, "1T/4G", &rate, &burst), 0);
	cr_assert(rate == QUOTA_RATE_MAX && burst == QUOTA_BURST_MAX);
	cr_assert_eq(quota_parse_pair(QUOTA_IOPS, "2T/1", &rate, &burst), -ERANGE);
	cr_assert_eq(quota_parse_pair(QUOTA_BPS, "1/5G", &rate, &burst), -ERANGE);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		cr_assert_eq(quota_parse_pair(QUOTA_BPS, wrong[i], &rate, &burst), -EINVAL, "%s", wrong[i]);
}

static void *taker(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < 100000; i++)
		quota_take(words, START, 1000, 1, NULL);
	return NULL;
}

/* Nothing that several take at once gets lost. */
Test(quota, threads_share_it)
{
	pthread_t t[4];

	init(1000000, 0, 1, 0);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		cr_assert_eq(pthread_create(&t[i], NULL, taker, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		pthread_join(t[i], NULL);
	expect_near(line(), 400 * NS_PER_S);
}
