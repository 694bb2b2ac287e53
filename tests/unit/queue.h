/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of one virtqueue in one process: what the virtqueue tests begin with. */
#ifndef UNIT_QUEUE_H
#define UNIT_QUEUE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "inflight.h"
#include "ring.h"
#include "virtq.h"

#define QUEUE_VECTORS 64
#define QUEUE_DATA    4096 /* bytes at data */

struct queue {
	struct guest guest;
	struct ring ring;
	struct mem *mem;
	struct vq_config config; /* may be changed before queue_restart */
	struct vq *vq;
	struct vq_chain chain; /* of the last queue_pop */
	struct iovec iov[QUEUE_VECTORS];
	uint64_t data; /* guest-physical address of a page to point descriptors at */
};

/* All of these fail the test rather than return an error. */
void queue_open(struct queue *q, uint16_t size, uint64_t features);
/* The same with a guest of these regions, and without a page at data. */
void queue_open_regions(struct queue *q, const struct mem_region *regions, unsigned n, uint16_t size,
			uint64_t features);
void queue_close(struct queue *q);
/* Gives the ring an in-flight region, blank, in guest memory, and makes the device's side anew with it. */
void queue_track(struct queue *q);
/* Drops the device's side as a crash does and makes it anew. */
void queue_restart(struct queue *q);

/* The same as queue_restart, for what is to be refused: -errno. */
int queue_try(struct queue *q);

/* A request of a readable and a writable part, published; its head or id. */
int queue_add(struct queue *q, bool indirect);
/* vq_pop into q->chain. */
int queue_pop(struct queue *q);
/* Takes the one completion there must be; its length. */
uint32_t queue_get(struct queue *q, int id);
/* Add, pop, push, publish, get, for times requests. */
void queue_cycle(struct queue *q, unsigned times);

/* What a driver makes available that writes n descriptors by hand from the first on; then what the device's side, at
 * its beginning, makes of it: vq_pop's answer. */
int queue_offer(struct queue *q, uint16_t n, const struct ring_desc *d);
/* The same with an indirect table of these entries, its length as given. */
int queue_offer_table(struct queue *q, uint32_t len, uint16_t n, const struct ring_desc *d);
/* vq_pop's answer is the error wanted, and the queue is broken until it is made anew. */
void queue_expect_broken(struct queue *q, int got, int want);

/*
 * What a test program about one kind of ring begins with: its queue, and two suites of which one negotiates indirect
 * descriptors and event indices; OFFER and so on work on that queue.
 */
#define QUEUE_SUITES(suite, plain, size, kind)                                                               \
	static struct queue q;                                                                               \
	static void open_all(void)                                                                           \
	{                                                                                                    \
		queue_open(&q, size, (kind) | RING_F_INDIRECT | RING_F_EVENT_IDX);                           \
	}                                                                                                    \
	static void open_plain(void)                                                                         \
	{                                                                                                    \
		queue_open(&q, size, kind);                                                                  \
	}                                                                                                    \
	static void close_it(void)                                                                           \
	{                                                                                                    \
		queue_close(&q);                                                                             \
	}                                                                                                    \
	TestSuite(suite, .init = open_all, .fini = close_it);                                                \
	TestSuite(plain, .init = open_plain, .fini = close_it)

#define OFFER(...)                                                                                           \
	queue_offer(&q, sizeof((struct ring_desc[]) { __VA_ARGS__ }) / sizeof(struct ring_desc),             \
		    (struct ring_desc[]) { __VA_ARGS__ })
#define OFFER_TABLE(len, n, d)   queue_offer_table(&q, len, n, d)
#define EXPECT_BROKEN(got, want) queue_expect_broken(&q, got, want)

/* A second vCPU: writes descriptor 0 as each of these in turn, until it is told to stop. */
struct rewriter {
	struct queue *q;
	const struct ring_desc *d;
	unsigned n;
	atomic_bool stop;
	pthread_t thread;
};
void queue_rewrite_start(struct rewriter *w);
void queue_rewrite_stop(struct rewriter *w);

#endif
