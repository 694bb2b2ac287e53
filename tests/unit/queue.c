/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of one virtqueue in one process. */
#include "queue.h"

#include <criterion/criterion.h>
#include <errno.h>

/* The ring in the guest's memory, and the device's side of it. */
static void open_ring(struct queue *q, uint16_t size, uint64_t features)
{
	cr_assert_eq(ring_init(&q->ring, &q->guest, size, features), 0);
	ring_config(&q->ring, q->mem, &q->config);
	q->chain.iov = q->iov;
	queue_restart(q);
}

void queue_open(struct queue *q, uint16_t size, uint64_t features)
{
	*q = (struct queue) { .vq = NULL };
	cr_assert_eq(guest_init(&q->guest, 1 << 20), 0);
	q->mem = guest_mem(&q->guest);
	cr_assert_not_null(q->mem);
	guest_adopt(&q->guest, q->mem);
	q->data = guest_alloc(&q->guest, QUEUE_DATA, 4096);
	open_ring(q, size, features);
}

void queue_open_regions(struct queue *q, const struct mem_region *regions, unsigned n, uint16_t size,
			uint64_t features)
{
	*q = (struct queue) { .vq = NULL };
	cr_assert_eq(guest_init_regions(&q->guest, regions, n), 0);
	/* Address 0 is no place for a ring. */
	if (!q->guest.next)
		q->guest.next = 4096;
	q->mem = guest_mem(&q->guest);
	open_ring(q, size, features);
}

void queue_close(struct queue *q)
{
	vq_free(q->vq);
	mem_put(q->mem);
	ring_free(&q->ring);
	guest_free(&q->guest);
}

void queue_track(struct queue *q)
{
	uint64_t len = inflight_queue_bytes(q->ring.size, q->ring.packed);
	uint64_t gpa = guest_alloc(&q->guest, len, 64);

	cr_assert_neq(gpa, 0);
	q->config.inflight = guest_ptr(&q->guest, gpa, len);
	queue_restart(q);
}

int queue_try(struct queue *q)
{
	vq_free(q->vq);
	q->vq = NULL;
	return vq_new(&q->config, &q->vq);
}

void queue_restart(struct queue *q)
{
	int err = queue_try(q);

	cr_assert_eq(err, 0, "vq_new: %d", err);
}

int queue_add(struct queue *q, bool indirect)
{
	const struct ring_buf bufs[2] = { { q->data, 16, false }, { q->data + 512, 512, true } };
	int id = ring_add(&q->ring, bufs, 2, indirect);

	cr_assert_geq(id, 0, "ring_add: %d", id);
	ring_publish(&q->ring);
	return id;
}

int queue_pop(struct queue *q)
{
	return vq_pop(q->vq, &q->chain);
}

uint32_t queue_get(struct queue *q, int id)
{
	uint16_t got = 0;
	uint32_t len = 0;

	cr_assert_eq(ring_get(&q->ring, &got, &len), 1);
	cr_assert_eq(got, id);
	return len;
}

void queue_cycle(struct queue *q, unsigned times)
{
	while (times--) {
		int id = queue_add(q, false);

		cr_assert_eq(queue_pop(q), 1);
		vq_push(q->vq, q->chain.head, 1);
		vq_publish(q->vq);
		queue_get(q, id);
	}
}

int queue_offer(struct queue *q, uint16_t n, const struct ring_desc *d)
{
	/* A packed ring's first descriptor makes the others visible, so it is written last. */
	for (uint16_t i = n; i-- > 0;) {
		struct ring_desc desc = d[i];

		if (q->ring.packed)
			desc.flags |= RING_AVAIL;
		ring_write_desc(&q->ring, i, desc);
	}
	if (!q->ring.packed) {
		ring_put_avail(&q->ring, 0);
		ring_publish(&q->ring);
	}
	return queue_pop(q);
}

int queue_offer_table(struct queue *q, uint32_t len, uint16_t n, const struct ring_desc *d)
{
	const struct ring_desc table = { q->ring.tables, len, 0, RING_INDIRECT };

	for (uint16_t i = 0; i < n; i++)
		ring_write_table(&q->ring, q->ring.tables, i, d[i]);
	return queue_offer(q, 1, &table);
}

void queue_expect_broken(struct queue *q, int got, int want)
{
	cr_expect_eq(got, want, "vq_pop: %d, not %d", got, want);
	cr_expect_eq(queue_pop(q), -ENOTCONN, "broken until it is made anew");
	cr_expect_not(vq_has_avail(q->vq));
	cr_expect_not(vq_enable_kicks(q->vq));
}

static void *rewrite(void *arg)
{
	struct rewriter *w = arg;

	for (unsigned i = 0; !atomic_load(&w->stop); i++)
		ring_write_desc(&w->q->ring, 0, w->d[i % w->n]);
	return NULL;
}

void queue_rewrite_start(struct rewriter *w)
{
	cr_assert_eq(pthread_create(&w->thread, NULL, rewrite, w), 0);
}

void queue_rewrite_stop(struct rewriter *w)
{
	atomic_store(&w->stop, true);
	pthread_join(w->thread, NULL);
}
