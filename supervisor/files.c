/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the files of the host that a machine uses, each checked to be what it is meant to be. */
#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fd.h"
#include "num.h"

#define LOCK_TRIES    100
#define LOCK_AGAIN_NS (10 * NS_PER_MS)
#define PAGE          4096

/* Files in these are windows into the kernel or other processes, however regular they look. */
static bool is_window(int fd)
{
	static const unsigned long magic[] = { PROC_SUPER_MAGIC, SYSFS_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC,
					       SECURITYFS_MAGIC };
	struct statfs fs;

	if (fstatfs(fd, &fs))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(magic); i++)
		if ((unsigned long)fs.f_type == magic[i])
			return true;
	return false;
}

/*
 * Looks at what path is before it is opened, since opening some devices does something; then opens just that.
 * block: a block device will do, too.
 */
static int open_checked(const char *path, int flags, bool block, struct vmconf_error *error)
{
	const char *want = block ? "a regular file or block device" : "a regular file";
	CLEAN_FD int look = open(path, O_PATH | O_CLOEXEC);
	CLEAN_FD int fd = -1;
	struct stat before, after;

	if (look < 0 || fstat(look, &before))
		return vmconf_refuse(error, "\"%s\" can't be opened: %s; %s is needed", path, strerror(errno),
				     want);
	if (!S_ISREG(before.st_mode) && !(block && S_ISBLK(before.st_mode)))
		return vmconf_refuse(error, "\"%s\" is no file of data; %s is needed", path, want);
	if (is_window(look))
		return vmconf_refuse(error, "\"%s\" is part of /proc or /sys; %s of a disk is needed", path,
				     want);
	fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 && errno == EINVAL && flags & O_DIRECT)
		return -EOPNOTSUPP;
	if (fd < 0 || fstat(fd, &after))
		return vmconf_refuse(error, "\"%s\" can't be opened: %s; %s that this user may use is needed",
				     path, strerror(errno), want);
	if (before.st_dev != after.st_dev || before.st_ino != after.st_ino || fd_set_nonblock(fd, false))
		return vmconf_refuse(error, "\"%s\" changed while it was opened; %s is needed", path, want);
	return take_fd(&fd);
}

int files_open(const char *path, struct vmconf_error *error)
{
	CLEAN_FD int fd = open_checked(path, O_RDONLY, false, error);
	struct stat st;

	if (fd >= 0 && !fstat(fd, &st) && st.st_size == 0)
		return vmconf_refuse(error, "\"%s\" is empty; a file with contents is needed", path);
	return take_fd(&fd);
}

int files_open_kernel(const char *path, struct vmconf_error *error)
{
	/* An ELF file's first bytes; a bzImage's setup header, by the boot protocol. */
	static const struct {
		off_t at;
		char magic[4];
	} kinds[] = { { 0, { 0x7f, 'E', 'L', 'F' } }, { 0x202, { 'H', 'd', 'r', 'S' } } };
	CLEAN_FD int fd = files_open(path, error);
	char found[4];

	for (size_t i = 0; fd >= 0 && i < ARRAY_SIZE(kinds); i++)
		if (!fd_pread_full(fd, found, sizeof(found), kinds[i].at) &&
		    !memcmp(found, kinds[i].magic, sizeof(found)))
			return take_fd(&fd);
	return fd < 0 ? fd
		      : vmconf_refuse(
			    error, "\"%s\" is neither a bzImage nor an ELF file; a kernel is needed", path);
}

int files_read_text(const char *path, size_t max, char **text, struct vmconf_error *error)
{
	CLEAN_FD int fd = files_open(path, error);
	CLEAN_FREE char *buf = NULL;
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) || (size_t)st.st_size > max)
		return vmconf_refuse(error, "\"%s\" is too long; at most %zu bytes are possible", path, max);
	buf = calloc(1, (size_t)st.st_size + 1);
	if (!buf || fd_read_full(fd, buf, (size_t)st.st_size))
		return vmconf_refuse(error, "\"%s\" can't be read", path);
	if (strlen(buf) != (size_t)st.st_size)
		return vmconf_refuse(error, "\"%s\" holds a zero byte; text is needed", path);
	*text = TAKE_PTR(buf);
	return 0;
}

int files_open_kvm(struct vmconf_error *error)
{
	CLEAN_FD int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0 && (errno == EACCES || errno == EPERM))
		return vmconf_refuse(
		    error, "/dev/kvm: no access; join the group kvm (adduser USER kvm) and log in again");
	if (fd < 0)
		return vmconf_refuse(error,
				     "/dev/kvm: %s; the module kvm_intel or kvm_amd must be loaded and "
				     "virtualization be enabled in the firmware",
				     strerror(errno));
	return take_fd(&fd);
}

/* ---- images ---- */

/* True if one of the files that the process pid has open is the one of st, and locked. */
static bool holds_lock(const char *pid, const struct stat *st)
{
	char path[600], line[256];
	struct dirent *entry;
	bool found = false;
	DIR *fds;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	fds = opendir(path);
	while (fds && !found && (entry = readdir(fds))) {
		CLEAN_FILE FILE *info = NULL;
		struct stat other;

		if (fstatat(dirfd(fds), entry->d_name, &other, 0) || other.st_ino != st->st_ino ||
		    other.st_dev != st->st_dev)
			continue;
		snprintf(path, sizeof(path), "/proc/%s/fdinfo/%s", pid, entry->d_name);
		info = fopen(path, "re");
		while (info && !found && fgets(line, sizeof(line), info))
			found = !strncmp(line, "lock:", 5);
	}
	if (fds)
		closedir(fds);
	return found;
}

