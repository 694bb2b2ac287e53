/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers of the transport, as vCPUs see them. Reads of the common structure copy from an image of it, so
 * that any size and offset is harmless; writes are accepted only as the specification has drivers do them: whole
 * fields, 64-bit ones also in halves (virtio 1.2 §4.1.3.1). Handlers run under the leaf lock and say what is to
 * be done once it is dropped.
 */
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <string.h>

#include "num.h"
#include "virtio_pci_priv.h"

enum after { AFTER_NOTHING, AFTER_REFUSAL, AFTER_CLEAR, AFTER_RESET, AFTER_DRIVER_OK };

void virtio_pci_clear(struct virtio_pci *t)
{
	t->state = VIRTIO_PCI_RESET;
	t->status = 0;
	t->queue_select = 0;
	t->device_select = t->driver_select = 0;
	t->device_features = t->offered;
	t->driver_features = 0;
	t->config_dirty = 0;
	for (unsigned i = 0; i < t->args.queues; i++)
		t->queues[i] = (struct virtio_pci_queue) { .size = VIRTIO_PCI_QUEUE_SIZE_MAX };
}

/* ---- common configuration ---- */

static uint32_t feature_half(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> (select * 32)) : 0;
}

static void common_image(struct virtio_pci *t, uint8_t image[REG_COMMON_SIZE])
{
	struct virtio_pci_common_cfg c = { .num_queues = (uint16_t)t->args.queues,
					   .queue_msix_vector = VIRTIO_MSI_NO_VECTOR };

	lock_take(&t->lock);
	c.device_feature_select = t->device_select;
	c.device_feature = feature_half(t->device_features, t->device_select);
	c.guest_feature_select = t->driver_select;
	c.guest_feature = feature_half(t->driver_features, t->driver_select);
	c.device_status = t->status;
	c.config_generation = t->generation;
	c.queue_select = t->queue_select;
	if (t->queue_select < t->args.queues) {
		const struct virtio_pci_queue *q = &t->queues[t->queue_select];

		c.queue_size = q->size;
		c.queue_enable = q->enabled;
		c.queue_notify_off = t->queue_select;
		c.queue_desc_lo = (uint32_t)q->desc;
		c.queue_desc_hi = (uint32_t)(q->desc >> 32);
		c.queue_avail_lo = (uint32_t)q->avail;
		c.queue_avail_hi = (uint32_t)(q->avail >> 32);
		c.queue_used_lo = (uint32_t)q->used;
		c.queue_used_hi = (uint32_t)(q->used >> 32);
	}
	lock_drop(&t->lock);
	c.msix_config = msix_source(t->msix, t->args.queues);
	if (c.queue_select < t->args.queues)
		c.queue_msix_vector = msix_source(t->msix, c.queue_select);
	memset(image, 0, REG_COMMON_SIZE);
	memcpy(image, &c, sizeof(c));
}

static uint64_t common_read(struct virtio_pci *t, uint64_t off, unsigned size)
{
	uint8_t image[REG_COMMON_SIZE];
	uint64_t value = 0;

	common_image(t, image);
	memcpy(&value, image + off, size);
	return value;
}

static enum after write_device_select(struct virtio_pci *t, uint32_t value) REQUIRES(t->lock)
{
	t->device_select = value;
	return AFTER_NOTHING;
}

static enum after write_driver_select(struct virtio_pci *t, uint32_t value) REQUIRES(t->lock)
{
	t->driver_select = value;
	return AFTER_NOTHING;
}

/* Features are open until FEATURES_OK; what a live device was started with never changes under it. */
static enum after write_driver_features(struct virtio_pci *t, uint32_t value) REQUIRES(t->lock)
{
	unsigned shift = t->driver_select * 32;

	if (t->state != VIRTIO_PCI_SETUP || t->driver_select > 1)
		return AFTER_REFUSAL;
	t->driver_features = (t->driver_features & ~(0xffffffffULL << shift)) | (uint64_t)value << shift;
	return AFTER_NOTHING;
}

static bool features_acceptable(const struct virtio_pci *t) REQUIRES(t->lock)
{
	return !(t->driver_features & ~t->device_features) && t->driver_features >> VIRTIO_F_VERSION_1 & 1;
}

static enum after write_status(struct virtio_pci *t, uint32_t value) REQUIRES(t->lock)
{
	uint32_t set = value & ~(uint32_t)t->status;
	enum after after = AFTER_NOTHING;

