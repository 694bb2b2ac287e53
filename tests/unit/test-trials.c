/* SPDX-License-Identifier: Apache-2.0 */
/* lib/virtq: of several queues of one process, one request at a time is tried for what processes died of. */
#include <criterion/criterion.h>

#include "queue.h"

#define SIZE 8

static struct queue a, b;
static unsigned overs;

static void on_over(void *arg)
{
	(void)arg;
	overs++;
}

static struct vq_trials trials = { .over = on_over };

static void open_one(struct queue *q, uint64_t features)
{
	queue_open(q, SIZE, features);
	q->config.trials = &trials;
	queue_track(q);
}

static void start_split(void)
{
	open_one(&a, 0);
	open_one(&b, 0);
}

static void start_packed(void)
{
	open_one(&a, RING_F_PACKED);
	open_one(&b, RING_F_PACKED);
}

static void stop(void)
{
	queue_close(&a);
	queue_close(&b);
	cr_assert_not(trials.busy);
}

TestSuite(trials_split, .init = start_split, .fini = stop);
TestSuite(trials_packed, .init = start_packed, .fini = stop);

/* The process is another one. */
static void die(void)
{
	queue_restart(&a);
	queue_restart(&b);
}

static void pop_one(struct queue *q, unsigned deaths)
{
	cr_assert_eq(queue_pop(q), 1);
	cr_expect_eq(q->chain.deaths, deaths);
	cr_expect_not(q->chain.poisoned);
	vq_lay_down(q->vq);
}

/* Both queues have one request, and two processes died of them. */
static void suspect_both(void)
{
	queue_add(&a, false);
	queue_add(&b, false);
	for (unsigned deaths = 0; deaths < 2; deaths++) {
		pop_one(&a, deaths);
		pop_one(&b, deaths);
		die();
	}
}

static void expect_kept_back(struct queue *q, bool kept)
{
	cr_expect_eq(vq_is_kept_back(q->vq), kept);
	cr_expect_eq(vq_has_avail(q->vq), !kept);
	cr_expect_eq(vq_enable_kicks(q->vq), !kept);
	if (kept)
		cr_expect_eq(queue_pop(q), 0);
}

static void answer(struct queue *q)
{
	vq_push(q->vq, q->chain.head, 1);
	vq_publish(q->vq);
}

static void kill_with_one(void)
{
	suspect_both();
	for (unsigned deaths = 2; deaths < 5; deaths++) {
		pop_one(&a, deaths);
		expect_kept_back(&b, true);
		die();
	}
	cr_assert_eq(queue_pop(&a), 1);
	cr_expect(a.chain.poisoned);
	pop_one(&b, 5);
	answer(&a);
	answer(&b);
}

static void take_turns(void)
{
	suspect_both();
	overs = 0;
	pop_one(&a, 2);
	expect_kept_back(&b, true);
	vq_push(a.vq, a.chain.head, 1);
	expect_kept_back(&b, true);
	vq_publish(a.vq);
	cr_expect_eq(overs, 1);
	expect_kept_back(&b, false);
	/* What is new is under no suspicion, and waits for nobody. */
	pop_one(&b, 2);
	queue_add(&a, false);
	pop_one(&a, 0);
	answer(&b);
	cr_expect_eq(overs, 2);
	answer(&a);
	cr_expect_eq(overs, 2);
}

/* However it ends, the other one's turn comes. */
static void give_back(void)
{
	suspect_both();
	overs = 0;
	pop_one(&a, 2);
	cr_expect_eq(vq_unpop(a.vq, a.chain.head), 0);
	cr_expect_eq(overs, 1);
	expect_kept_back(&b, false);
}

static void give_up(void)
{
	suspect_both();
	overs = 0;
	pop_one(&a, 2);
	vq_break(a.vq);
	cr_expect_eq(overs, 1);
	cr_expect_lt(queue_pop(&a), 0);
	expect_kept_back(&b, false);
}

static void end_ring(void)
{
	suspect_both();
	overs = 0;
	pop_one(&a, 2);
	queue_restart(&a);
	cr_expect_eq(overs, 1);
	expect_kept_back(&b, false);
	pop_one(&b, 2);
	expect_kept_back(&a, true);
}

#define ON_BOTH(suffix, what)                                                                                \
	Test(trials_split, suffix)                                                                           \
	{                                                                                                    \
		what();                                                                                      \
	}                                                                                                    \
	Test(trials_packed, suffix)                                                                          \
	{                                                                                                    \
		what();                                                                                      \
	}

ON_BOTH(f48_those_of_other_queues_are_not_failed, kill_with_one)
ON_BOTH(one_comes_after_the_other, take_turns)
ON_BOTH(one_that_is_given_back_makes_way, give_back)
ON_BOTH(one_whose_ring_is_given_up_makes_way, give_up)
ON_BOTH(one_whose_ring_ends_makes_way, end_ring)
