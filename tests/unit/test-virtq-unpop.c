/* SPDX-License-Identifier: Apache-2.0 */
/* lib/virtq: requests that are given back to the ring, and rings of buffers that wait. Deaths in between are in
 * test-inflight-kill.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "queue.h"

#define SIZE   16
#define ROUNDS 200000

static struct queue q;

static void start_split(void)
{
	queue_open(&q, SIZE, RING_F_INDIRECT | RING_F_EVENT_IDX);
	ring_start_at(&q.ring, 65530, true);
	ring_config(&q.ring, q.mem, &q.config);
	queue_restart(&q);
	queue_track(&q);
}

static void start_packed(void)
{
	queue_open(&q, SIZE, RING_F_PACKED | RING_F_INDIRECT | RING_F_EVENT_IDX);
	queue_track(&q);
}

static void stop(void)
{
	queue_close(&q);
}

TestSuite(unpop_split, .init = start_split, .fini = stop, .timeout = 60);
TestSuite(unpop_packed, .init = start_packed, .fini = stop, .timeout = 60);

#define ON_BOTH(name, what)                                                                                  \
	Test(unpop_split, name)                                                                              \
	{                                                                                                    \
		what();                                                                                      \
	}                                                                                                    \
	Test(unpop_packed, name)                                                                             \
	{                                                                                                    \
		what();                                                                                      \
	}

static uint16_t take(void)
{
	cr_assert_eq(queue_pop(&q), 1);
	return q.chain.head;
}

static void finish(uint16_t head)
{
	vq_push(q.vq, head, 1);
	vq_publish(q.vq);
}

static void it_comes_again(void)
{
	int id = queue_add(&q, false);
	uint32_t base = vq_base(q.vq);
	uint16_t head;

	for (unsigned i = 0; i < 3 * SIZE; i++) {
		head = take();
		cr_assert_not(q.chain.resubmitted);
		cr_assert_eq(q.chain.in_len, 512);
		cr_assert_eq(vq_unpop(q.vq, head), 0);
		cr_assert_eq(vq_in_flight(q.vq), 0);
		cr_assert_eq(vq_base(q.vq), base);
		cr_assert(vq_has_avail(q.vq));
		cr_assert(vq_enable_kicks(q.vq), "it need not be kicked for");
		vq_disable_kicks(q.vq);
	}
	finish(take());
	queue_get(&q, id);
	cr_assert_not(vq_enable_kicks(q.vq));
	queue_cycle(&q, 3 * SIZE);
}
ON_BOTH(a_request_that_was_given_back_comes_again, it_comes_again)

static void newest_first(void)
{
	uint16_t head[4];
	int id[4];

	queue_cycle(&q, SIZE - 3); /* over the end of the ring */
	for (unsigned i = 0; i < 4; i++)
		id[i] = queue_add(&q, i == 2);
	for (unsigned i = 0; i < 4; i++)
		head[i] = take();
	cr_assert_eq(vq_unpop(q.vq, head[1]), -ESTALE);
	cr_assert_eq(vq_unpop(q.vq, head[0]), -ESTALE);
	cr_assert_eq(vq_unpop(q.vq, head[3]), 0);
	cr_assert_eq(vq_unpop(q.vq, head[1]), -ESTALE);
	cr_assert_eq(vq_unpop(q.vq, head[2]), 0);
	cr_assert_eq(vq_in_flight(q.vq), 2);
	finish(head[0]);
	queue_get(&q, id[0]);
	cr_assert_eq(vq_unpop(q.vq, head[1]), 0, "what came before it may be finished");
	for (unsigned i = 1; i < 4; i++)
		finish(take());
	for (unsigned i = 1; i < 4; i++)
		queue_get(&q, id[i]);
	queue_cycle(&q, 3 * SIZE);
}
ON_BOTH(the_newest_goes_first, newest_first)