int files_lock_holder(int fd)
{
	struct stat st;
	struct dirent *entry;
	DIR *proc = fstat(fd, &st) ? NULL : opendir("/proc");
	int pid = 0;

	/* F_OFD_GETLK names no process, since several may share the open file; /proc tells who has it. */
	while (proc && !pid && (entry = readdir(proc))) {
		int candidate = (int)strtol(entry->d_name, NULL, 10);

		if (candidate > 0 && candidate != getpid() && holds_lock(entry->d_name, &st))
			pid = candidate;
	}
	if (proc)
		closedir(proc);
	return pid;
}

/* A lock that no process has may be one of a dead machine's, until the kernel is through with its last transfers. */
static int lock_image(const struct vmconf_disk *disk, int fd, struct vmconf_error *error)
{
	const struct flock lock = { .l_type = disk->readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	const struct timespec pause = { .tv_nsec = LOCK_AGAIN_NS };

	for (unsigned i = 0; i < LOCK_TRIES; i++) {
		int pid;

		if (!fcntl(fd, F_OFD_SETLK, &lock))
			return 0;
		if (errno != EAGAIN && errno != EACCES)
			return vmconf_refuse(
			    error, "path=\"%s\" can't be locked: %s; a file system with locks is needed",
			    disk->path, strerror(errno));
		pid = files_lock_holder(fd);
		if (pid)
			return vmconf_refuse(
			    error, "path=\"%s\" is in use by process %d; one writer at a time is allowed",
			    disk->path, pid);
		nanosleep(&pause, NULL);
	}
	return vmconf_refuse(
	    error, "path=\"%s\" is in use by another process; one writer at a time is allowed", disk->path);
}

int files_open_image(const struct vmconf_disk *disk, bool *direct, struct vmconf_error *error)
{
	int flags = disk->readonly ? O_RDONLY : O_RDWR;
	struct vmconf_error why;
	CLEAN_FD int fd = -1;
	off_t size;

	*direct = disk->cache != CACHE_BUFFERED;
	fd = open_checked(disk->path, flags | (*direct ? O_DIRECT : 0), true, &why);
	if (fd == -EOPNOTSUPP && disk->cache == CACHE_DIRECT)
		return vmconf_refuse(
		    error, "cache=\"direct\" is not possible on the file system of %s; allowed: buffered",
		    disk->path);
	if (fd == -EOPNOTSUPP) {
		*direct = false;
		fd = open_checked(disk->path, flags, true, &why);
	}
	if (fd < 0)
		return vmconf_refuse(error, "path=%s", why.text);
	size = lseek(fd, 0, SEEK_END);
	if (size < 512)
		return vmconf_refuse(error,
				     "path=\"%s\" has %lld bytes; at least one sector of 512 is needed",
				     disk->path, (long long)size);
	if (lock_image(disk, fd, error))
		return -EINVAL;
	return take_fd(&fd);
}

bool files_begins_like_qcow2(int fd)
{
	static const uint8_t magic[] = { 'Q', 'F', 'I', 0xfb };
	_Alignas(PAGE) uint8_t head[PAGE]; /* as a descriptor that goes past the page cache wants it */

	return pread(fd, head, sizeof(head), 0) >= (ssize_t)sizeof(magic) &&
	       !memcmp(head, magic, sizeof(magic));
}

const char *files_backing_path(const char *word)
{
	return !strncmp(word, "raw:", 4) || !strncmp(word, "qcow2:", 6) ? strchr(word, ':') + 1 : word;
}

int files_open_backing(const char *word, struct vmconf_error *error)
{
	const char *path = files_backing_path(word);
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
	struct vmconf_error why;
	CLEAN_FD int fd = open_checked(path, O_RDONLY, true, &why);

	if (fd < 0)
		return vmconf_refuse(error, "backing=%s", why.text);
	if (fcntl(fd, F_OFD_SETLK, &lock))
		return vmconf_refuse(error, "backing=\"%s\" is written to by another process", path);
	return take_fd(&fd);
}

int files_connect(const char *path)
{
	CLEAN_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return -errno;
	return take_fd(&fd);
}

int files_listen(const char *path)
{
	CLEAN_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct stat st;
	mode_t old;
	int err;

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path));
	old = umask(0177);
	err = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ? -errno : 0;
	if (err == -EADDRINUSE && !lstat(path, &st) && S_ISSOCK(st.st_mode) && st.st_uid == geteuid()) {
		CLEAN_FD int peer = files_connect(path);

		if (peer == -ECONNREFUSED && !unlink(path))
			err = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ? -errno : 0;
	}
	umask(old);
	if (!err && listen(fd, 4))
		err = -errno;
	return err ? err : take_fd(&fd);
}

int files_try_port(const struct usernet_forward *forward)
{
	int type = forward->udp ? SOCK_DGRAM : SOCK_STREAM, on = 1;
	CLEAN_FD int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	struct sockaddr_in addr = { .sin_family = AF_INET,
				    .sin_port = htons(forward->host_port),
				    .sin_addr = forward->host };

	/* Connections of before that linger are in nobody's way; those who listen are. */
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
	    bind(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return -errno;
	return 0;
}
