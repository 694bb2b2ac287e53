/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run directory. Theory of operation: RUN belongs to this user and nobody else may write there, so that what is
 * found in RUN/NAME was put there by us, alive or dead. Who holds the lock on RUN/NAME/lock owns the rest; the
 * lock goes with the last process of the machine, however that ended. The lock file is removed last, under the
 * lock, so whoever gets the lock afterwards checks that the name still leads to the file that it locked, and
 * begins again if not. No name is ever followed if it is a symbolic link.
 *
 * RUN goes with its last machine if one of them made it, whichever that was. Its sticky bit says so, which changes nothing
 * in a directory that only its owner writes to.
 */
#include "rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clean.h"
#include "keeper.h"

#define ALONE "without supervisor" /* what the lock file says of a machine that waits to be adopted */

/* Children of root have user ids of their own and must get through to their directories; nobody may look around. */
static mode_t dir_mode(void)
{
	return geteuid() ? 0700 : 0711;
}

int rundir_base(const char *run_dir, char *path, size_t size, struct vmconf_error *error)
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int n;

	if (run_dir)
		n = snprintf(path, size, "%s", run_dir);
	else if (geteuid() == 0)
		n = snprintf(path, size, "/run/bulkhead");
	else if (runtime && *runtime == '/')
		n = snprintf(path, size, "%s/bulkhead", runtime);
	else
		n = snprintf(path, size, "/tmp/bulkhead-%d", (int)geteuid());
	while (n > 1 && (size_t)n < size && path[n - 1] == '/')
		path[--n] = '\0';
	if ((size_t)n >= size)
		return vmconf_refuse(
		    error,
		    "--run-dir: \"%.60s...\" is too long; sockets in it can't have more than %d "
		    "bytes of path",
		    run_dir ? run_dir : runtime, VMCONF_SOCKET_MAX);
	return 0;
}

/* Every directory above and at path must let other users through. */
static int check_reach(const char *path, struct vmconf_error *error)
{
	char part[RUNDIR_PATH_MAX];
	struct stat st;

	for (size_t i = 1; i <= strlen(path); i++) {
		if (path[i] && path[i] != '/')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		if (stat(part, &st))
			return 0; /* not there yet: we make it */
		if (!(st.st_mode & S_IXOTH))
			return vmconf_refuse(
			    error,
			    "--run-dir: \"%s\" is closed to the users that confined processes run "
			    "as; %s needs mode o+x",
			    path, part);
	}
	return 0;
}

int rundir_check(const struct vmconf *conf, struct vmconf_error *error)
{
	char base[RUNDIR_PATH_MAX];
	size_t longest = strlen("events");
	size_t len;

	if (rundir_base(conf->run_dir, base, sizeof(base), error))
		return -EINVAL;
	for (size_t i = 0; i < conf->ndevices; i++) {
		char folder[RUNDIR_SLOT_MAX];

		rundir_slot(folder, vmconf_process_id(&conf->device[i]),
			    conf->device[i].disk.window       ? KEEPER_WINDOW + 1
			    : vmconf_helper(&conf->device[i]) ? KEEPER_HELPER
							      : 1);
		if (!conf->device[i].vhost_user && strlen(folder) + strlen("/bus") > longest)
			longest = strlen(folder) + strlen("/bus");
	}
	if (strlen("core/bus") > longest)
		longest = strlen("core/bus");
	len = strlen(base) + 1 + strlen(conf->name) + 1 + longest;
	if (len > VMCONF_SOCKET_MAX)
		return vmconf_refuse(
		    error,
		    "--run-dir: \"%s\" makes a socket path of %zu bytes; at most %d are possible: "
		    "choose a shorter directory, name or id",
		    base, len, VMCONF_SOCKET_MAX);
	return geteuid() == 0 && conf->sandbox ? check_reach(base, error) : 0;
}

/* Opens a directory that must be ours alone. */
static int open_own(int at, const char *name, const char *shown, struct vmconf_error *error)
{
	CLEAN_FD int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
		return vmconf_refuse(
		    error, "--run-dir: \"%s\" is a symbolic link or a file; a directory is needed", shown);
	if (fd < 0 || fstat(fd, &st))
		return vmconf_refuse(error, "--run-dir: \"%s\" can't be used: %s", shown, strerror(errno));
	if (st.st_uid != geteuid())
		return vmconf_refuse(error,
				     "--run-dir: \"%s\" belongs to user %d; a directory of user %d is needed",
				     shown, (int)st.st_uid, (int)geteuid());
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return vmconf_refuse(error, "--run-dir: \"%s\" can be written by others; mode 0700 is needed",
				     shown);
	return take_fd(&fd);
}

