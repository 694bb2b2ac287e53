/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGKILL at random moments with requests in flight, and a successor on the same rings: no request is lost, none is
 * completed twice (rig_get fails for one that nobody waits for), and the disk holds what was acknowledged.
 *
 * Every block has at most one request at a time. A write carries the block's next generation; once it is
 * acknowledged, reads must find exactly that generation.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "inflight_priv.h"
#include "num.h"
#include "rig.h"

TestSuite(blk_kill, .timeout = 600);

#define BLOCK  4096
#define BLOCKS 256
#define DEPTH  32 /* requests of a queue at a time */

struct request {
	bool busy, write, at_kill;
	unsigned block;
	uint64_t gpa;
};

struct storm {
	struct rig rig;
	struct request request[RIG_QUEUES_MAX][RIG_SLOTS];
	uint64_t buffers[RIG_QUEUES_MAX];
	unsigned in_flight[RIG_QUEUES_MAX];
	unsigned at_kill; /* requests in flight at the last kill that are not completed */
	bool block_busy[BLOCKS];
	uint64_t generation[BLOCKS]; /* acknowledged; 0: never written */
	uint64_t completed;
	unsigned seed;
};

static unsigned kills(void)
{
	const char *env = getenv("BULKHEAD_KILLS");

	return env ? (unsigned)atoi(env) : 10;
}

static void submit(struct storm *s, unsigned q)
{
	unsigned block = (unsigned)rand_r(&s->seed) % BLOCKS;
	bool write = rand_r(&s->seed) % 3;
	struct request *r;
	uint64_t gpa;
	int slot = 0;

	if (s->block_busy[block])
		return;
	while (s->rig.queue[q].slot_used[slot])
		slot++;
	gpa = s->buffers[q] + (uint64_t)slot * BLOCK;
	if (write)
		rig_fill(rig_ptr(&s->rig, gpa), (uint64_t)block * BLOCK, BLOCK, s->generation[block] + 1);
	else
		memset(rig_ptr(&s->rig, gpa), 0xee, BLOCK);
	slot = rig_stage(&s->rig, q, write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
			 (uint64_t)block * BLOCK / 512, gpa, BLOCK);
	r = &s->request[q][slot];
	*r = (struct request) { .busy = true, .write = write, .block = block, .gpa = gpa };
	s->block_busy[block] = true;
	s->in_flight[q]++;
}

static bool all_zero(const uint8_t *buf)
{
	for (unsigned i = 0; i < BLOCK; i++)
		if (buf[i])
			return false;
	return true;
}

static bool is_generation(const uint8_t *buf, unsigned block, uint64_t generation)
{
	return generation ? rig_check(buf, (uint64_t)block * BLOCK, BLOCK, generation) : all_zero(buf);
}

static void complete(struct storm *s, unsigned q, const struct rig_done *done)
{
	struct request *r = &s->request[q][done->slot];

	cr_assert(r->busy, "completed twice");
	cr_assert_eq(done->status, VIRTIO_BLK_S_OK);
	cr_assert_eq(done->len, r->write ? 1 : BLOCK + 1);
	if (r->write)
		s->generation[r->block]++;
	else
		cr_assert(is_generation(rig_ptr(&s->rig, r->gpa), r->block, s->generation[r->block]),
			  "a read of block %u is not what was acknowledged", r->block);
	s->at_kill -= r->at_kill;
	s->block_busy[r->block] = false;
	s->in_flight[q]--;
	s->completed++;
	r->busy = false;
}

/* Takes what is complete and, if asked to, keeps the queues full. */
static void step(struct storm *s, bool more)
{
	for (unsigned q = 0; q < s->rig.queues; q++) {
		struct rig_done done;

		while (rig_get(&s->rig, q, &done))
			complete(s, q, &done);
		for (unsigned i = 0; more && i < DEPTH && s->in_flight[q] < DEPTH; i++)
			submit(s, q);
		rig_publish(&s->rig, q);
		ring_enable_calls(&s->rig.queue[q].ring);
	}
	loop_run_once(s->rig.loop, 100000);
}

static unsigned all_in_flight(const struct storm *s)
{
	unsigned n = 0;

	for (unsigned q = 0; q < s->rig.queues; q++)
		n += s->in_flight[q];
	return n;
}

static void kill_and_replace(struct storm *s)
{
	rig_kill(&s->rig);
	s->at_kill = 0;
	for (unsigned q = 0; q < s->rig.queues; q++) {
		for (unsigned i = 0; i < RIG_SLOTS; i++) {
			struct request *r = &s->request[q][i];

			r->at_kill = r->busy;
			s->at_kill += r->busy;
		}
	}
	rig_respawn(&s->rig);
}

