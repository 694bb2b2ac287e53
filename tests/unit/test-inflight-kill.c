/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device's process is killed after every single instruction that changes shared memory, in fetching, giving back,
 * completing and publishing, and again in the recovery from each of those; then a successor takes over, and in half of
 * the cases gives all back that it took. No request may be lost, and none done again that the driver saw complete.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "queue.h"
#include "step.h"

#define SIZE     8
#define REQUESTS 5 /* of the script, 8 descriptors together */
#define EXTRA    2 /* that the driver adds while there is no device process */
#define MEMORY   (64 * 1024)

struct scene {
	struct queue q;
	int id[REQUESTS + EXTRA]; /* by request */
	bool done[REQUESTS + EXTRA];
	unsigned n;
	uint64_t tags; /* a tag of 8 bytes for each request, which its first descriptor names */
};

static struct scene s;

static const struct {
	unsigned bufs;
	bool indirect;
} shapes[REQUESTS + EXTRA] = { { 2, false }, { 2, true },  { 3, false }, { 1, false },
			       { 1, false }, { 1, false }, { 2, true } };

/* Request i: its tag and up to two writable bytes. */
static int add(unsigned i)
{
	const struct ring_buf bufs[3] = { { s.tags + 8 * i, 8, false },
					  { s.q.data + 16 * i, 1, true },
					  { s.q.data + 16 * i + 8, 1, true } };
	int id = ring_add(&s.q.ring, bufs, shapes[i].bufs, shapes[i].indirect);

	if (id < 0)
		return id;
	s.id[i] = id;
	s.n = i + 1;
	ring_publish(&s.q.ring);
	return 0;
}

static void open_scene(uint64_t features, unsigned cycles, unsigned requests)
{
	struct queue *q = &s.q;

	memset(&s, 0, sizeof(s));
	cr_assert_eq(guest_init(&q->guest, MEMORY), 0);
	q->data = guest_alloc(&q->guest, QUEUE_DATA, 4096);
	s.tags = guest_alloc(&q->guest, 4096, 4096);
	cr_assert_eq(ring_init(&q->ring, &q->guest, SIZE, features | RING_F_INDIRECT | RING_F_EVENT_IDX), 0);
	if (!q->ring.packed && cycles) /* so that indices wrap on the way */
		ring_start_at(&q->ring, (uint16_t)(65536 - cycles - 2), true);
	q->mem = guest_mem(&q->guest);
	ring_config(&q->ring, q->mem, &q->config);
	q->chain.iov = q->iov;
	queue_restart(q);
	queue_track(q);
	queue_cycle(q, cycles);
	for (uint64_t i = 0; i < REQUESTS + EXTRA; i++)
		memcpy(guest_ptr(&q->guest, s.tags + 8 * i, 8), &i, 8);
	for (unsigned i = 0; i < requests; i++)
		cr_assert_eq(add(i), 0);
}

static void pop(uint16_t *head)
{
	if (vq_pop(s.q.vq, &s.q.chain) != 1)
		_exit(1);
	*head = s.q.chain.head;
}

/* What the device does until it is killed: out of order, in batches, and fetching in between. */
static void script(void *arg)
{
	uint16_t h[REQUESTS];

	(void)arg;
	for (unsigned i = 0; i < 4; i++)
		pop(&h[i]);
	vq_push(s.q.vq, h[2], 1);
	vq_push(s.q.vq, h[0], 1);
	vq_publish(s.q.vq);
	pop(&h[4]);
	vq_push(s.q.vq, h[3], 1);
	vq_publish(s.q.vq);
	vq_push(s.q.vq, h[4], 1);
	vq_push(s.q.vq, h[1], 1);
	vq_publish(s.q.vq);
}

/* The whole ring in one batch, so that the used position ends where it began. */
static void script_whole(void *arg)
{
	uint16_t h[REQUESTS];

	(void)arg;
	for (unsigned i = 0; i < REQUESTS; i++)
		pop(&h[i]);
	for (unsigned i = REQUESTS; i--;)
		vq_push(s.q.vq, h[i], 1);
	vq_publish(s.q.vq);
}

/* Two requests of a ring that is not full: behind them lie descriptors of the lap before that no completion was
 * ever written over, since they were not the first of their lists. */
static void script_few(void *arg)
{
	uint16_t h[2];

	(void)arg;
	pop(&h[0]);
	pop(&h[1]);
	vq_push(s.q.vq, h[0], 1);
	vq_push(s.q.vq, h[1], 1);
	vq_publish(s.q.vq);
}

static void back(uint16_t head)
{
	if (vq_unpop(s.q.vq, head) < 0)
		_exit(1);
}

