/* SPDX-License-Identifier: Apache-2.0 */
/* What a frame's header leaves for others to do: checksums, and to be cut into segments (virtio 1.2 §5.1.6). */
#ifndef OFFLOAD_H
#define OFFLOAD_H

#include <linux/virtio_net.h>
#include <stdint.h>

#include "backend.h"

/* By which features a frame may be so unfinished, one way. */
struct offload {
	uint64_t checksum, ecn;
	uint64_t segments[NET_GSO_UDP_L4 + 1]; /* by what they are */
};

extern const struct offload offload_sent, offload_received;

/* The features that a frame with these in its header needs; ones that nobody has if it makes no sense. */
uint64_t offload_needs(const struct offload *way, uint8_t flags, uint8_t gso_type);

#endif
