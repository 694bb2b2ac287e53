/* SPDX-License-Identifier: Apache-2.0 */
/* To gain privileges, and to reach parts of the kernel that no process of ours has a use for. */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>

#include "try.h"

static char bytes[256];
static const struct {
	uint32_t version, pid;
} caps_head = { 0x20080522, 0 };
static const struct {
	uint32_t effective, permitted, inheritable;
} caps_all[2] = { { -1U, -1U, -1U }, { -1U, -1U, -1U } };

EACH(type, SYS_ioctl, fd, TIOCSTI, "x")
EACH(take_terminal, SYS_ioctl, fd, TIOCSCTTY, 1)
EACH(linux_console, SYS_ioctl, fd, 0x541c /* TIOCLINUX */, "\x02")
EACH(machine_of_its_own, SYS_ioctl, fd, KVM_CREATE_VM, 0)
EACH(another_processor, SYS_ioctl, fd, KVM_CREATE_VCPU, 63)
EACH(registers, SYS_ioctl, fd, KVM_GET_SREGS, bytes)
EACH(memory_slot, SYS_ioctl, fd, KVM_SET_USER_MEMORY_REGION, bytes)
EACH(device_in_kernel, SYS_ioctl, fd, KVM_CREATE_DEVICE, bytes)
EACH(model_registers, SYS_ioctl, fd, KVM_SET_MSRS, bytes)
EACH(move_mount, SYS_move_mount, fd, "", AT_FDCWD, "/", 4)

/* Who is told of system calls can answer them. The filter itself lets everything through. */
static long listener(const struct taken_page *page)
{
	struct sock_filter code = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	const struct sock_fprog program = { .len = 1, .filter = &code };

	(void)page;
	return CALL(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static long speculate(const struct taken_page *page)
{
	struct sock_filter code = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	const struct sock_fprog program = { .len = 1, .filter = &code };

	(void)page;
	return CALL(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
}

/* The same number means something else there. */
static long x32(const struct taken_page *page)
{
	(void)page;
	return CALL(SYS_getpid | 0x40000000);
}

static const struct taken_try tries[] = {
	PLAIN("take capabilities", capset, ARGS(PTR(&caps_head), PTR(caps_all)), ),
	PLAIN("keep capabilities", prctl, ARGS(PR_SET_KEEPCAPS, 1, 0, 0, 0), ),
	PLAIN("raise ambient capabilities", prctl, ARGS(47 /* PR_CAP_AMBIENT */, 2, 0, 0, 0), ),
	PLAIN("unlock secure bits", prctl, ARGS(PR_SET_SECUREBITS, 0, 0, 0, 0), ),
	PLAIN("become user 0", setresuid, ARGS(0, 0, 0), ),
	PLAIN("become group 0", setresgid, ARGS(0, 0, 0), ),
	PLAIN("take groups", setgroups, ARGS(1, PTR(bytes)), ),
	PLAIN("change the file system's user", setfsuid, ARGS(0), ),
	PLAIN("move the end of memory", prctl, ARGS(PR_SET_MM, 1, 0, 0, 0), ),
	PLAIN("end the filters", prctl, ARGS(PR_SET_SECCOMP, 0, 0, 0, 0), ),
	PLAIN("ask for another personality", personality, ARGS(0x0400000 /* READ_IMPLIES_EXEC */), ),
	BY("be told of system calls", listener),
	BY("end the guard of speculation", speculate),
	BY("call by the x32 interface", x32),
	BY("type into any descriptor", type),
	BY("take a terminal", take_terminal),
	BY("paste on the console", linux_console),
	BY("make a machine of its own", machine_of_its_own, .set_up = true),
	BY("make another processor", another_processor, .set_up = true),
	BY("read processors' registers", registers, .set_up = true),
	BY("give the guest other memory", memory_slot, .steady = true),
	BY("set processors' registers", model_registers, .steady = true),
	BY("make a device inside the kernel", device_in_kernel),
	PLAIN("open a file system", fsopen, ARGS(PTR("tmpfs"), 0), ),
	PLAIN("open a tree of mounts", open_tree, ARGS(AT_FDCWD, PTR("/"), 1), ),
	BY("move a mount", move_mount),
	PLAIN("change mounts", mount_setattr, ARGS(AT_FDCWD, PTR("/"), 0, PTR(bytes), 32), ),
	PLAIN("mount anew", mount, ARGS(0, PTR("/"), 0, 0x20 /* MS_REMOUNT */, 0), ),
	PLAIN("read the kernel's log", syslog, ARGS(3, PTR(bytes), 200), ),
	PLAIN("load a module", finit_module, ARGS(0, PTR(""), 0), ),
	PLAIN("remove a module", delete_module, ARGS(PTR("x"), 0), ),
	PLAIN("load another kernel", kexec_load, ARGS(0, 0, 0, 0), ),
	PLAIN("restart the host", reboot, ARGS(0xfee1dead, 672274793, 0x89abcdef, 0), ),
	PLAIN("open all ports", iopl, ARGS(3), ),
	PLAIN("open a port", ioperm, ARGS(0x80, 1, 1), ),
	PLAIN("change segments", modify_ldt, ARGS(1, PTR(bytes), 16), ),
	PLAIN("change the thread's base", arch_prctl, ARGS(0x1002 + 1 /* ARCH_GET_FS */, PTR(bytes)), ),
	PLAIN("set the clock", clock_settime, ARGS(0, PTR(bytes)), ),
	PLAIN("set the time of day", settimeofday, ARGS(PTR(bytes), 0), ),
	PLAIN("adjust the clock", adjtimex, ARGS(PTR(bytes)), ),
	PLAIN("name the domain", setdomainname, ARGS(PTR("x"), 1), ),
	PLAIN("hang up terminals", vhangup, ARGS(0), ),
	PLAIN("add a key", add_key, ARGS(PTR("user"), PTR("x"), PTR("x"), 1, -3), ),
	PLAIN("ask for a key", request_key, ARGS(PTR("user"), PTR("x"), 0, -3), ),
	PLAIN("load a program", bpf, ARGS(5, PTR(bytes), 48), ),
	PLAIN("make a map for programs", bpf, ARGS(0, PTR(bytes), 48), ),
	PLAIN("enter an io_uring", io_uring_enter, ARGS(0, 0, 0, 0), .task = TAKEN_BLK),
	PLAIN("change an io_uring", io_uring_register, ARGS(0, 0, 0, 0), .set_up = true),
	PLAIN("make rules of Landlock", landlock_create_ruleset, ARGS(0, 0, 1), ),
};

TABLE(taken_kernel);