	if (t->state == VIRTIO_PCI_RESETTING)
		return AFTER_REFUSAL;
	if (value == 0 && t->state == VIRTIO_PCI_LIVE) {
		t->state = VIRTIO_PCI_RESETTING;
		return AFTER_RESET;
	}
	if (value == 0) {
		virtio_pci_clear(t);
		return AFTER_CLEAR;
	}
	if (t->state == VIRTIO_PCI_RESET)
		t->state = VIRTIO_PCI_SETUP;
	if (set & VIRTIO_CONFIG_S_FEATURES_OK) {
		if (features_acceptable(t))
			t->state = VIRTIO_PCI_AGREED;
		else
			set &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
	}
	if (set & VIRTIO_CONFIG_S_DRIVER_OK) {
		if (t->state == VIRTIO_PCI_AGREED) {
			t->state = VIRTIO_PCI_LIVE;
			after = AFTER_DRIVER_OK;
		} else {
			set &= ~(uint32_t)VIRTIO_CONFIG_S_DRIVER_OK;
		}
	}
	t->status |= (uint8_t)(set & (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
				      VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK |
				      VIRTIO_CONFIG_S_FAILED));
	return after;
}

static enum after write_queue_select(struct virtio_pci *t, uint32_t value) REQUIRES(t->lock)
{
	t->queue_select = (uint16_t)value;
	return AFTER_NOTHING;
}

/* The selected queue, if its registers may be written now. */
static struct virtio_pci_queue *open_queue(struct virtio_pci *t) REQUIRES(t->lock)
{
	struct virtio_pci_queue *q = &t->queues[t->queue_select % VIRTIO_PCI_QUEUES_MAX];
	bool open = t->state == VIRTIO_PCI_SETUP || t->state == VIRTIO_PCI_AGREED;

	return open && t->queue_select < t->args.queues && !q->enabled ? q : NULL;
}

static enum after write_queue_size(struct virtio_pci *t, uint32_t value) REQUIRES(t->lock)
{
	struct virtio_pci_queue *q = open_queue(t);
	bool packed = t->driver_features >> VIRTIO_F_RING_PACKED & 1;

	if (!q || value == 0 || value > VIRTIO_PCI_QUEUE_SIZE_MAX || (!packed && !num_is_pow2(value)))
		return AFTER_REFUSAL;
	q->size = (uint16_t)value;
	return AFTER_NOTHING;
}

static enum after write_queue_enable(struct virtio_pci *t, uint32_t value) REQUIRES(t->lock)
{
	struct virtio_pci_queue *q = open_queue(t);

	if (!q || value != 1)
		return AFTER_REFUSAL;
	q->enabled = true;
	return AFTER_NOTHING;
}

enum half { LOW, HIGH };

static enum after write_half(uint64_t *field, uint32_t value, enum half half)
{
	if (!field)
		return AFTER_REFUSAL;
	*field = half == HIGH ? (*field & 0xffffffffULL) | (uint64_t)value << 32
			      : (*field & ~0xffffffffULL) | value;
	return AFTER_NOTHING;
}

#define QUEUE_ADDRESS_WRITER(name, field, half)                                                              \
	static enum after name(struct virtio_pci *t, uint32_t value) REQUIRES(t->lock)                       \
	{                                                                                                    \
		struct virtio_pci_queue *q = open_queue(t);                                                  \
		return write_half(q ? &q->field : NULL, value, half);                                        \
	}

QUEUE_ADDRESS_WRITER(write_desc_lo, desc, LOW)
QUEUE_ADDRESS_WRITER(write_desc_hi, desc, HIGH)
QUEUE_ADDRESS_WRITER(write_avail_lo, avail, LOW)
QUEUE_ADDRESS_WRITER(write_avail_hi, avail, HIGH)
QUEUE_ADDRESS_WRITER(write_used_lo, used, LOW)
QUEUE_ADDRESS_WRITER(write_used_hi, used, HIGH)

/* By offset in the common structure; what is not here is read-only or the middle of a field. */
static const struct {
	unsigned size;
	enum after (*write)(struct virtio_pci *t, uint32_t value);
} common_fields[REG_COMMON_SIZE] = {
	[VIRTIO_PCI_COMMON_DFSELECT] = { 4, write_device_select },
	[VIRTIO_PCI_COMMON_GFSELECT] = { 4, write_driver_select },
	[VIRTIO_PCI_COMMON_GF] = { 4, write_driver_features },
	[VIRTIO_PCI_COMMON_STATUS] = { 1, write_status },
	[VIRTIO_PCI_COMMON_Q_SELECT] = { 2, write_queue_select },
	[VIRTIO_PCI_COMMON_Q_SIZE] = { 2, write_queue_size },
	[VIRTIO_PCI_COMMON_Q_ENABLE] = { 2, write_queue_enable },
	[VIRTIO_PCI_COMMON_Q_DESCLO] = { 4, write_desc_lo },
	[VIRTIO_PCI_COMMON_Q_DESCHI] = { 4, write_desc_hi },
	[VIRTIO_PCI_COMMON_Q_AVAILLO] = { 4, write_avail_lo },
	[VIRTIO_PCI_COMMON_Q_AVAILHI] = { 4, write_avail_hi },
	[VIRTIO_PCI_COMMON_Q_USEDLO] = { 4, write_used_lo },
	[VIRTIO_PCI_COMMON_Q_USEDHI] = { 4, write_used_hi },
};

