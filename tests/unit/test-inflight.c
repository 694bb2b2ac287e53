/* SPDX-License-Identifier: Apache-2.0 */
/* lib/virtq, in-flight region: its first use, the order of resubmission, and regions that lie. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "inflight_priv.h"
#include "queue.h"

#define SIZE 8

static struct queue q;

static void start_split(void)
{
	queue_open(&q, SIZE, RING_F_INDIRECT);
}

static void start_packed(void)
{
	queue_open(&q, SIZE, RING_F_PACKED | RING_F_INDIRECT);
}

static void stop(void)
{
	queue_close(&q);
}

TestSuite(inflight_split, .init = start_split, .fini = stop);
TestSuite(inflight_packed, .init = start_packed, .fini = stop);

static struct inflight_split *split(void)
{
	return q.config.inflight;
}

static struct inflight_packed *packed(void)
{
	return q.config.inflight;
}

/* Takes n requests, half of them indirect, and leaves them in flight. */
static void take(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		queue_add(&q, i & 1);
		cr_assert_eq(queue_pop(&q), 1);
		cr_expect_not(q.chain.resubmitted);
		cr_expect_eq(q.chain.deaths, 0);
	}
}

/* Pops what was in flight: n requests, fetched in this order before. */
static void expect_resubmitted(unsigned n, const uint16_t *heads, unsigned deaths)
{
	for (unsigned i = 0; i < n; i++) {
		cr_expect(vq_has_avail(q.vq));
		cr_assert_eq(queue_pop(&q), 1);
		cr_expect(q.chain.resubmitted);
		cr_expect_eq(q.chain.head, heads[i]);
		cr_expect_eq(q.chain.deaths, deaths);
		cr_expect_eq(q.chain.out_len, 16);
		cr_expect_eq(q.chain.in_len, 512);
	}
	cr_expect_eq(queue_pop(&q), 0);
}

Test(inflight, sizes_are_the_specifications)
{
	cr_expect_eq(inflight_queue_bytes(256, false), 16 + 256 * 16 + 48);
	cr_expect_eq(inflight_queue_bytes(256, true), 32 + 256 * 32 + 32);
	cr_expect_eq(inflight_queue_bytes(3, false), 64);
	cr_expect_eq(inflight_queue_bytes(1, true), 64);
	cr_expect_eq(inflight_queue_bytes(32768, true), 32 + 32768 * 32 + 32);
}

Test(inflight, a_region_is_blank_until_it_is_initialised)
{
	uint64_t region[1024];

	for (int format = 0; format < 2; format++) {
		memset(region, 0, sizeof(region));
		cr_expect(inflight_is_blank(region));
		inflight_init(region, SIZE, format, 0x8003);
		cr_expect_not(inflight_is_blank(region));
	}
}

/* The trap of SPDK issue 3766: used_idx 0 and batch head 0 over a live ring clear request 0. */
Test(inflight_split, a_fresh_region_over_a_live_ring_keeps_request_0)
{
	queue_cycle(&q, 5);
	queue_track(&q);
	cr_expect_eq(split()->used_idx, 5);
	cr_expect_geq(split()->last_batch_head, SIZE);
	take(1);
	cr_assert_eq(q.chain.head, 0);
	/* As if killed after used.idx of an empty batch: nothing may be cleared. */
	queue_restart(&q);
	expect_resubmitted(1, (uint16_t[]) { 0 }, 1);
}

Test(inflight_split, a_blank_region_goes_on_from_the_live_ring)
{
	queue_cycle(&q, 5);
	q.config.base = 0;
	queue_track(&q);
	cr_expect_eq(vq_base(q.vq), 5);
	cr_expect_eq(queue_pop(&q), 0);
	queue_cycle(&q, 3);
	queue_restart(&q);
	cr_expect_eq(vq_base(q.vq), 8);
	queue_cycle(&q, 3);
}

Test(inflight_packed, a_blank_region_goes_on_from_the_base)
{
	queue_cycle(&q, 5);
	q.config.base = vq_base(q.vq);
	queue_track(&q);
	queue_cycle(&q, 3);
	q.config.base = 0;
	queue_restart(&q);
	queue_cycle(&q, 3);
}

