/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load on any vhost-user-blk socket, through the tests' front end: requests a second, latency, and the
 * processor time that the server spent for each, read from the scheduler's own account of its threads.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "cputime.h"
#include "frontend.h"
#include "load_option.h"
#include "log.h"
#include "loop.h"
#include "num.h"

#define BUCKETS_PER_OCTAVE 16
#define BUCKETS            (40 * BUCKETS_PER_OCTAVE)
#define STALL_NS           (10 * NS_PER_S)

struct options {
	const char *socket;
	uint64_t depth, block, seconds, warmup_ms, queues, queue_size, pid, beside, span, seed, write_percent;
	bool poll, packed;
};

struct bench {
	struct options o;
	struct frontend *f;
	uint64_t blocks; /* that requests choose from */
	uint64_t random;
	uint64_t *submitted_at; /* by queue and slot */
	uint64_t done, errors;
	uint64_t histogram[BUCKETS];
	uint64_t slowest;
};

/* xorshift64*: fast, and the same sequence for both sides of a comparison */
static uint64_t next_random(struct bench *b)
{
	b->random ^= b->random >> 12;
	b->random ^= b->random << 25;
	b->random ^= b->random >> 27;
	return b->random * 0x2545f4914f6cdd1dULL;
}

static unsigned bucket_of(uint64_t ns)
{
	unsigned octave = 63U - (unsigned)__builtin_clzll(ns | BUCKETS_PER_OCTAVE);
	unsigned bucket =
	    (octave - 4) * BUCKETS_PER_OCTAVE + (unsigned)(ns >> (octave - 4)) % BUCKETS_PER_OCTAVE;

	return MIN(bucket, BUCKETS - 1U);
}

static double percentile_us(const struct bench *b, double part)
{
	uint64_t want = (uint64_t)((double)b->done * part), seen = 0;
	unsigned i = 0;

	while (i < BUCKETS - 1 && (seen += b->histogram[i]) <= want)
		i++;
	return (double)((uint64_t)(BUCKETS_PER_OCTAVE + i % BUCKETS_PER_OCTAVE) << (i / BUCKETS_PER_OCTAVE)) /
	       (double)NS_PER_US;
}

static void submit(struct bench *b, unsigned queue, int slot, uint64_t now)
{
	bool write = b->o.write_percent && next_random(b) % 100 < b->o.write_percent;
	uint64_t sector = next_random(b) % b->blocks * (b->o.block / 512);
	int err = frontend_submit(b->f, queue, slot, write ? BLK_OUT : BLK_IN, sector, (uint32_t)b->o.block);

	if (err)
		log_die(1, err, "a request can't be put into the ring");
	b->submitted_at[queue * b->o.queue_size + (unsigned)slot] = now;
}

/* Fetches what is complete and puts as much into the ring again; how many. */
static unsigned turn_over(struct bench *b, unsigned queue)
{
	uint64_t now = 0;
	struct frontend_done done;
	unsigned n = 0;
	int got;

	while ((got = frontend_poll(b->f, queue, &done)) == 1) {
		uint64_t ns;

		if (!n)
			now = clock_ns();
		ns = now - b->submitted_at[queue * b->o.queue_size + (unsigned)done.slot];
		b->errors += done.status != BLK_OK;
		b->histogram[bucket_of(ns)]++;
		b->slowest = MAX(b->slowest, ns);
		frontend_release(b->f, queue, done.slot);
		submit(b, queue, frontend_take(b->f, queue), now);
		n++;
	}
	if (got < 0)
		log_die(1, got, "the used ring names a request that is not in flight");
	if (n)
		frontend_kick(b->f, queue, false);
	b->done += n;
	return n;
}

