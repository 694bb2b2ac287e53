/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a virtio PCI transport, and what the main loop does to it. */
#include "virtio_pci.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fd.h"
#include "kick.h"
#include "layout.h"
#include "num.h"
#include "virtio_pci_priv.h"
#include "vm.h"

#define VENDOR_VIRTIO    0x1af4
#define DEVICE_MODERN    0x1040 /* plus the virtio device id */
#define SUBSYSTEM_MODERN 0x40
#define FEATURE(bit)     (1ULL << (bit))
#define FEATURES_DEVICE  ((FEATURE(24) - 1) | ~(FEATURE(50) - 1)) /* device types' own bits */

static_assert(VIRTIO_PCI_QUEUE_SIZE_MAX <= 32768 &&
		  !(VIRTIO_PCI_QUEUE_SIZE_MAX & (VIRTIO_PCI_QUEUE_SIZE_MAX - 1)),
	      "queue_size is a power of two");
static_assert(REG_NOTIFY_SIZE <= REG_MSIX - REG_NOTIFY && REG_MSIX_SIZE <= REG_PBA - REG_MSIX,
	      "the structures of the BAR don't overlap");

uint64_t virtio_pci_features(uint64_t features)
{
	return features &
	       (FEATURES_DEVICE | FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | FEATURE(VIRTIO_RING_F_EVENT_IDX) |
		FEATURE(VIRTIO_F_VERSION_1) | FEATURE(VIRTIO_F_RING_PACKED) | FEATURE(VIRTIO_F_IN_ORDER));
}

/* ---- ioeventfds ---- */

static uint64_t notify_base(const struct virtio_pci *t)
{
	uint64_t base = pci_dev_bar(&t->dev, REG_BAR);
	uint64_t end;

	if (!t->wired || base == PCI_UNMAPPED || base < LAYOUT_MMIO32_START ||
	    !num_add(base, REG_BAR_SIZE, &end) || end > LAYOUT_MMIO32_START + LAYOUT_MMIO32_SIZE)
		return PCI_UNMAPPED;
	return base + REG_NOTIFY;
}

static struct vm_kick kick_at(const struct virtio_pci *t, unsigned queue, uint64_t addr)
{
	return (struct vm_kick) { .bus = VM_MMIO, .addr = addr, .fd = t->kick[queue] };
}

/* Moves one queue's ioeventfd. True if it had one elsewhere: a kick may have hit neither place just then. */
static bool move_kick(struct virtio_pci *t, unsigned queue, uint64_t addr)
{
	struct vm_kick old = kick_at(t, queue, t->wired_at[queue]), new = kick_at(t, queue, addr);
	bool moved = t->wired_at[queue] != PCI_UNMAPPED;

	if (t->wired_at[queue] == addr)
		return false;
	if (moved)
		vm_del_kick(t->args.vm, &old);
	/* A place that is taken (the guest laid two BARs over each other) leaves this queue to exits. */
	t->wired_at[queue] = addr != PCI_UNMAPPED && vm_add_kick(t->args.vm, &new) == 0 ? addr : PCI_UNMAPPED;
	return moved;
}

static void follow_bar(void *arg)
{
	struct virtio_pci *t = arg;
	uint64_t base = notify_base(t);

	for (unsigned i = 0; i < t->args.queues; i++) {
		bool enabled;

		lock_take(&t->lock);
		enabled = t->queues[i].enabled;
		lock_drop(&t->lock);
		if (move_kick(t, i,
			      enabled && base != PCI_UNMAPPED ? base + i * REG_NOTIFY_EACH : PCI_UNMAPPED))
			kick_offer(t->kick[i]);
	}
}

static void pass_kicks(void *arg)
{
	struct virtio_pci *t = arg;

	for (unsigned i = 0; i < t->args.queues; i++)
		if (atomic_exchange(&t->kicked[i], false))
			kick_offer(t->kick[i]);
}

void virtio_pci_wire(struct virtio_pci *t)
{
	t->wired = true;
	follow_bar(t);
}

static void unwire(struct virtio_pci *t)
{
	t->wired = false;
	for (unsigned i = 0; i < t->args.queues; i++)
		move_kick(t, i, PCI_UNMAPPED);
}

/* ---- making one ---- */

static int add_cap(struct virtio_pci *t, uint8_t type, unsigned extra, uint32_t off, uint32_t len)
{
	unsigned size = sizeof(struct virtio_pci_cap) + extra;
	int cap = pci_dev_add_cap(&t->dev, PCI_CAP_ID_VNDR, size);

	if (cap < 0)
		return cap;
	pci_dev_set(&t->dev, (unsigned)cap + VIRTIO_PCI_CAP_LEN, 1, size, 0);
	pci_dev_set(&t->dev, (unsigned)cap + VIRTIO_PCI_CAP_CFG_TYPE, 1, type, 0);
	pci_dev_set(&t->dev, (unsigned)cap + VIRTIO_PCI_CAP_BAR, 1, REG_BAR, 0);
	pci_dev_set(&t->dev, (unsigned)cap + VIRTIO_PCI_CAP_OFFSET, 4, off, 0);
	pci_dev_set(&t->dev, (unsigned)cap + VIRTIO_PCI_CAP_LENGTH, 4, len, 0);
	return cap;
}

