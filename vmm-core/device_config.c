/* SPDX-License-Identifier: Apache-2.0 */
/* A device's configuration space: what its back end says, as the driver sees it, and what the driver writes there. */
#include <linux/virtio_config.h>
#include <string.h>

#include "device_priv.h"

#define TYPE_FEATURES (((1ULL << 24) - 1) | ~((1ULL << 50) - 1)) /* virtio 1.2 §2.2: device types' own bits */

static bool shows_mac(const struct backend *b)
{
	static const uint8_t none[sizeof(b->dev->mac)];

	return !b->info.config_len && memcmp(b->dev->mac, none, sizeof(none)) != 0;
}

uint64_t device_features(const struct backend *b)
{
	const struct device_kind *kind = b->dev->args.kind;
	uint64_t hidden = TYPE_FEATURES & ~kind->features;

	if (!b->info.config_len)
		hidden |= kind->config_features;
	return (b->info.features & ~hidden) | (shows_mac(b) ? kind->mac_feature : 0);
}

void device_config_offer(struct device *d)
{
	const struct device_kind *kind = d->args.kind;
	struct vhost_fe_info *info = &d->backends[0].info;
	uint16_t queues = (uint16_t)(virtio_pci_queues(d->transport) / kind->rings_each);
	bool mac = shows_mac(&d->backends[0]);
	uint64_t hidden = 0;

	if (kind->queues_off && info->config_len >= kind->queues_off + sizeof(queues))
		memcpy(info->config + kind->queues_off, &queues, sizeof(queues));
	/* Where a packed ring stands only its device knows, or the in-flight region: without one nobody could go on. */
	if (!device_rings_can_track(&d->backends[0]))
		hidden |= 1ULL << VIRTIO_F_RING_PACKED;
	virtio_pci_offer(d->transport, device_features(&d->backends[0]) & ~hidden,
			 mac ? d->mac : info->config, mac ? sizeof(d->mac) : info->config_len);
}

static void read_config(struct backend *b);

static void on_read(void *arg, int err)
{
	struct backend *b = arg;

	b->reading_config = false;
	if (device_failed(b, err, "a reading of its configuration space"))
		return;
	if (b->read_again) {
		read_config(b);
		return;
	}
	memcpy(b->info.config, b->config, b->info.config_len);
	if (b->index == 0)
		device_config_offer(b->dev);
}

static void read_config(struct backend *b)
{
	b->read_again = b->reading_config;
	if (b->reading_config || b->info.config_len == 0)
		return;
	b->reading_config = true;
	vhost_fe_get_config(b->fe, 0, b->info.config_len, b->config, on_read, b);
}

void device_config_changed(void *arg)
{
	struct backend *b = arg;

	if (b->state != BACKEND_PROBING && b->dev->transport)
		read_config(b);
}

static void on_set(void *arg, int err)
{
	struct backend *b = arg;

	if (!device_failed(b, err, "a write to its configuration space") && b->index == 0)
		read_config(b);
}

void device_config_repeat(struct backend *b)
{
	struct device *d = b->dev;

	if (d->written_len)
		vhost_fe_set_config(b->fe, d->written_off, d->written_len, d->written, on_set, b);
}

void device_config_written(void *arg)
{
	struct device *d = arg;

	if (!virtio_pci_take_config_write(d->transport, &d->written_off, &d->written_len, d->written))
		return;
	for (unsigned i = 0; i < d->args.backends; i++)
		if (d->backends[i].state != BACKEND_ABSENT && d->backends[i].state != BACKEND_PROBING)
			device_config_repeat(&d->backends[i]);
}
