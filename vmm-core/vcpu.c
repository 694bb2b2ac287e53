/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vCPU threads.
 *
 * A thread is either inside (it runs the guest or dispatches an exit) or at the gate. To bring all out, the main
 * loop sets `leave` and signals each thread: the handler sets immediate_exit, so that KVM_RUN returns at once
 * whether the signal comes during it, before it, or in a dispatch. The thread clears immediate_exit only at the
 * gate, so no signal is lost between the check of `leave` and KVM_RUN.
 */
#include "vcpu.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "cpuid.h"
#include "end.h"
#include "layout.h"
#include "lock.h"
#include "num.h"
#include "space.h"
#include "thread.h"
#include "vcpu_priv.h"
#include "vm.h"

struct vcpu {
	struct vcpus *all;
	unsigned index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool started;
	bool sealed;                                /* the thread's own */
	pid_t tid;                                  /* set before the thread first comes to the gate */
	_Atomic uint64_t io, mmio, other, worst_ns; /* written by the thread alone */
};

struct vcpus {
	struct vcpus_args args;
	pid_t pid;
	size_t run_size;
	_Atomic bool leave; /* threads that are inside come to the gate */
	struct lock lock;
	pthread_cond_t moved;              /* with lock: one of the next changed */
	bool open GUARDED_BY(lock);        /* threads may pass */
	bool quit GUARDED_BY(lock);        /* threads at the gate end */
	bool seal GUARDED_BY(lock);        /* threads at the gate run thread_start */
	unsigned waiting GUARDED_BY(lock); /* threads at the gate */
	unsigned sealed GUARDED_BY(lock);  /* threads that ran thread_start */
	int seal_error GUARDED_BY(lock);   /* the first thread_start that failed */
	struct vcpu vcpu[];
};

static _Thread_local struct kvm_run *own_run;

static void kick_handler(int sig)
{
	(void)sig;
	if (own_run)
		__atomic_store_n(&own_run->immediate_exit, 1, __ATOMIC_RELAXED);
}

static int kick_signal(void)
{
	return SIGRTMIN;
}

/* ---- exits ---- */

static void exit_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++) {
		space_access(v->all->args.pio, run->io.port, data, run->io.size,
			     run->io.direction == KVM_EXIT_IO_OUT);
		data += run->io.size;
	}
}

static void exit_mmio(struct vcpu *v)
{
	struct kvm_run *run = v->run;

	space_access(v->all->args.mmio, run->mmio.phys_addr, run->mmio.data,
		     MIN(run->mmio.len, sizeof(run->mmio.data)), run->mmio.is_write);
}

static void exit_system_event(struct vcpu *v)
{
	switch (v->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		end_post(v->all->args.end, END_POWEROFF, 0);
		break;
	case KVM_SYSTEM_EVENT_CRASH:
		end_post(v->all->args.end, END_PANIC, 0);
		break;
	default:
		end_post(v->all->args.end, END_RESET, 0);
	}
}

/* Adds to a counter that only this thread writes. */
static void count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

static void dispatch_access(struct vcpu *v, void (*fn)(struct vcpu *v), _Atomic uint64_t *counter)
{
	uint64_t took = clock_ns();

	fn(v);
	took = clock_ns() - took;
	count(counter);
	if (took > atomic_load_explicit(&v->worst_ns, memory_order_relaxed))
		atomic_store_explicit(&v->worst_ns, took, memory_order_relaxed);
}

static void dispatch_other(struct vcpu *v)
{
	count(&v->other);
	switch (v->run->exit_reason) {
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		break;
	case KVM_EXIT_SHUTDOWN:
		end_post(v->all->args.end, END_TRIPLE_FAULT, v->index);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		exit_system_event(v);
		break;
	default:
		end_post(v->all->args.end, END_KVM_ERROR, v->run->exit_reason);
	}
}

static void dispatch(struct vcpu *v)
{
	if (v->run->exit_reason == KVM_EXIT_IO)
		dispatch_access(v, exit_io, &v->io);
	else if (v->run->exit_reason == KVM_EXIT_MMIO)
		dispatch_access(v, exit_mmio, &v->mmio);
	else
		dispatch_other(v);
}

/* Runs the guest until the main loop wants this thread at the gate, or the guest has ended. */
static void run_guest(struct vcpu *v)
{
	struct vcpus *all = v->all;

	while (!atomic_load_explicit(&all->leave, memory_order_acquire) && !end_reason(all->args.end)) {
		if (ioctl(v->fd, KVM_RUN, 0) == 0)
			dispatch(v);
		else if (errno != EINTR && errno != EAGAIN)
			end_post(all->args.end, END_KVM_ERROR, (uint32_t)errno);
	}
}

