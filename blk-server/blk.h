/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio block device as blk-server has it, and its options. */
#ifndef BLK_H
#define BLK_H

#include "blk_queue.h"
#include "option.h"

struct blk {
	struct disk disk;
	struct blk_queue *queue[SERVER_QUEUES_MAX];
	unsigned queues;
	struct loop_timer *fence_timer; /* the main loop's: asks the fence again */
	uint64_t fence_pause;
};

extern const struct server_option blk_options[];
extern bool blk_refuse_writes; /* of all disks */

/* Has a disk use this engine; the sandbox is then made for it. While options are read. */
void blk_use_engine(struct blk *blk, const struct engine_ops *engine);

#endif