Test(inflight_split, resubmitted_in_the_order_of_fetching_whatever_the_heads)
{
	uint16_t heads[3];

	queue_track(&q);
	take(4); /* heads 0, 2 (indirect), 3 and 5 */
	vq_push(q.vq, 0, 0);
	vq_push(q.vq, 2, 0);
	vq_publish(q.vq);
	queue_get(&q, 0);
	queue_get(&q, 2);
	heads[0] = 3;
	heads[1] = 5;
	queue_add(&q, true);
	cr_assert_eq(queue_pop(&q), 1);
	heads[2] = q.chain.head;
	cr_assert_lt(heads[2], 3, "a lower head than those before it");
	queue_restart(&q);
	expect_resubmitted(3, heads, 1);
	cr_expect_eq(vq_base(q.vq), 5);
}

Test(inflight_split, resubmitted_first_and_then_what_is_new)
{
	int fresh;

	queue_track(&q);
	take(2);
	fresh = queue_add(&q, false);
	queue_restart(&q);
	cr_expect_eq(vq_in_flight(q.vq), 0, "none was taken yet");
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(queue_pop(&q), 1);
		cr_expect_eq(q.chain.resubmitted, i < 2);
	}
	cr_expect_eq(q.chain.head, fresh);
	cr_expect_eq(vq_in_flight(q.vq), 3);
}

Test(inflight_split, a_head_that_waits_to_be_resubmitted_is_in_flight)
{
	queue_track(&q);
	take(1);
	ring_put_avail(&q.ring, 0);
	ring_publish(&q.ring);
	queue_restart(&q);
	cr_assert_eq(queue_pop(&q), 1);
	cr_expect(q.chain.resubmitted);
	cr_expect_eq(queue_pop(&q), -EALREADY);
}

Test(inflight_split, deaths_are_counted_and_forgotten_with_the_request)
{
	queue_track(&q);
	take(1);
	for (unsigned death = 1; death < 10; death++) {
		queue_restart(&q);
		expect_resubmitted(1, (uint16_t[]) { 0 }, death > 7 ? 7 : death);
	}
	vq_push(q.vq, 0, 0);
	vq_publish(q.vq);
	queue_get(&q, 0);
	take(1);
}

Test(inflight_packed, deaths_are_counted_and_forgotten_with_the_request)
{
	uint16_t head;

	queue_track(&q);
	take(1);
	head = q.chain.head;
	for (unsigned death = 1; death < 10; death++) {
		queue_restart(&q);
		expect_resubmitted(1, &head, death > 7 ? 7 : death);
	}
	vq_push(q.vq, head, 0);
	vq_publish(q.vq);
	queue_get(&q, 0);
	take(1);
}

Test(inflight_packed, chains_are_restored_from_the_region_not_the_ring)
{
	uint16_t heads[3];

	queue_track(&q);
	for (int i = 0; i < 3; i++) {
		take(1);
		heads[i] = q.chain.head;
	}
	for (uint16_t i = 0; i < 2; i++) /* the ring's copies are overwritten but for their flags */
		ring_write_desc(&q.ring, i, (struct ring_desc) { 1, 1, 99, RING_AVAIL });
	queue_restart(&q);
	expect_resubmitted(3, heads, 1);
}

Test(inflight_packed, an_id_that_waits_to_be_resubmitted_is_in_flight)
{
	queue_track(&q);
	take(1); /* id 0, two descriptors */
	queue_restart(&q);
	cr_assert_eq(queue_pop(&q), 1);
	ring_write_desc(&q.ring, 2, (struct ring_desc) { q.data, 8, 0, RING_AVAIL });
	cr_expect_eq(queue_pop(&q), -EALREADY);
}

/* ---- regions that contradict themselves ---- */

static void refused(const char *what)
{
	int err = queue_try(&q);

	cr_expect_eq(err, -EPROTO, "%s: %d", what, err);
}

#define LIE(field, value, what)                                                                              \
	do {                                                                                                 \
		__typeof__(field) was_ = (field);                                                            \
		(field) = (value);                                                                           \
		refused(what);                                                                               \
		(field) = was_;                                                                              \
	} while (0)

Test(inflight_split, fault_40_regions_that_lie_are_refused)
{
	queue_cycle(&q, 2);
	queue_track(&q);
	take(2);
	LIE(split()->version, 2, "version");
	LIE(split()->features, 1, "features");
	LIE(split()->desc_num, SIZE * 2, "desc_num");
	LIE(split()->desc[0].inflight, 2, "inflight");
	LIE(split()->desc[0].counter, UINT64_MAX, "counter");
	LIE(split()->used_idx, 3, "used_idx ahead of the ring");
	LIE(split()->used_idx, (uint16_t)(2 - SIZE - 1), "a batch larger than the ring");
	LIE(split()->used_idx, 1, "a batch whose head names no descriptor");
	split()->last_batch_head = 0;
	split()->desc[0].next = SIZE;
	LIE(split()->used_idx, 0, "a batch whose list leaves the table");
	split()->desc[0].inflight = 1;
	split()->last_batch_head = 0xffff;
	cr_expect_eq(queue_try(&q), 0, "and the truth is accepted");
}