/* ---- the gate ---- */

/* What a thread finds to do at the gate. */
enum gate_task { GATE_RUN, GATE_SEAL, GATE_QUIT };

static enum gate_task wait_at_gate(struct vcpu *v)
{
	struct vcpus *all = v->all;
	enum gate_task task = GATE_RUN;

	lock_take(&all->lock);
	all->waiting++;
	pthread_cond_broadcast(&all->moved);
	for (;;) {
		if (all->quit)
			task = GATE_QUIT;
		else if (all->seal && !v->sealed)
			task = GATE_SEAL;
		else if (all->open && !end_reason(all->args.end))
			task = GATE_RUN;
		else {
			pthread_cond_wait(&all->moved, &all->lock.mutex);
			continue;
		}
		break;
	}
	all->waiting--;
	lock_drop(&all->lock);
	return task;
}

static void seal_thread(struct vcpu *v)
{
	struct vcpus *all = v->all;
	int rc = all->args.thread_start(all->args.arg, v->index);

	v->sealed = true;
	lock_take(&all->lock);
	all->sealed++;
	if (rc && !all->seal_error)
		all->seal_error = rc;
	pthread_cond_broadcast(&all->moved);
	lock_drop(&all->lock);
}

static void wait_all_at_gate(struct vcpus *all, unsigned started)
{
	lock_take(&all->lock);
	while (all->waiting < started)
		pthread_cond_wait(&all->moved, &all->lock.mutex);
	lock_drop(&all->lock);
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *v = arg;
	char name[16];
	sigset_t set;

	snprintf(name, sizeof(name), "vcpu%u", v->index);
	thread_set_name(name);
	v->tid = gettid();
	own_run = v->run;
	space_thread_enter();
	sigemptyset(&set);
	sigaddset(&set, kick_signal());
	sigaddset(&set, SIGSYS); /* a forbidden call is to be told of */
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	for (;;) {
		switch (wait_at_gate(v)) {
		case GATE_SEAL:
			seal_thread(v);
			break;
		case GATE_RUN:
			__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_RELAXED);
			run_guest(v);
			break;
		case GATE_QUIT:
			space_thread_leave();
			return NULL;
		}
	}
}

/* ---- set-up ---- */

static int make_vcpu(struct vcpu *v, const struct boot_entry *entry, struct kvm_cpuid2 *cpuid,
		     const char **what)
{
	struct vcpus *all = v->all;
	void *run;

	*what = "KVM_CREATE_VCPU";
	v->fd = ioctl(vm_fd(all->args.vm), KVM_CREATE_VCPU, (unsigned long)v->index);
	if (v->fd < 0)
		return -errno;
	fcntl(v->fd, F_SETFD, FD_CLOEXEC);
	*what = "mapping a vCPU";
	run = mmap(NULL, all->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED)
		return -errno;
	v->run = run;
	*what = "KVM_SET_CPUID2";
	cpuid_fill(all->args.cpuid, v->index, all->args.count, cpuid);
	if (ioctl(v->fd, KVM_SET_CPUID2, cpuid) < 0)
		return -errno;
	return vcpu_state_init(v->fd, v->index == 0 ? entry : NULL, what);
}

