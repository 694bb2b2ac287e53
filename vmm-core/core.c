/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's life, from its making to the guest's end. The order of the making matters in two places. PCI
 * addresses are given out when every device was probed once, because only then are the devices' sizes known. And
 * the filters: the vCPU threads are made in stage one, the steady filter is put over all threads, and only then
 * each vCPU adds its own, since a filter can't be put over a thread that has one of its own.
 */
#include "core.h"

#include <errno.h>
#include <string.h>

#include "acpi.h"
#include "chipset.h"
#include "clock.h"
#include "cpuid.h"
#include "kick.h"
#include "log.h"
#include "num.h"
#include "pci.h"
#include "ram.h"
#include "sandbox.h"
#include "space.h"
#include "vcpu.h"
#include "vm.h"
#include "watch.h"

#define BACKEND_DEADLINE (10 * NS_PER_S) /* of one request; a reset includes the requests in flight */
#define DRAIN_DEADLINE   (2 * NS_PER_S)  /* for the console's reader, once the guest is over */

void core_quit(struct core *core, int status)
{
	core->exit_status = status;
	loop_stop(core->loop);
}

/* ---- the guest's end ---- */

/* What a process that was started by hand tells its caller. */
static int status_of(const struct end *end)
{
	switch (end_reason(end)) {
	case END_PANIC:
		return EXIT_PANIC;
	case END_TRIPLE_FAULT:
	case END_KVM_ERROR:
		return EXIT_CRASH;
	case END_DEBUG_EXIT:
		return (int)((end_value(end) * 2 + 1) & 0xff);
	case END_NONE:
	case END_POWEROFF:
	case END_RESET:
		break;
	}
	return 0;
}

static void on_drained(void *arg)
{
	struct core *core = arg;

	if (core->state != CORE_ENDING)
		return;
	core->state = CORE_ENDED;
	loop_disarm_timer(core->drain_timer);
	if (core->bus)
		control_guest_ended(core);
	else
		core_quit(core, status_of(&core->end));
}

static void on_end(void *arg)
{
	struct core *core = arg;

	if (core->state != CORE_READY)
		return;
	core->state = CORE_ENDING;
	vcpus_pause(core->vcpus);
	log_info("the guest ended: %s (%u)", end_name(end_reason(&core->end)), end_value(&core->end));
	loop_arm_timer(core->drain_timer, clock_ns() + DRAIN_DEADLINE);
	chipset_console_drain(core->chipset, on_drained, core);
}

/* ---- getting ready ---- */

static int seal_vcpu(void *arg, unsigned index)
{
	struct core *core = arg;

	(void)index;
	return core->vcpu ? sandbox_install(core->vcpu, false) : 0;
}

static int start_vcpus(struct core *core)
{
	const struct vcpus_args args = { .vm = core->vm,
					 .mmio = core->mmio,
					 .pio = core->pio,
					 .end = &core->end,
					 .cpuid = core->cpuid,
					 .count = core->opts->cpus,
					 .thread_start = seal_vcpu,
					 .arg = core };
	char err[256];
	const char *what;
	int r = vcpus_new(&args, &core->entry, &core->vcpus, err, sizeof(err));

	if (r < 0) {
		log_error("the processors can't be made: %s", err);
		return r;
	}
	r = core->steady ? sandbox_narrow(core->steady, &what) : 0;
	if (r < 0) {
		log_error_errno(r, "the steady sandbox stage can't be entered (%s)", what);
		return r;
	}
	r = vcpus_seal(core->vcpus);
	if (r < 0)
		log_error_errno(r, "the processors' filters can't be put in force");
	return r;
}

static int get_ready(struct core *core)
{
	int r = pci_bus_assign(core->pci);

	if (r < 0) {
		log_error_errno(r, "the devices' registers don't fit into the PCI window");
		return r;
	}
	r = start_vcpus(core);
	if (r < 0)
		return r;
	core->state = CORE_READY;
	if (core->bus)
		control_ready(core);
	else
		vcpus_resume(core->vcpus);
	return 0;
}

static void check_devices(void *arg)
{
	struct core *core = arg;

	if (core->state != CORE_WAITING)
		return;
	/* Until the bus is connected its threads are still starting, which the steady filter does not allow. */
	if (core->bus && !bus_is_connected(core->bus))
		return;
	for (unsigned i = 0; i < core->opts->n_devices; i++)
		if (!device_is_known(core->devices[i].device))
			return;
	if (get_ready(core) < 0)
		core_quit(core, 1);
}

int core_resume(struct core *core)
{
	if (core->state == CORE_WAITING)
		return -EAGAIN;
	if (core->state != CORE_READY)
		return -ESHUTDOWN;
	vcpus_resume(core->vcpus);
	return 0;
}

int core_pause(struct core *core)
{
	if (core->state == CORE_WAITING)
		return -EAGAIN;
	if (core->state != CORE_READY)
		return -ESHUTDOWN;
	vcpus_pause(core->vcpus);
	return 0;
}

/* ---- devices ---- */

struct core_device *core_find_device(struct core *core, const char *id, size_t len)
{
	for (unsigned i = 0; i < core->opts->n_devices; i++)
		if (!strncmp(device_id(core->devices[i].device), id, len))
			return &core->devices[i];
	return NULL;
}

static void on_up(void *arg, struct device *device, bool resumed, uint64_t handshake_ns)
{
	struct core_device *d = arg;

	log_info("device %s is up%s, handshake %llu us", device_id(device),
		 resumed ? " again on live rings" : "", (unsigned long long)(handshake_ns / NS_PER_US));
	control_device_up(d, resumed, handshake_ns);
	loop_bh_post(&d->core->check);
}