/* Opens and locks the lock file. -EBUSY with *pid if somebody has it, -EAGAIN if it was just being removed. */
static int take_lock(int dir_fd, int *pid, int *fd_out)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	CLEAN_FD int fd =
	    openat(dir_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
	struct stat mine, named;
	char text[32] = "";

	if (fd < 0)
		return errno == ENOENT ? -EAGAIN : -errno;
	if (fstat(fd, &mine) || !S_ISREG(mine.st_mode))
		return -ELOOP;
	*pid = pread(fd, text, sizeof(text) - 1, 0) > 0 ? (int)strtol(text, NULL, 10) : 0;
	if (fcntl(fd, F_OFD_SETLK, &lock))
		return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
	if (fstatat(dir_fd, "lock", &named, AT_SYMLINK_NOFOLLOW) || named.st_ino != mine.st_ino)
		return -EAGAIN;
	*fd_out = take_fd(&fd);
	return 0;
}

/* Removes what dir_fd holds, but for its lock, one level deep: that is all that we ever make. */
static void empty(int dir_fd, bool deep)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		CLEAN_FD int sub = -1;

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") ||
		    (deep && !strcmp(entry->d_name, "lock")))
			continue;
		if (!unlinkat(dir_fd, entry->d_name, 0) || !deep)
			continue;
		sub = openat(dir_fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub >= 0)
			empty(sub, false);
		unlinkat(dir_fd, entry->d_name, AT_REMOVEDIR);
	}
	if (dir)
		closedir(dir);
}

int rundir_set_owner(struct rundir *dir, pid_t pid, bool alone)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "%d%s\n", (int)pid, alone ? " " ALONE : "");

	/* Never shorter than the line, or a reader could take half a number. */
	if (pwrite(dir->lock_fd, text, (size_t)n, 0) != n || ftruncate(dir->lock_fd, n))
		return -EIO;
	return 0;
}

/* One attempt; -EAGAIN if the directory was removed by its last owner meanwhile. */
static int take_dir(struct rundir *dir, struct vmconf_error *error)
{
	CLEAN_FD int fd = -1;
	struct stat st;
	bool alone = false;
	int pid = 0, err;

	if (mkdirat(dir->base_fd, dir->name, dir_mode()) && errno != EEXIST) {
		if (errno == ENOENT)
			return -EAGAIN; /* RUN itself was just removed */
		return vmconf_refuse(error, "--run-dir: \"%s\" can't be made: %s", dir->path,
				     strerror(errno));
	}
	if (fstatat(dir->base_fd, dir->name, &st, AT_SYMLINK_NOFOLLOW))
		return -EAGAIN;
	fd = open_own(dir->base_fd, dir->name, dir->path, error);
	if (fd < 0)
		return fd;
	err = take_lock(fd, &pid, &dir->lock_fd);
	if (err == -EBUSY && rundir_owner(dir->base_fd, dir->name, &alone) > 0 && alone)
		return vmconf_refuse(error,
				     "--name: \"%s\" is running already, without a supervisor; bulkhead "
				     "adopt %s takes it over",
				     dir->name, dir->name);
	if (err == -EBUSY)
		return vmconf_refuse(
		    error, "--name: \"%s\" is running already, as process %d; another name is needed",
		    dir->name, pid);
	if (err == -EAGAIN)
		return err;
	if (err)
		return vmconf_refuse(error, "--run-dir: \"%s/lock\" can't be locked: %s", dir->path,
				     strerror(-err));
	empty(fd, true);
	dir->stale_pid = pid;
	if (rundir_set_owner(dir, getpid(), false))
		return vmconf_refuse(error, "--run-dir: \"%s/lock\" can't be written: %s", dir->path,
				     strerror(errno));
	dir->dir_fd = take_fd(&fd);
	return 0;
}

/* Makes RUN if it is not there, and opens it. */
static int take_base(struct rundir *dir, struct vmconf_error *error)
{
	if (mkdir(dir->base, dir_mode() | S_ISVTX) && errno != EEXIST)
		return vmconf_refuse(error, "--run-dir: \"%s\" can't be made: %s", dir->base,
				     strerror(errno));
	clean_fd(&dir->base_fd);
	dir->base_fd = open_own(AT_FDCWD, dir->base, dir->base, error);
	return dir->base_fd < 0 ? -EINVAL : 0;
}

int rundir_take(const struct vmconf *conf, struct rundir *dir, struct vmconf_error *error)
{
	int err = -EAGAIN;

	*dir = (struct rundir)RUNDIR_NONE;
	if (rundir_base(conf->run_dir, dir->base, sizeof(dir->base), error))
		return -EINVAL;
	memcpy(dir->name, conf->name, sizeof(dir->name));
	if ((size_t)snprintf(dir->path, sizeof(dir->path), "%s/%s", dir->base, dir->name) >=
	    sizeof(dir->path))
		return vmconf_refuse(error, "--run-dir: \"%s\" is too long", dir->base);
	for (int i = 0; i < 100 && err == -EAGAIN; i++) {
		err = take_base(dir, error);
		if (!err)
			err = take_dir(dir, error);
	}
	if (err == -EAGAIN)
		vmconf_refuse(error, "--name: \"%s\" is being removed by another process; try again",
			      dir->name);
	return err ? -EINVAL : 0;
}

