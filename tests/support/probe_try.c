/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process that was taken over would try. Raw system calls only, and none that would do harm if it
 * succeeded: signal 0, empty programs, no flags.
 */
#include "probe_try.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/netlink.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "num.h"

/* One attempt: a function that makes a raw call and says how it went. */
#define TRY(name, ...)                                                                                       \
	static int try_##name(pid_t parent)                                                                  \
	{                                                                                                    \
		(void)parent;                                                                                \
		return syscall(__VA_ARGS__) < 0 ? -errno : 0;                                                \
	}

static const char *const no_args[] = { NULL };

TRY(open, SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY)
TRY(open_root, SYS_openat, AT_FDCWD, "/", O_RDONLY | O_DIRECTORY)
TRY(open_old, SYS_open, "/etc/passwd", O_RDONLY)
TRY(open_host_root, SYS_openat, AT_FDCWD, "../../../../../../etc/passwd", O_RDONLY)
TRY(create, SYS_openat, AT_FDCWD, "/bus/x", O_WRONLY | O_CREAT, 0600)
TRY(mkdir, SYS_mkdirat, AT_FDCWD, "/x", 0700)
TRY(unlink, SYS_unlink, "/bus/bus")
TRY(mknod, SYS_mknodat, AT_FDCWD, "/x", 0020600, 0x103)
TRY(socket_inet, SYS_socket, AF_INET, SOCK_STREAM, 0)
TRY(socket_netlink, SYS_socket, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)
TRY(socket_vsock, SYS_socket, AF_VSOCK, SOCK_STREAM, 0)
TRY(socket_packet, SYS_socket, AF_PACKET, SOCK_RAW, 0)
TRY(execve, SYS_execve, "/bin/sh", no_args, no_args)
TRY(execveat, SYS_execveat, AT_FDCWD, "/bin/sh", no_args, no_args, 0)
TRY(ptrace_parent, SYS_ptrace, PTRACE_SEIZE, parent, NULL, NULL)
TRY(mmap_exec, SYS_mmap, NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
TRY(mprotect_exec, SYS_mprotect, NULL, 0, PROT_READ | PROT_EXEC)
TRY(ioctl_tiocsti, SYS_ioctl, 2, TIOCSTI, "x")
TRY(ioctl_foreign, SYS_ioctl, 0, FIONREAD, NULL)
TRY(kill_parent, SYS_kill, parent, 0)
TRY(tgkill_parent, SYS_tgkill, parent, parent, 0)
TRY(pidfd_parent, SYS_pidfd_open, parent, 0)
TRY(mount, SYS_mount, "none", "/", "tmpfs", 0, NULL)
TRY(umount, SYS_umount2, "/bus", 2 /* MNT_DETACH */)
TRY(pivot_root, SYS_pivot_root, "/", "/")
TRY(chroot, SYS_chroot, "/")
TRY(unshare_user, SYS_unshare, CLONE_NEWUSER)
TRY(setns, SYS_setns, 0, 0)
TRY(setuid, SYS_setuid, 65533)
TRY(bpf, SYS_bpf, BPF_PROG_LOAD, NULL, 0)
TRY(perf_event, SYS_perf_event_open, NULL, 0, -1, -1, 0)
TRY(io_uring, SYS_io_uring_setup, 1, NULL)
TRY(keyctl, SYS_keyctl, 0, -3, 1)
TRY(vm_read, SYS_process_vm_readv, parent, NULL, 0, NULL, 0, 0)
TRY(module, SYS_init_module, NULL, 0, "")
TRY(handle, SYS_open_by_handle_at, 0, NULL, 0)
TRY(dumpable, SYS_prctl, 4 /* PR_SET_DUMPABLE */, 1, 0, 0, 0)
TRY(personality, SYS_personality, 0x0400000)
TRY(hostname, SYS_sethostname, "x", 1)
TRY(blocking, SYS_fcntl, 2, F_SETFL, 0)
TRY(blocking_ioctl, SYS_ioctl, 2, FIONBIO, &(int) { 0 })
TRY(link_proc, SYS_readlink, "/proc/self/exe", NULL, 0)

/* A new process: the copy ends at once. */
static int new_process(long n)
{
	if (n == 0)
		for (;;)
			syscall(SYS_exit_group, 0);
	return n < 0 ? -errno : 0;
}

static int try_fork(pid_t parent)
{
	(void)parent;
	return new_process(syscall(SYS_fork));
}

static int try_clone(pid_t parent)
{
	(void)parent;
	return new_process(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
}

static int try_clone3(pid_t parent)
{
	struct clone_args_ {
		uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	} args = { .exit_signal = SIGCHLD };

	(void)parent;
	return new_process(syscall(SYS_clone3, &args, sizeof(args)));
}

static int try_proc_of_parent(pid_t parent)
{
	char path[40];
	long n;

	snprintf(path, sizeof(path), "/proc/%d/environ", (int)parent);
	n = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY);
	return n < 0 ? -errno : 0;
}

/* getpid of the 32-bit interface. */
/* As the kernel takes it: handler, flags, restorer, mask. */
static int try_handler(pid_t parent)
{
	static const uint64_t ignore[4] = { 1 /* SIG_IGN */ };

	(void)parent;
	return syscall(SYS_rt_sigaction, SIGSYS, ignore, NULL, sizeof(uint64_t)) < 0 ? -errno : 0;
}

static int try_blocked(pid_t parent)
{
	static const uint64_t all = UINT64_MAX;

	(void)parent;
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, NULL, sizeof(all));
	return syscall(SYS_socket, AF_INET, SOCK_STREAM, 0) < 0 ? -errno : 0;
}

