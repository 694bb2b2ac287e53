/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KVM machine. The routing table is kept whole here because KVM only takes it whole: a change rebuilds it in
 * memory that was set aside at the start and hands it over under the leaf lock, so that two changes can't overtake
 * each other. The call waits for the kernel's own readers (microseconds), never for a process.
 */
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "clean.h"
#include "layout.h"
#include "lock.h"
#include "num.h"
#include "ram.h"

#define MSI_MAX    1024
#define PINS       24 /* of the IOAPIC */
#define PIC_PINS   8
#define ROUTES_MAX (PINS + 2 * PIC_PINS + MSI_MAX)

struct msi {
	bool taken;
	bool set;
	uint64_t addr;
	uint32_t data;
};

struct vm {
	int kvm_fd;
	int fd;
	struct lock lock;
	struct msi msi[MSI_MAX] GUARDED_BY(lock);
	struct kvm_irq_routing *routes PT_GUARDED_BY(lock); /* ROUTES_MAX entries */
};

static int call_failed(char *err, size_t err_size, const char *what)
{
	int rc = -errno;

	snprintf(err, err_size, "%s: %s", what, strerror(-rc));
	return rc;
}

/* Everything that is relied on, so that an old kernel is refused by name and not by a strange failure later. */
static int check_capabilities(int kvm_fd, char *err, size_t err_size)
{
	static const struct {
		int cap;
		const char *name;
	} needed[] = {
		{ KVM_CAP_IRQCHIP, "IRQCHIP" },
		{ KVM_CAP_USER_MEMORY, "USER_MEMORY" },
		{ KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR" },
		{ KVM_CAP_SET_IDENTITY_MAP_ADDR, "SET_IDENTITY_MAP_ADDR" },
		{ KVM_CAP_EXT_CPUID, "EXT_CPUID" },
		{ KVM_CAP_PIT2, "PIT2" },
		{ KVM_CAP_IRQ_ROUTING, "IRQ_ROUTING" },
		{ KVM_CAP_IRQFD, "IRQFD" },
		{ KVM_CAP_IOEVENTFD, "IOEVENTFD" },
		{ KVM_CAP_IOEVENTFD_ANY_LENGTH, "IOEVENTFD_ANY_LENGTH" },
		{ KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT" },
	};
	int version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);

	if (version < 0)
		return call_failed(err, err_size, "this is no KVM device");
	if (version != KVM_API_VERSION) {
		snprintf(err, err_size, "KVM API version %d, need %d", version, KVM_API_VERSION);
		return -ENOTSUP;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(needed); i++) {
		if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, needed[i].cap) > 0)
			continue;
		snprintf(err, err_size, "KVM lacks the capability %s", needed[i].name);
		return -ENOTSUP;
	}
	return 0;
}

static int add_memory(struct vm *vm, const struct ram *ram)
{
	struct mem_region region[RAM_REGIONS_MAX];
	unsigned n = ram_regions(ram, region);

	for (unsigned i = 0; i < n; i++) {
		struct kvm_userspace_memory_region slot = {
			.slot = i,
			.guest_phys_addr = region[i].gpa,
			.memory_size = region[i].size,
			.userspace_addr = region[i].user_addr,
		};

		if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			return -errno;
	}
	return 0;
}

static struct kvm_irq_routing_entry *next_route(struct kvm_irq_routing *routes, uint32_t gsi, uint32_t type)
{
	struct kvm_irq_routing_entry *e = &routes->entries[routes->nr++];

	*e = (struct kvm_irq_routing_entry) { .gsi = gsi, .type = type };
	return e;
}

static void route_chip(struct kvm_irq_routing *routes, uint32_t gsi, uint32_t chip, uint32_t pin)
{
	struct kvm_irq_routing_entry *e = next_route(routes, gsi, KVM_IRQ_ROUTING_IRQCHIP);

	e->u.irqchip.irqchip = chip;
	e->u.irqchip.pin = pin;
}

