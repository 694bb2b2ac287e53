/* SPDX-License-Identifier: Apache-2.0 */
/* One virtual machine put together: what main.c makes, and what the bus, the descriptor socket and the guest do to it. */
#ifndef CORE_CORE_H
#define CORE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "boot.h"
#include "bus.h"
#include "device.h"
#include "end.h"
#include "flight.h"
#include "loop.h"
#include "loop_meter.h"
#include "options.h"

struct chipset;
struct cpuid_model;
struct pci_bus;
struct ram;
struct sandbox_filter;
struct space;
struct vcpus;
struct vm;
struct watch;

enum core_state {
	CORE_WAITING, /* not every device was there yet; the guest can't run. Ends READY */
	CORE_READY, /* the vCPUs wait at their gate, or run. Ends ENDING with the guest, or with the process */
	CORE_ENDING, /* the guest is over, its last console output is being written. Ends ENDED */
	CORE_ENDED,  /* GUEST_ENDED was sent; waits for SHUTDOWN. Without a bus the process exits */
};

/* A device, and what holds of it now: each new connection of the bus is told it, since nobody can know what of
 * the last one's messages arrived. */
struct core_device {
	struct core *core;
	struct device *device;
	struct bus_msg msg;  /* DEVICE_UP or DEVICE_DOWN; BUS_NONE while a back end is on its way */
	struct bus_msg hung; /* DEVICE_HUNG, of the present back end; or BUS_NONE */
};

struct core {
	const struct options *opts;
	enum core_state state;
	struct loop *loop;
	struct loop_meter meter; /* of it */
	struct end end;
	struct ram *ram;
	struct space *pio, *mmio;
	struct vm *vm;
	struct pci_bus *pci;
	struct chipset *chipset;
	struct cpuid_model *cpuid;
	struct vcpus *vcpus;
	struct watch *watch;
	struct boot_entry entry;
	struct core_device devices[OPTIONS_DEVICES_MAX];
	struct sandbox_filter *steady, *vcpu; /* NULL: no sandbox */
	struct bus *bus;                      /* NULL: by hand */
	struct loop_fd *desc_watch;
	struct loop_timer *drain_timer;
	struct loop_bh check;  /* looks whether all devices are there now */
	struct flight *flight; /* what is left behind when the core dies */
	struct flight_ring log;
	int exit_status;
};

/* Exit statuses besides 0 and 1; vmm-core(8) says when. */
enum core_exit { EXIT_USAGE = 2, EXIT_PANIC = 3, EXIT_CRASH = 4 };

/* Makes the machine: RAM, kernel, tables, KVM, models. 0, or logs, leaves an exit status and returns -errno. */
int core_new(struct core *core, const struct options *opts);

/* Declared devices get a life each; sockets[i] is a connection for device i, or -1. Takes the sockets over. */
int core_add_devices(struct core *core, int *sockets);

/* Lets the vCPUs into the guest, or out of it. -EAGAIN while devices are awaited, -ESHUTDOWN once the guest has ended. */
int core_resume(struct core *core);
int core_pause(struct core *core);

/* The declared device of that id, of at most len bytes; NULL if there is none. */
struct core_device *core_find_device(struct core *core, const char *id, size_t len);

/* Ends the process's loop with that exit status. */
void core_quit(struct core *core, int status);

/* ---- control.c: the bus ---- */

int control_start(struct core *core);
void control_ready(struct core *core);
void control_device_up(struct core_device *d, bool resumed, uint64_t handshake_ns);
void control_device_down(struct core_device *d, const char *reason);
void control_device_hung(struct core_device *d, unsigned queue, uint64_t stalled_ns, const char *reason);
/* A new connection came for it: what was said of the last one holds no more. */
void control_device_pending(struct core_device *d);
void control_guest_ended(struct core *core);

/* ---- attach.c: the descriptor socket ---- */

int attach_start(struct core *core);

/* ---- stats.c ---- */

/* Fills msg with the core's counters: any that do not fit are left out. */
void stats_fill(const struct core *core, struct bus_msg *msg);

#endif
