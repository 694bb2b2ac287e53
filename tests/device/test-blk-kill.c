/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGKILL at random moments with requests in flight, and a successor on the same rings: no request is lost, none is
 * completed twice and none fails, though every other kill may come before the last one is recovered from. (Three in a row
 * may find the same request in hand, which is poison then.) BULKHEAD_LONG=1 makes a thousand of each kind.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "load.h"
#include "note.h"

TestSuite(blk_kill, .timeout = 600);

static unsigned kills(void)
{
	const char *all = getenv("BULKHEAD_LONG");

	return all && *all ? 1000 : 10;
}

static void storm(uint64_t ring_features, unsigned queues, const char *engine)
{
	static struct load l;
	struct rig_options options = { .queues = queues,
				       .engine = engine,
				       .io_threads = queues > 1 ? 2 : 1,
				       .ring_features = ring_features };

	load_start(&l, &options);
	for (unsigned i = 0; i < kills(); i++) {
		uint64_t until = clock_ns() + load_random(&l, 20 * NS_PER_MS);

		load_until(&l, clock_ns() >= until && (i % 2 || !l.at_death));
		rig_kill(&l.rig);
		load_died(&l);
		rig_respawn(&l.rig);
	}
	load_stop(&l);
	note("%llu requests, %u kills", (unsigned long long)l.completed, kills());
}

Test(blk_kill, split)
{
	storm(RING_F_EVENT_IDX, 1, NULL);
}

Test(blk_kill, split_indirect_two_queues)
{
	storm(RING_F_EVENT_IDX | RING_F_INDIRECT, 2, NULL);
}

Test(blk_kill, packed)
{
	storm(RING_F_PACKED | RING_F_EVENT_IDX, 1, NULL);
}

Test(blk_kill, packed_indirect_two_queues)
{
	storm(RING_F_PACKED | RING_F_INDIRECT, 2, NULL);
}

/* What its servers leave to the kernel goes on after they were reaped: each successor waits for the end of that by itself. */
Test(blk_kill, io_uring_split_two_queues)
{
	storm(RING_F_EVENT_IDX | RING_F_INDIRECT, 2, "io_uring");
}

Test(blk_kill, io_uring_packed)
{
	storm(RING_F_PACKED | RING_F_EVENT_IDX, 1, "io_uring");
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
