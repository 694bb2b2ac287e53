/* SPDX-License-Identifier: Apache-2.0 */
/* What the bare guest does while the host kills the device's process. */
#ifndef PAYLOAD_STORM_H
#define PAYLOAD_STORM_H

#include "virtio.h"

/* Writes and verifies until the host says 'q', and reports errors, mismatches and stalls. */
void storm_run(struct vdev *d);

/* Reads a register of another device for as long as the host says, with requests to d outstanding. */
void storm_probe(struct vdev *d, struct vdev *other);

#endif