Test(inflight_split, a_batch_list_that_loops_ends)
{
	queue_track(&q);
	take(1);
	split()->last_batch_head = 0;
	split()->desc[0].next = 0;
	split()->used_idx = (uint16_t)(0 - SIZE);
	cr_expect_eq(queue_try(&q), 0);
	cr_expect_eq(queue_pop(&q), 1);
	cr_expect_not(q.chain.resubmitted);
}

Test(inflight_packed, fault_40_regions_that_lie_are_refused)
{
	queue_track(&q);
	take(2); /* slots 0 and 1, and 2; the free list is 3 4 5 6 7 */
	LIE(packed()->version, 2, "version");
	LIE(packed()->features, 1, "features");
	LIE(packed()->desc_num, SIZE * 2, "desc_num");
	LIE(packed()->desc[0].inflight, 2, "inflight");
	LIE(packed()->desc[0].counter, UINT64_MAX, "counter");
	LIE(packed()->desc[0].num, 0, "no descriptors");
	LIE(packed()->desc[0].num, 3, "more than there are");
	LIE(packed()->desc[0].num, 1, "an entry in no list");
	LIE(packed()->desc[0].num, SIZE + 1, "longer than the ring");
	LIE(packed()->desc[0].last, 0, "last");
	LIE(packed()->desc[0].next, 0, "a list that loops");
	LIE(packed()->desc[0].next, 2, "two lists that share an entry");
	LIE(packed()->desc[0].next, 5, "a list that runs into the free one");
	LIE(packed()->desc[0].next, SIZE, "a list that leaves the table");
	LIE(packed()->desc[2].id, packed()->desc[1].id, "an id twice");
	LIE(packed()->old_free_head, 0xfffe, "free_head");
	LIE(packed()->old_free_head, 4, "an entry lost from the free list");
	LIE(packed()->desc[7].next, 4, "a free list that loops");
	LIE(packed()->desc[7].next, SIZE + 1, "a free list that leaves the table");
	LIE(packed()->used_idx, SIZE, "used_idx");
	LIE(packed()->old_used_idx, SIZE, "old_used_idx");
	cr_expect_eq(queue_try(&q), 0, "and the truth is accepted");
}

/* Whatever stands in a region and in the ring: an answer, in bounded time, and no access outside. */
static void scribble(unsigned rounds)
{
	size_t len = inflight_queue_bytes(SIZE, q.ring.packed);
	uint8_t *region, *ring = (uint8_t *)q.ring.desc_ptr, *saved;
	unsigned made = 0, refusals = 0;

	queue_cycle(&q, 2);
	q.config.base = vq_base(q.vq);
	queue_track(&q);
	take(3);
	region = q.config.inflight;
	saved = malloc(q.guest.next);
	cr_assert_not_null(saved);
	memcpy(saved, q.guest.base, q.guest.next);
	srand48(7);
	for (unsigned i = 0; i < rounds; i++) {
		memcpy(q.guest.base, saved, q.guest.next);
		for (int n = 1 + (int)(lrand48() % 4); n; n--) {
			size_t at = (size_t)lrand48() % len;

			/* Small values reach further than random ones. */
			region[at] = (uint8_t)(lrand48() % 2 ? lrand48() % 10 : lrand48());
		}
		ring[lrand48() % (16 * SIZE)] ^= (uint8_t)(1U << lrand48() % 8);
		if (queue_try(&q)) {
			refusals++;
			continue;
		}
		made++;
		for (int n = 0; n < 2 * SIZE && queue_pop(&q) == 1; n++)
			vq_push(q.vq, q.chain.head, 1);
		vq_publish(q.vq);
	}
	free(saved);
	cr_expect_gt(made, rounds / 100);
	cr_expect_gt(refusals, rounds / 100);
}

Test(inflight_split, scribbled_regions_harm_nobody)
{
	scribble(20000);
}

Test(inflight_packed, scribbled_regions_harm_nobody)
{
	scribble(20000);
}

