/* SPDX-License-Identifier: Apache-2.0 */
/* lib/base/placing and cpus: which thread serves which queue, and on which processors, in words. */
#include "placing.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "num.h"

Test(placing, processors)
{
	static const char *const bad[] = { "",   "-",    "0-",  "-1",  "a",   "0,",
					   ",0", "0,,1", "1-0", "0 1", "0x1", "0-1-2" };
	static const char *const far[] = { "1024", "0-1024", "99999999999999999999" };
	static const char *const good[][2] = {
		{ "0", "0" },           { "1023", "1023" }, { "3,1,2", "1-3" },
		{ "0-3,8,8", "0-3,8" }, { "5-5", "5" },     { "62-65,0", "0,62-65" },
	};
	char text[CPUS_TEXT_MAX];
	cpu_set_t cpus;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		cr_expect_eq(cpus_parse(bad[i], &cpus), -EINVAL, "\"%s\"", bad[i]);
	for (size_t i = 0; i < ARRAY_SIZE(far); i++)
		cr_expect_eq(cpus_parse(far[i], &cpus), -ERANGE, "\"%s\"", far[i]);
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		cr_assert_eq(cpus_parse(good[i][0], &cpus), 0);
		cpus_format(&cpus, text, sizeof(text));
		cr_expect_str_eq(text, good[i][1]);
	}
	/* Every other one does not fit, and what does is whole. */
	CPU_ZERO(&cpus);
	for (int i = 0; i < CPUS_MAX; i += 2)
		CPU_SET(i, &cpus);
	cpus_format(&cpus, text, sizeof(text));
	cr_expect_lt(strlen(text), sizeof(text));
	CPU_ZERO(&cpus);
	cpus_format(&cpus, text, sizeof(text));
	cr_expect_str_eq(text, "");
}

Test(placing, threads)
{
	static const char *const bad[] = { "0",
					   "17",
					   "4x",
					   "",
					   ":",
					   "a:",
					   "a::b",
					   "a:a",
					   "main",
					   "1a:b",
					   "a b",
					   "a/b",
					   "abcdefghijklmnop",
					   "a@",
					   "a@x",
					   "a@1024",
					   "@0",
					   "a@0@1" };
	struct placing p;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		memset(&p, 0, sizeof(p));
		cr_expect_eq(placing_set_threads(&p, bad[i]), -EINVAL, "\"%s\"", bad[i]);
	}
	memset(&p, 0, sizeof(p));
	cr_assert_eq(placing_set_threads(&p, "16"), 0);
	cr_expect_eq(p.threads, 16);
	cr_expect_str_eq(p.thread[15].name, "io15");
	memset(&p, 0, sizeof(p));
	cr_assert_eq(placing_set_threads(&p, "fast@0,2-3:Slow_1:abcdefghijklmno"), 0);
	cr_expect_eq(p.threads, 3);
	cr_expect(p.thread[0].pinned && CPU_COUNT(&p.thread[0].cpus) == 3);
	cr_expect_not(p.thread[1].pinned);
	cr_expect_eq(placing_find(&p, "Slow_1"), 1);
	cr_expect_eq(placing_find(&p, "slow_1"), -ENOENT);
}

/* The threads of the queues, in one number. */
static int map(const char *threads, unsigned queues, const char *words)
{
	struct placing p = { 0 };
	int err, sum = 0;

	if (threads)
		cr_assert_eq(placing_set_threads(&p, threads), 0);
	err = placing_set_map(&p, queues, words);
	if (!err)
		err = placing_finish(&p);
	for (unsigned i = 0; i < queues && !err; i++)
		sum = sum * 10 + p.of[i];
	return err ? err : sum;
}

