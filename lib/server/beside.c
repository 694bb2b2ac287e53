/* SPDX-License-Identifier: Apache-2.0 */
/* A program of ours beside a server that was started by hand. */
#include "beside.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "sandbox.h"

#define PATH_BYTES 4096

/* Where it is: beside this program, or where a build leaves it. */
static int find_program(const char *name, char *path, size_t size)
{
	char self[PATH_BYTES], *slash;
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n < 0)
		return -errno;
	self[n] = '\0';
	slash = strrchr(self, '/');
	if (!slash)
		return -ENOENT;
	slash[1] = '\0';
	for (int build = 0; build < 2; build++) {
		int len = build ? snprintf(path, size, "%s../%s/%s", self, name, name)
				: snprintf(path, size, "%s%s", self, name);

		if (len > 0 && (size_t)len < size && access(path, X_OK) == 0)
			return 0;
	}
	return -ENOENT;
}

int beside_start(const struct beside *beside, int fd, int *pidfd)
{
	char path[PATH_BYTES];
	struct sandbox_spawn spawn = { .path = path,
				       .fds = &fd,
				       .nfds = 1,
				       .stderr_fd = STDERR_FILENO,
				       .namespaces = beside->sandbox,
				       .host_network = true,
				       .uid = SANDBOX_NOBODY,
				       .die_with_parent = true };
	const char *what = "";
	pid_t pid;
	int err = find_program(beside->program, path, sizeof(path));

	if (err) {
		log_error_errno(err, "%s: %s can't be found beside this program", beside->option,
				beside->program);
		return err;
	}
	memcpy(&spawn.argv, &beside->argv, sizeof(spawn.argv));
	err = sandbox_spawn(&spawn, &pid, pidfd, &what);
	if (err)
		log_error_errno(err, "%s: %s can't be started (%s)", beside->option, path, what);
	return err;
}
