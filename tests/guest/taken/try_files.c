/* SPDX-License-Identifier: Apache-2.0 */
/* To reach files of the host: by paths, by descriptors, by handles, old calls and new ones. */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "try.h"

#define OPEN(text, path, flags) PLAIN(text, openat, ARGS(AT_FDCWD, PTR(path), (flags), 0600), )

static char bytes[512];
static const struct {
	uint64_t flags, mode, resolve;
} how = { .flags = O_RDONLY };
static const struct flock unlock = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

EACH(open_parent, SYS_openat, fd, "..", O_RDONLY)
EACH(open_below, SYS_openat, fd, "etc/passwd", O_RDONLY)
EACH(open_create, SYS_openat, fd, "x", O_WRONLY | O_CREAT, 0600)
EACH(change_dir, SYS_fchdir, fd)
EACH(list, SYS_getdents64, fd, bytes, sizeof(bytes))
EACH(give_up_lock, SYS_fcntl, fd, F_OFD_SETLK, &unlock)
EACH(give_up_flock, SYS_flock, fd, LOCK_UN)
EACH(lease, SYS_fcntl, fd, F_SETLEASE, F_WRLCK)
EACH(change_mode, SYS_fchmod, fd, 06777)
EACH(change_owner, SYS_fchown, fd, 0, 0)
EACH(set_attribute, SYS_fsetxattr, fd, "user.x", "x", 1, 0)
EACH(shrink, SYS_ftruncate, fd, 0)
EACH(enlarge, SYS_fallocate, fd, 0, 0, 1L << 40)
EACH(collapse, SYS_fallocate, fd, 8 /* FALLOC_FL_COLLAPSE_RANGE */, 0, 4096)
EACH(freeze, SYS_ioctl, fd, FIFREEZE, 0)
EACH(change_flags, SYS_ioctl, fd, FS_IOC_SETFLAGS, &(long) { 0x10 })
EACH(clone_range, SYS_ioctl, fd, FICLONE, fd)
EACH(sync_all, SYS_syncfs, fd)
EACH(execute, SYS_execveat, fd, "", (char *[]) { NULL }, (char *[]) { NULL }, AT_EMPTY_PATH)
EACH(handle_of, SYS_name_to_handle_at, fd, "", bytes, &(int) { 0 }, AT_EMPTY_PATH)
EACH(by_handle, SYS_open_by_handle_at, fd, bytes, O_RDONLY)
EACH(as_listener, SYS_fcntl, fd, F_NOTIFY, 1)
EACH(own_signal, SYS_fcntl, fd, F_SETOWN, 1)
EACH(more_pipe, SYS_fcntl, fd, F_SETPIPE_SZ, 1 << 30)

static long other_image(const struct taken_page *page)
{
	return CALL(SYS_openat, AT_FDCWD, page->image, O_RDONLY);
}

static long neighbours_bus(const struct taken_page *page)
{
	return CALL(SYS_openat, AT_FDCWD, page->neighbour, O_RDONLY);
}

static long list_root(const struct taken_page *page)
{
	long fd = CALL(SYS_openat, AT_FDCWD, "/", O_RDONLY);

	(void)page;
	return fd < 0 ? fd : CALL(SYS_getdents64, fd, bytes, sizeof(bytes));
}

/* The path counts although the empty one is meant. */
static long look_at(const struct taken_page *page)
{
	(void)page;
	return CALL(SYS_newfstatat, AT_FDCWD, "/etc/passwd", bytes, AT_EMPTY_PATH);
}

