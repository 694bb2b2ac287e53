/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGKILL at random moments with requests in flight, and a successor on the same rings: no request is lost, none is
 * completed twice and none fails, though the next kill may come before the last one is recovered from.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "inflight_priv.h"
#include "load.h"

TestSuite(blk_kill, .timeout = 600);

static unsigned kills(void)
{
	const char *env = getenv("BULKHEAD_KILLS");

	return env ? (unsigned)atoi(env) : 10;
}

static void storm(uint64_t ring_features, unsigned queues)
{
	static struct load l;
	struct rig_options options = { .queues = queues,
				       .io_threads = queues > 1 ? 2 : 1,
				       .ring_features = ring_features };

	load_start(&l, &options);
	for (unsigned i = 0; i < kills(); i++) {
		uint64_t until = clock_ns() + load_random(&l, 20 * NS_PER_MS);

		load_until(&l, clock_ns() >= until);
		rig_kill(&l.rig);
		load_died(&l);
		rig_respawn(&l.rig);
	}
	load_stop(&l);
	fprintf(stderr, "# %llu requests, %u kills\n", (unsigned long long)l.completed, kills());
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
