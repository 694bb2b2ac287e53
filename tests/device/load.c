/* SPDX-License-Identifier: Apache-2.0 */
/* Requests whose fate is checked. */
#include "load.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "fd.h"
#include "note.h"
#include "num.h"

/* Without a completion for so long something is lost: it is longer than any server waits before it tries again. */
#define STALL_NS (30 * NS_PER_S)

unsigned load_random(struct load *l, unsigned below)
{
	return (unsigned)rand_r(&l->random) % below;
}

void load_start(struct load *l, const struct rig_options *options)
{
	memset(l, 0, sizeof(*l));
	l->random = (unsigned)clock_ns();
	l->seed = clock_ns();
	l->depth = LOAD_DEPTH;
	rig_start(&l->rig, options);
	for (unsigned q = 0; q < l->rig.queues; q++)
		l->buffers[q] = rig_alloc(&l->rig, RIG_SLOTS * LOAD_BLOCK, LOAD_BLOCK);
}

unsigned load_in_flight(const struct load *l)
{
	unsigned n = 0;

	for (unsigned q = 0; q < l->rig.queues; q++)
		n += l->in_flight[q];
	return n;
}

void load_died(struct load *l)
{
	l->at_death = 0;
	for (unsigned q = 0; q < l->rig.queues; q++) {
		for (unsigned i = 0; i < RIG_SLOTS; i++) {
			struct load_request *r = &l->request[q][i];

			r->at_death = r->busy;
			l->at_death += r->busy;
		}
	}
}

/* ---- requests ---- */

/* Those that are answered at once overtake those before them; flushes and zeroes are carried out by other threads. */
static uint32_t random_type(struct load *l)
{
	unsigned dice = load_random(l, 20);

	return dice < 8    ? VIRTIO_BLK_T_OUT
	       : dice < 14 ? VIRTIO_BLK_T_IN
	       : dice < 16 ? VIRTIO_BLK_T_GET_ID
	       : dice < 18 ? VIRTIO_BLK_T_FLUSH
			   : VIRTIO_BLK_T_WRITE_ZEROES;
}

/* What the request's buffer holds before; the bytes of it that are part of the request. */
static uint32_t fill(struct load *l, const struct load_request *r)
{
	uint8_t *buf = rig_ptr(&l->rig, r->gpa);
	struct virtio_blk_discard_write_zeroes range = { .sector = (uint64_t)r->block * LOAD_BLOCK / 512,
							 .num_sectors = LOAD_BLOCK / 512 };

	switch (r->type) {
	case VIRTIO_BLK_T_OUT:
		rig_fill(buf, (uint64_t)r->block * LOAD_BLOCK, LOAD_BLOCK, l->seed + r->generation);
		return LOAD_BLOCK;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		memcpy(buf, &range, sizeof(range));
		return sizeof(range);
	case VIRTIO_BLK_T_FLUSH:
		return 0;
	default:
		memset(buf, 0xee, LOAD_BLOCK);
		return r->type == VIRTIO_BLK_T_IN ? LOAD_BLOCK : VIRTIO_BLK_ID_BYTES;
	}
}

static void submit(struct load *l, unsigned q)
{
	struct load_request r = { .busy = true, .type = random_type(l) };
	bool data = r.type != VIRTIO_BLK_T_GET_ID && r.type != VIRTIO_BLK_T_FLUSH;
	int slot = 0;

	r.block = load_random(l, LOAD_BLOCKS);
	if (data && l->block_busy[r.block])
		return;
	while (l->rig.queue[q].slot_used[slot])
		slot++;
	r.gpa = l->buffers[q] + (uint64_t)slot * LOAD_BLOCK;
	if (r.type == VIRTIO_BLK_T_OUT)
		r.generation = ++l->next_generation;
	if (data)
		l->block_busy[r.block] = true;
	slot = rig_stage(&l->rig, q, r.type,
			 r.type == VIRTIO_BLK_T_OUT || r.type == VIRTIO_BLK_T_IN
			     ? (uint64_t)r.block * LOAD_BLOCK / 512
			     : 0,
			 r.gpa, fill(l, &r));
	l->request[q][slot] = r;
	l->in_flight[q]++;
}

static bool is_filled_with(const uint8_t *buf, uint32_t len, uint8_t byte)
{
	for (uint32_t i = 0; i < len; i++)
		if (buf[i] != byte)
			return false;
	return true;
}

static bool is_acknowledged(const struct load *l, const uint8_t *buf, unsigned block)
{
	uint64_t generation = l->generation[block];

	return generation ? rig_check(buf, (uint64_t)block * LOAD_BLOCK, LOAD_BLOCK, l->seed + generation)
			  : is_filled_with(buf, LOAD_BLOCK, 0);
}

