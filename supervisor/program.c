/* SPDX-License-Identifier: Apache-2.0 */
/* The program that the keeper starts a child from: opened once, checked if somebody names another one. */
#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clean.h"

/* NULL if whoever may run this machine may have it run the file. */
static const char *objection(int fd)
{
	struct stat st;

	if (fstat(fd, &st))
		return "it can't be looked at";
	if (!S_ISREG(st.st_mode))
		return "it is no regular file";
	if (st.st_uid && st.st_uid != geteuid())
		return "it belongs neither to root nor to this user";
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return "others may write to it";
	/* By the bits: root may execute nothing without one, and the child may be a different user than this one. */
	return st.st_mode & S_IXUSR ? NULL : "it is not executable";
}

static void replace(struct program *p, int fd, const char *name)
{
	clean_fd(&p->fd);
	p->fd = fd;
	memmove(p->name, name, strnlen(name, sizeof(p->name) - 1) + 1);
	p->name[sizeof(p->name) - 1] = '\0';
}

int program_set(struct program *p, const char *path, char *why, size_t why_size)
{
	const char *no = "its path is not absolute";
	CLEAN_FD int fd = -1;

	if (*path == '/') {
		fd = open(path, O_PATH | O_CLOEXEC);
		if (fd < 0) {
			int err = -errno;

			snprintf(why, why_size, "%s", strerror(-err));
			return err;
		}
		no = objection(fd);
	}
	if (no) {
		snprintf(why, why_size, "%s", no);
		return -EACCES;
	}
	replace(p, take_fd(&fd), path);
	return 0;
}

int program_copy(struct program *to, const struct program *from)
{
	int fd = from->fd < 0 ? -1 : fcntl(from->fd, F_DUPFD_CLOEXEC, 0);

	if (from->fd >= 0 && fd < 0)
		return -errno;
	if (to != from)
		replace(to, fd, from->name);
	else
		clean_fd(&fd);
	return 0;
}

int program_take(struct program *p, const struct keeper_child *child, bool restricted,
		 char exe[PROGRAM_EXE_MAX], char ***argv)
{
	char **words = calloc(child->argc + 2, sizeof(*words));

	if (!words)
		return -ENOMEM;
	*argv = words;
	if (p->fd < 0) {
		int fd = open(child->program, O_PATH | O_CLOEXEC);

		if (fd < 0)
			return -errno;
		replace(p, fd, child->program);
	}
	memcpy(words, child->argv, child->argc * sizeof(*words));
	words[0] = p->name;
	if (restricted && child->restricted)
		words[child->argc] = (char *)(uintptr_t)child->restricted;
	snprintf(exe, PROGRAM_EXE_MAX, "/proc/self/fd/%d", p->fd);
	return 0;
}
