/* SPDX-License-Identifier: Apache-2.0 */
/* What the bare guest does while the host kills the device's process. */
#ifndef PAYLOAD_STORM_H
#define PAYLOAD_STORM_H

#include "virtio.h"

struct storm_options {
	unsigned flush; /* one of so many requests is a flush; 0: none */
	bool learn;     /* what is not zero on the disk was written by a storm */
	/* A second disk, which was started beside the first, or NULL. They share no block number, so what was meant for one
	 * of them is right nowhere on the other. */
	struct vdev *second;
};

/* Writes and verifies until the host says 'q', and reports errors, mismatches and stalls. */
void storm_run(struct vdev *d, const struct storm_options *o);

/* Reads a register of another device for as long as the host says, with requests to d outstanding. */
void storm_probe(struct vdev *d, struct vdev *other);

#endif