static int add_caps(struct virtio_pci *t)
{
	int notify, window;

	if (add_cap(t, VIRTIO_PCI_CAP_COMMON_CFG, 0, REG_COMMON, REG_COMMON_SIZE) < 0 ||
	    add_cap(t, VIRTIO_PCI_CAP_ISR_CFG, 0, REG_ISR, REG_ISR_SIZE) < 0 ||
	    add_cap(t, VIRTIO_PCI_CAP_DEVICE_CFG, 0, REG_DEVICE, REG_DEVICE_SIZE) < 0)
		return -ENOSPC;
	notify = add_cap(t, VIRTIO_PCI_CAP_NOTIFY_CFG, 4, REG_NOTIFY, t->args.queues * REG_NOTIFY_EACH);
	if (notify < 0)
		return notify;
	pci_dev_set(&t->dev, (unsigned)notify + VIRTIO_PCI_NOTIFY_CAP_MULT, 4, REG_NOTIFY_EACH, 0);

	window = add_cap(t, VIRTIO_PCI_CAP_PCI_CFG, 4, 0, 0);
	if (window < 0)
		return window;
	t->cfg_cap = (unsigned)window;
	pci_dev_set(&t->dev, t->cfg_cap + VIRTIO_PCI_CAP_BAR, 1, 0, 0xff);
	for (unsigned off = VIRTIO_PCI_CAP_OFFSET; off <= sizeof(struct virtio_pci_cap); off += 4)
		pci_dev_set(&t->dev, t->cfg_cap + off, 4, 0, UINT32_MAX);
	return 0;
}

