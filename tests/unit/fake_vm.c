/* SPDX-License-Identifier: Apache-2.0 */
/* The machine of fake_vm.h: vm.h's functions without KVM. */
#include "fake_vm.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

#include "kick.h"
#include "layout.h"
#include "lock.h"

static struct lock lock = LOCK_INIT;

static int kick_index(const struct vm *vm, uint64_t addr)
{
	for (unsigned i = 0; i < vm->n_kicks; i++)
		if (vm->kicks[i].addr == addr)
			return (int)i;
	return -1;
}

const struct vm_kick *fake_kick(const struct vm *vm, uint64_t addr)
{
	int i = kick_index(vm, addr);

	return i < 0 ? NULL : &vm->kicks[i];
}

int vm_add_kick(struct vm *vm, const struct vm_kick *kick)
{
	if (kick_index(vm, kick->addr) >= 0)
		return -EEXIST;
	vm->kicks[vm->n_kicks++] = *kick;
	return 0;
}

int vm_del_kick(struct vm *vm, const struct vm_kick *kick)
{
	int i = kick_index(vm, kick->addr);

	if (i < 0 || vm->kicks[i].fd != kick->fd)
		return -ENOENT;
	vm->kicks[i] = vm->kicks[--vm->n_kicks];
	return 0;
}

int vm_msi_alloc(struct vm *vm, uint32_t *gsi)
{
	for (uint32_t i = 0; i < FAKE_MAX; i++) {
		if (vm->msi[i].used)
			continue;
		vm->msi[i].used = true;
		*gsi = i;
		return 0;
	}
	return -ENOSPC;
}

void vm_msi_free(struct vm *vm, uint32_t gsi)
{
	cr_assert(vm->msi[gsi].used);
	memset(&vm->msi[gsi], 0, sizeof(vm->msi[gsi]));
}

int vm_msi_set(struct vm *vm, uint32_t gsi, uint64_t addr, uint32_t data)
{
	void (*meanwhile)(void) = vm->meanwhile;

	vm->meanwhile = NULL;
	if (meanwhile)
		meanwhile();
	lock_take(&lock);
	vm->msi[gsi].set = true;
	vm->msi[gsi].addr = addr;
	vm->msi[gsi].data = data;
	lock_drop(&lock);
	return 0;
}

static int irqfd_index(const struct vm *vm, int fd)
{
	for (unsigned i = 0; i < vm->n_irqfds; i++)
		if (vm->irqfds[i].fd == fd)
			return (int)i;
	return -1;
}

bool fake_irqfd(const struct vm *vm, int fd, uint32_t *gsi)
{
	int i;

	lock_take(&lock);
	i = irqfd_index(vm, fd);
	if (i >= 0)
		*gsi = vm->irqfds[i].gsi;
	lock_drop(&lock);
	return i >= 0;
}

/* As KVM: an eventfd has one irqfd at most. */
int vm_add_irqfd(struct vm *vm, uint32_t gsi, int fd)
{
	int r = -EBUSY;

	lock_take(&lock);
	if (irqfd_index(vm, fd) < 0) {
		vm->irqfds[vm->n_irqfds++] = (struct fake_irqfd) { gsi, fd };
		r = 0;
	}
	lock_drop(&lock);
	return r;
}

int vm_del_irqfd(struct vm *vm, uint32_t gsi, int fd)
{
	int i, r = -ENOENT;

	lock_take(&lock);
	i = irqfd_index(vm, fd);
	if (i >= 0 && vm->irqfds[i].gsi == gsi) {
		vm->irqfds[i] = vm->irqfds[--vm->n_irqfds];
		r = 0;
	}
	lock_drop(&lock);
	return r;
}

static void ignore_end(void *arg)
{
	(void)arg;
}

void machine_init(struct machine *m)
{
	memset(m, 0, sizeof(*m));
	cr_assert_eq(loop_new("test", &m->loop), 0);
	end_init(&m->end, m->loop, ignore_end, NULL);
	cr_assert_eq(space_new(0x10000, &m->pio), 0);
	cr_assert_eq(space_new(0, &m->mmio), 0);
	cr_assert_eq(kick_init(), 0);
	space_thread_enter();
	cr_assert_eq(pci_bus_new(m->pio, m->mmio, &m->end, &m->pci), 0);
}

void machine_fini(struct machine *m)
{
	pci_bus_free(m->pci);
	space_thread_leave();
	space_free(m->pio);
	space_free(m->mmio);
	loop_free(m->loop);
}

void machine_settle(struct machine *m)
{
	/* Handlers post to the loop at most twice in a row, so a few passes are enough. */
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(loop_run_once(m->loop, 0), 0);
}

uint64_t guest_in(struct machine *m, uint16_t port, unsigned size)
{
	uint64_t value = 0;

	space_access(m->pio, port, &value, size, false);
	return value;
}

void guest_out(struct machine *m, uint16_t port, unsigned size, uint64_t value)
{
	space_access(m->pio, port, &value, size, true);
}

uint64_t guest_read(struct machine *m, uint64_t addr, unsigned size)
{
	uint64_t value = 0;

	space_access(m->mmio, addr, &value, size, false);
	return value;
}

void guest_write(struct machine *m, uint64_t addr, unsigned size, uint64_t value)
{
	space_access(m->mmio, addr, &value, size, true);
}

uint64_t guest_config(struct machine *m, unsigned slot, unsigned off, unsigned size)
{
	return guest_read(m, LAYOUT_ECAM_START + (slot << 15) + off, size);
}

void guest_set_config(struct machine *m, unsigned slot, unsigned off, unsigned size, uint64_t value)
{
	guest_write(m, LAYOUT_ECAM_START + (slot << 15) + off, size, value);
}

bool event_taken(int fd)
{
	eventfd_t value;

	return eventfd_read(fd, &value) == 0;
}