static void on_down(void *arg, struct device *device, const char *reason)
{
	struct core_device *d = arg;

	/* One that never was up says itself why, or the supervisor does. */
	if (device_is_known(device))
		log_warn_limited("device %s is down: %s", device_id(device), reason);
	control_device_down(d, reason);
}

static void on_hung(void *arg, struct device *device, unsigned queue, uint64_t stalled_ns, const char *reason)
{
	struct core_device *d = arg;

	log_warn_limited("device %s hangs: no progress on queue %u for %llu ms: %s", device_id(device), queue,
			 (unsigned long long)(stalled_ns / NS_PER_MS), reason);
	control_device_hung(d, queue, stalled_ns, reason);
}

static void on_stalled(void *arg, struct device *device, unsigned queue, uint64_t stalled_ns,
		       const char *reason)
{
	(void)arg;
	log_warn_limited("device %s: no progress on queue %u for %llu ms: %s", device_id(device), queue,
			 (unsigned long long)(stalled_ns / NS_PER_MS), reason);
}

int core_add_devices(struct core *core, int *sockets)
{
	static const struct device_ops ops = {
		.up = on_up, .down = on_down, .hung = on_hung, .stalled = on_stalled
	};
	int r = 0;

	for (unsigned i = 0; i < core->opts->n_devices; i++) {
		const struct options_device *o = &core->opts->devices[i];
		const struct device_args args = { .id = o->id,
						  .kind = o->kind,
						  .slot = i + 1,
						  .backends = 1,
						  .loop = core->loop,
						  .vm = core->vm,
						  .bus = core->pci,
						  .ram = core->ram,
						  .timeout_ns = BACKEND_DEADLINE,
						  .watch = core->watch,
						  .hang_timeout_ns = o->hang_timeout_ns,
						  .first_ring = o->first_ring,
						  .mac = o->mac,
						  .ops = &ops,
						  .arg = &core->devices[i] };

		core->devices[i].core = core;
		r = device_new(&args, &core->devices[i].device);
		if (r == 0 && sockets[i] >= 0)
			r = device_attach(core->devices[i].device, 0, sockets[i], NULL, NULL);
		if (r < 0) {
			log_error_errno(r, "device %s can't be made", o->id);
			return r;
		}
	}
	loop_bh_post(&core->check);
	return 0;
}

/* ---- making ---- */

static int make_memory(struct core *core)
{
	const struct options *o = core->opts;
	struct boot_args boot = { .kernel_fd = o->kernel_fd,
				  .initrd_fd = o->initrd_fd,
				  .cmdline = o->append };
	char err[256];
	int r = ram_new(o->memory, o->hugepages, &core->ram);

	if (r < 0) {
		log_error_errno(r, "guest RAM of %llu MiB can't be made%s",
				(unsigned long long)(o->memory >> 20),
				o->hugepages ? " (/proc/sys/vm/nr_hugepages says how many huge pages this "
					       "host has)"
					     : "");
		core->exit_status = EXIT_USAGE;
		return r;
	}
	r = acpi_build(core->ram, o->cpus, &boot.rsdp);
	if (r < 0) {
		log_error_errno(r, "the ACPI tables can't be made");
		return r;
	}
	boot.ram = core->ram;
	r = boot_load(&boot, &core->entry, err, sizeof(err));
	if (r < 0) {
		log_error("%s", err);
		/* The files or their sizes are wrong, which is the configuration's fault. */
		core->exit_status = EXIT_USAGE;
	}
	return r;
}

static int make_machine(struct core *core)
{
	const struct options *o = core->opts;
	char err[256];
	int r = vm_new(o->kvm_fd, core->ram, &core->vm, err, sizeof(err));

	if (r == 0)
		r = cpuid_new(o->kvm_fd, o->cpu, &core->cpuid, err, sizeof(err));
	if (r < 0)
		log_error("%s", err);
	return r;
}

static int make_models(struct core *core)
{
	struct chipset_args args = { .vm = core->vm,
				     .loop = core->loop,
				     .end = &core->end,
				     .console_fd = core->opts->console_fd,
				     .test_devices = core->opts->test_devices };
	int r = space_new(0x10000, &core->pio);

	if (r == 0)
		r = space_new(0, &core->mmio);
	if (r == 0)
		r = pci_bus_new(core->pio, core->mmio, &core->end, &core->pci);
	args.pio = core->pio;
	if (r == 0)
		r = chipset_new(&args, &core->chipset);
	if (r < 0)
		log_error_errno(r, "the machine's models can't be made");
	return r;
}

int core_new(struct core *core, const struct options *opts)
{
	int r;

	core->opts = opts;
	core->exit_status = 1;
	r = loop_new("main", &core->loop);
	if (r == 0)
		loop_show(core->loop, &core->log.queue->turns);
	if (r == 0)
		r = loop_add_timer(core->loop, on_drained, core, &core->drain_timer);
	if (r == 0)
		r = kick_init();
	if (r == 0)
		r = watch_new(core->loop, &core->watch);
	if (r < 0) {
		log_error_errno(r, "the main loop can't be made");
		return r;
	}
	loop_bh_init(&core->check, core->loop, check_devices, core);
	end_init(&core->end, core->loop, on_end, core);
	r = make_memory(core);
	if (r == 0)
		r = make_machine(core);
	if (r == 0)
		r = make_models(core);
	if (r == 0)
		core->exit_status = 0;
	return r;
}
