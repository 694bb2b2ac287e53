/* SPDX-License-Identifier: Apache-2.0 */
/* net-server/pace: when frames come fast, and that something always looks for the next one. */
#include "pace.h"

#include <criterion/criterion.h>

#include "clock.h"
#include "loop.h"

#define MANY 1000000 /* small frames, which may take seconds and are fast all the same */

TestSuite(net_pace, .timeout = 60);

static struct loop *loop;
static struct pace p;
static unsigned looked;

static void on_timer(void *arg)
{
	(void)arg;
	looked++;
}

static void set_up(void)
{
	cr_assert_eq(loop_new("test", &loop), 0);
	cr_assert_eq(pace_open(&p, loop, on_timer, NULL), 0);
}

static void tear_down(void)
{
	pace_close(&p);
	loop_free(loop);
}

/* So many frames of len bytes; how often that changed something. */
static unsigned come(unsigned frames, uint32_t len)
{
	unsigned changes = 0;

	while (frames--)
		changes += pace_read(&p, len);
	return changes;
}

static void looks_again(void)
{
	unsigned before = looked;

	for (uint64_t end = clock_ns() + 30 * NS_PER_S; looked == before && clock_ns() < end;)
		cr_assert_eq(loop_run_once(loop, (int64_t)NS_PER_S), 0);
	cr_assert_eq(looked, before + 1);
}

static void looks_no_more(void)
{
	unsigned before = looked;

	for (uint64_t end = clock_ns() + 50 * NS_PER_MS; clock_ns() < end;)
		cr_assert_eq(loop_run_once(loop, (int64_t)(10 * NS_PER_MS)), 0);
	cr_assert_eq(looked, before);
}

/* Fast, and nothing there since just now. */
static void get_fast(void)
{
	pace_empty(&p);
	cr_assert_eq(come(MANY, 60), 1);
	cr_assert_not(pace_empty(&p));
	cr_assert(p.fast);
}

Test(net_pace, a_message_is_not_fast, .init = set_up, .fini = tear_down)
{
	for (unsigned i = 0; i < 10; i++) {
		cr_assert_eq(come(1, 9000), 0);
		p.since = clock_ns() - NS_PER_MS;
		cr_assert_not(pace_empty(&p));
		cr_assert_not(p.fast);
	}
	looks_no_more();
}

Test(net_pace, frames_without_end_are_fast, .init = set_up, .fini = tear_down)
{
	cr_assert_eq(come(255, 60), 0);
	cr_assert_eq(come(1, 60), 1);
	cr_assert(p.fast);
	cr_assert_eq(come(1000, 60), 0);
}

Test(net_pace, large_frames_are_fast_sooner, .init = set_up, .fini = tear_down)
{
	cr_assert_eq(come(7, 65000), 0);
	cr_assert_eq(come(1, 65000), 1);
}

Test(net_pace, bursts_one_after_another_are_fast, .init = set_up, .fini = tear_down)
{
	unsigned bursts = 0;

	do {
		p.since = clock_ns(); /* they took no time at all */
		cr_assert_eq(come(100, 60), 0);
		cr_assert_lt(bursts++, 1000);
	} while (!pace_empty(&p) && !p.fast);
	cr_assert(p.fast);
	cr_assert_geq(bursts, 3);
}

Test(net_pace, while_they_are_it_looks_again, .init = set_up, .fini = tear_down)
{
	get_fast();
	looks_again();
	/* There is none then, and so the descriptor has to tell. */
	p.since -= NS_PER_MS;
	cr_assert(pace_empty(&p));
	cr_assert_not(p.fast);
	looks_no_more();
}

Test(net_pace, frames_that_nobody_can_read_are_not_fast_for_long, .init = set_up, .fini = tear_down)
{
	pace_stuck(&p);
	looks_no_more();
	cr_assert_eq(come(300, 60), 1);
	pace_stuck(&p);
	cr_assert(p.stuck);
	looks_again();
	cr_assert(p.stuck);
	cr_assert(pace_forget(&p));
	cr_assert_not(p.fast || p.stuck);
	looks_no_more();
}

Test(net_pace, what_moves_is_not_stuck, .init = set_up, .fini = tear_down)
{
	cr_assert_eq(come(300, 60), 1);
	pace_stuck(&p);
	come(1, 60);
	cr_assert_not(p.stuck);
	pace_stuck(&p);
	pace_empty(&p);
	cr_assert_not(p.stuck);
}

Test(net_pace, what_is_forgotten_does_not_look, .init = set_up, .fini = tear_down)
{
	get_fast();
	cr_assert(pace_forget(&p));
	cr_assert_not(pace_forget(&p));
	looks_no_more();
}