Test(placing, queues)
{
	cr_expect_eq(map(NULL, 3, NULL), 000);
	cr_expect_eq(map(NULL, 3, "1:1"), 12);
	cr_expect_eq(map("2", 4, NULL), 101);
	cr_expect_eq(map("2", 4, "round-robin"), 101);
	cr_expect_eq(map("4", 4, "1:1"), 123);
	cr_expect_eq(map("a:b", 4, "0:b,1-3:a"), 1000);
	cr_expect_eq(map("a:b", 4, "3:a"), 100, "those not named go round");
	cr_expect_eq(map("a:b:c", 1, "0:c"), 2, "threads by name may be there for later");
	cr_expect_eq(map("3", 2, NULL), -ERANGE);
	cr_expect_eq(map("3", 4, "1:1"), -EINVAL);
	cr_expect_eq(map("4", 3, "1:1"), -ERANGE);
	cr_expect_eq(map("a:b:c", 2, "1:1"), 1, "threads by name may be there for later");
	cr_expect_eq(map(NULL, 17, "1:1"), -EINVAL);
	cr_expect_eq(map("a:b", 2, "2:a"), -EINVAL);
	cr_expect_eq(map("a:b", 2, "0:c"), -EINVAL);
	cr_expect_eq(map("a:b", 2, "0:a,0:b"), -EINVAL);
	cr_expect_eq(map("a:b", 2, "0-1:a,1:b"), -EINVAL);
	cr_expect_eq(map("a:b", 2, "1-0:a"), -EINVAL);
	cr_expect_eq(map("a:b", 2, "0"), -EINVAL);
	cr_expect_eq(map("a:b", 2, ""), -EINVAL);
	cr_expect_eq(map("a:b", 2, "0:a,"), -EINVAL);
}

Test(placing, devices_that_share_threads)
{
	struct placing p = { 0 };

	cr_assert_eq(placing_set_threads(&p, "3"), 0);
	cr_assert_eq(placing_set_map(&p, 2, NULL), 0);
	cr_expect_eq(placing_finish(&p), -ERANGE, "more threads than queues, so far");
	cr_assert_eq(placing_set_map(&p, 3, "1:io0"), 0);
	cr_expect_eq(placing_finish(&p), 0);
	cr_expect_eq(p.queues, 5);
	cr_expect(p.of[0] == 0 && p.of[1] == 1 && p.of[2] == 2 && p.of[3] == 0 && p.of[4] == 1,
		  "they go round together, but for the one that is named");
	cr_expect_eq(placing_set_map(&p, 1, "1:io0"), -EINVAL, "each counts its own queues from 0");
	cr_expect_eq(placing_set_map(&p, PLACING_QUEUES_MAX, NULL), -EINVAL);
}

/* The threads of the queues of two devices, two each, in one number. */
static int map_two(const char *threads, const char *first, const char *second)
{
	struct placing p = { 0 };
	int err = threads ? placing_set_threads(&p, threads) : 0;

	if (!err)
		err = placing_set_map(&p, 2, first);
	if (!err)
		err = placing_set_map(&p, 2, second);
	if (!err)
		err = placing_finish(&p);
	return err ? err : p.of[0] * 1000 + p.of[1] * 100 + p.of[2] * 10 + p.of[3];
}

/* Whichever says it. */
Test(placing, devices_of_which_some_have_a_thread_for_each_queue)
{
	cr_expect_eq(map_two(NULL, "1:1", "1:1"), 123);
	cr_expect_eq(map_two("4", "1:1", "1:1"), 123);
	cr_expect_eq(map_two("3", "1:1", "1:1"), -EINVAL);
	cr_expect_eq(map_two(NULL, "1:1", NULL), 101);
	cr_expect_eq(map_two(NULL, NULL, "1:1"), 101);
	cr_expect_eq(map_two("3", NULL, "1:1"), 101);
	cr_expect_eq(map_two("a:b:c", "1:1", "1:c"), 122);
	cr_expect_eq(map_two("a:b:c", "1:c", "1:1"), 201);
	cr_expect_eq(map_two("1", NULL, "1:1"), -EINVAL);
}
