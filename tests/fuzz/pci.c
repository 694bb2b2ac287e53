/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz-pci: a guest's accesses to PCI configuration space, to BARs, virtio registers and MSI-X tables of vmm-core, as a
 * sequence, while the device behind them comes up, changes and resets; KVM only remembers.
 *
 * Nothing that the core asked KVM for is left behind, nor asked for twice; what is live was negotiated.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

#include "end.h"
#include "kick.h"
#include "layout.h"
#include "loop.h"
#include "msix.h"
#include "pci.h"
#include "space.h"
#include "virtio_pci.h"
#include "vm.h"

#include "fuzz.h"
#include "still.h"

#define SLOT     1
#define QUEUES   4
#define BAR_SIZE 0x10000U
#define MSIX_AT  0x8000U /* as virtio_pci_priv.h has it */
#define PBA_AT   0xc000U
#define OFFERED  (1ULL << VIRTIO_F_VERSION_1 | 1ULL << 29 | 1ULL << 11)
#define WCE_OFF  32
#define KEPT     64

/* ---- KVM ---- */

struct vm {
	struct vm_kick kicks[KEPT];
	unsigned n_kicks;
	struct {
		uint32_t gsi;
		int fd;
	} irqfds[KEPT];
	unsigned n_irqfds;
	bool msi[KEPT], set[KEPT];
};

static struct vm vm;

static int find_kick(const struct vm *v, const struct vm_kick *k)
{
	for (unsigned i = 0; i < v->n_kicks; i++)
		if (v->kicks[i].addr == k->addr && v->kicks[i].bus == k->bus)
			return (int)i;
	return -1;
}

int vm_add_kick(struct vm *v, const struct vm_kick *kick)
{
	if (find_kick(v, kick) >= 0)
		return -EEXIST;
	MUST(v->n_kicks < KEPT);
	v->kicks[v->n_kicks++] = *kick;
	return 0;
}

int vm_del_kick(struct vm *v, const struct vm_kick *kick)
{
	int i = find_kick(v, kick);

	MUST(i >= 0 && v->kicks[i].fd == kick->fd);
	v->kicks[i] = v->kicks[--v->n_kicks];
	return 0;
}

int vm_msi_alloc(struct vm *v, uint32_t *gsi)
{
	for (uint32_t i = 0; i < KEPT; i++) {
		if (v->msi[i])
			continue;
		v->msi[i] = true;
		*gsi = i;
		return 0;
	}
	return -ENOSPC;
}

void vm_msi_free(struct vm *v, uint32_t gsi)
{
	MUST(gsi < KEPT && v->msi[gsi]);
	v->msi[gsi] = v->set[gsi] = false;
}

int vm_msi_set(struct vm *v, uint32_t gsi, uint64_t addr, uint32_t data)
{
	(void)addr;
	(void)data;
	MUST(gsi < KEPT && v->msi[gsi]);
	v->set[gsi] = true;
	return 0;
}

/* As KVM, one for each eventfd; the core knows which it has. */
int vm_add_irqfd(struct vm *v, uint32_t gsi, int fd)
{
	MUST(gsi < KEPT && v->msi[gsi] && v->n_irqfds < KEPT);
	for (unsigned i = 0; i < v->n_irqfds; i++)
		MUST(v->irqfds[i].fd != fd);
	v->irqfds[v->n_irqfds].gsi = gsi;
	v->irqfds[v->n_irqfds++].fd = fd;
	return 0;
}

int vm_del_irqfd(struct vm *v, uint32_t gsi, int fd)
{
	for (unsigned i = 0; i < v->n_irqfds; i++)
		if (v->irqfds[i].fd == fd && v->irqfds[i].gsi == gsi) {
			v->irqfds[i] = v->irqfds[--v->n_irqfds];
			return 0;
		}
	MUST(!"an irqfd that is there");
	return -ENOENT;
}

/* In the place of kick.c's, which has a thread. */
int kick_init(void)
{
	return 0;
}

void kick_offer(int fd)
{
	MUST(fd >= 0);
}

/* ---- the machine ---- */

static struct machine {
	struct loop *loop;
	struct end end;
	struct space *pio, *mmio;
	struct pci_bus *pci;
} m;
static struct virtio_pci *t;
static unsigned oks, resets, writes;

static void on_driver_ok(void *arg)
{
	(void)arg;
	oks++;
}

static void on_reset(void *arg)
{
	(void)arg;
	resets++;
}

static void on_config(void *arg)
{
	(void)arg;
	writes++;
}

static void on_end(void *arg)
{
	(void)arg;
}