/* Buffers that are given back and taken again, some of them used in between. */
static void script_back(void *arg)
{
	uint16_t h[REQUESTS];

	(void)arg;
	for (unsigned i = 0; i < 4; i++)
		pop(&h[i]);
	back(h[3]);
	back(h[2]);
	vq_push(s.q.vq, h[0], 1);
	vq_publish(s.q.vq);
	pop(&h[2]);
	back(h[2]);
	back(h[1]);
	for (unsigned i = 1; i < REQUESTS; i++)
		pop(&h[i]);
	/* Not in order: what came after it and is finished keeps its place. */
	vq_push(s.q.vq, h[2], 1);
	back(h[4]);
	vq_publish(s.q.vq);
	back(h[3]);
	if (vq_unpop(s.q.vq, h[1]) != -ESTALE)
		_exit(1);
	vq_push(s.q.vq, h[1], 1);
	vq_publish(s.q.vq);
}

/* The whole ring, all of it given back. */
static void script_all_back(void *arg)
{
	uint16_t h[REQUESTS];

	(void)arg;
	for (unsigned i = 0; i < REQUESTS; i++)
		pop(&h[i]);
	for (unsigned i = REQUESTS; i--;)
		back(h[i]);
	pop(&h[0]);
}

static void recovery(void *arg)
{
	struct vq *vq = NULL;

	(void)arg;
	if (vq_new(&s.q.config, &vq))
		_exit(1);
}

/* The driver takes what it can see. */
static unsigned driver_takes(void)
{
	unsigned n = 0;
	uint16_t id;
	uint32_t len;
	int got;

	while ((got = ring_get(&s.q.ring, &id, &len)) == 1) {
		unsigned i = 0;

		while (i < s.n && (s.done[i] || s.id[i] != id))
			i++;
		cr_assert_lt(i, s.n, "id %u was not outstanding", id);
		s.done[i] = true;
		n++;
	}
	cr_assert_eq(got, 0, "ring_get: %d", got);
	return n;
}

struct successor {
	bool popped[REQUESTS + EXTRA], fresh;
	uint16_t heads[REQUESTS + EXTRA]; /* that it has */
	unsigned n, last;
};

/* Takes all that there is: each request once, in the order of fetching, those resubmitted first. */
static void successor_pops(struct successor *c)
{
	int got;

	while ((got = queue_pop(&s.q)) == 1) {
		uint64_t i;

		memcpy(&i, s.q.iov[0].iov_base, 8);
		cr_assert_lt(i, s.n);
		cr_assert_not(s.done[i], "request %u was complete", (unsigned)i);
		cr_assert_not(c->popped[i], "request %u came twice", (unsigned)i);
		cr_assert_eq(s.q.chain.out_num + s.q.chain.in_num, (int)shapes[i].bufs);
		cr_assert_eq(s.q.chain.out_len, 8);
		cr_assert_eq(s.q.chain.in_len, shapes[i].bufs - 1);
		cr_assert(c->last == 0 || i > c->last, "out of order");
		cr_assert_not(c->fresh && s.q.chain.resubmitted);
		cr_assert_eq(s.q.chain.deaths > 0, s.q.chain.resubmitted);
		c->fresh = !s.q.chain.resubmitted;
		c->popped[i] = true;
		c->last = (unsigned)i;
		c->heads[c->n++] = s.q.chain.head;
	}
	cr_assert_eq(got, 0, "vq_pop: %d", got);
}

/* Takes what it can, gives it all back, and dies. */
static void successor_gives_back(void)
{
	struct successor c = { .n = 0 };

	successor_pops(&c);
	while (c.n)
		cr_assert_eq(vq_unpop(s.q.vq, c.heads[--c.n]), 0);
	cr_assert_eq(vq_in_flight(s.q.vq), 0);
	c = (struct successor) { .n = 0 };
	successor_pops(&c);
	while (c.n)
		cr_assert_eq(vq_unpop(s.q.vq, c.heads[--c.n]), 0);
	queue_restart(&s.q);
}

/* Serves each request that the driver still waits for. Requests that outlived two deaths come one by one. */
static void successor_serves(void)
{
	struct successor c = { .n = 0 };

	do {
		c.n = 0;
		successor_pops(&c);
		/* One by one and backwards: what an unfinished batch left behind must not show. */
		for (unsigned k = c.n; k--;) {
			vq_push(s.q.vq, c.heads[k], 1);
			vq_publish(s.q.vq);
			cr_assert_eq(driver_takes(), 1);
		}
	} while (c.n);
	for (unsigned i = 0; i < s.n; i++)
		cr_assert(s.done[i], "request %u was lost", i);
}