static void completed_behind(void)
{
	int first = queue_add(&q, false), second = queue_add(&q, false);
	uint16_t a = take(), b = take();

	finish(b);
	queue_get(&q, second);
	cr_assert_eq(vq_unpop(q.vq, a), -ESTALE, "its successor is back with the driver");
	cr_assert_eq(vq_in_flight(q.vq), 1);
	finish(a);
	queue_get(&q, first);
	queue_cycle(&q, 3 * SIZE);
}
ON_BOTH(not_over_one_that_was_finished, completed_behind)

static void staged(void)
{
	int id = queue_add(&q, false);
	uint16_t head = take(), other;

	vq_push(q.vq, head, 1);
	queue_add(&q, false);
	other = take();
	cr_assert_eq(vq_unpop(q.vq, other), 0, "while another one waits to be published");
	vq_publish(q.vq);
	queue_get(&q, id);
	queue_restart(&q);
	other = take();
	cr_assert_not(q.chain.resubmitted);
	finish(other);
}
ON_BOTH(beside_one_that_is_not_published_yet, staged)

static void without_memory(void)
{
	struct mem *none = NULL;
	uint16_t head;

	queue_add(&q, false);
	head = take();
	/* A table without the ring. */
	cr_assert_eq(mem_new(NULL, NULL, 0, &none), 0);
	cr_assert_eq(vq_set_mem(q.vq, none), -EFAULT);
	cr_assert_eq(vq_unpop(q.vq, head), 0);
	cr_assert_eq(vq_in_flight(q.vq), 0);
	mem_put(none);
}
ON_BOTH(when_the_ring_is_gone, without_memory)

/* ---- what the driver rewrote ---- */

Test(unpop_split, an_entry_that_the_driver_rewrote_is_not_gone_back_over)
{
	uint16_t head;

	queue_add(&q, false);
	head = take();
	q.ring.avail_ptr[2 + 65530 % SIZE] = (uint16_t)(head + 1);
	cr_assert_eq(vq_unpop(q.vq, head), -ESTALE);
	finish(head);
	cr_assert_eq(vq_in_flight(q.vq), 0);
}

Test(unpop_packed, a_descriptor_that_the_driver_rewrote_is_not_gone_back_over)
{
	uint64_t *last, was;
	uint16_t head;

	queue_add(&q, false); /* of two */
	head = take();
	last = &q.ring.desc_ptr[2 * 1 + 1];
	was = *last;
	*last = was ^ 1ULL << 32; /* its id */
	cr_assert_eq(vq_unpop(q.vq, head), -ESTALE);
	*last = was ^ (uint64_t)(RING_AVAIL | RING_USED) << 48; /* available on no lap */
	cr_assert_eq(vq_unpop(q.vq, head), -ESTALE);
	*last = was;
	cr_assert_eq(vq_unpop(q.vq, head), 0);
}

/* ---- what a predecessor had ---- */

/* In the order of fetching: they go back to the ring, and nothing of them is in flight any more. */
static void predecessor_in_order(void)
{
	uint16_t head[5];

	queue_cycle(&q, SIZE - 2);
	for (unsigned i = 0; i < 5; i++) {
		queue_add(&q, i == 3);
		head[i] = take();
	}
	finish(head[0]);
	queue_restart(&q);
	for (unsigned i = 1; i < 5; i++) {
		head[i] = take();
		cr_assert(q.chain.resubmitted);
	}
	for (unsigned i = 5; i-- > 1;)
		cr_assert_eq(vq_unpop(q.vq, head[i]), 0);
	cr_assert_eq(vq_resubmits(q.vq), 0);
	queue_restart(&q);
	cr_assert_eq(vq_resubmits(q.vq), 0);
	for (unsigned i = 1; i < 5; i++) {
		finish(take());
		cr_assert_not(q.chain.resubmitted);
		cr_assert_eq(q.chain.in_len, 512);
	}
	cr_assert_eq(queue_pop(&q), 0);
}
ON_BOTH(a_predecessors_go_back_to_the_ring, predecessor_in_order)