static void set_up(void)
{
	static const struct virtio_pci_ops ops = { .driver_ok = on_driver_ok,
						   .reset = on_reset,
						   .config_written = on_config };
	struct virtio_pci_args args = { .vm = &vm,
					.slot = SLOT,
					.device_id = 2,
					.class = 0x018000,
					.queues = QUEUES,
					.config_write_off = WCE_OFF,
					.config_write_len = 1,
					.config_write_max = 1,
					.config_write_feature = 11,
					.ops = &ops };
	uint8_t config[60];

	memset(&vm, 0, sizeof(vm));
	memset(&m.end, 0, sizeof(m.end));
	oks = resets = writes = 0;
	if (!m.mmio) {
		MUST(space_new(0x10000, &m.pio) == 0 && space_new(0, &m.mmio) == 0);
		space_thread_enter();
	}
	still_reset();
	MUST(loop_new("fuzz", &m.loop) == 0);
	end_init(&m.end, m.loop, on_end, NULL);
	MUST(pci_bus_new(m.pio, m.mmio, &m.end, &m.pci) == 0);
	args.bus = m.pci;
	args.loop = m.loop;
	MUST(virtio_pci_new(&args, &t) == 0);
	memset(config, 7, sizeof(config));
	virtio_pci_offer(t, OFFERED, config, sizeof(config));
	MUST(pci_bus_assign(m.pci) == 0);
}

static void settle(void)
{
	still_run(m.loop, 8);
}

/* ---- the guest ---- */

static uint64_t access_to(struct space *space, uint64_t addr, unsigned len, bool write, uint64_t value)
{
	space_access(space, addr, &value, len, write);
	return value;
}

static uint64_t bar(void)
{
	uint64_t at = pci_dev_bar(virtio_pci_dev(t), 0);

	return at == PCI_UNMAPPED ? LAYOUT_MMIO32_START : at;
}

static void set(uint64_t off, unsigned len, uint64_t value)
{
	access_to(m.mmio, bar() + off, len, true, value);
}

static unsigned some_len(struct input *in)
{
	uint8_t pick = in_u8(in);

	return pick < 200 ? 1U << pick % 4 : 1U + pick % 8U;
}

static uint64_t some_value(struct input *in)
{
	uint8_t pick = in_u8(in);

	return pick < 64    ? pick
	       : pick < 96  ? in_u16(in)
	       : pick < 128 ? in_u64(in)
	       : pick < 160 ? ~0ULL
			    : (uint64_t)in_u8(in) << 8;
}

static void op_config(struct input *in)
{
	uint8_t how = in_u8(in);
	unsigned slot = how & 2 ? in_u8(in) : SLOT;
	uint64_t off = how & 4 ? in_u16(in) : in_u8(in);

	access_to(m.mmio, LAYOUT_ECAM_START + (uint64_t)(slot << 15) + off, some_len(in), how & 1,
		  some_value(in));
}

/* The registers that matter most: command, BAR 0, MSI-X control, the window into the BAR. */
static void op_config_register(struct input *in)
{
	static const uint8_t bases[] = { PCI_COMMAND, PCI_BASE_ADDRESS_0, PCI_BASE_ADDRESS_0 + 4,
					 PCI_STATUS };
	struct pci_dev *dev = virtio_pci_dev(t);
	uint8_t how = in_u8(in);
	unsigned at = bases[how % 4];

	if (how & 64) {
		/* A capability and what lies in it. */
		at = pci_dev_get(dev, PCI_CAPABILITY_LIST, 1);
		for (unsigned i = how % 8; i && at; i--)
			at = pci_dev_get(dev, at + 1, 1);
		at += in_u8(in) % 20;
	}
	access_to(m.mmio, LAYOUT_ECAM_START + (SLOT << 15) + (at & 0xff), some_len(in), !(how & 128),
		  how & 8 ? LAYOUT_MMIO32_START + in_u8(in) * 0x8000ULL : some_value(in));
}

static void op_port(struct input *in)
{
	uint8_t how = in_u8(in);
	uint16_t port = how & 2 ? in_u16(in) : (uint16_t)(LAYOUT_PORT_PCI_ADDR + (how >> 2) % 8);
	uint64_t value = how & 128 ? 0x80000000U | SLOT << 11 | in_u8(in) : some_value(in);

	access_to(m.pio, port, some_len(in), how & 1, value);
}

static void op_bar(struct input *in)
{
	static const uint32_t areas[] = { 0, 0, 0, 0x1000, 0x2000, 0x3000, MSIX_AT, PBA_AT };
	uint8_t how = in_u8(in);
	uint64_t off = areas[how % 8] + in_u8(in);

	if (how & 64)
		off = in_u16(in);
	access_to(m.mmio, bar() + off, some_len(in), how & 8, some_value(in));
}

static void op_status(struct input *in)
{
	static const uint8_t steps[] = { 0, 1, 3, 11, 15, 0x80, 0x40, 0x47 };
	uint8_t how = in_u8(in);

	set(VIRTIO_PCI_COMMON_STATUS, 1, how < 240 ? steps[how % 8] : in_u8(in));
}