/* Goes on until the condition holds; what is stuck is lost. */
#define go_on(s, more, condition)                                                                            \
	do {                                                                                                 \
		uint64_t limit_ = clock_ns() + RIG_DEADLINE_S * NS_PER_S;                                    \
		while (!(condition)) {                                                                       \
			cr_assert(clock_ns() < limit_, "lost: %u requests", all_in_flight(s));               \
			step(s, more);                                                                       \
		}                                                                                            \
	} while (0)

static void check_disk(struct storm *s)
{
	uint8_t buf[BLOCK];

	for (unsigned b = 0; b < BLOCKS; b++) {
		rig_read_image(&s->rig, (uint64_t)b * BLOCK, buf, BLOCK);
		cr_assert(is_generation(buf, b, s->generation[b]), "block %u is not what was acknowledged",
			  b);
	}
}

static void storm(uint64_t ring_features, unsigned queues)
{
	static struct storm s;
	struct rig_options options = { .queues = queues,
				       .io_threads = queues > 1 ? 2 : 1,
				       .ring_features = ring_features };

	memset(&s, 0, sizeof(s));
	s.seed = (unsigned)clock_ns();
	rig_start(&s.rig, &options);
	for (unsigned q = 0; q < queues; q++)
		s.buffers[q] = rig_alloc(&s.rig, RIG_SLOTS * BLOCK, BLOCK);
	for (unsigned i = 0; i < kills(); i++) {
		uint64_t until = clock_ns() + (uint64_t)rand_r(&s.seed) % (20 * NS_PER_MS);

		go_on(&s, true, clock_ns() >= until);
		kill_and_replace(&s);
		/* One that is in flight at two deaths in a row may be given up, so that must not happen here. */
		go_on(&s, true, !s.at_kill);
	}
	go_on(&s, false, !all_in_flight(&s));
	check_disk(&s);
	fprintf(stderr, "# %llu requests, %u kills, seed %u\n", (unsigned long long)s.completed, kills(),
		s.seed);
	rig_stop(&s.rig);
}

Test(blk_kill, split)
{
	storm(RING_F_EVENT_IDX, 1);
}

Test(blk_kill, split_indirect_two_queues)
{
	storm(RING_F_EVENT_IDX | RING_F_INDIRECT, 2);
}

Test(blk_kill, packed)
{
	storm(RING_F_PACKED | RING_F_EVENT_IDX, 1);
}

Test(blk_kill, packed_indirect_two_queues)
{
	storm(RING_F_PACKED | RING_F_INDIRECT, 2);
}

/* The last server may have died between publishing and signalling, so its successor signals, asked or not. */
Test(blk_kill, successor_signals_once)
{
	struct rig_options options = { .queues = 2, .ring_features = RING_F_EVENT_IDX };
	struct rig rig;
	unsigned before[2];

	rig_start(&rig, &options);
	rig_until(&rig, rig.queue[0].calls && rig.queue[1].calls);
	rig_kill(&rig);
	for (unsigned q = 0; q < 2; q++)
		before[q] = rig.queue[q].calls;
	rig_respawn(&rig);
	rig_until(&rig, rig.queue[0].calls > before[0] && rig.queue[1].calls > before[1]);
	rig_stop(&rig);
}

/* A request that a server had in hand when it died, as the in-flight region tells it; note: what it says beside that.
 * Its status. */
static uint8_t resubmit(struct rig *rig, uint64_t gpa, uint8_t note)
{
	struct rig_queue *q = &rig->queue[0];
	int slot, id = 0;

	rig_kill(rig);
	slot = rig_add(rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096);
	while (q->slot_of[id] != slot)
		id++;
	/* Behind the header an entry for each descriptor: inflight, then the note in its padding. */
	rig->inflight[16 + id * 16] = 1;
	rig->inflight[16 + id * 16 + 1] = (uint8_t)(NOTE_HAND | note);
	rig_respawn(rig);
	return rig_wait(rig, 0).status;
}

Test(blk_kill, f48_request_that_kills_is_given_up)
{
	struct rig_options options = { .ring_features = RING_F_EVENT_IDX };
	struct rig rig;
	uint64_t gpa;

	rig_start(&rig, &options);
	gpa = rig_alloc(&rig, 4096, 4096);
	cr_assert_eq(resubmit(&rig, gpa, 0), VIRTIO_BLK_S_OK);
	cr_assert_eq(resubmit(&rig, gpa, NOTE_SUSPECT), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(rig_request(&rig, 0, VIRTIO_BLK_T_IN, 0, gpa, 4096).status, VIRTIO_BLK_S_OK);
	rig_stop(&rig);
}
