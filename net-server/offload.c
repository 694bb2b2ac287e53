/* SPDX-License-Identifier: Apache-2.0 */
/* What a frame's header leaves for others to do. */
#include "offload.h"

#include "num.h"

const struct offload offload_sent = {
	.checksum = NET_BIT(VIRTIO_NET_F_CSUM),
	.ecn = NET_BIT(VIRTIO_NET_F_HOST_ECN),
	.segments = { [VIRTIO_NET_HDR_GSO_TCPV4] = NET_BIT(VIRTIO_NET_F_HOST_TSO4),
		      [VIRTIO_NET_HDR_GSO_TCPV6] = NET_BIT(VIRTIO_NET_F_HOST_TSO6),
		      [NET_GSO_UDP_L4] = NET_BIT(NET_F_HOST_USO) },
};

/* Of UDP's the header does not say for which IP they are. */
const struct offload offload_received = {
	.checksum = NET_BIT(VIRTIO_NET_F_GUEST_CSUM),
	.ecn = NET_BIT(VIRTIO_NET_F_GUEST_ECN),
	.segments = { [VIRTIO_NET_HDR_GSO_TCPV4] = NET_BIT(VIRTIO_NET_F_GUEST_TSO4),
		      [VIRTIO_NET_HDR_GSO_TCPV6] = NET_BIT(VIRTIO_NET_F_GUEST_TSO6),
		      [NET_GSO_UDP_L4] = NET_BIT(NET_F_GUEST_USO4) | NET_BIT(NET_F_GUEST_USO6) },
};

uint64_t offload_needs(const struct offload *way, uint8_t flags, uint8_t gso_type)
{
	unsigned segments = gso_type & ~(unsigned)VIRTIO_NET_HDR_GSO_ECN;
	uint64_t needs = 0, of = 0;

	if (flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		needs |= way->checksum;
	if (gso_type & VIRTIO_NET_HDR_GSO_ECN)
		needs |= way->ecn;
	if (segments == VIRTIO_NET_HDR_GSO_NONE)
		return needs;
	if (segments < ARRAY_SIZE(way->segments))
		of = way->segments[segments];
	return of ? needs | of : UINT64_MAX;
}
