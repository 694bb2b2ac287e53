/* SPDX-License-Identifier: Apache-2.0 */
/* Control groups as the kernel's Documentation/admin-guide/cgroup-v2.rst has them. */
#include "cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "num.h"

#define EMPTY_MS 1000
#define TEXT_MAX 512 /* bytes of a file that is read */

const char *const cgroup_controllers[CGROUP_CONTROLLERS] = { "cpu", "memory", "pids" };

/* ---- files ---- */

static int write_text(int dir, const char *file, const char *text)
{
	CLEAN_FD int fd = openat(dir, file, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -errno;
}

static int write_number(int dir, const char *file, uint64_t number)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, number);
	return write_text(dir, file, text);
}

/* The number after a word at the start of a line of a short file; 0 if there is none. */
static unsigned long number_of(int fd, const char *word)
{
	char text[TEXT_MAX];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	size_t len = strlen(word);

	text[n < 0 ? 0 : n] = '\0';
	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, word, len) && line[len] == ' ')
			return strtoul(line + len, NULL, 10);
	}
	return 0;
}

static int open_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* ---- where ---- */

/* Where cgroups v2 are mounted: proc(5), mountinfo. Into path; -ENOENT. */
static int find_mount(char *path, size_t size)
{
	CLEAN_FILE FILE *mounts = fopen("/proc/self/mountinfo", "re");
	CLEAN_FREE char *line = NULL;
	size_t room = 0;

	while (mounts && getline(&line, &room, mounts) > 0) {
		char *rest = line, *word[5] = { NULL };

		if (!strstr(line, " - cgroup2 "))
			continue;
		for (size_t i = 0; i < ARRAY_SIZE(word) && rest; i++)
			word[i] = strsep(&rest, " ");
		/* The fourth is what of the hierarchy is mounted there. */
		if (word[4] && !strcmp(word[3], "/"))
			return snprintf(path, size, "%s", word[4]) < (int)size ? 0 : -ENAMETOOLONG;
	}
	return -ENOENT;
}

/* The group that this process is in. */
static int find_own(char *path, size_t size)
{
	CLEAN_FILE FILE *groups = fopen("/proc/self/cgroup", "re");
	CLEAN_FREE char *line = NULL;
	size_t room = 0, len;
	int err = find_mount(path, size);

	while (!err && groups && getline(&line, &room, groups) > 0) {
		if (strncmp(line, "0::/", 4))
			continue;
		line[strcspn(line, "\n")] = '\0';
		len = strlen(path);
		if (!strcmp(line, "0::/"))
			return 0;
		return snprintf(path + len, size - len, "%s", line + 3) < (int)(size - len) ? 0
											    : -ENAMETOOLONG;
	}
	return err ? err : -ENOENT;
}

static bool is_self(const struct vmconf *conf)
{
	return !strcmp(conf->cgroup, "self");
}

/* The folder that conf names, opened; path is what it is called. */
static int open_folder(const struct vmconf *conf, char *path, size_t size, struct vmconf_error *error)
{
	CLEAN_FD int dir = -1;
	struct statfs fs;
	int err = 0;

	if (is_self(conf))
		err = find_own(path, size);
	else if (snprintf(path, size, "%s", conf->cgroup) >= (int)size)
		err = -ENAMETOOLONG;
	if (err)
		return vmconf_refuse(error, "--cgroup: \"%s\": %s; cgroups v2 are needed", conf->cgroup,
				     strerror(-err));
	dir = open_dir(path);
	if (dir < 0)
		return vmconf_refuse(error, "--cgroup: \"%s\" can't be opened: %s; a cgroup is needed", path,
				     strerror(-dir));
	if (fstatfs(dir, &fs) || (unsigned long)fs.f_type != CGROUP2_SUPER_MAGIC)
		return vmconf_refuse(error, "--cgroup: \"%s\" is no cgroup of version 2; one is needed",
				     path);
	if (faccessat(dir, ".", W_OK, AT_EACCESS) || faccessat(dir, "cgroup.procs", W_OK, AT_EACCESS))
		return vmconf_refuse(error,
				     "--cgroup: \"%s\": %s; a cgroup that was made over to this user is "
				     "needed (systemd: Delegate=yes)",
				     path, strerror(errno));
	return take_fd(&dir);
}

int cgroup_check(const struct vmconf *conf, struct vmconf_error *error)
{
	char path[PATH_MAX];
	CLEAN_FD int dir = -1;

	if (!conf->cgroup)
		return 0;
	dir = open_folder(conf, path, sizeof(path), error);
	return dir < 0 ? dir : 0;
}

/* ---- making ---- */

/* Its children get the controllers that it has; *missing are those that it has not. */
static int pass_controllers(int dir, const char *path, unsigned *missing, struct vmconf_error *error)
{
	char word[16];

	*missing = 0;
	for (size_t i = 0; i < CGROUP_CONTROLLERS; i++) {
		int err;

		snprintf(word, sizeof(word), "+%s", cgroup_controllers[i]);
		err = write_text(dir, "cgroup.subtree_control", word);
		if (err == -ENOENT)
			*missing |= 1U << i;
		else if (err == -EBUSY)
			return vmconf_refuse(error,
					     "--cgroup: processes are in \"%s\"; a cgroup without any, or "
					     "that bulkhead alone is in (self), is needed",
					     path);
		else if (err)
			return vmconf_refuse(error, "--cgroup: \"%s\": no controller %s for its children: %s",
					     path, cgroup_controllers[i], strerror(-err));
	}
	return 0;
}