static int try_foreign_arch(pid_t parent)
{
	long n = 20;

	(void)parent;
	__asm__ volatile("int $0x80" : "+a"(n) : : "memory", "r8", "r9", "r10", "r11");
	return n < 0 ? (int)n : 0;
}

const struct probe_try probe_tries[] = {
	{ "open a file", try_open, true, false, false },
	{ "open the root directory", try_open_root, true, false, false },
	{ "open a file by the old call", try_open_old, true, false, false },
	{ "open a file of the host by ..", try_open_host_root, true, false, false },
	{ "create a file in /bus", try_create, true, false, false },
	{ "make a directory", try_mkdir, true, false, false },
	{ "remove the bus socket", try_unlink, true, false, false },
	{ "make a device node", try_mknod, true, false, false },
	{ "read /proc of the parent", try_proc_of_parent, true, false, false },
	{ "read a link in /proc", try_link_proc, true, false, false },
	{ "make an internet socket", try_socket_inet, false, false, false },
	{ "make a netlink socket", try_socket_netlink, false, false, false },
	{ "make a vsock socket", try_socket_vsock, false, false, false },
	{ "make a packet socket", try_socket_packet, true, false, false },
	{ "execute a program", try_execve, true, false, false },
	{ "execute a program (execveat)", try_execveat, true, false, false },
	{ "trace the parent", try_ptrace_parent, true, false, false },
	{ "read the parent's memory", try_vm_read, false, false, false },
	{ "signal the parent", try_kill_parent, true, false, false },
	{ "signal the parent (tgkill)", try_tgkill_parent, true, false, false },
	{ "open the parent's pidfd", try_pidfd_parent, true, false, false },
	{ "fork", try_fork, false, false, false },
	{ "clone a process", try_clone, false, false, false },
	{ "clone3 a process", try_clone3, false, false, false },
	{ "map executable memory", try_mmap_exec, false, false, false },
	{ "make memory executable", try_mprotect_exec, false, false, false },
	{ "type into a terminal", try_ioctl_tiocsti, false, false, false },
	{ "a foreign ioctl", try_ioctl_foreign, false, false, false },
	{ "mount", try_mount, true, false, false },
	{ "unmount", try_umount, true, false, false },
	{ "pivot_root", try_pivot_root, true, false, false },
	{ "chroot", try_chroot, true, false, false },
	{ "make a user namespace", try_unshare_user, false, false, false },
	{ "enter a namespace", try_setns, false, false, false },
	{ "change the uid", try_setuid, true, false, false },
	{ "change the host name", try_hostname, true, false, false },
	{ "load a BPF program", try_bpf, false, false, false },
	{ "open a performance counter", try_perf_event, false, false, false },
	{ "make an io_uring", try_io_uring, false, false, false },
	{ "reach a keyring", try_keyctl, false, false, false },
	{ "load a module", try_module, true, false, false },
	{ "open by file handle", try_handle, false, false, false },
	{ "become dumpable", try_dumpable, false, false, false },
	{ "change the personality", try_personality, false, false, false },
	{ "make a shared descriptor blocking", try_blocking, false, true, false },
	{ "make a shared descriptor blocking (ioctl)", try_blocking_ioctl, false, false, false },
	{ "replace the handler of forbidden calls", try_handler, false, false, false },
	{ "a forbidden call with its signal blocked", try_blocked, false, false, true },
	{ "call by the 32-bit interface", try_foreign_arch, false, false, false },
};

const size_t probe_tries_count = ARRAY_SIZE(probe_tries);