void rundir_slot(char folder[RUNDIR_SLOT_MAX], const char *id, size_t slot)
{
	static const char *const ends[KEEPER_PLACES] = {
		"", ".b", [KEEPER_HELPER] = ".user", [KEEPER_WINDOW] = ".window", ".window.b"
	};

	snprintf(folder, RUNDIR_SLOT_MAX, "%s%s", id, ends[slot]);
}

int rundir_add(struct rundir *dir, const char *id, gid_t gid, struct vmconf_error *error)
{
	CLEAN_FD int fd = -1;

	if (!mkdirat(dir->dir_fd, id, 0710))
		fd = openat(dir->dir_fd, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fchmod(fd, 0710) || (geteuid() == 0 && fchown(fd, (uid_t)-1, gid)))
		return vmconf_refuse(error, "--run-dir: \"%s/%s\" can't be made: %s", dir->path, id,
				     strerror(errno));
	return 0;
}

void rundir_drop_sockets(struct rundir *dir)
{
	int fd = openat(dir->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *all = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	unlinkat(dir->dir_fd, "ctl", 0);
	unlinkat(dir->dir_fd, "events", 0);
	while (all && (entry = readdir(all))) {
		CLEAN_FD int sub = -1;

		if (*entry->d_name != '.')
			sub = openat(dir->dir_fd, entry->d_name,
				     O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub >= 0)
			unlinkat(sub, "bus", 0);
	}
	if (all)
		closedir(all);
}

void rundir_remove(struct rundir *dir)
{
	struct stat st;

	if (dir->dir_fd >= 0) {
		empty(dir->dir_fd, true);
		unlinkat(dir->dir_fd, "lock", 0);
		unlinkat(dir->base_fd, dir->name, AT_REMOVEDIR);
	}
	if (!fstat(dir->base_fd, &st) && st.st_mode & S_ISVTX)
		rmdir(dir->base); /* unless another machine is in it */
	clean_fd(&dir->lock_fd);
	clean_fd(&dir->dir_fd);
	clean_fd(&dir->base_fd);
	dir->base_fd = dir->dir_fd = dir->lock_fd = -1;
}

int rundir_open_base(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int rundir_owner(int base_fd, const char *name, bool *alone)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	CLEAN_FD int dir = openat(base_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	CLEAN_FD int fd = -1;
	char text[64] = "";

	if (dir < 0)
		return -errno;
	fd = openat(dir, "lock", O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (fcntl(fd, F_OFD_GETLK, &lock))
		return -errno;
	if (lock.l_type == F_UNLCK)
		return 0;
	if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
		return -EAGAIN;
	if (alone)
		*alone = strstr(text, ALONE);
	return (int)strtol(text, NULL, 10);
}

int rundir_refuse_absent(const char *base, const char *name, struct vmconf_error *error)
{
	char path[RUNDIR_PATH_MAX];
	struct stat st;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", base, name) < sizeof(path) && !lstat(path, &st))
		return vmconf_refuse(
		    error,
		    "\"%s\": no machine of this name runs; one that was killed left %s, which "
		    "the next bulkhead run --name %s takes over and rm -r removes",
		    name, path, name);
	return vmconf_refuse(error, "\"%s\": no machine of this name runs in %s; bulkhead ps lists all", name,
			     base);
}

int rundir_look(const char *run_dir, const char *name, struct rundir *dir, uid_t *owner,
		struct vmconf_error *error)
{
	struct stat st;

	*dir = (struct rundir)RUNDIR_NONE;
	if (rundir_base(run_dir, dir->base, sizeof(dir->base), error))
		return -EINVAL;
	snprintf(dir->name, sizeof(dir->name), "%s", name);
	if ((size_t)snprintf(dir->path, sizeof(dir->path), "%s/%s", dir->base, name) >= sizeof(dir->path))
		return vmconf_refuse(error, "--run-dir: \"%s\" is too long", dir->base);
	dir->base_fd = open(dir->base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir->base_fd >= 0)
		dir->dir_fd = openat(dir->base_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir->dir_fd < 0 || fstat(dir->dir_fd, &st))
		return errno == ENOENT ? rundir_refuse_absent(dir->base, name, error)
				       : vmconf_refuse(error, "--run-dir: \"%s\" can't be used: %s",
						       dir->path, strerror(errno));
	*owner = st.st_uid;
	return 0;
}

bool rundir_has_socket(const struct rundir *dir, const char *file)
{
	struct stat st;

	return !fstatat(dir->dir_fd, file, &st, AT_SYMLINK_NOFOLLOW) && S_ISSOCK(st.st_mode);
}
