/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An empty read-only root.
 *
 * Theory of operation. The new root is a tmpfs made by descriptor (fsopen, fsmount), so it needs no directory
 * of the host to stand on: it is attached over "/" itself, which the path "/" still sees below, and is reached
 * through its descriptor. /bus is a copy of the mount of bus_dir, made read-only, nosuid, nodev and noexec before
 * it is attached. Connecting to a socket there needs no writable mount. Another folder becomes /dir alike, and a file that
 * is to stay is put on an empty one of the same name. Then pivot_root(".", ".") swaps the two,
 * which leaves the old root stacked on the new one, and one umount2 takes off it and all that hangs below.
 *
 * The order matters: the old tree must be private first, or the changes would travel to the host; bus_dir must be
 * looked up while the old root is there; the new root can be made read-only only after the directory bus is in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clean.h"
#include "sandbox_priv.h"

#define LOCKED_DOWN (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

/* A detached tmpfs of one page and eight inodes, not read-only yet; its descriptor or -errno. */
static int make_tmpfs(void)
{
	CLEAN_FD int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
	int mount_fd;

	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "size", "4096", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "nr_inodes", "8", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0555", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	mount_fd = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	return mount_fd < 0 ? -errno : mount_fd;
}

static int lock_down(int mount_fd)
{
	struct mount_attr attr = { .attr_set = LOCKED_DOWN };

	return mount_setattr(mount_fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

/* A detached, locked-down copy of what is mounted at path, or of the part of it that path names; its descriptor or -errno. */
static int copy_mount(const char *path)
{
	CLEAN_FD int tree = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	int err;

	if (tree < 0)
		return -errno;
	err = lock_down(tree);
	return err ? err : take_fd(&tree);
}

/* Makes an empty file at path, which is absolute, below root, and the folders on the way. */
static int make_place(int root, const char *path)
{
	char part[PATH_MAX];
	int fd;

	for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		snprintf(part, sizeof(part), "%.*s", (int)(slash - path - 1), path + 1);
		if (mkdirat(root, part, 0555) < 0 && errno != EEXIST)
			return -errno;
	}
	fd = openat(root, path + 1, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0444);
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

/* What stays of the host's files. */
struct kept {
	int bus; /* -1: none */
	int dir;
	int file;
	const char *path; /* of file */
};

static int attach_folder(int root, int mount_fd, const char *name)
{
	if (mount_fd < 0)
		return 0;
	if (mkdirat(root, name, 0555) < 0)
		return -1;
	return move_mount(mount_fd, "", root, name, MOVE_MOUNT_F_EMPTY_PATH);
}

/* Puts the new root over the old, with what is kept inside, and makes it the working directory. */
static int attach(int root, const struct kept *kept, const char **what)
{
	*what = "attach the new root";
	if (move_mount(root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return -errno;
	*what = "attach the bus directory";
	if (attach_folder(root, kept->bus, "bus") < 0)
		return -errno;
	*what = "attach the folder that stays";
	if (attach_folder(root, kept->dir, "dir") < 0)
		return -errno;
	if (kept->file >= 0) {
		int err = make_place(root, kept->path);

		*what = "attach the file that stays";
		if (err)
			return err;
		if (move_mount(kept->file, "", root, kept->path + 1, MOVE_MOUNT_F_EMPTY_PATH) < 0)
			return -errno;
	}
	*what = "enter the new root";
	return fchdir(root) < 0 ? -errno : 0;
}

static int swap_roots(const char **what)
{
	*what = "pivot_root";
	if (syscall(SYS_pivot_root, ".", ".") < 0) {
		if (errno == EINVAL)
			*what = "pivot_root (impossible if the host's root is its initramfs: switch_root "
				"first)";
		return -errno;
	}
	*what = "detach the old root";
	if (umount2(".", MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
		return -errno;
	*what = "enter the new root";
	return chdir("/") < 0 ? -errno : 0;
}

int root_enter(const char *bus_dir, const char *dir, const char *file, const char **what)
{
	struct kept kept = { .bus = -1, .dir = -1, .file = -1, .path = file };
	CLEAN_FD int root = -1;
	CLEAN_FD int bus = -1;
	CLEAN_FD int folder = -1;
	CLEAN_FD int copy = -1;
	int err;

	*what = "make mounts private";
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	if (bus_dir) {
		*what = "copy the mount of the bus directory (may this uid search it?)";
		kept.bus = bus = copy_mount(bus_dir);
		if (bus < 0)
			return bus;
	}
	if (dir) {
		*what = "copy the mount of the folder that stays (may this uid search it?)";
		kept.dir = folder = copy_mount(dir);
		if (folder < 0)
			return folder;
	}
	if (file) {
		*what = "copy the mount of the file that stays (may this uid reach it?)";
		kept.file = copy = copy_mount(file);
		if (copy < 0)
			return copy;
	}
	*what = "make an empty tmpfs (does a security module forbid it?)";
	root = make_tmpfs();
	if (root < 0)
		return root;
	err = attach(root, &kept, what);
	if (err)
		return err;
	*what = "make the new root read-only";
	err = lock_down(root);
	return err ? err : swap_roots(what);
}
