/* SPDX-License-Identifier: Apache-2.0 */
/* The bare guest's load on a disk. */
#ifndef PAYLOAD_BLK_RUN_H
#define PAYLOAD_BLK_RUN_H

#include "virtio.h"

struct blk_options {
	bool irq; /* sleeps when nothing is complete */
	uint32_t queues;
	uint32_t depth;     /* requests in flight on each queue */
	uint32_t block;     /* bytes of each */
	uint32_t writes;    /* of a hundred; the others are reads */
	uint32_t megabytes; /* of the guest's memory */
	uint32_t seconds;   /* 0: the host says when */
};

/* Keeps the queues of the first disk full of requests at random places, in windows (window.h), of which each prints what
 * was done and how long it took. */
void blk_run(struct vdev *d, const struct blk_options *o);

#endif