static void check_answer(struct load *l, const struct load_request *r, const struct rig_done *done)
{
	const uint8_t *buf = rig_ptr(&l->rig, r->gpa);

	if (r->type == VIRTIO_BLK_T_FLUSH && l->flushes_fail && done->status == VIRTIO_BLK_S_IOERR) {
		l->failed_flushes++;
		return;
	}
	cr_assert_eq(done->status, VIRTIO_BLK_S_OK, "a request of type %u was answered with status %u",
		     r->type, done->status);
	switch (r->type) {
	case VIRTIO_BLK_T_IN:
		cr_assert_eq(done->len, LOAD_BLOCK + 1);
		cr_assert(is_acknowledged(l, buf, r->block),
			  "a read of block %u is not what was acknowledged", r->block);
		break;
	case VIRTIO_BLK_T_GET_ID:
		cr_assert_eq(done->len, VIRTIO_BLK_ID_BYTES + 1);
		cr_assert_not(is_filled_with(buf, VIRTIO_BLK_ID_BYTES, 0xee), "no identity was given");
		break;
	default:
		cr_assert_eq(done->len, 1);
		if (r->type != VIRTIO_BLK_T_FLUSH)
			l->generation[r->block] = r->generation;
	}
}

static void complete(struct load *l, unsigned q, const struct rig_done *done)
{
	struct load_request *r = &l->request[q][done->slot];

	cr_assert(r->busy, "completed twice");
	check_answer(l, r, done);
	if (r->type != VIRTIO_BLK_T_GET_ID && r->type != VIRTIO_BLK_T_FLUSH)
		l->block_busy[r->block] = false;
	l->at_death -= r->at_death;
	l->in_flight[q]--;
	l->completed++;
	r->busy = r->at_death = false;
}

/* ---- the driver ---- */

static void refill(struct load *l, unsigned q)
{
	for (unsigned i = 0; i < LOAD_DEPTH && l->in_flight[q] < l->depth; i++)
		submit(l, q);
	rig_publish(&l->rig, q);
}

/* What an interrupt handler does. */
static void on_interrupt(struct load *l, unsigned q)
{
	struct ring *ring = &l->rig.queue[q].ring;
	struct rig_done done;

	do {
		ring_disable_calls(ring);
		while (rig_get(&l->rig, q, &done))
			complete(l, q, &done);
		refill(l, q);
	} while (ring_enable_calls(ring));
}

void load_step(struct load *l)
{
	for (unsigned q = 0; q < l->rig.queues; q++) {
		if (l->calls[q] != l->rig.queue[q].calls) {
			l->calls[q] = l->rig.queue[q].calls;
			on_interrupt(l, q);
		} else {
			refill(l, q);
		}
	}
}

struct load_watch load_watch(const struct load *l)
{
	return (struct load_watch) { .completed = l->completed,
				     .at_death = l->at_death,
				     .end = clock_ns() + STALL_NS };
}

/* Nothing came for too long: says what is missing. */
static void give_up(struct load *l)
{
	for (unsigned q = 0; q < l->rig.queues; q++) {
		struct rig_done done;

		cr_assert_not(rig_get(&l->rig, q, &done), "queue %u: an interrupt was lost", q);
	}
	cr_assert_fail("%u requests were lost", l->at_death ? l->at_death : load_in_flight(l));
}

void load_wait(struct load *l, struct load_watch *watch)
{
	/* As long as something of the predecessor's is missing, it is no progress that others are served. */
	if (watch->at_death != l->at_death || (!l->at_death && watch->completed != l->completed))
		*watch = load_watch(l);
	if (clock_ns() >= watch->end)
		give_up(l);
	cr_assert_eq(loop_run_once(l->rig.loop, (int64_t)(NS_PER_S / 10)), 0);
}

static void check_disk(struct load *l)
{
	uint8_t buf[LOAD_BLOCK];

	for (unsigned b = 0; b < LOAD_BLOCKS; b++) {
		rig_read_image(&l->rig, (uint64_t)b * LOAD_BLOCK, buf, LOAD_BLOCK);
		cr_assert(is_acknowledged(l, buf, b), "block %u is not what was acknowledged", b);
	}
}

void load_finish(struct load *l)
{
	l->depth = 0;
	load_until(l, !load_in_flight(l));
	cr_assert_not(l->rig.lost, "the server is gone");
	check_disk(l);
}

void load_stop(struct load *l)
{
	load_finish(l);
	rig_stop(&l->rig);
}

void load_storm(struct rig_options options, unsigned kills)
{
	static struct load l;

	options.io_threads = options.queues > 1 ? 2 : 1;
	load_start(&l, &options);
	for (unsigned i = 0; i < kills; i++) {
		uint64_t until = clock_ns() + load_random(&l, 20 * NS_PER_MS);

		load_until(&l, clock_ns() >= until && (i % 2 || !l.at_death));
		rig_kill(&l.rig);
		load_died(&l);
		rig_respawn(&l.rig);
	}
	load_stop(&l);
	note("%llu requests, %u kills", (unsigned long long)l.completed, kills);
}