/* Groups with children to be limited hold no processes: this one goes to a child, and the keeper will be there, too. */
static int step_aside(int dir, const char *path, struct vmconf_error *error)
{
	CLEAN_FD int aside = -1;
	int err = mkdirat(dir, "bulkhead", 0755) && errno != EEXIST ? -errno : 0;

	if (!err)
		aside = openat(dir, "bulkhead", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!err)
		err = aside < 0 ? -errno : write_text(aside, "cgroup.procs", "0");
	return err ? vmconf_refuse(error, "--cgroup: can't move to \"%s/bulkhead\": %s", path, strerror(-err))
		   : 0;
}

/* Removes a group and those in it, which must be empty. */
static int remove_empty(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_type == DT_DIR && *entry->d_name != '.')
			unlinkat(dirfd(dir), entry->d_name, AT_REMOVEDIR);
	if (dir)
		closedir(dir);
	return rmdir(path) ? -errno : 0;
}

int cgroup_make(const struct vmconf *conf, struct cgroup *group, struct vmconf_error *error)
{
	char folder[PATH_MAX];
	CLEAN_FREE char *path = NULL;
	CLEAN_FD int dir = -1;
	CLEAN_FD int own = -1;
	unsigned unused;

	if (!conf->cgroup)
		return 0;
	dir = open_folder(conf, folder, sizeof(folder), error);
	if (dir < 0 || (is_self(conf) && step_aside(dir, folder, error)) ||
	    pass_controllers(dir, folder, &group->missing, error))
		return -EINVAL;
	if (asprintf(&path, "%s/bulkhead-%s", folder, conf->name) < 0) {
		path = NULL;
		return vmconf_refuse(error, "out of memory");
	}
	if (mkdir(path, 0755) && (errno != EEXIST || remove_empty(path) || mkdir(path, 0755)))
		return vmconf_refuse(error, "--cgroup: can't make \"%s\": %s; nothing may run in it", path,
				     strerror(errno));
	group->path = TAKE_PTR(path);
	own = open_dir(group->path);
	return own < 0 ? vmconf_refuse(error, "--cgroup: \"%s\": %s", group->path, strerror(-own))
		       : pass_controllers(own, group->path, &unused, error);
}

int cgroup_add(const struct cgroup *group, const char *id, const struct cgroup_limits *limits, char **path,
	       struct vmconf_error *error)
{
	const struct {
		const char *file;
		uint64_t value;
	} set[CGROUP_CONTROLLERS] = { { "cpu.weight", limits->weight },
				      { "memory.max", limits->memory },
				      { "pids.max", limits->tasks } };
	CLEAN_FREE char *own = NULL;
	CLEAN_FD int dir = -1;
	int err = 0;

	if (asprintf(&own, "%s/%s", group->path, id) < 0) {
		own = NULL;
		return vmconf_refuse(error, "out of memory");
	}
	if (mkdir(own, 0755))
		return vmconf_refuse(error, "--cgroup: can't make \"%s\": %s", own, strerror(errno));
	dir = open_dir(own);
	err = dir < 0 ? dir : 0;
	for (size_t i = 0; !err && i < CGROUP_CONTROLLERS; i++)
		if (!(group->missing & 1U << i))
			err = write_number(dir, set[i].file, set[i].value);
	/* Worker and anchor share their memory: one without the other is of no use. */
	if (!err && !(group->missing & 1U << 1))
		err = write_text(dir, "memory.oom.group", "1");
	if (err)
		return vmconf_refuse(error, "--cgroup: \"%s\" can't be limited: %s", own, strerror(-err));
	*path = TAKE_PTR(own);
	return 0;
}

/* ---- while it runs, and at its end ---- */

unsigned long cgroup_oom_kills(const char *path)
{
	CLEAN_FD int dir = open_dir(path);
	CLEAN_FD int fd = dir < 0 ? -1 : openat(dir, "memory.events", O_RDONLY | O_CLOEXEC);

	return fd < 0 ? 0 : number_of(fd, "oom_kill");
}

/* Ends all processes of a group and waits until it is empty: the kernel tells of it by POLLPRI. */
static void empty(int dir)
{
	CLEAN_FD int fd = openat(dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
	uint64_t end = clock_ns() + EMPTY_MS * NS_PER_MS, now;

	write_text(dir, "cgroup.kill", "1");
	while (fd >= 0 && number_of(fd, "populated") && (now = clock_ns()) < end) {
		struct pollfd wait = { .fd = fd, .events = POLLPRI };

		poll(&wait, 1, (int)((end - now) / NS_PER_MS) + 1);
	}
}

void cgroup_remove(struct cgroup *group)
{
	CLEAN_FD int dir = -1;

	if (!group || !group->path)
		return;
	dir = open_dir(group->path);
	if (dir >= 0)
		empty(dir);
	remove_empty(group->path);
	free(group->path);
	group->path = NULL;
}