/* The first is in flight and its place is not known to be whole: it waits to be taken again, as it did before. */
static void predecessor_out_of_order(void)
{
	uint16_t head[3];
	int id[3];

	for (unsigned i = 0; i < 3; i++) {
		id[i] = queue_add(&q, false);
		head[i] = take();
	}
	finish(head[2]);
	queue_get(&q, id[2]);
	queue_restart(&q);
	head[0] = take();
	head[1] = take();
	cr_assert_eq(vq_unpop(q.vq, head[1]), 0);
	cr_assert_eq(vq_unpop(q.vq, head[0]), 0);
	cr_assert_eq(vq_resubmits(q.vq), 2);
	cr_assert_eq(vq_in_flight(q.vq), 0);
	cr_assert(vq_has_avail(q.vq));
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(take(), head[i]);
		cr_assert(q.chain.resubmitted);
		cr_assert_eq(q.chain.deaths, 1);
	}
	vq_unpop(q.vq, head[1]);
	vq_unpop(q.vq, head[0]);
	queue_restart(&q);
	for (unsigned i = 0; i < 2; i++) {
		finish(take());
		cr_assert_eq(q.chain.deaths, 2);
		queue_get(&q, id[i]);
	}
	cr_assert_eq(queue_pop(&q), 0);
	queue_cycle(&q, 3 * SIZE);
}
ON_BOTH(a_predecessors_out_of_order_wait_in_flight, predecessor_out_of_order)

static void some_resubmitted(void)
{
	uint16_t head[3];

	for (unsigned i = 0; i < 3; i++) {
		queue_add(&q, false);
		head[i] = take();
	}
	queue_restart(&q);
	head[0] = take();
	cr_assert_eq(vq_unpop(q.vq, head[0]), 0, "while others wait to be resubmitted");
	cr_assert_eq(vq_resubmits(q.vq), 3);
	for (unsigned i = 0; i < 3; i++)
		finish(take());
	cr_assert_eq(queue_pop(&q), 0);
}
ON_BOTH(the_first_of_a_predecessors, some_resubmitted)

/* Whoever dies after having given it back did not die of it. */
static void given_back_is_not_in_hand(void)
{
	uint16_t head;

	queue_add(&q, false);
	head = take();
	queue_add(&q, false);
	finish(take()); /* so that the first can't go back to the ring */
	vq_lay_down(q.vq);
	for (unsigned deaths = 1; deaths < 8; deaths++) {
		queue_restart(&q);
		cr_assert_eq(take(), head);
		cr_assert_eq(q.chain.deaths, deaths);
		cr_assert_not(q.chain.poisoned);
		cr_assert_eq(vq_unpop(q.vq, head), 0);
		cr_assert_eq(vq_resubmits(q.vq), 1);
	}
}
ON_BOTH(f48_what_was_given_back_is_not_in_hand, given_back_is_not_in_hand)

/* ---- buffers ---- */

static void buffers_together(void)
{
	uint16_t head[4];

	q.config.buffers = true;
	queue_restart(&q);
	for (unsigned i = 0; i < 4; i++) {
		queue_add(&q, false);
		head[i] = take();
	}
	for (unsigned deaths = 1; deaths < 9; deaths++) {
		vq_lay_down(q.vq);
		queue_restart(&q);
		for (unsigned i = 0; i < 4; i++) {
			cr_assert_eq(take(), head[i], "all are taken at once");
			cr_assert_not(q.chain.poisoned);
		}
	}
	/* But one that a process has in hand whenever it dies is found. */
	for (unsigned deaths = 0; deaths < 3; deaths++) {
		vq_take_up(q.vq, head[2]);
		queue_restart(&q);
		for (unsigned i = 0; i < 4; i++) {
			take();
			cr_assert_eq(q.chain.poisoned, i == 2 && deaths == 2);
		}
	}
}
ON_BOTH(f48_buffers_are_not_tried_alone, buffers_together)