/* The whole check of one state: memory as the dead process left it, the driver's private state as it was. */
static void check_state(const struct scene *before, const uint8_t *memory, bool driver_first, bool gives_back)
{
	uint16_t *next = s.q.ring.next, *count = s.q.ring.count;
	uint16_t saved_next[SIZE], saved_count[SIZE];
	struct vq *kept = s.q.vq;

	memcpy(saved_next, next, sizeof(saved_next));
	memcpy(saved_count, count, sizeof(saved_count));
	memcpy(s.q.guest.base, memory, MEMORY);
	s.q.vq = NULL;
	if (driver_first) {
		driver_takes();
		for (unsigned i = before->n; i < before->n + EXTRA && add(i) == 0; i++)
			;
	}
	queue_restart(&s.q);
	driver_takes();
	if (gives_back)
		successor_gives_back();
	successor_serves();
	queue_restart(&s.q);
	cr_assert_eq(queue_pop(&s.q), 0, "nothing is left in the region");
	queue_cycle(&s.q, 2 * SIZE);
	vq_free(s.q.vq);
	s = *before;
	s.q.vq = kept;
	memcpy(next, saved_next, sizeof(saved_next));
	memcpy(count, saved_count, sizeof(saved_count));
}

static void check_states(const struct steps *steps)
{
	const struct scene before = s;

	for (unsigned i = 0; i < steps->n; i++) {
		check_state(&before, steps->copies[i], false, false);
		check_state(&before, steps->copies[i], true, false);
		check_state(&before, steps->copies[i], false, true);
		check_state(&before, steps->copies[i], true, true);
	}
}

/* Kills in the recovery from every seventh state too. */
static void check_recoveries(const struct steps *steps)
{
	for (unsigned i = 0; i < steps->n; i += 7) {
		struct steps again;

		memcpy(s.q.guest.base, steps->copies[i], MEMORY);
		cr_assert_eq(step_run(recovery, NULL, s.q.guest.base, MEMORY, &again), 0);
		check_states(&again);
		step_free(&again);
	}
}

static void kill_everywhere(uint64_t features, unsigned cycles, unsigned requests, void (*action)(void *),
			    unsigned least)
{
	struct steps steps;
	int err;

	open_scene(features, cycles, requests);
	err = step_run(action, NULL, s.q.guest.base, MEMORY, &steps);
	if (err == -EPERM)
		cr_skip_test("this process may not trace its children");
	cr_assert_eq(err, 0, "step_run: %d", err);
	cr_expect_gt(steps.n, least, "only %u states", steps.n);
	check_states(&steps);
	check_recoveries(&steps);
	step_free(&steps);
	queue_close(&s.q);
}

Test(inflight_kill, split_from_the_start, .timeout = 120)
{
	kill_everywhere(0, 0, REQUESTS, script, 30);
}

Test(inflight_kill, split_while_indices_wrap, .timeout = 120)
{
	kill_everywhere(0, 3, REQUESTS, script, 30);
}

Test(inflight_kill, split_all_in_one_batch, .timeout = 120)
{
	kill_everywhere(0, 5, REQUESTS, script_whole, 20);
}

Test(inflight_kill, split_giving_back, .timeout = 120)
{
	kill_everywhere(0, 3, REQUESTS, script_back, 30);
}

Test(inflight_kill, split_giving_all_back, .timeout = 120)
{
	kill_everywhere(0, 3, REQUESTS, script_all_back, 15);
}

Test(inflight_kill, packed_giving_back, .timeout = 120)
{
	kill_everywhere(RING_F_PACKED, 0, REQUESTS, script_back, 80);
}

Test(inflight_kill, packed_giving_back_while_the_lap_ends, .timeout = 120)
{
	kill_everywhere(RING_F_PACKED, 5, REQUESTS, script_back, 80);
}

Test(inflight_kill, packed_giving_all_back, .timeout = 120)
{
	kill_everywhere(RING_F_PACKED, 2, REQUESTS, script_all_back, 60);
}

Test(inflight_kill, packed_from_the_start, .timeout = 120)
{
	kill_everywhere(RING_F_PACKED, 0, REQUESTS, script, 60);
}

Test(inflight_kill, packed_while_the_lap_ends, .timeout = 120)
{
	kill_everywhere(RING_F_PACKED, 3, REQUESTS, script, 60);
}

Test(inflight_kill, packed_all_in_one_batch, .timeout = 120)
{
	kill_everywhere(RING_F_PACKED, 2, REQUESTS, script_whole, 60);
}

Test(inflight_kill, packed_over_old_lists_while_the_lap_ends, .timeout = 120)
{
	kill_everywhere(RING_F_PACKED, 3, 2, script_few, 20);
}