/* As on every PC: lines 0-15 to the PICs, all to the IOAPIC, the PIT's line 0 there on pin 2 (the MADT says so). */
static void route_lines(struct kvm_irq_routing *routes)
{
	for (uint32_t i = 0; i < PIC_PINS; i++) {
		if (i != 2) /* the cascade */
			route_chip(routes, i, KVM_IRQCHIP_PIC_MASTER, i);
		route_chip(routes, PIC_PINS + i, KVM_IRQCHIP_PIC_SLAVE, i);
	}
	for (uint32_t i = 0; i < PINS; i++) {
		if (i != 2)
			route_chip(routes, i, KVM_IRQCHIP_IOAPIC, i == 0 ? 2 : i);
	}
}

static int publish_routes(struct vm *vm) REQUIRES(vm->lock)
{
	vm->routes->nr = 0;
	vm->routes->flags = 0;
	route_lines(vm->routes);
	for (uint32_t i = 0; i < MSI_MAX; i++) {
		const struct msi *m = &vm->msi[i];
		struct kvm_irq_routing_entry *e;

		if (!m->set)
			continue;
		e = next_route(vm->routes, LAYOUT_GSI_MSI + i, KVM_IRQ_ROUTING_MSI);
		e->u.msi.address_lo = (uint32_t)m->addr;
		e->u.msi.address_hi = (uint32_t)(m->addr >> 32);
		e->u.msi.data = m->data;
	}
	return ioctl(vm->fd, KVM_SET_GSI_ROUTING, vm->routes) < 0 ? -errno : 0;
}

static int make_irqchips(struct vm *vm, char *err, size_t err_size)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY }; /* port 0x61 with it */
	int rc;

	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return call_failed(err, err_size, "KVM_CREATE_IRQCHIP");
	if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit) < 0)
		return call_failed(err, err_size, "KVM_CREATE_PIT2");
	lock_take(&vm->lock);
	rc = publish_routes(vm);
	lock_drop(&vm->lock);
	if (rc)
		snprintf(err, err_size, "KVM_SET_GSI_ROUTING: %s", strerror(-rc));
	return rc;
}

static int set_up(struct vm *vm, const struct ram *ram, char *err, size_t err_size)
{
	uint64_t identity = LAYOUT_KVM_IDENTITY;
	int rc;

	vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		return call_failed(err, err_size, "KVM_CREATE_VM");
	fcntl(vm->fd, F_SETFD, FD_CLOEXEC);
	if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
		return call_failed(err, err_size, "KVM_SET_IDENTITY_MAP_ADDR");
	if (ioctl(vm->fd, KVM_SET_TSS_ADDR, LAYOUT_KVM_TSS) < 0)
		return call_failed(err, err_size, "KVM_SET_TSS_ADDR");
	rc = add_memory(vm, ram);
	if (rc) {
		snprintf(err, err_size, "KVM_SET_USER_MEMORY_REGION: %s", strerror(-rc));
		return rc;
	}
	return make_irqchips(vm, err, err_size);
}

int vm_new(int kvm_fd, const struct ram *ram, struct vm **out, char *err, size_t err_size)
{
	struct kvm_irq_routing *routes;
	struct vm *vm;
	int rc = check_capabilities(kvm_fd, err, err_size);

	if (rc)
		return rc;
	vm = calloc(1, sizeof(*vm));
	routes = calloc(1, sizeof(*routes) + ROUTES_MAX * sizeof(routes->entries[0]));
	if (!vm || !routes) {
		free(vm);
		free(routes);
		snprintf(err, err_size, "no memory for the machine");
		return -ENOMEM;
	}
	vm->kvm_fd = kvm_fd;
	vm->fd = -1;
	lock_init(&vm->lock);
	lock_take(&vm->lock);
	vm->routes = routes;
	lock_drop(&vm->lock);
	rc = set_up(vm, ram, err, err_size);
	if (rc) {
		vm_free(vm);
		return rc;
	}
	*out = vm;
	return 0;
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	if (vm->fd >= 0)
		close(vm->fd);
	lock_take(&vm->lock);
	free(vm->routes);
	vm->routes = NULL;
	lock_drop(&vm->lock);
	lock_destroy(&vm->lock);
	free(vm);
}