static void op_queue(struct input *in)
{
	uint8_t queue = in_u8(in);

	set(VIRTIO_PCI_COMMON_Q_SELECT, 2, queue < 250 ? queue % (QUEUES + 1) : in_u16(in));
	set(VIRTIO_PCI_COMMON_Q_SIZE, 2, queue & 64 ? in_u16(in) : 1U << queue % 10);
	set(VIRTIO_PCI_COMMON_Q_MSIX, 2, in_u8(in) % 8);
	set(VIRTIO_PCI_COMMON_Q_DESCLO, 8, some_value(in));
	set(VIRTIO_PCI_COMMON_Q_ENABLE, 2, queue & 128 ? in_u16(in) : 1);
}

static void op_go_live(struct input *in)
{
	uint8_t how = in_u8(in);

	set(VIRTIO_PCI_COMMON_STATUS, 1, 0);
	settle();
	if (resets)
		virtio_pci_reset_done(t);
	resets = 0;
	set(VIRTIO_PCI_COMMON_STATUS, 1, 3);
	for (unsigned i = 0; i < 2; i++) {
		set(VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		set(VIRTIO_PCI_COMMON_GF, 4, (how & 1 ? in_u64(in) : OFFERED) >> i * 32 & 0xffffffff);
	}
	set(VIRTIO_PCI_COMMON_STATUS, 1, 11);
	set(VIRTIO_PCI_COMMON_Q_SELECT, 2, how >> 1 & 3);
	set(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	set(VIRTIO_PCI_COMMON_STATUS, 1, 15);
}

static void op_vector(struct input *in)
{
	uint8_t how = in_u8(in);
	uint32_t at = MSIX_AT + how % (QUEUES + 2U) * MSIX_ENTRY_SIZE;

	set(at, 8, how & 64 ? in_u64(in) : 0xfee00000);
	set(at + 8, 4, in_u8(in));
	set(at + 12, 4, how >> 7);
}

/* ---- the core's main loop ---- */

static void op_loop(struct input *in)
{
	uint8_t how = in_u8(in), config[VIRTIO_PCI_CONFIG_MAX];
	uint32_t off, len;

	switch (how % 8) {
	case 0:
		if (resets)
			virtio_pci_reset_done(t);
		resets = 0;
		break;
	case 1:
		memset(config, how, sizeof(config));
		virtio_pci_offer(t, how & 64 ? in_u64(in) : OFFERED, config, 1 + in_u8(in));
		break;
	case 2:
		virtio_pci_needs_reset(t);
		break;
	case 3:
		if (virtio_pci_take_config_write(t, &off, &len, config))
			MUST(off >= WCE_OFF && off + len <= WCE_OFF + 1 && config[0] <= 1);
		break;
	case 4:
		virtio_pci_wire(t);
		break;
	default:
		break;
	}
	settle();
}

static void check(void)
{
	struct virtio_pci_queue queues[VIRTIO_PCI_QUEUES_MAX];
	uint64_t features, acked = 0, at = pci_dev_bar(virtio_pci_dev(t), 0);
	bool agreed = virtio_pci_get_acked(t, &acked);

	MUST(vm.n_irqfds <= QUEUES + 1 && vm.n_kicks <= QUEUES);
	settle();
	at = pci_dev_bar(virtio_pci_dev(t), 0);
	for (unsigned i = 0; i < vm.n_kicks; i++)
		MUST(at != PCI_UNMAPPED && vm.kicks[i].addr - at < BAR_SIZE);
	if (!virtio_pci_get_setup(t, &features, queues))
		return;
	MUST(agreed && features == acked && features & 1ULL << VIRTIO_F_VERSION_1);
	for (unsigned i = 0; i < VIRTIO_PCI_QUEUES_MAX; i++) {
		MUST(!queues[i].enabled || i < QUEUES);
		MUST(!queues[i].enabled || (queues[i].size && queues[i].size <= VIRTIO_PCI_QUEUE_SIZE_MAX));
		MUST(!queues[i].enabled || num_is_pow2(queues[i].size));
	}
}

static void (*const all[])(struct input *in) = {
	op_config, op_config_register, op_port,   op_bar,  op_bar,  op_status,
	op_queue,  op_go_live,         op_vector, op_loop, op_loop,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };

	if (len > 4096)
		return 0;
	set_up();
	settle();
	while (in.left) {
		all[in_below(&in, ARRAY_SIZE(all))](&in);
		check();
	}
	virtio_pci_free(t);
	MUST(!vm.n_kicks && !vm.n_irqfds);
	for (unsigned i = 0; i < KEPT; i++)
		MUST(!vm.msi[i]);
	pci_bus_free(m.pci);
	loop_free(m.loop);
	return 0;
}