static void idle(struct bench *b, unsigned *spins, uint64_t last_progress)
{
	int err = 0;

	if (!b->o.poll) {
		err = frontend_wait(b->f, NS_PER_S);
	} else if (++*spins % 4096 == 0) {
		loop_run_once(frontend_loop(b->f), 0);
		err = frontend_lost(b->f);
	} else {
		__builtin_ia32_pause();
	}
	if (err < 0)
		log_die(1, err, "the server closed the connection");
	if (*spins % 4096 == 0 && clock_ns() - last_progress > STALL_NS)
		log_die(1, 0, "the server completes nothing");
}

/* Keeps the queues full for ns; the time that it really took. */
static uint64_t run_for(struct bench *b, uint64_t ns)
{
	uint64_t began = clock_ns(), now = began, progress = began;
	unsigned spins = 0;

	b->done = b->errors = b->slowest = 0;
	memset(b->histogram, 0, sizeof(b->histogram));
	for (unsigned passes = 0; now - began < ns; passes++) {
		unsigned n = 0;

		for (unsigned q = 0; q < b->o.queues; q++)
			n += turn_over(b, q);
		if (!n)
			idle(b, &spins, progress);
		if (!n || passes % 64 == 0)
			now = clock_ns();
		if (n)
			progress = now;
	}
	return clock_ns() - began;
}

static void connect_server(struct bench *b)
{
	struct frontend_options o = { .queues = (unsigned)b->o.queues,
				      .queue_size = (uint16_t)b->o.queue_size,
				      .io_max = (uint32_t)b->o.block,
				      /* As any driver: without FLUSH a server must write through. */
				      .features = RING_F_EVENT_IDX | RING_F_INDIRECT |
						  1ULL << VIRTIO_BLK_F_FLUSH |
						  (b->o.packed ? RING_F_PACKED : 0) };
	int err = frontend_new(&o, &b->f), fd = -1;

	if (err)
		log_die(1, err, "no memory for the guest");
	fd = frontend_dial(b->o.socket, 5 * NS_PER_S);
	err = fd < 0 ? fd : frontend_attach(b->f, fd);
	if (err)
		log_die(1, err, "%s can't be driven", b->o.socket);
	b->blocks = MIN(frontend_capacity(b->f) * 512, b->o.span ? b->o.span : UINT64_MAX) / b->o.block;
	b->submitted_at = calloc(b->o.queues * b->o.queue_size, sizeof(*b->submitted_at));
	if (!b->blocks || !b->submitted_at)
		log_die(1, 0, "the disk is smaller than one block");
}

static void fill(struct bench *b)
{
	for (unsigned q = 0; q < b->o.queues; q++) {
		for (uint64_t i = 0; i < b->o.depth; i++)
			submit(b, q, frontend_take(b->f, q), clock_ns());
		frontend_kick(b->f, q, true);
	}
}

/* Ends with nothing in flight, so that the server has no reason to complain. */
static void drain(struct bench *b)
{
	struct frontend_done done;

	for (unsigned q = 0; q < b->o.queues; q++) {
		while (frontend_in_flight(b->f, q)) {
			int got = frontend_poll(b->f, q, &done);

			if (got < 0 || (got == 0 && frontend_wait(b->f, STALL_NS) <= 0))
				log_die(1, 0, "the last requests are not completed");
		}
	}
	frontend_stop(b->f);
}

static void report(const struct bench *b, uint64_t ns, double cpu_ns)
{
	double seconds = (double)ns / (double)NS_PER_S, n = (double)MAX(b->done, 1U);

	printf(
	    "{\"iops\": %.0f, \"cpu_us_per_request\": %.3f, \"cpu_percent\": %.1f, \"p50_us\": %.1f, "
	    "\"p99_us\": %.1f, \"max_us\": %.1f, \"requests\": %llu, \"errors\": %llu, \"seconds\": %.3f}\n",
	    (double)b->done / seconds, cpu_ns / (double)NS_PER_US / n, 100 * cpu_ns / (double)ns,
	    percentile_us(b, 0.5), percentile_us(b, 0.99), (double)b->slowest / (double)NS_PER_US,
	    (unsigned long long)b->done, (unsigned long long)b->errors, seconds);
}

