/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGKILL at random moments with requests in flight, and a successor on the same rings: no request is lost, none is
 * completed twice and none fails. BULKHEAD_LONG=1 makes a thousand of each kind.
 */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "load.h"

TestSuite(blk_kill, .timeout = 600);

static unsigned kills(void)
{
	const char *all = getenv("BULKHEAD_LONG");

	return all && *all ? 1000 : 10;
}

static void storm(uint64_t ring_features, unsigned queues, const char *engine)
{
	struct rig_options options = { .queues = queues, .engine = engine, .ring_features = ring_features };

	load_storm(options, kills());
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
