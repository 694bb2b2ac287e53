/* SPDX-License-Identifier: Apache-2.0 */
/* A KVM machine that only remembers what was asked of it, and a bus around it, for tests of the core's models. */
#ifndef TESTS_FAKE_VM_H
#define TESTS_FAKE_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "end.h"
#include "loop.h"
#include "pci.h"
#include "space.h"
#include "vm.h"

#define FAKE_MAX 1024

struct fake_irqfd {
	uint32_t gsi;
	int fd;
};

/* Counters and tables under a lock of its own, because models call from several threads. */
struct vm {
	void (*meanwhile)(void); /* runs once within the next vm_msi_set: what another vCPU does just then */
	struct vm_kick kicks[FAKE_MAX];
	unsigned n_kicks;
	struct fake_irqfd irqfds[FAKE_MAX];
	unsigned n_irqfds;
	struct {
		bool used, set;
		uint64_t addr;
		uint32_t data;
	} msi[FAKE_MAX];
};

/* The kick at addr, or NULL; whether fd is an irqfd now, and on which GSI. */
const struct vm_kick *fake_kick(const struct vm *vm, uint64_t addr);
bool fake_irqfd(const struct vm *vm, int fd, uint32_t *gsi);

struct machine {
	struct vm vm;
	struct loop *loop;
	struct end end;
	struct space *pio, *mmio;
	struct pci_bus *pci;
};

void machine_init(struct machine *m);
void machine_fini(struct machine *m);

/* Runs the loop until nothing is ready. */
void machine_settle(struct machine *m);

/* A guest's accesses, as a vCPU makes them. */
uint64_t guest_in(struct machine *m, uint16_t port, unsigned size);
void guest_out(struct machine *m, uint16_t port, unsigned size, uint64_t value);
uint64_t guest_read(struct machine *m, uint64_t addr, unsigned size);
void guest_write(struct machine *m, uint64_t addr, unsigned size, uint64_t value);

/* Configuration space of a slot, by ECAM. */
uint64_t guest_config(struct machine *m, unsigned slot, unsigned off, unsigned size);
void guest_set_config(struct machine *m, unsigned slot, unsigned off, unsigned size, uint64_t value);

/* Whether an eventfd is signalled; it is empty afterwards. */
bool event_taken(int fd);

#endif