/* The two vector registers live in msix, whose lock must not nest in ours. */
static void write_vector(struct virtio_pci *t, uint64_t off, uint16_t vector)
{
	unsigned source = t->args.queues;

	if (off == VIRTIO_PCI_COMMON_Q_MSIX) {
		lock_take(&t->lock);
		source = t->queue_select;
		lock_drop(&t->lock);
		if (source >= t->args.queues)
			return;
	}
	msix_set_source(t->msix, source, vector);
}

static void carry_out(struct virtio_pci *t, enum after after)
{
	switch (after) {
	case AFTER_REFUSAL:
		t->refused_writes++;
		break;
	case AFTER_CLEAR:
		msix_clear_sources(t->msix);
		t->isr = 0;
		break;
	case AFTER_RESET:
		t->args.ops->reset(t->args.arg);
		break;
	case AFTER_DRIVER_OK:
		t->args.ops->driver_ok(t->args.arg);
		break;
	case AFTER_NOTHING:
		break;
	}
}

static void common_write(struct virtio_pci *t, uint64_t off, unsigned size, uint64_t value)
{
	enum after after;

	if (size == 8) {
		common_write(t, off, 4, (uint32_t)value);
		common_write(t, off + 4, 4, value >> 32);
	} else if (size == 2 && (off == VIRTIO_PCI_COMMON_MSIX || off == VIRTIO_PCI_COMMON_Q_MSIX)) {
		write_vector(t, off, (uint16_t)value);
	} else if (common_fields[off].write && common_fields[off].size == size) {
		lock_take(&t->lock);
		after = common_fields[off].write(t, (uint32_t)value);
		lock_drop(&t->lock);
		carry_out(t, after);
	} else {
		carry_out(t, AFTER_REFUSAL);
	}
}

/* ---- the other structures ---- */

static uint64_t isr_read(struct virtio_pci *t, uint64_t off, unsigned size)
{
	(void)size;
	return off == 0 ? atomic_exchange(&t->isr, 0) : 0;
}

static uint64_t device_read(struct virtio_pci *t, uint64_t off, unsigned size)
{
	uint64_t value = 0;

	lock_take(&t->lock);
	if (off < t->config_len)
		memcpy(&value, t->config + off, MIN(size, t->config_len - (unsigned)off));
	lock_drop(&t->lock);
	return value;
}

/* What the device type does not know stays here: a back end refuses it, and would be lost for a driver's mistake. */
static bool config_values_known(const struct virtio_pci *t, unsigned size, uint64_t value)
{
	for (unsigned i = 0; i < size; i++)
		if ((value >> 8 * i & 0xff) > t->args.config_write_max)
			return false;
	return true;
}

static void device_write(struct virtio_pci *t, uint64_t off, unsigned size, uint64_t value)
{
	uint64_t first = t->args.config_write_off, end = first + t->args.config_write_len;
	bool allowed;

	lock_take(&t->lock);
	allowed = off >= first && off + size <= MIN(end, t->config_len) &&
		  (t->state == VIRTIO_PCI_AGREED || t->state == VIRTIO_PCI_LIVE) &&
		  t->driver_features >> t->args.config_write_feature & 1 &&
		  config_values_known(t, size, value);
	if (allowed) {
		memcpy(t->config + off, &value, size);
		t->config_dirty |= ((1ULL << size) - 1) << (off - first);
	}
	lock_drop(&t->lock);
	if (allowed)
		t->args.ops->config_written(t->args.arg);
	else
		carry_out(t, AFTER_REFUSAL);
}

/* Here come only notifications that the kernel did not catch: before DRIVER_OK has been followed up, or just
 * after the BAR moved. The value is not looked at: the address tells the queue (§4.1.4.4). A vCPU writes to no eventfd that
 * a back end shares. */
