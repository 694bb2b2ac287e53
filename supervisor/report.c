/* SPDX-License-Identifier: Apache-2.0 */
/* Crash reports: the words, and the files. */
#include "report.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fd.h"
#include "sandbox.h"

#define SUFFIX ".crash"

static void clean_dir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

/* ---- words ---- */

bool report_forbidden(const struct flight *flight, char *text, size_t size)
{
	struct flight_trap trap;
	char call[80];

	if (!flight || !flight_get_trap(flight, &trap))
		return false;
	sandbox_describe_call(trap.nr, trap.arch, call, sizeof(call));
	snprintf(text, size, "the forbidden system call %s%s%s", call,
		 *trap.thread ? ", made by thread " : "", trap.thread);
	return true;
}

void report_put(const struct report_words *w, char text[REPORT_TEXT_MAX])
{
	snprintf(text, REPORT_TEXT_MAX, "process: %s, process id %d, version %s\nlife: %.3f s\nhow: it %s\n",
		 w->process, w->pid, *w->version ? w->version : "not told",
		 (double)w->life_ns / (double)NS_PER_S, w->how);
}

/* ---- files ---- */

/* A time in UTC with milliseconds, for people or for the name of a file. */
static void time_text(const struct timespec *when, bool name, char *text, size_t size)
{
	struct tm tm;
	size_t n;

	gmtime_r(&when->tv_sec, &tm);
	n = strftime(text, size, name ? "%Y%m%dT%H%M%S" : "%Y-%m-%dT%H:%M:%S", &tm);
	/* In the name a dot parts machine, time and device. */
	snprintf(text + n, size - n, "%c%03ldZ", name ? '_' : '.', when->tv_nsec / 1000000);
}

int report_default_dir(char *path, size_t size)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	int n;

	if (state && *state == '/')
		n = snprintf(path, size, "%s/bulkhead", state);
	else if (geteuid() == 0)
		n = snprintf(path, size, "/var/lib/bulkhead");
	else if (home && *home == '/')
		n = snprintf(path, size, "%s/.local/state/bulkhead", home);
	else
		return -ENOENT;
	return n >= 0 && (size_t)n < size ? 0 : -ENAMETOOLONG;
}

/* Opens dir, making it and what is above it for this user alone. */
static int open_dir(const char *dir)
{
	char path[REPORT_PATH_MAX];
	int fd;

	if (snprintf(path, sizeof(path), "%s", dir) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = '\0';
		if (mkdir(path, 0755) && errno != EEXIST)
			return -errno;
		*slash = '/';
	}
	if (mkdir(path, 0700) && errno != EEXIST)
		return -errno;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Whether name is a report of that machine. A machine's name has no dot. */
static bool is_report(const char *name, const char *machine)
{
	size_t len = strlen(machine), all = strlen(name);

	return all > len + sizeof(SUFFIX) && !strncmp(name, machine, len) && name[len] == '.' &&
	       !strcmp(name + all - strlen(SUFFIX), SUFFIX);
}

/* Removes the oldest reports of a machine, whose names sort by time. */
static void remove_oldest(int dir_fd, const char *machine)
{
	int own = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	for (;;) {
		__attribute__((cleanup(clean_dir))) DIR *dir = NULL;
		char oldest[NAME_MAX + 1] = "";
		unsigned n = 0;
		int fd = own < 0 ? -1 : fcntl(own, F_DUPFD_CLOEXEC, 0);

		dir = fd < 0 ? NULL : fdopendir(fd);
		if (!dir)
			break;
		rewinddir(dir);
		for (struct dirent *d; (d = readdir(dir));) {
			if (!is_report(d->d_name, machine))
				continue;
			n++;
			if (!*oldest || strcmp(d->d_name, oldest) < 0)
				snprintf(oldest, sizeof(oldest), "%s", d->d_name);
		}
		if (n <= REPORT_KEPT || unlinkat(dir_fd, oldest, 0))
			break;
	}
	clean_fd(&own);
}

static int write_file(int fd, const struct report_file *file)
{
	char head[REPORT_HEAD] = "", when[40];
	int err;

	time_text(&file->when, false, when, sizeof(when));
	snprintf(head, sizeof(head), REPORT_MAGIC "machine: %s\ndevice: %s\nended: %s\n%.*s", file->machine,
		 file->id, when, REPORT_TEXT_MAX, file->text);
	err = fd_write_full(fd, head, sizeof(head));
	return err || !file->flight ? err : flight_save(file->flight, fd);
}

int report_write(const char *dir, const struct report_file *file, char path[REPORT_PATH_MAX])
{
	CLEAN_FD int dir_fd = open_dir(dir);
	CLEAN_FD int fd = -1;
	char name[NAME_MAX], when[40];
	int err;

	snprintf(path, REPORT_PATH_MAX, "%s", dir);
	if (dir_fd < 0)
		return dir_fd;
	time_text(&file->when, true, when, sizeof(when));
	snprintf(name, sizeof(name), "%s.%s.%s" SUFFIX, file->machine, when, file->id);
	if (snprintf(path, REPORT_PATH_MAX, "%s/%s", dir, name) >= REPORT_PATH_MAX)
		return -ENAMETOOLONG;
	fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	err = write_file(fd, file);
	if (err)
		unlinkat(dir_fd, name, 0);
	else
		remove_oldest(dir_fd, file->machine);
	return err;
}
