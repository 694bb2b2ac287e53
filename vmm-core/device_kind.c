/* SPDX-License-Identifier: Apache-2.0 */
/* The types of device that the core can present. */
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stddef.h>
#include <string.h>

#include "device.h"
#include "num.h"

#define BIT(n) (1ULL << (n))

/* virtio 1.2 §5.1.3; newer than some kernels' headers. */
#define NET_F_GUEST_USO4 54
#define NET_F_GUEST_USO6 55
#define NET_F_HOST_USO   56

/* What the driver sets up through the control ring. */
#define NET_CONTROL                                                                                          \
	(BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | BIT(VIRTIO_NET_F_CTRL_RX) |     \
	 BIT(VIRTIO_NET_F_CTRL_VLAN) | BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) |  \
	 BIT(VIRTIO_NET_F_MQ) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | BIT(VIRTIO_NET_F_NOTF_COAL) |              \
	 BIT(VIRTIO_NET_F_RSS))

/* What configuration space tells. */
#define NET_CONFIG                                                                                           \
	(BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_MTU) |                          \
	 BIT(VIRTIO_NET_F_SPEED_DUPLEX))

/* How packets may look. */
#define NET_PACKETS                                                                                          \
	(BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |              \
	 BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN) | BIT(VIRTIO_NET_F_GUEST_UFO) |          \
	 BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_HOST_ECN) |            \
	 BIT(VIRTIO_NET_F_HOST_UFO) | BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(NET_F_GUEST_USO4) |                  \
	 BIT(NET_F_GUEST_USO6) | BIT(NET_F_HOST_USO) | BIT(VIRTIO_NET_F_HASH_REPORT))

static const struct device_kind kinds[] = {
	{
	    .name = "blk",
	    .virtio_id = VIRTIO_ID_BLOCK,
	    .pci_class = 0x018000, /* mass storage, other */
	    .config_len = 60,      /* up to and with write zeroes' fields */
	    .features = BIT(VIRTIO_BLK_F_WRITE_ZEROES + 1) - 1,
	    .queues_off = offsetof(struct virtio_blk_config, num_queues),
	    .queues_feature = VIRTIO_BLK_F_MQ,
	    .rings_each = 1,
	    .config_write_off = offsetof(struct virtio_blk_config, wce),
	    .config_write_len = 1,
	    .config_write_max = 1, /* write-through or write-back */
	    .config_write_feature = VIRTIO_BLK_F_CONFIG_WCE,
	    .slow = "its storage is slow, or a limit holds it",
	},
	{
	    .name = "net",
	    .virtio_id = VIRTIO_ID_NET,
	    .pci_class = 0x020000, /* Ethernet controller */
	    .config_len = sizeof(struct virtio_net_config),
	    .features = NET_PACKETS | NET_CONFIG | NET_CONTROL,
	    /* A back end without one leaves the control ring to its front end; we have nothing that would serve it. */
	    .config_features = NET_CONFIG | NET_CONTROL,
	    .queues_off = offsetof(struct virtio_net_config, max_virtqueue_pairs),
	    .queues_feature = VIRTIO_NET_F_MQ,
	    .rings_each = 2,
	    .buffer_rings = 1, /* of a pair, the receive ring comes first */
	    .control = BIT(VIRTIO_NET_F_CTRL_VQ),
	    .mac_feature = BIT(VIRTIO_NET_F_MAC),
	    .slow = "its network, or a limit, holds what was sent",
	},
};
_Static_assert(sizeof(struct virtio_net_config) == 24, "up to and with the types of hashes");

const struct device_kind *device_kind_find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	return NULL;
}

const char *device_kind_names(void)
{
	return "blk, net";
}