static const struct taken_try tries[] = {
	OPEN("read /etc/shadow", "/etc/shadow", O_RDONLY),
	OPEN("read a file through /..", "/../../etc/passwd", O_RDONLY),
	OPEN("read a file through /bus/..", "/bus/../etc/passwd", O_RDONLY),
	OPEN("read a file through /dir/..", "/dir/../etc/passwd", O_RDONLY),
	OPEN("read /proc/self/maps", "/proc/self/maps", O_RDONLY),
	OPEN("write to /proc/self/mem", "/proc/self/mem", O_RDWR),
	OPEN("read /proc/1/environ", "/proc/1/environ", O_RDONLY),
	OPEN("write to /proc/1/mem", "/proc/1/mem", O_RDWR),
	OPEN("go through /proc/1/root", "/proc/1/root/etc/passwd", O_RDONLY),
	OPEN("go through /proc/self/fd", "/proc/self/fd/3", O_RDONLY),
	OPEN("set the core pattern", "/proc/sys/kernel/core_pattern", O_WRONLY),
	OPEN("trigger sysrq", "/proc/sysrq-trigger", O_WRONLY),
	OPEN("reach /sys", "/sys/kernel/uevent_seqnum", O_RDONLY),
	OPEN("leave a cgroup", "/sys/fs/cgroup/cgroup.procs", O_WRONLY),
	OPEN("open /dev/kvm", "/dev/kvm", O_RDWR),
	OPEN("open /dev/mem", "/dev/mem", O_RDWR),
	OPEN("open /dev/net/tun", "/dev/net/tun", O_RDWR),
	OPEN("open /dev/vhost-net", "/dev/vhost-net", O_RDWR),
	OPEN("open /dev/fuse", "/dev/fuse", O_RDWR),
	OPEN("open /dev/ptmx", "/dev/ptmx", O_RDWR),
	OPEN("open the terminal", "/dev/tty", O_RDWR),
	OPEN("create a file in /", "/x", O_WRONLY | O_CREAT | O_EXCL),
	OPEN("create a file in /tmp", "/tmp/x", O_WRONLY | O_CREAT),
	OPEN("create a file in /dev/shm", "/dev/shm/x", O_RDWR | O_CREAT),
	OPEN("create a file without a name", "/bus", O_RDWR | O_TMPFILE),
	BY("open another disk's image", other_image),
	BY("open another device's bus", neighbours_bus),
	BY("list the root folder", list_root),
	BY("look at a file of the host", look_at),
	PLAIN("open by openat2", openat2, ARGS(AT_FDCWD, PTR("/etc/passwd"), PTR(&how), sizeof(how)), ),
	PLAIN("open by creat", creat, ARGS(PTR("/bus/x"), 0600), ),
	PLAIN("look by stat", stat, ARGS(PTR("/etc/passwd"), PTR(bytes)), ),
	PLAIN("look by statx", statx, ARGS(AT_FDCWD, PTR("/etc/passwd"), 0, 0x7ff, PTR(bytes)), ),
	PLAIN("look by access", access, ARGS(PTR("/etc/passwd"), 4), ),
	PLAIN("look by faccessat2", faccessat2, ARGS(AT_FDCWD, PTR("/etc/passwd"), 4, 0), ),
	PLAIN("look at a file system", statfs, ARGS(PTR("/"), PTR(bytes)), ),
	PLAIN("change the folder", chdir, ARGS(PTR("/")), ),
	PLAIN("make a link", symlink, ARGS(PTR("/etc"), PTR("/bus/x")), ),
	PLAIN("make a hard link", linkat, ARGS(AT_FDCWD, PTR("/bus/bus"), AT_FDCWD, PTR("/bus/x")), ),
	PLAIN("rename the bus socket", rename, ARGS(PTR("/bus/bus"), PTR("/bus/x")), ),
	PLAIN("rename by renameat2", renameat2, ARGS(AT_FDCWD, PTR("/bus/bus"), AT_FDCWD, PTR("/bus/x")), ),
	PLAIN("remove by unlinkat", unlinkat, ARGS(AT_FDCWD, PTR("/bus/bus")), ),
	PLAIN("make a pipe with a name", mknodat, ARGS(AT_FDCWD, PTR("/bus/x"), S_IFIFO | 0600), ),
	PLAIN("change a file's mode", fchmodat, ARGS(AT_FDCWD, PTR("/bus/bus"), 0777), ),
	PLAIN("change a file's owner", fchownat, ARGS(AT_FDCWD, PTR("/bus/bus"), 0, 0), ),
	PLAIN("change a file's times", utimensat, ARGS(AT_FDCWD, PTR("/bus/bus")), ),
	PLAIN("change a file's length", truncate, ARGS(PTR("/bus/bus"), 0), ),
	PLAIN("set an attribute", setxattr, ARGS(PTR("/bus/bus"), PTR("user.x"), PTR("x"), 1), ),
	PLAIN("read an attribute", getxattr, ARGS(PTR("/bus"), PTR("user.x"), PTR(bytes), 1), ),
	PLAIN("watch files", inotify_init1, ARGS(0), ),
	PLAIN("watch a file system", fanotify_init, ARGS(0), ),
	PLAIN("flush the host's files", sync, ARGS(0), ),
	PLAIN("account processes", acct, ARGS(0), ),
	PLAIN("swap", swapon, ARGS(PTR("/bus/bus")), ),
	PLAIN("set quotas", quotactl, ARGS(0x80000100, 0, 0, 0), ),
	BY("open what is above a descriptor", open_parent),
	BY("open what is below a descriptor", open_below),
	BY("create below a descriptor", open_create),
	BY("change the folder by a descriptor", change_dir),
	BY("list a descriptor", list),
	BY("give up the lock of an image", give_up_lock),
	BY("give up a lock of another kind", give_up_flock),
	BY("take a lease", lease),
	BY("be told of changes", as_listener),
	BY("have signals sent", own_signal),
	BY("enlarge a pipe", more_pipe),
	BY("change a descriptor's mode", change_mode),
	BY("change a descriptor's owner", change_owner),
	BY("set an attribute by a descriptor", set_attribute),
	BY("shrink what a descriptor is of", shrink, .steady = true),
	BY("enlarge what a descriptor is of", enlarge),
	BY("collapse what a descriptor is of", collapse),
	BY("freeze a file system", freeze),
	BY("make an image immutable", change_flags),
	BY("share an image's blocks", clone_range),
	BY("flush a file system", sync_all),
	BY("execute a descriptor", execute),
	BY("take a descriptor's handle", handle_of),
	BY("open a handle", by_handle),
};

TABLE(taken_files);
