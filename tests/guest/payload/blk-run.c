/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bare guest's load on a disk: several rings with event index and indirect descriptors, driven by one processor,
 * which looks at them in turn. As in Linux' driver each request is one indirect table, and interrupts are asked for only
 * when there is nothing left to do.
 */
#include "blk-run.h"
#include "ring.h"
#include "window.h"

#define QUEUES     4
#define BUFFERS_AT (16ul << 20) /* the guest itself ends below */
#define PARTS      3            /* header, data, status */

/* Of times in ns: so many buckets each time they double. */
#define PER_OCTAVE 16
#define BUCKETS    (40 * PER_OCTAVE)

struct request {
	struct vring_desc table[PARTS] __attribute__((aligned(64)));
	struct blk_header header;
	uint64_t since;
	volatile uint8_t status;
	bool out;
};

static struct ring rings[QUEUES];
static struct request requests[QUEUES][RING_SIZE];

static struct {
	const struct blk_options *o;
	uint64_t random, blocks;
	uint64_t done, errors, slowest; /* of this window; time in ns */
	uint64_t histogram[BUCKETS];
	uint64_t all_done, all_errors, strange;
	unsigned out;
	bool fill; /* a window began */
} run;
static struct window window;

static unsigned bucket_of(uint64_t ns)
{
	unsigned octave = 63u - (unsigned)__builtin_clzll(ns | PER_OCTAVE);
	unsigned bucket = (octave - 4) * PER_OCTAVE + (unsigned)(ns >> (octave - 4)) % PER_OCTAVE;

	return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static uint64_t percentile(unsigned percent)
{
	uint64_t want = run.done * percent / 100, seen = 0;
	unsigned i = 0;

	while (i < BUCKETS - 1 && (seen += run.histogram[i]) <= want)
		i++;
	return (uint64_t)(PER_OCTAVE + i % PER_OCTAVE) << (i / PER_OCTAVE);
}

static void tell(uint64_t us)
{
	print("blk window");
	print_count("requests", run.done);
	print_count("bytes", run.done * run.o->block);
	print_count("us", us);
	print_count("errors", run.errors);
	print_count("p50_ns", percentile(50));
	print_count("p99_ns", percentile(99));
	print_count("max_ns", run.slowest);
	print("\n");
}

static void clear(void)
{
	run.done = run.errors = run.slowest = 0;
	memset(run.histogram, 0, sizeof(run.histogram));
	run.fill = true;
}

static void submit(unsigned queue, unsigned slot, uint64_t now)
{
	const struct blk_options *o = run.o;
	struct request *r = &requests[queue][slot];
	bool write = next_random(&run.random) % 100 < o->writes;

	r->header.type = write ? BLK_OUT : BLK_IN;
	r->header.sector = next_random(&run.random) % run.blocks * (o->block / 512);
	r->table[1].flags = DESC_NEXT | (write ? 0 : DESC_WRITE);
	r->status = 0xff;
	r->since = now;
	r->out = true;
	run.out++;
	ring_offer(&rings[queue], (uint16_t)slot);
}

static void complete(struct request *r, uint64_t now)
{
	uint64_t ns = (now - r->since) * 1000000 / window.khz;

	r->out = false;
	run.out--;
	run.done++;
	run.all_done++;
	run.errors += r->status != 0;
	run.all_errors += r->status != 0;
	run.histogram[bucket_of(ns)]++;
	if (ns > run.slowest)
		run.slowest = ns;
}

/* Takes what is complete and, in a window, puts as much in again; how many. */
static unsigned turn_over(unsigned queue)
{
	struct ring *r = &rings[queue];
	unsigned count = 0;
	uint64_t now = 0;

	for (; ring_used(r) && count < RING_SIZE; count++) {
		uint32_t id = r->used.ring[r->seen++ % RING_SIZE].id;

		if (id >= run.o->depth || !requests[queue][id].out) {
			run.strange++;
			break;
		}
		if (!now)
			now = tsc();
		complete(&requests[queue][id], now);
		if (window.running)
			submit(queue, id, now);
	}
	ring_publish(r);
	return count;
}

static void fill(void)
{
	for (unsigned q = 0; q < run.o->queues; q++) {
		for (unsigned slot = 0; slot < run.o->depth; slot++)
			if (!requests[q][slot].out)
				submit(q, slot, tsc());
		ring_publish(&rings[q]);
	}
	run.fill = false;
}

/* All of a request that never changes: only its direction does. */
static void lay_out(unsigned queue, unsigned slot)
{
	const struct blk_options *o = run.o;
	struct request *r = &requests[queue][slot];
	uintptr_t buffer = BUFFERS_AT + ((uintptr_t)queue * o->depth + slot) * o->block;

	r->table[0] = (struct vring_desc) { (uintptr_t)&r->header, sizeof(r->header), DESC_NEXT, 1 };
	r->table[1] = (struct vring_desc) { buffer, o->block, DESC_NEXT, 2 };
	r->table[2] = (struct vring_desc) { (uintptr_t)&r->status, 1, DESC_WRITE, 0 };
	rings[queue].desc[slot] =
	    (struct vring_desc) { (uintptr_t)r->table, sizeof(r->table), DESC_INDIRECT, 0 };
}

static bool possible(const struct blk_options *o)
{
	return o->queues && o->queues <= QUEUES && o->depth && o->depth <= RING_SIZE && o->block &&
	       o->block % 512 == 0 &&
	       BUFFERS_AT + (uint64_t)o->queues * o->depth * o->block <= (uint64_t)o->megabytes << 20;
}

static bool start(struct vdev *d, const struct blk_options *o)
{
	if (!vdev_find(d, 0) || !vdev_negotiate(d, RING_F_INDIRECT | RING_F_EVENT_IDX | BLK_F_FLUSH |
						       BLK_F_MQ | FEATURE_VERSION_1))
		return false;
	run.o = o;
	run.random = 0x9e3779b97f4a7c15u;
	run.blocks = d->capacity * 512 / o->block;
	for (unsigned q = 0; q < o->queues; q++) {
		if (!ring_set(&rings[q], d, q, o->irq))
			return false;
		for (unsigned slot = 0; slot < o->depth; slot++)
			lay_out(q, slot);
	}
	vdev_go(d);
	return run.blocks && d->features & RING_F_INDIRECT;
}

void blk_run(struct vdev *d, const struct blk_options *o)
{
	bool ok = possible(o) && start(d, o);

	report(ok, "the disk starts, and can do this");
	if (!ok)
		return;
	window = (struct window) { .seconds = o->seconds, .clear = clear, .tell = tell };
	window_open(&window);
	while (!run.strange && (!window.quit || run.out)) {
		unsigned n = 0;

		if (run.fill)
			fill();
		for (unsigned q = 0; q < o->queues; q++)
			n += turn_over(q);
		window_look(&window);
		/* Asleep it would not see the host's word unless something is to come. */
		if (!n && o->irq && run.out)
			ring_sleep(rings, o->queues);
		else if (!n)
			__asm__ volatile("pause");
	}
	report(!run.strange, "what completes was in flight");
	report(run.all_done && !run.all_errors, "no request fails");
}
