/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the core may ask of the kernel, call by call, with the reason for each. vCPU threads have their own filter
 * on top of the steady one, so the steady one names their calls too. No thread ends before the process does. KVM's
 * ioctls are named one by one: in the steady stage no vCPU can be made, no register be read or written and no memory be
 * given to the guest.
 */
#include "syscalls.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "tables.h"

#define IOCTL(request, reason)                                                                               \
	{                                                                                                    \
		.nr = __NR_ioctl, .args = { { .index = 1, .op = SANDBOX_EQ, .value = (request) } },          \
		.why = (reason)                                                                              \
	}

/* glibc takes signals 32 and 33 for itself, so its first real-time signal is this one. */
#define SIGNAL_KICK 34

static const struct sandbox_rule vcpu[] = {
	IOCTL(KVM_RUN, "run the guest"),
	IOCTL(KVM_IRQFD, "the guest masks or unmasks an MSI-X vector"),
	IOCTL(KVM_SET_GSI_ROUTING, "the guest writes an MSI-X message"),
	IOCTL(KVM_IRQ_LINE, "the level of the serial port's and ACPI's interrupt"),
	{ .nr = __NR_write, .why = "waking the main loop" },
	{ .nr = __NR_poll, .why = "MSI-X pending bits" },
	{ .nr = __NR_futex, .why = "leaf locks, the gate, the end of an RCU grace period" },
	{ .nr = __NR_rt_sigreturn,
	  .why = "the signal that brings a vCPU out of the guest, the main loop out of a write" },
	{ .nr = __NR_restart_syscall, .why = "a wait goes on after SIGSTOP and SIGCONT" },
	{ .nr = __NR_clock_gettime, .why = "the clock, where the vDSO can't read the host's clock source" },
	{ 0 },
};

static const struct sandbox_rule steady[] = {
	IOCTL(KVM_IOEVENTFD, "kicks of a device that the guest starts, resets or moves"),
	{ .nr = __NR_preadv2,
	  .why = "emptying an eventfd without waiting, whoever shares it; are health words there?" },
	{ .nr = __NR_socketpair,
	  .args = { { .index = 0, .op = SANDBOX_EQ, .value = AF_UNIX } },
	  .why = "a new back end's channel for its own requests" },
	SANDBOX_FCNTL(F_DUPFD_CLOEXEC, 0, "descriptors queued for a back end"),
	SANDBOX_FCNTL(F_GET_SEALS, 0, "a new back end's health words: can they shrink?"),
	{ .nr = __NR_mmap, .args = SANDBOX_MMAP(MAP_SHARED), .why = "reading them; never executable" },
	SANDBOX_FCNTL(F_GETFL, 0, "a new back end's connection becomes non-blocking"),
	SANDBOX_FCNTL(F_SETFL, O_NONBLOCK, "a new back end's connection becomes non-blocking"),
	{ .nr = __NR_tgkill,
	  .args = { { .index = 2, .op = SANDBOX_EQ, .value = SIGNAL_KICK } },
	  .why = "bringing vCPUs out of the guest, the main loop out of a write, with this one signal" },
	{ .nr = __NR_seccomp, .args = SANDBOX_INSTALL(0), .why = "the vCPUs' own, narrower filter" },
	{ 0 },
};

static const struct sandbox_rule stage_one[] = {
	{ .nr = __NR_rt_sigaction,
	  .args = { { .index = 0, .op = SANDBOX_EQ, .value = SIGNAL_KICK } },
	  .why = "the handler of the signal that brings a vCPU out of the guest" },
	{ .nr = __NR_rt_sigaction,
	  .args = { { .index = 0, .op = SANDBOX_EQ, .value = SIGTERM } },
	  .why = "told to end" },
	{ .nr = __NR_rt_sigaction,
	  .args = { { .index = 0, .op = SANDBOX_EQ, .value = SIGINT } },
	  .why = "told to end, from a terminal" },
	{ .nr = __NR_getpid, .why = "for signals to vCPU threads" },
	{ .nr = __NR_memfd_create, .why = "guest RAM, in-flight regions" },
	{ .nr = __NR_madvise, .why = "guest RAM is left out of core dumps, and may be in huge pages" },
	{ .nr = __NR_ftruncate, .why = "their size" },
	SANDBOX_FCNTL(F_ADD_SEALS, 0, "sealing them"),
	SANDBOX_FCNTL(F_SETFD, 0, "KVM's descriptors: close-on-exec"),
	{ .nr = __NR_mmap,
	  .args = SANDBOX_MMAP(MAP_SHARED),
	  .why = "guest RAM, vCPUs' shared pages, the kernel image; never executable" },
	{ .nr = __NR_pread64, .why = "the kernel image and the initial RAM disk" },
	{ .nr = __NR_lseek, .why = "their size" },
	{ .nr = __NR_fstat, .why = "their size and kind" },
	{ .nr = __NR_newfstatat,
	  .args = { { .index = 3, .op = SANDBOX_MASKED, .value = AT_EMPTY_PATH, .mask = AT_EMPTY_PATH } },
	  .why = "the same, as glibc asks it" },
	{ .nr = __NR_membarrier, .why = "publishing the address spaces" },
	IOCTL(KVM_GET_API_VERSION, "whether this is a KVM that we know"),
	IOCTL(KVM_CHECK_EXTENSION, "what it can do"),
	IOCTL(KVM_GET_VCPU_MMAP_SIZE, "size of a vCPU's shared page"),
	IOCTL(KVM_GET_SUPPORTED_CPUID, "processor features"),
	IOCTL(KVM_CREATE_VM, "the machine"),
	IOCTL(KVM_SET_TSS_ADDR, "a place for KVM's own use"),
	IOCTL(KVM_SET_IDENTITY_MAP_ADDR, "a place for KVM's own use"),
	IOCTL(KVM_CREATE_IRQCHIP, "PIC, IOAPIC and LAPICs"),
	IOCTL(KVM_CREATE_PIT2, "timer"),
	IOCTL(KVM_SET_USER_MEMORY_REGION, "guest RAM"),
	IOCTL(KVM_CREATE_VCPU, "processors"),
	IOCTL(KVM_SET_CPUID2, "a processor's features"),
	IOCTL(KVM_GET_SREGS, "a processor's first state"),
	IOCTL(KVM_SET_SREGS, "a processor's first state"),
	IOCTL(KVM_SET_REGS, "a processor's first state"),
	IOCTL(KVM_SET_MSRS, "a processor's first state"),
	IOCTL(KVM_GET_LAPIC, "a processor's first state"),
	IOCTL(KVM_SET_LAPIC, "a processor's first state"),
	{ 0 },
};

const struct sandbox_rule *const syscalls_vcpu[] = { vcpu, NULL };

const struct sandbox_rule *const syscalls_steady[] = {
	sandbox_table_runtime,
	sandbox_table_loop,
	sandbox_table_bus,
	sandbox_table_sockets,
	vcpu,
	steady,
	NULL,
};

const struct sandbox_rule *const syscalls_stage_one[] = {
	sandbox_table_runtime,
	sandbox_table_loop,
	sandbox_table_bus,
	sandbox_table_sockets,
	sandbox_table_narrow,
	sandbox_table_threads,
	sandbox_table_loop_setup,
	sandbox_table_bus_setup,
	vcpu,
	steady,
	stage_one,
	NULL,
};