static int start_threads(struct vcpus *all)
{
	sigset_t every, old;
	int rc = 0;

	sigfillset(&every);
	pthread_sigmask(SIG_SETMASK, &every, &old); /* the main loop's signals are for the main loop */
	for (unsigned i = 0; i < all->args.count && !rc; i++) {
		struct vcpu *v = &all->vcpu[i];

		rc = pthread_create(&v->thread, NULL, vcpu_thread, v);
		v->started = !rc;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return -rc;
	wait_all_at_gate(all, all->args.count);
	return 0;
}

static int set_up(struct vcpus *all, const struct boot_entry *entry, const char **what)
{
	CLEAN_FREE struct kvm_cpuid2 *cpuid = NULL;
	struct sigaction sa = { .sa_handler = kick_handler };
	int size, rc;

	*what = "KVM_GET_VCPU_MMAP_SIZE";
	size = ioctl(vm_kvm_fd(all->args.vm), KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < 0)
		return -errno;
	all->run_size = (size_t)size;
	*what = "CPUID table";
	cpuid = malloc(sizeof(*cpuid) + CPUID_ENTRIES_MAX * sizeof(cpuid->entries[0]));
	if (!cpuid)
		return -ENOMEM;
	for (unsigned i = 0; i < all->args.count; i++) {
		rc = make_vcpu(&all->vcpu[i], entry, cpuid, what);
		if (rc)
			return rc;
	}
	*what = "starting the vCPU threads";
	if (sigaction(kick_signal(), &sa, NULL) < 0)
		return -errno;
	return start_threads(all);
}

int vcpus_new(const struct vcpus_args *args, const struct boot_entry *entry, struct vcpus **out, char *err,
	      size_t err_size)
{
	const char *what = "";
	struct vcpus *all;
	int rc;

	if (args->count < 1 || args->count > LAYOUT_CPUS_MAX) {
		snprintf(err, err_size, "%u vCPUs: must be 1 to %d", args->count, LAYOUT_CPUS_MAX);
		return -EINVAL;
	}
	all = calloc(1, sizeof(*all) + args->count * sizeof(all->vcpu[0]));
	if (!all) {
		snprintf(err, err_size, "no memory for %u vCPUs", args->count);
		return -ENOMEM;
	}
	all->args = *args;
	all->pid = getpid();
	lock_init(&all->lock);
	pthread_cond_init(&all->moved, NULL);
	for (unsigned i = 0; i < args->count; i++) {
		all->vcpu[i].all = all;
		all->vcpu[i].index = i;
		all->vcpu[i].fd = -1;
	}
	rc = set_up(all, entry, &what);
	if (rc) {
		snprintf(err, err_size, "%s: %s", what, strerror(-rc));
		vcpus_free(all);
		return rc;
	}
	*out = all;
	return 0;
}

int vcpus_seal(struct vcpus *all)
{
	int rc;

	if (!all->args.thread_start)
		return 0;
	lock_take(&all->lock);
	all->seal = true;
	pthread_cond_broadcast(&all->moved);
	while (all->sealed < all->args.count)
		pthread_cond_wait(&all->moved, &all->lock.mutex);
	rc = all->seal_error;
	lock_drop(&all->lock);
	return rc;
}

static void signal_all(struct vcpus *all)
{
	for (unsigned i = 0; i < all->args.count; i++) {
		/* Not pthread_kill, which asks for the process's id each time, a call that the filter can do without. */
		if (all->vcpu[i].started)
			syscall(SYS_tgkill, all->pid, all->vcpu[i].tid, kick_signal());
	}
}

void vcpus_pause(struct vcpus *all)
{
	unsigned started = 0;

	for (unsigned i = 0; i < all->args.count; i++)
		started += all->vcpu[i].started;
	lock_take(&all->lock);
	all->open = false;
	lock_drop(&all->lock);
	atomic_store_explicit(&all->leave, true, memory_order_release);
	signal_all(all);
	wait_all_at_gate(all, started);
}

void vcpus_resume(struct vcpus *all)
{
	if (end_reason(all->args.end))
		return;
	atomic_store_explicit(&all->leave, false, memory_order_release);
	lock_take(&all->lock);
	all->open = true;
	pthread_cond_broadcast(&all->moved);
	lock_drop(&all->lock);
}

void vcpus_free(struct vcpus *all)
{
	if (!all)
		return;
	vcpus_pause(all);
	lock_take(&all->lock);
	all->quit = true;
	pthread_cond_broadcast(&all->moved);
	lock_drop(&all->lock);
	for (unsigned i = 0; i < all->args.count; i++) {
		struct vcpu *v = &all->vcpu[i];

		if (v->started)
			pthread_join(v->thread, NULL);
		if (v->run)
			munmap(v->run, all->run_size);
		if (v->fd >= 0)
			close(v->fd);
	}
	pthread_cond_destroy(&all->moved);
	lock_destroy(&all->lock);
	free(all);
}

/* The main loop's thread, which alone changes it. */
bool vcpus_paused(const struct vcpus *all) NO_THREAD_SAFETY
{
	return !all->open;
}

unsigned vcpus_count(const struct vcpus *all)
{
	return all->args.count;
}

pid_t vcpus_tid(const struct vcpus *all, unsigned index)
{
	return all->vcpu[index].tid;
}

void vcpus_get_stats(const struct vcpus *all, unsigned index, struct vcpu_stats *out)
{
	const struct vcpu *v = &all->vcpu[index];

	*out =
	    (struct vcpu_stats) { .io = v->io, .mmio = v->mmio, .other = v->other, .worst_ns = v->worst_ns };
}