int vm_fd(const struct vm *vm)
{
	return vm->fd;
}

int vm_kvm_fd(const struct vm *vm)
{
	return vm->kvm_fd;
}

static int kick_ioctl(struct vm *vm, const struct vm_kick *kick, uint32_t flags)
{
	struct kvm_ioeventfd io = {
		.datamatch = kick->match ? kick->value : 0,
		.addr = kick->addr,
		.len = kick->len,
		.fd = kick->fd,
		.flags = flags,
	};

	if (kick->bus == VM_PIO)
		io.flags |= KVM_IOEVENTFD_FLAG_PIO;
	if (kick->match)
		io.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
	return ioctl(vm->fd, KVM_IOEVENTFD, &io) < 0 ? -errno : 0;
}

int vm_add_kick(struct vm *vm, const struct vm_kick *kick)
{
	return kick_ioctl(vm, kick, 0);
}

int vm_del_kick(struct vm *vm, const struct vm_kick *kick)
{
	return kick_ioctl(vm, kick, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

void vm_set_irq(struct vm *vm, uint32_t gsi, bool level)
{
	struct kvm_irq_level line = { .irq = gsi, .level = level };

	ioctl(vm->fd, KVM_IRQ_LINE, &line); /* can't fail for a line that exists */
}

int vm_msi_alloc(struct vm *vm, uint32_t *gsi)
{
	int rc = -ENOSPC;

	lock_take(&vm->lock);
	for (uint32_t i = 0; i < MSI_MAX; i++) {
		if (vm->msi[i].taken)
			continue;
		vm->msi[i] = (struct msi) { .taken = true };
		*gsi = LAYOUT_GSI_MSI + i;
		rc = 0;
		break;
	}
	lock_drop(&vm->lock);
	return rc;
}

/* The entry of an allocated GSI, or NULL. */
static struct msi *msi_at(struct vm *vm, uint32_t gsi) REQUIRES(vm->lock)
{
	if (gsi < LAYOUT_GSI_MSI || gsi - LAYOUT_GSI_MSI >= MSI_MAX || !vm->msi[gsi - LAYOUT_GSI_MSI].taken)
		return NULL;
	return &vm->msi[gsi - LAYOUT_GSI_MSI];
}

/* Changes an allocated GSI's entry; the old one comes back if KVM refuses the new. */
static int msi_change(struct vm *vm, uint32_t gsi, struct msi to)
{
	struct msi *m, old;
	int rc = 0;

	lock_take(&vm->lock);
	m = msi_at(vm, gsi);
	if (!m) {
		lock_drop(&vm->lock);
		return -ENOENT;
	}
	old = *m;
	*m = to;
	if (old.set != to.set || (to.set && (old.addr != to.addr || old.data != to.data)))
		rc = publish_routes(vm);
	if (rc)
		*m = old;
	lock_drop(&vm->lock);
	return rc;
}

void vm_msi_free(struct vm *vm, uint32_t gsi)
{
	msi_change(vm, gsi, (struct msi) { .taken = false });
}

int vm_msi_set(struct vm *vm, uint32_t gsi, uint64_t addr, uint32_t data)
{
	return msi_change(vm, gsi, (struct msi) { .taken = true, .set = true, .addr = addr, .data = data });
}

static int irqfd_ioctl(struct vm *vm, uint32_t gsi, int fd, uint32_t flags)
{
	struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = gsi, .flags = flags };

	return ioctl(vm->fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

int vm_add_irqfd(struct vm *vm, uint32_t gsi, int fd)
{
	return irqfd_ioctl(vm, gsi, fd, 0);
}

int vm_del_irqfd(struct vm *vm, uint32_t gsi, int fd)
{
	return irqfd_ioctl(vm, gsi, fd, KVM_IRQFD_FLAG_DEASSIGN);
}
