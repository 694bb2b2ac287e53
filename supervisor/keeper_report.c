/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper's crash reports. Theory of operation: the file system that they go to may stand still for as long as it
 * likes, and the keeper must start successors meanwhile. So each is written by a process of its own, which has the report
 * in the memory that it was forked with; one at a time, so that a directory that hangs costs one process, and a few wait
 * for it. A process in the middle of such a call can't even be killed. So the writer holds nothing of what the keeper's
 * end is to release, locks on images and name first of all, and nobody waits for its end for long.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "fd.h"
#include "keeper_priv.h"
#include "logs.h"
#include "num.h"

#define LAST_REPORTS_NS (3 * NS_PER_S) /* for those that are not written yet when the keeper ends */
#define RESULT_FD       3              /* in the writer */

/* What the writer says when it is through. */
struct result {
	int32_t err;
	char path[REPORT_PATH_MAX];
};

/* ---- the writer ---- */

__attribute__((noreturn)) static void write_one(const struct keeper_self *s,
						const struct keeper_report *report, int result_fd,
						pid_t keeper)
{
	const struct report_file file = { .machine = s->plan->dir->name,
					  .id = s->plan->child[report->child].id,
					  .when = report->when,
					  .text = report->text,
					  .flight = report->flight };
	struct result result = { 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != keeper)
		_exit(1);
	prctl(PR_SET_NAME, "bulkhead-report");
	keeper_drop_streams();
	if (dup2(result_fd, RESULT_FD) < 0 || close_range(RESULT_FD + 1, ~0U, 0))
		_exit(1);
	result.err = report_write(s->plan->crash_dir, &file, result.path);
	_exit(fd_write_full(RESULT_FD, &result, sizeof(result)) ? 1 : 0);
}

static int start_writer(struct keeper_self *s, const struct keeper_report *report)
{
	struct keeper_reports *r = &s->reports;
	pid_t self = getpid(), pid;
	int ends[2], err = 0;

	if (pipe2(ends, O_CLOEXEC))
		return -errno;
	pid = fork();
	if (!pid)
		write_one(s, report, ends[1], self);
	if (pid > 0)
		r->writer = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pid < 0 || r->writer < 0)
		err = -errno;
	close(ends[1]);
	if (!err) {
		r->result = ends[0];
		return 0;
	}
	close(ends[0]);
	r->writer = -1;
	if (pid > 0)
		kill(pid, SIGKILL); /* nobody could tell when it ends */
	return err;
}

/* ---- the keeper ---- */

static void drop_first(struct keeper_reports *r)
{
	flight_free(r->report[0].flight);
	r->n--;
	memmove(&r->report[0], &r->report[1], r->n * sizeof(r->report[0]));
}

static void tell(const struct keeper_self *s, const struct keeper_report *report, int err, const char *path)
{
	const char *id = s->plan->child[report->child].id;

	if (err)
		say_warn_errno(err, "%s: the crash report can't be written, %s", id, path);
	else
		say_info("%s: the crash report is %s", id, path);
}

static void write_next(struct keeper_self *s)
{
	struct keeper_reports *r = &s->reports;

	while (r->n && r->writer < 0) {
		int err = start_writer(s, &r->report[0]);

		if (!err)
			return;
		tell(s, &r->report[0], err, s->plan->crash_dir);
		drop_first(r);
	}
}

void keeper_add_report(struct keeper_self *s, size_t i, const char *text)
{
	struct keeper_reports *r = &s->reports;
	struct keeper_report *report = &r->report[r->n];

	if (!s->plan->child[i].id)
		return;
	if (r->n == KEEPER_REPORTS_MAX) {
		say_warn("%s: no crash report is written of it, %d others wait for %s", s->plan->child[i].id,
			 KEEPER_REPORTS_MAX, s->plan->crash_dir);
		return;
	}
	*report = (struct keeper_report) { .child = i, .when = s->reaped[i], .flight = TAKE_PTR(s->last[i]) };
	snprintf(report->text, sizeof(report->text), "%.*s", REPORT_TEXT_MAX - 1, text);
	r->n++;
	write_next(s);
}

void keeper_report_written(struct keeper_self *s)
{
	struct keeper_reports *r = &s->reports;
	struct result result;
	siginfo_t unused;
	int err =
	    fd_read_full(r->result, &result, sizeof(result)); /* its end is closed, so there is no waiting */

	waitid(P_PIDFD, (id_t)r->writer, &unused, WEXITED);
	clean_fd(&r->writer);
	clean_fd(&r->result);
	r->writer = r->result = -1;
	if (err)
		tell(s, &r->report[0], -EIO, s->plan->crash_dir);
	else
		tell(s, &r->report[0], result.err, result.path);
	drop_first(r);
	write_next(s);
}

void keeper_end_reports(struct keeper_self *s)
{
	struct keeper_reports *r = &s->reports;
	uint64_t end = clock_ns() + LAST_REPORTS_NS, now;

	while (r->n && (now = clock_ns()) < end) {
		struct pollfd writer = { .fd = r->writer, .events = POLLIN };

		if (poll(&writer, 1, (int)((end - now) / NS_PER_MS) + 1) == 1)
			keeper_report_written(s);
	}
	if (!r->n)
		return;
	say_warn("%s: %zu crash reports are lost, %s does not take them", s->plan->dir->name, r->n,
		 s->plan->crash_dir);
	syscall(SYS_pidfd_send_signal, r->writer, SIGKILL, NULL, 0);
}