/* ---- against a model ---- */

struct model {
	struct {
		uint16_t head;
		unsigned place; /* in the order of the ring */
		int id;
	} taken[SIZE], staged[SIZE];
	unsigned n, n_staged;
	unsigned next, added; /* places */
	int ids[SIZE];        /* by place, of what is in the ring */
	unsigned deaths;
};

static struct model m;

static void model_pop(void)
{
	int got = queue_pop(&q);

	cr_assert_eq(got, m.next != m.added);
	if (!got)
		return;
	m.taken[m.n].head = q.chain.head;
	m.taken[m.n].place = m.next;
	m.taken[m.n++].id = m.ids[m.next++ % SIZE];
}

static void model_drop(unsigned i)
{
	memmove(&m.taken[i], &m.taken[i + 1], (m.n - i - 1) * sizeof(m.taken[0]));
	m.n--;
}

static void model_unpop(unsigned i)
{
	bool last = m.taken[i].place + 1 == m.next;

	cr_assert_eq(vq_unpop(q.vq, m.taken[i].head), last ? 0 : -ESTALE);
	if (!last)
		return;
	m.next--;
	model_drop(i);
}

static void model_push(unsigned i)
{
	vq_push(q.vq, m.taken[i].head, 1);
	m.staged[m.n_staged++] = m.taken[i];
	model_drop(i);
}

static void model_publish(void)
{
	vq_publish(q.vq);
	for (unsigned i = 0; i < m.n_staged; i++)
		queue_get(&q, m.staged[i].id);
	m.n_staged = 0;
}

/* A death: all that was taken and not published comes again, in the order of the ring, and is finished. */
static void model_die(void)
{
	vq_lay_down(q.vq);
	queue_restart(&q);
	m.deaths++;
	while (m.n_staged)
		m.taken[m.n++] = m.staged[--m.n_staged];
	cr_assert_eq(vq_resubmits(q.vq), m.n);
	while (m.n) {
		unsigned first = 0;

		for (unsigned i = 1; i < m.n; i++)
			if (m.taken[i].place < m.taken[first].place)
				first = i;
		finish(take());
		cr_assert(q.chain.resubmitted);
		queue_get(&q, m.taken[first].id);
		model_drop(first);
	}
}

static void model_step(unsigned what)
{
	const struct ring_buf bufs[3] = { { q.data, 16, false },
					  { q.data + 64, 8, true },
					  { q.data + 128, 8, true } };
	int id;

	switch (what % 8) {
	case 0:
	case 1:
		id = ring_add(&q.ring, bufs, 1 + what / 8 % 3, what / 64 % 2);
		if (id < 0)
			return;
		m.ids[m.added++ % SIZE] = id;
		ring_publish(&q.ring);
		return;
	case 2:
	case 3:
		model_pop();
		return;
	case 4:
	case 5:
		/* Mostly one that can go back. */
		if (m.n)
			model_unpop(what / 8 % 4 ? m.n - 1 : what / 32 % m.n);
		return;
	case 6:
		/* Often in order, as buffers are used. */
		if (m.n)
			model_push(what / 8 % 4 ? 0 : what / 32 % m.n);
		return;
	case 7:
		model_publish();
		return;
	}
}

static void as_modelled(void)
{
	srand48(5);
	for (unsigned i = 0; i < ROUNDS; i++) {
		if (lrand48() % 50 == 0)
			model_die();
		model_step((unsigned)lrand48());
		cr_assert_eq(vq_in_flight(q.vq), m.n + m.n_staged);
		cr_assert_eq(vq_has_avail(q.vq), m.next != m.added);
	}
	cr_assert_gt(m.added, ROUNDS / 32);
}
ON_BOTH(any_order_of_things_is_as_modelled, as_modelled)