/* ---- who is to blame ---- */

/* What the next process makes of the request at the front of the list: it alone of those there were. */
static void die_with(unsigned deaths, bool poisoned)
{
	queue_restart(&q);
	cr_assert_eq(queue_pop(&q), 1);
	cr_expect_eq(q.chain.deaths, deaths);
	cr_expect_eq(q.chain.poisoned, poisoned);
	cr_expect_not(q.chain.failed);
}

static void convict(void)
{
	queue_track(&q);
	take(1);
	die_with(1, false); /* in hand when the first died, and again now */
	die_with(2, false); /* and now on trial */
	die_with(3, true);
	die_with(4, true); /* which is not forgotten while its answer is missing */
}

static void acquit(void)
{
	queue_track(&q);
	take(1);
	for (unsigned death = 1; death < 5; death++) {
		vq_lay_down(q.vq);
		die_with(death, false);
		vq_lay_down(q.vq);
	}
	/* Alone since the second, and so with this the third death on trial. */
	die_with(5, true);
}

static void serve_last(uint16_t head)
{
	uint16_t id;
	uint32_t len;

	vq_push(q.vq, head, 0);
	vq_publish(q.vq);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(ring_get(&q.ring, &id, &len), 1);
}

static void expect_next(uint16_t head, bool poisoned)
{
	cr_assert_eq(queue_pop(&q), 1);
	cr_expect_eq(q.chain.head, head);
	cr_expect_eq(q.chain.poisoned, poisoned);
}

static void accuse_one_of_three(void)
{
	uint16_t heads[3];

	queue_track(&q);
	for (unsigned i = 0; i < 3; i++) {
		take(1);
		heads[i] = q.chain.head;
	}
	vq_take_up(q.vq, heads[1]);
	queue_restart(&q);
	expect_resubmitted(3, heads, 1);
	vq_take_up(q.vq, heads[1]);
	queue_restart(&q);
	/* The first is tried alone, and passes; nothing comes before it is published. */
	expect_next(heads[0], false);
	vq_lay_down(q.vq);
	cr_expect_eq(queue_pop(&q), 0);
	cr_expect_not(vq_has_avail(q.vq));
	cr_expect_not(vq_enable_kicks(q.vq));
	vq_take_up(q.vq, heads[0]);
	vq_push(q.vq, heads[0], 0);
	cr_expect_eq(queue_pop(&q), 0);
	vq_publish(q.vq);
	cr_expect(vq_has_avail(q.vq));
	cr_expect(vq_enable_kicks(q.vq));
	/* The second is the one. */
	expect_next(heads[1], false);
	queue_restart(&q);
	expect_next(heads[1], true);
	vq_push(q.vq, heads[1], 0);
	/* A trial waits for what is in flight. */
	cr_expect_eq(queue_pop(&q), 0);
	vq_publish(q.vq);
	expect_next(heads[2], false);
	serve_last(heads[2]);
	/* And what is new is under no suspicion. */
	take(2);
}

static void fail_and_die(void)
{
	uint16_t head;

	queue_track(&q);
	take(1);
	head = q.chain.head;
	vq_fail(q.vq, head);
	for (unsigned death = 1; death < 4; death++) {
		queue_restart(&q);
		cr_assert_eq(queue_pop(&q), 1);
		cr_expect(q.chain.failed);
		vq_lay_down(q.vq);
	}
	vq_push(q.vq, head, 0);
	vq_publish(q.vq);
	queue_get(&q, 0);
	queue_add(&q, false);
	cr_assert_eq(queue_pop(&q), 1);
	cr_expect_not(q.chain.failed);
	queue_restart(&q);
	cr_assert_eq(queue_pop(&q), 1);
	cr_expect_not(q.chain.failed);
}

#define ON_BOTH(suffix, what)                                                                                \
	Test(inflight_split, suffix)                                                                         \
	{                                                                                                    \
		what();                                                                                      \
	}                                                                                                    \
	Test(inflight_packed, suffix)                                                                        \
	{                                                                                                    \
		what();                                                                                      \
	}

ON_BOTH(f48_in_hand_at_three_deaths_is_poison, convict)
ON_BOTH(f48_three_deaths_on_trial_are_enough_too, acquit)
ON_BOTH(f48_neighbours_of_the_poisonous_one_are_not_failed, accuse_one_of_three)
ON_BOTH(f50_a_failure_is_remembered_until_it_is_told, fail_and_die)
