/* SPDX-License-Identifier: Apache-2.0 */
/* The types of device that the core can present. */
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <string.h>

#include "device.h"
#include "num.h"

static const struct device_kind kinds[] = {
	{
	    .name = "blk",
	    .virtio_id = VIRTIO_ID_BLOCK,
	    .pci_class = 0x018000, /* mass storage, other */
	    .config_len = 60,      /* up to and with write zeroes' fields */
	    .features = (1ULL << (VIRTIO_BLK_F_WRITE_ZEROES + 1)) - 1,
	    .queues_off = offsetof(struct virtio_blk_config, num_queues),
	    .queues_feature = VIRTIO_BLK_F_MQ,
	    .config_write_off = offsetof(struct virtio_blk_config, wce),
	    .config_write_len = 1,
	    .config_write_feature = VIRTIO_BLK_F_CONFIG_WCE,
	},
};

const struct device_kind *device_kind_find(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	return NULL;
}

const char *device_kind_names(void)
{
	return "blk";
}