static int make_eventfds(struct virtio_pci *t)
{
	for (unsigned i = 0; i <= t->args.queues; i++) {
		t->call[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (t->call[i] < 0)
			return -errno;
		if (i == t->args.queues)
			break;
		t->kick[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (t->kick[i] < 0)
			return -errno;
	}
	return 0;
}

static int make_parts(struct virtio_pci *t)
{
	const struct pci_id id = { .vendor = VENDOR_VIRTIO,
				   .device = (uint16_t)(DEVICE_MODERN + t->args.device_id),
				   .subvendor = VENDOR_VIRTIO,
				   .subdevice = (uint16_t)(SUBSYSTEM_MODERN + t->args.device_id),
				   .class = t->args.class,
				   .revision = 1 };
	const struct msix_args msix = { .vm = t->args.vm,
					.dev = &t->dev,
					.bar = REG_BAR,
					.table_off = REG_MSIX,
					.pba_off = REG_PBA,
					.vectors = t->args.queues + 1,
					.fds = t->call,
					.sources = t->args.queues + 1 };
	int r;

	pci_dev_init(&t->dev, &id, &virtio_pci_dev_ops, t);
	pci_dev_add_bar(&t->dev, REG_BAR, REG_BAR_SIZE);
	r = make_eventfds(t);
	if (r == 0)
		r = add_caps(t);
	if (r == 0)
		r = msix_new(&msix, &t->msix);
	return r;
}

int virtio_pci_new(const struct virtio_pci_args *args, struct virtio_pci **out)
{
	struct virtio_pci *t;
	int r;

	if (args->queues == 0 || args->queues > VIRTIO_PCI_QUEUES_MAX || args->config_write_len > 32)
		return -EINVAL;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->args = *args;
	lock_init(&t->lock);
	loop_bh_init(&t->moved, args->loop, follow_bar, t);
	loop_bh_init(&t->kicks, args->loop, pass_kicks, t);
	for (unsigned i = 0; i < VIRTIO_PCI_QUEUES_MAX; i++) {
		t->kick[i] = t->call[i] = t->call[i + 1] = -1;
		t->wired_at[i] = PCI_UNMAPPED;
	}
	lock_take(&t->lock);
	virtio_pci_clear(t);
	lock_drop(&t->lock);
	r = make_parts(t);
	if (r == 0)
		r = pci_bus_attach(args->bus, args->slot, &t->dev);
	if (r < 0) {
		t->args.bus = NULL;
		virtio_pci_free(t);
		return r;
	}
	*out = t;
	return 0;
}

void virtio_pci_free(struct virtio_pci *t)
{
	if (!t)
		return;
	if (t->args.bus)
		pci_bus_detach(t->args.bus, t->args.slot);
	loop_bh_cancel(&t->moved);
	loop_bh_cancel(&t->kicks);
	unwire(t);
	msix_free(t->msix);
	for (unsigned i = 0; i <= t->args.queues; i++) {
		if (t->call[i] >= 0)
			close(t->call[i]);
		if (i < t->args.queues && t->kick[i] >= 0)
			close(t->kick[i]);
	}
	lock_destroy(&t->lock);
	free(t);
}

/* ---- the device's side ---- */

static void config_interrupt(struct virtio_pci *t)
{
	atomic_fetch_or(&t->isr, ISR_CONFIG);
	t->config_interrupts++;
	fd_event_set(t->call[t->args.queues]);
}

void virtio_pci_offer(struct virtio_pci *t, uint64_t features, const uint8_t *config, unsigned len)
{
	uint8_t shown[VIRTIO_PCI_CONFIG_MAX] = { 0 };
	bool tell;

	len = MIN(len, VIRTIO_PCI_CONFIG_MAX);
	memcpy(shown, config, len);
	lock_take(&t->lock);
	t->offered = virtio_pci_features(features);
	if (t->state == VIRTIO_PCI_RESET || t->state == VIRTIO_PCI_SETUP)
		t->device_features = t->offered;
	/* What the driver wrote is newer than what the back end said before it was told. */
	for (unsigned i = 0; i < t->args.config_write_len && t->args.config_write_off + i < len; i++)
		if (t->config_dirty >> i & 1)
			shown[t->args.config_write_off + i] = t->config[t->args.config_write_off + i];
	tell = t->config_len != len || memcmp(t->config, shown, len);
	if (tell) {
		t->config_len = len;
		memcpy(t->config, shown, len);
		t->generation++;
		tell = t->state == VIRTIO_PCI_LIVE;
	}
	lock_drop(&t->lock);
	if (tell)
		config_interrupt(t);
}

bool virtio_pci_get_acked(struct virtio_pci *t, uint64_t *features)
{
	bool agreed;

	lock_take(&t->lock);
	agreed = t->state != VIRTIO_PCI_RESET && t->state != VIRTIO_PCI_SETUP;
	*features = t->driver_features;
	lock_drop(&t->lock);
	return agreed;
}

bool virtio_pci_get_setup(struct virtio_pci *t, uint64_t *features, struct virtio_pci_queue *queues)
{
	bool live;

	lock_take(&t->lock);
	live = t->state == VIRTIO_PCI_LIVE;
	*features = t->driver_features;
	memcpy(queues, t->queues, sizeof(t->queues));
	lock_drop(&t->lock);
	return live;
}

int virtio_pci_kick_fd(const struct virtio_pci *t, unsigned queue)
{
	return t->kick[queue];
}

int virtio_pci_call_fd(const struct virtio_pci *t, unsigned queue)
{
	return t->call[queue];
}

unsigned virtio_pci_queues(const struct virtio_pci *t)
{
	return t->args.queues;
}

void virtio_pci_reset_done(struct virtio_pci *t)
{
	unwire(t);
	msix_clear_sources(t->msix);
	for (unsigned i = 0; i <= t->args.queues; i++) {
		fd_event_clear(t->call[i]);
		if (i < t->args.queues) {
			t->kicked[i] = false;
			fd_event_clear(t->kick[i]);
		}
	}
	t->isr = 0;
	lock_take(&t->lock);
	if (t->state == VIRTIO_PCI_RESETTING)
		virtio_pci_clear(t);
	lock_drop(&t->lock);
}

void virtio_pci_needs_reset(struct virtio_pci *t)
{
	bool tell;

	lock_take(&t->lock);
	tell = t->state == VIRTIO_PCI_LIVE && !(t->status & VIRTIO_CONFIG_S_NEEDS_RESET);
	if (tell)
		t->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	lock_drop(&t->lock);
	if (tell)
		config_interrupt(t);
}

bool virtio_pci_take_config_write(struct virtio_pci *t, uint32_t *off, uint32_t *len, uint8_t *buf)
{
	uint64_t dirty;
	unsigned first, last;

	lock_take(&t->lock);
	dirty = t->config_dirty;
	t->config_dirty = 0;
	if (dirty) {
		first = (unsigned)__builtin_ctzll(dirty);
		last = 63 - (unsigned)__builtin_clzll(dirty);
		*off = t->args.config_write_off + first;
		*len = last - first + 1;
		memcpy(buf, t->config + *off, *len);
	}
	lock_drop(&t->lock);
	return dirty != 0;
}

void virtio_pci_get_stats(const struct virtio_pci *t, struct virtio_pci_stats *out)
{
	*out = (struct virtio_pci_stats) { .kicks_exited = t->kicks_exited,
					   .config_interrupts = t->config_interrupts,
					   .refused_writes = t->refused_writes };
}

struct pci_dev *virtio_pci_dev(struct virtio_pci *t)
{
	return &t->dev;
}
