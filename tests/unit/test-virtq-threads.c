/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Driver and device as two threads over one ring, each asleep whenever the other owes it a notification: what
 * one writes before it publishes the other must see (the thread sanitizer watches), and no wake-up may get
 * lost (a deadline watches).
 */
#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fd.h"
#include "queue.h"

#define REQUESTS    30000
#define SIZE        16
#define DEADLINE_MS 20000
#define ANSWER      0x5a5a5a5a5a5a5a5aULL

struct pair {
	struct queue q;
	int kick, call;
	unsigned kicks, calls; /* sent */
	uint64_t number[SIZE]; /* of the request that has this id, the driver's */
	const char *failed;
};

static struct pair p;

static void *fail(const char *why)
{
	p.failed = why;
	return NULL;
}

/* Sleeps until fd is signalled. False past the deadline: the other side owed a notification. */
static bool wait_for(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	uint64_t n;

	return poll(&pfd, 1, DEADLINE_MS) == 1 && read(fd, &n, sizeof(n)) == (ssize_t)sizeof(n);
}

static uint64_t *cell(uint16_t slot)
{
	return guest_ptr(&p.q.guest, p.q.data + 16U * slot, 16);
}

/* Each request has a cell of 16 bytes: a number for the device and its answer. */
static bool send(uint64_t number, uint16_t slot, uint16_t *slot_of)
{
	const struct ring_buf bufs[2] = { { p.q.data + 16U * slot, 8, false },
					  { p.q.data + 16U * slot + 8, 8, true } };
	int id;

	cell(slot)[0] = number;
	cell(slot)[1] = 0;
	id = ring_add(&p.q.ring, bufs, 2, number % 3 == 0);
	if (id < 0)
		return false;
	p.number[id] = number;
	slot_of[id] = slot;
	return true;
}

static void *driver(void *arg)
{
	uint16_t free_slots[SIZE], slot_of[SIZE], n_free = SIZE;
	unsigned sent = 0, done = 0;

	(void)arg;
	for (uint16_t i = 0; i < SIZE; i++)
		free_slots[i] = i;
	while (done < REQUESTS) {
		unsigned before = done;
		uint16_t id;
		uint32_t len;
		int got;

		while (sent < REQUESTS && n_free && send(sent, free_slots[n_free - 1], slot_of)) {
			n_free--;
			if (++sent % 4 == 0)
				break;
		}
		if (ring_publish(&p.q.ring) && ++p.kicks)
			fd_event_set(p.kick);
		while ((got = ring_get(&p.q.ring, &id, &len)) == 1) {
			if (len != 8 || cell(slot_of[id])[1] != (p.number[id] ^ ANSWER))
				return fail("wrong answer");
			free_slots[n_free++] = slot_of[id];
			done++;
		}
		if (got < 0)
			return fail("a completion of nothing");
		if (done == before && !ring_enable_calls(&p.q.ring) && !wait_for(p.call))
			return fail("the driver was not called");
	}
	return NULL;
}

/* Completes a random one of those held. */
static void complete(uint16_t *held, uint64_t **answers, unsigned *n, unsigned *seed)
{
	unsigned k = (unsigned)rand_r(seed) % *n;

	answers[k][1] = answers[k][0] ^ ANSWER;
	vq_push(p.q.vq, held[k], 8);
	held[k] = held[--*n];
	answers[k] = answers[*n];
}

static void device(void)
{
	uint16_t held[SIZE];
	uint64_t *answers[SIZE];
	unsigned n = 0, done = 0, seed = 1;

	while (done < REQUESTS) {
		unsigned batch;
		int got;

		vq_disable_kicks(p.q.vq);
		while ((got = queue_pop(&p.q)) == 1) {
			cr_assert_eq(p.q.chain.out_len, 8);
			cr_assert_eq(p.q.chain.in_len, 8);
			answers[n] = p.q.iov[0].iov_base;
			held[n++] = p.q.chain.head;
		}
		cr_assert_eq(got, 0, "vq_pop: %d", got);
		for (batch = n ? 1 + (unsigned)rand_r(&seed) % n : 0; batch; batch--, done++)
			complete(held, answers, &n, &seed);
		if (vq_publish(p.q.vq) && ++p.calls)
			fd_event_set(p.call);
		if (!n && done < REQUESTS && !vq_enable_kicks(p.q.vq) && !wait_for(p.kick)) {
			cr_assert_fail("the device was not kicked after %u: %s", done,
				       p.failed ? p.failed : "");
		}
	}
}

static void run(uint64_t features, bool track)
{
	pthread_t thread;

	memset(&p, 0, sizeof(p));
	queue_open(&p.q, SIZE, features | RING_F_INDIRECT);
	if (track)
		queue_track(&p.q);
	p.kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	p.call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	ring_enable_calls(&p.q.ring);
	cr_assert_eq(pthread_create(&thread, NULL, driver, NULL), 0);
	device();
	pthread_join(thread, NULL);
	cr_expect_null(p.failed, "%s", p.failed ? p.failed : "");
	cr_expect_eq(vq_in_flight(p.q.vq), 0);
	if (features & RING_F_EVENT_IDX)
		cr_expect_lt(p.kicks, REQUESTS, "suppression saves nothing: %u kicks", p.kicks);
	close(p.kick);
	close(p.call);
	queue_close(&p.q);
}

Test(virtq_threads, split, .timeout = 120)
{
	run(0, false);
}

Test(virtq_threads, split_with_event_indices_and_tracking, .timeout = 120)
{
	run(RING_F_EVENT_IDX, true);
}

Test(virtq_threads, packed, .timeout = 120)
{
	run(RING_F_PACKED, false);
}

Test(virtq_threads, packed_with_event_indices_and_tracking, .timeout = 120)
{
	run(RING_F_PACKED | RING_F_EVENT_IDX, true);
}
