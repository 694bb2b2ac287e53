/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtual processors and their threads. All functions are for the main loop's thread. A vCPU thread runs the
 * guest and dispatches its exits; it never waits for another process, allocates nothing and logs nothing.
 */
#ifndef CORE_VCPU_H
#define CORE_VCPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct boot_entry;
struct cpuid_model;
struct end;
struct space;
struct vcpus;
struct vm;

struct vcpus_args {
	struct vm *vm;
	struct space *mmio;
	struct space *pio;
	struct end *end; /* learns of triple faults, KVM errors and system events */
	const struct cpuid_model *cpuid;
	unsigned count; /* 1 to LAYOUT_CPUS_MAX */
	/* Runs first on each vCPU's thread, to put its filter in force: 0 or -errno, which vcpus_new returns. May be NULL. */
	int (*thread_start)(void *arg, unsigned index);
	void *arg;
};

/*
 * Makes the vCPUs and starts their threads, which then wait at a gate: the guest does not run before
 * vcpus_resume. vCPU 0 gets the registers of entry; the others wait for INIT and SIPI. On failure err is one line.
 */
int vcpus_new(const struct vcpus_args *args, const struct boot_entry *entry, struct vcpus **out, char *err,
	      size_t err_size);

/*
 * Runs thread_start on every vCPU's thread, once, before the first vcpus_resume; waits for all. 0 or the first
 * -errno. Apart from vcpus_new because a filter for all threads of the process must come before the threads' own.
 */
int vcpus_seal(struct vcpus *vcpus);

/* Ends the threads, wherever they are, and frees all. Blocks for as long as the exits under way need. NULL is ignored. */
void vcpus_free(struct vcpus *vcpus);

/*
 * Brings all vCPUs out of the guest and to the gate: when it returns none runs guest code or dispatches. Blocks
 * only for the exits under way. Pausing a paused machine does nothing.
 */
void vcpus_pause(struct vcpus *vcpus);

/* Opens the gate. Ignored once the guest has ended. */
void vcpus_resume(struct vcpus *vcpus);

bool vcpus_paused(const struct vcpus *vcpus);
unsigned vcpus_count(const struct vcpus *vcpus);

/* The thread id of a vCPU, for pinning. */
pid_t vcpus_tid(const struct vcpus *vcpus, unsigned index);

/* What a vCPU has done since its start. */
struct vcpu_stats {
	uint64_t io, mmio, other; /* exits */
	uint64_t worst_ns;        /* the longest that a register access took: law 1 in a number */
};

/* Any thread. */
void vcpus_get_stats(const struct vcpus *vcpus, unsigned index, struct vcpu_stats *out);

#endif
