/* SPDX-License-Identifier: Apache-2.0 */
/* The process that looks at an image. It has the file, a pipe, and nothing else. */
#include "image_work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "sandbox.h"
#include "syscalls.h"

/* Descriptors that it keeps. */
#define FD_IMAGE 3
#define FD_TO    4

#define LIMIT_DATA (1ULL << 30) /* whatever lengths an image claims */

static void say(const struct image_record *record)
{
	/* Who does not listen any more has ended, and this process with it. */
	(void)fd_write_full(FD_TO, record, sizeof(*record));
}

__attribute__((format(printf, 2, 3))) static void say_why(enum image_said said, const char *fmt, ...)
{
	struct image_record record = { .said = said };
	va_list args;

	va_start(args, fmt);
	vsnprintf(record.why, sizeof(record.why), fmt, args);
	va_end(args);
	say(&record);
}

/* ---- confinement ---- */

/* Nothing is inherited but the image: not even the terminal, which could be written to. */
static int keep_only(int image, int to)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int high_image = fcntl(image, F_DUPFD_CLOEXEC, FD_TO + 1);
	int high_to = fcntl(to, F_DUPFD_CLOEXEC, FD_TO + 1);

	if (null < 0 || high_image < 0 || high_to < 0)
		return -errno;
	for (int fd = 0; fd < FD_IMAGE; fd++)
		if (dup2(null, fd) < 0)
			return -errno;
	if (dup2(high_image, FD_IMAGE) < 0 || dup2(high_to, FD_TO) < 0 || close_range(FD_TO + 1, ~0U, 0) < 0)
		return -errno;
	return 0;
}

static int confine(const char **what)
{
	struct sandbox_enter enter = {
		.limits = { .files = 16, .file_size = UINT64_MAX, .memlock = 0, .data = LIMIT_DATA },
	};
	struct sandbox_filter *filter = NULL;
	size_t n = 0;
	int err;

	while (supervisor_image[n])
		n++;
	*what = "filter";
	err = sandbox_compile(supervisor_image, n, &filter);
	enter.filter = filter;
	if (!err)
		err = sandbox_enter(&enter, what);
	sandbox_filter_free(filter);
	return err;
}

/* ---- the image ---- */

static int show(void *arg, const struct qcow2_snapshot *snapshot)
{
	struct image_record record = { .said = IMAGE_SNAPSHOT, .snapshot = *snapshot };

	(void)arg;
	say(&record);
	return 0;
}

static void list(struct qcow2 *image)
{
	int err = qcow2_snapshot_each(image, show, NULL);

	qcow2_abandon(image);
	if (err)
		say_why(IMAGE_REFUSED, "its snapshots can't be read: %s", strerror(-err));
	else
		say_why(IMAGE_DONE, "%s", "");
}

static void revert(struct qcow2 *image, const char *which)
{
	int err = qcow2_snapshot_revert(image, which), close_err;

	if (err == -ENOENT) {
		qcow2_close(image);
		say_why(IMAGE_ABSENT, "%s", "");
		return;
	}
	close_err = qcow2_close(image);
	if (err == -E2BIG) {
		say_why(IMAGE_REFUSED,
			"reverting needs one reference more to a cluster than its counts hold");
		return;
	}
	if (!err)
		err = close_err;
	if (err)
		say_why(IMAGE_FAILED, "%s", strerror(-err));
	else
		say_why(IMAGE_DONE, "%s", "");
}

static void work(const struct image_job *job)
{
	static int fd = FD_IMAGE;
	struct qcow2_file file = { .ops = &qcow2_fd_ops, .arg = &fd };
	struct qcow2_options options = { .readonly = !job->revert, .device = job->device, .alone = true };
	const char *what = "descriptors";
	struct qcow2 *image;
	char why[IMAGE_WHY_MAX];
	int err = job->sandbox ? confine(&what) : 0;

	if (err)
		say_why(IMAGE_REFUSED, "the sandbox can't be entered (%s): %s", what, strerror(-err));
	else if (qcow2_open(&file, &options, &image, why, sizeof(why)))
		say_why(IMAGE_REFUSED, "%s", why);
	else if (job->revert)
		revert(image, job->revert);
	else
		list(image);
}

int image_work_start(const struct image_job *job, pid_t *pid, int *from, const char **what)
{
	CLEAN_FD int to = -1, pidfd = -1;
	int ends[2], err = 0;

	*what = "pipe";
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	to = ends[1];
	*what = "fork";
	if (job->sandbox) {
		err = sandbox_fork(SANDBOX_NOBODY, false, pid, &pidfd, what);
	} else {
		*pid = fork();
		err = *pid < 0 ? -errno : 0;
	}
	if (!err && *pid == 0) {
		if (!keep_only(job->fd, to))
			work(job);
		_exit(0);
	}
	if (err)
		close(ends[0]);
	else
		*from = ends[0];
	return err;
}
