/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lib/virtq costs: nanoseconds of the device's side for a request of three descriptors, fetched, completed
 * and published in batches, in one thread, so that the driver's side can be left out of the measurement. The
 * best of twenty rounds is told, the others having been disturbed.
 * Usage: ring-bench [REQUESTS]
 */
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "inflight.h"
#include "ring.h"
#include "virtq.h"

#define SIZE   256
#define BATCH  32
#define ROUNDS 20

struct bench {
	struct guest guest;
	struct ring ring;
	struct vq *vq;
	struct iovec iov[64];
	uint64_t data;
};

static void die(const char *what)
{
	fprintf(stderr, "ring-bench: %s\n", what);
	exit(1);
}

static void open_bench(struct bench *b, uint64_t features, bool track)
{
	size_t len = inflight_queue_bytes(SIZE, features & RING_F_PACKED);
	struct vq_config config;
	struct mem *mem;

	if (guest_init(&b->guest, 8 << 20) || ring_init(&b->ring, &b->guest, SIZE, features))
		die("no guest memory");
	b->data = guest_alloc(&b->guest, 1 << 20, 4096);
	mem = guest_mem(&b->guest);
	if (!mem)
		die("no memory table");
	ring_config(&b->ring, mem, &config);
	if (track)
		config.inflight = guest_ptr(&b->guest, guest_alloc(&b->guest, len, 64), len);
	if (vq_new(&config, &b->vq))
		die("vq_new failed");
	mem_put(mem);
	ring_enable_calls(&b->ring);
}

static void close_bench(struct bench *b)
{
	vq_free(b->vq);
	ring_free(&b->ring);
	guest_free(&b->guest);
}

static void drive(struct bench *b, bool indirect, unsigned seed)
{
	for (unsigned i = 0; i < BATCH; i++) {
		uint64_t at = b->data + (seed * BATCH + i) % 200 * 4096;
		const struct ring_buf bufs[3] = { { at, 16, false },
						  { at + 64, 4000, true },
						  { at + 4080, 1, true } };

		if (ring_add(&b->ring, bufs, 3, indirect) < 0)
			die("ring full");
	}
	ring_publish(&b->ring);
}

static void collect(struct bench *b)
{
	uint16_t id;
	uint32_t len;

	for (unsigned i = 0; i < BATCH; i++) {
		if (ring_get(&b->ring, &id, &len) != 1)
			die("a completion is missing");
	}
	ring_enable_calls(&b->ring);
}

/* One batch through the device's side. */
static void serve(struct bench *b)
{
	struct vq_chain chain = { .iov = b->iov };
	uint16_t heads[BATCH];
	unsigned n = 0;

	while (n < BATCH && vq_pop(b->vq, &chain) == 1)
		heads[n++] = chain.head;
	for (unsigned i = 0; i < n; i++)
		vq_push(b->vq, heads[i], 4001);
	vq_publish(b->vq);
	vq_enable_kicks(b->vq);
}

static void run(const char *name, uint64_t features, bool indirect, bool track, uint64_t requests)
{
	static struct bench b;
	uint64_t best = UINT64_MAX, clock_cost = UINT64_MAX, batches = requests / BATCH / ROUNDS;
	double each;

	b = (struct bench) { .vq = NULL };
	open_bench(&b, features | RING_F_INDIRECT | RING_F_EVENT_IDX, track);
	for (unsigned i = 0; i < 1000; i++) {
		uint64_t t = clock_ns();

		t = clock_ns() - t;
		clock_cost = t < clock_cost ? t : clock_cost;
	}
	for (unsigned round = 0; round < ROUNDS; round++) {
		uint64_t spent = 0;

		for (uint64_t i = 0; i < batches; i++) {
			uint64_t t;

			drive(&b, indirect, (unsigned)i);
			t = clock_ns();
			serve(&b);
			spent += clock_ns() - t - clock_cost;
			collect(&b);
		}
		best = spent < best ? spent : best;
	}
	each = (double)best / (double)(batches * BATCH);
	printf("%-8s %-9s %-8s %6.1f ns %6.1f M/s\n", name, indirect ? "indirect" : "direct",
	       track ? "tracked" : "-", each, 1e3 / each);
	close_bench(&b);
}

int main(int argc, char **argv)
{
	uint64_t requests = argc > 1 ? strtoull(argv[1], NULL, 10) : 2000000;

	if (requests < BATCH * ROUNDS || requests > 1000000000)
		die("usage: ring-bench [REQUESTS]");
	for (unsigned i = 0; i < 8; i++) {
		bool packed = i & 4, indirect = i & 2, track = i & 1;

		run(packed ? "packed" : "split", packed ? RING_F_PACKED : 0, indirect, track, requests);
	}
	return 0;
}