static void notify_write(struct virtio_pci *t, uint64_t off, unsigned size, uint64_t value)
{
	uint64_t queue = off / REG_NOTIFY_EACH;

	(void)size;
	(void)value;
	if (queue >= t->args.queues) {
		carry_out(t, AFTER_REFUSAL);
		return;
	}
	t->kicks_exited++;
	t->kicked[queue] = true;
	loop_bh_post(&t->kicks);
}

static uint64_t table_read(struct virtio_pci *t, uint64_t off, unsigned size)
{
	return msix_table_read(t->msix, off, size);
}

static void table_write(struct virtio_pci *t, uint64_t off, unsigned size, uint64_t value)
{
	msix_table_write(t->msix, off, size, value);
}

static uint64_t pba_read(struct virtio_pci *t, uint64_t off, unsigned size)
{
	return msix_pba_read(t->msix, off, size);
}

static const struct region {
	uint64_t off, size;
	uint64_t (*read)(struct virtio_pci *t, uint64_t off, unsigned size);
	void (*write)(struct virtio_pci *t, uint64_t off, unsigned size, uint64_t value);
} regions[] = {
	{ REG_COMMON, REG_COMMON_SIZE, common_read, common_write },
	{ REG_ISR, REG_ISR_SIZE, isr_read, NULL },
	{ REG_DEVICE, REG_DEVICE_SIZE, device_read, device_write },
	{ REG_NOTIFY, REG_NOTIFY_SIZE, NULL, notify_write },
	{ REG_MSIX, REG_MSIX_SIZE, table_read, table_write },
	{ REG_PBA, REG_PBA_SIZE, pba_read, NULL },
};

static const struct region *region_at(uint64_t off, unsigned size)
{
	for (unsigned i = 0; i < ARRAY_SIZE(regions); i++)
		if (off >= regions[i].off && off + size <= regions[i].off + regions[i].size)
			return &regions[i];
	return NULL;
}

static uint64_t bar_read(void *arg, unsigned bar, uint64_t off, unsigned size)
{
	const struct region *r = region_at(off, size);

	(void)bar;
	return r && r->read ? r->read(arg, off - r->off, size) : 0;
}

static void bar_write(void *arg, unsigned bar, uint64_t off, unsigned size, uint64_t value)
{
	const struct region *r = region_at(off, size);

	(void)bar;
	if (r && r->write)
		r->write(arg, off - r->off, size, value);
	else
		carry_out(arg, AFTER_REFUSAL);
}

/* ---- configuration space ---- */

static bool touches(unsigned off, unsigned size, unsigned first, unsigned len)
{
	return off < first + len && off + size > first;
}

/* The access that VIRTIO_PCI_CAP_PCI_CFG describes now (§4.1.4.9); false if it is none. */
static bool window_target(const struct virtio_pci *t, uint32_t *off, uint32_t *len)
{
	uint32_t bar = pci_dev_get(&t->dev, t->cfg_cap + VIRTIO_PCI_CAP_BAR, 1);

	*off = pci_dev_get(&t->dev, t->cfg_cap + VIRTIO_PCI_CAP_OFFSET, 4);
	*len = pci_dev_get(&t->dev, t->cfg_cap + VIRTIO_PCI_CAP_LENGTH, 4);
	return bar == REG_BAR && (*len == 1 || *len == 2 || *len == 4) && *off % *len == 0 &&
	       *off < REG_BAR_SIZE;
}

static void config_reading(void *arg, unsigned off, unsigned size)
{
	struct virtio_pci *t = arg;
	unsigned data = t->cfg_cap + sizeof(struct virtio_pci_cap);
	uint32_t at, len;

	if (touches(off, size, data, 4) && window_target(t, &at, &len))
		pci_dev_store(&t->dev, data, (uint32_t)bar_read(t, REG_BAR, at, len));
}

static void config_written(void *arg, unsigned off, unsigned size)
{
	struct virtio_pci *t = arg;
	unsigned data = t->cfg_cap + sizeof(struct virtio_pci_cap);
	uint32_t at, len;

	if (touches(off, size, data, 4) && window_target(t, &at, &len))
		bar_write(t, REG_BAR, at, len,
			  pci_dev_get(&t->dev, data, 4) & (UINT32_MAX >> (32 - len * 8)));
	if (touches(off, size, PCI_COMMAND, 2) || touches(off, size, PCI_BASE_ADDRESS_0, 8))
		loop_bh_post(&t->moved);
	msix_config_written(t->msix, off, size);
}

const struct pci_dev_ops virtio_pci_dev_ops = {
	.bar_read = bar_read,
	.bar_write = bar_write,
	.config_reading = config_reading,
	.config_written = config_written,
};