/* Of the server, and of what is beside it. */
static uint64_t server_ns(const struct options *o)
{
	const uint64_t pids[] = { o->pid, o->beside };
	uint64_t sum = 0;

	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		uint64_t ns = 0;

		if (pids[i] && cputime_ns((pid_t)pids[i], &ns) < 0)
			log_die(1, 0, "the processor time of %llu can't be read: has it ended?",
				(unsigned long long)pids[i]);
		sum += ns;
	}
	return sum;
}

static const char help[] =
    "usage: vhost-blk-bench --socket PATH [options]\n"
    "  --socket PATH      the server's vhost-user-blk socket\n"
    "  --depth N          requests in flight on each queue (32)\n"
    "  --block SIZE       bytes of each request (4K)\n"
    "  --writes PERCENT   how many of them are writes; the rest are reads (0)\n"
    "  --poll             watch the used ring in place of sleeping for calls\n"
    "  --packed           packed rings\n"
    "  --queues N         (1)\n"
    "  --queue-size N     (256)\n"
    "  --span SIZE        use only the disk's first SIZE bytes\n"
    "  --seconds N        time measured (3), after --warmup-ms N (500)\n"
    "  --pid PID          the server: measures its processor time, its descendants' included\n"
    "  --beside PID       another process whose time counts as the server's\n"
    "  --seed N           of the sequence of sectors (1)\n"
    "Prints one line of JSON.\n";

static void parse_options(int argc, char **argv, struct options *o)
{
	const struct load_option options[] = {
		{ "socket", .word = &o->socket },
		{ "depth", .number = &o->depth, .min = 1, .max = 1024 },
		{ "block", .number = &o->block, .min = 512, .max = 1 << 20 },
		{ "writes", .number = &o->write_percent, .min = 0, .max = 100 },
		{ "poll", .flag = &o->poll },
		{ "packed", .flag = &o->packed },
		{ "queues", .number = &o->queues, .min = 1, .max = 64 },
		{ "queue-size", .number = &o->queue_size, .min = 2, .max = 1024 },
		{ "span", .number = &o->span, .min = 512, .max = UINT64_MAX },
		{ "seconds", .number = &o->seconds, .min = 1, .max = 3600 },
		{ "warmup-ms", .number = &o->warmup_ms, .min = 0, .max = 60000 },
		{ "pid", .number = &o->pid, .min = 1, .max = INT32_MAX },
		{ "beside", .number = &o->beside, .min = 1, .max = INT32_MAX },
		{ "seed", .number = &o->seed, .min = 1, .max = UINT64_MAX },
		{ .name = NULL },
	};

	load_option_parse(argc, argv, options, help);
	if (!o->socket)
		log_die(2, 0, "--socket PATH is missing, see --help");
	o->block &= ~511ULL;
	if (o->depth > o->queue_size)
		log_die(2, 0, "--depth %llu: not more than --queue-size", (unsigned long long)o->depth);
}

int main(int argc, char **argv)
{
	static struct bench b = { .o = { .depth = 32,
					 .block = 4096,
					 .seconds = 3,
					 .warmup_ms = 500,
					 .queues = 1,
					 .queue_size = 256,
					 .seed = 1 } };
	uint64_t before, after, ns;

	log_init("vhost-blk-bench", NULL, false);
	parse_options(argc, argv, &b.o);
	b.random = b.o.seed;
	connect_server(&b);
	fill(&b);
	run_for(&b, b.o.warmup_ms * NS_PER_MS);
	before = server_ns(&b.o);
	ns = run_for(&b, b.o.seconds * NS_PER_S);
	after = server_ns(&b.o);
	report(&b, ns, (double)(after - before));
	drain(&b);
	frontend_free(b.f);
	free(b.submitted_at);
	return b.errors ? 1 : 0;
}
