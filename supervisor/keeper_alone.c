/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper without a supervisor. Theory of operation: while the machine lives the keeper listens in the run directory.
 * Whoever connects is told to go away, unless the supervisor is gone and it is somebody of this user; then its
 * connection is what the supervisor's was, so there are never two. A supervisor is gone when its end of the socket is,
 * and to be sure of it it is killed and its death awaited first. Children are not reaped meanwhile: the next supervisor
 * finds them as they are, and a dead one's pid can't become anybody else's.
 *
 * The keeper reads nothing of what it holds. What children write to their logs and consoles fills the buffers of those
 * sockets and pipes, which don't block for them, and the rest is lost.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "keeper_priv.h"
#include "logs.h"
#include "saved.h"

#define SUPERVISOR_END_MS 2000

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

/* ---- what became of the supervisor ---- */

/* linux/pidfd.h of 6.15 on, which tells how a process ended that others have reaped. */
struct exit_info {
	uint64_t mask, cgroup;
	uint32_t ids[11];
	int32_t status;
};
#define GET_EXIT_INFO  _IOWR(0xff, 11, struct exit_info)
#define EXIT_INFO_EXIT (1U << 3)

/* The status, as of wait(2), of one that nobody has reaped yet: the last field of its stat. -1 if there is none. */
static int status_of_zombie(pid_t pid)
{
	char path[32], line[1024];
	CLEAN_FILE FILE *f = NULL;
	const char *state, *last;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f || !fgets(line, sizeof(line), f))
		return -1;
	state = strrchr(line, ')');
	last = strrchr(line, ' ');
	return state && last && state[1] && state[2] == 'Z' ? (int)strtol(last, NULL, 10) : -1;
}

/* Its parent is not us, so how it ended is known only if we look in time or the kernel is a new one. -1: not known. */
static int supervisor_status(const struct keeper_self *s)
{
	struct pollfd ended = { .fd = s->supervisor_fd, .events = POLLIN };
	struct exit_info info = { .mask = EXIT_INFO_EXIT };
	int status;

	if (s->supervisor_fd < 0 || poll(&ended, 1, SUPERVISOR_END_MS) != 1)
		return -1;
	status = status_of_zombie(s->supervisor);
	if (status >= 0)
		return status;
	if (ioctl(s->supervisor_fd, GET_EXIT_INFO, &info) || !(info.mask & EXIT_INFO_EXIT))
		return -1;
	return info.status;
}

/* No thread of it runs any more when this returns. */
static int await_end(struct keeper_self *s)
{
	int status;

	if (s->supervisor_fd >= 0)
		syscall(SYS_pidfd_send_signal, s->supervisor_fd, SIGKILL, NULL, 0);
	status = supervisor_status(s);
	clean_fd(&s->supervisor_fd);
	s->supervisor_fd = -1;
	close(s->sock);
	s->sock = -1;
	return status;
}

static void report(const struct keeper_self *s, int status, const char *what_now)
{
	const char *name = s->plan->dir->name;

	if (status < 0 || !WIFSIGNALED(status))
		say_error("%s: the supervisor (process %d) died; %s", name, (int)s->supervisor, what_now);
	else
		say_error("%s: the supervisor (process %d) died of signal %d (%s)%s; %s", name,
			  (int)s->supervisor, WTERMSIG(status), strsignal(WTERMSIG(status)),
			  WTERMSIG(status) == SIGSYS ? ": a system call that its sandbox forbids" : "",
			  what_now);
}

void keeper_end(struct keeper_self *s, void (*clean_up)(struct keeper_self *s))
{
	int status = s->finished ? 0 : await_end(s);

	clean_up(s);
	if (!s->finished)
		report(s, status, "all others were ended");
}

/* ---- alone ---- */

bool keeper_can_stay(const struct keeper_self *s)
{
	return s->plan->keep && saved_is_there(s->plan->saved_fd);
}

void keeper_drop_streams(void)
{
	CLEAN_FD int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = STDIN_FILENO; null >= 0 && fd <= STDERR_FILENO; fd++)
		dup2(null, fd);
}

/* Whoever waits for the end of these, a pipe's reader say, shall not wait for us. */
static void give_streams_back(struct keeper_self *s)
{
	if (s->terminal >= 0)
		tcsetattr(s->terminal, TCSANOW, &s->settings);
	if (s->terminal > STDERR_FILENO)
		close(s->terminal);
	s->terminal = -1;
	keeper_drop_streams();
}

void keeper_stay_alone(struct keeper_self *s)
{
	int status = await_end(s);
	char text[128];

	rundir_drop_sockets(s->plan->dir);
	rundir_set_owner(s->plan->dir, getpid(), true);
	snprintf(text, sizeof(text), "the machine runs on; bulkhead adopt %s takes it over",
		 s->plan->dir->name);
	report(s, status, text);
	give_streams_back(s);
}

/* ---- adopters ---- */

int keeper_listen(const struct keeper_plan *plan)
{
	CLEAN_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	mode_t old;
	int err;

	if (fd < 0)
		return -errno;
	if ((size_t)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/keeper", plan->dir->path) >=
	    sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	old = umask(0177);
	err = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 4) ? -errno : 0;
	umask(old);
	return err ? err : take_fd(&fd);
}

static int pidfd_of_peer(int fd, pid_t pid)
{
	socklen_t size = sizeof(int);
	int pidfd = -1;

	if (!getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size))
		return pidfd;
	return pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
}

static void refuse(int fd, int err, pid_t pid)
{
	struct keeper_answer answer = { .err = err, .pid = pid, .status = KEEPER_PROTOCOL };

	fd_send(fd, &answer, sizeof(answer), NULL, 0);
}

/* It is the supervisor from here on, and gets what belongs to the machine as a whole. */
static void let_in(struct keeper_self *s, int fd, pid_t pid)
{
	struct keeper_answer answer = { .pid = s->supervisor, .status = KEEPER_PROTOCOL };
	int fds[KEEPER_CONSOLE_MAX + 1] = { s->plan->saved_fd };
	size_t n = 1;

	for (size_t i = 0; i < KEEPER_CONSOLE_MAX; i++) {
		if (s->plan->console[i] < 0)
			continue;
		answer.mask |= 1U << i;
		fds[n++] = s->plan->console[i];
	}
	s->sock = fd;
	s->supervisor = pid;
	s->supervisor_fd = pidfd_of_peer(fd, pid);
	rundir_set_owner(s->plan->dir, pid, false);
	fd_send(fd, &answer, sizeof(answer), fds, n); /* if that fails its end is what comes next */
}

void keeper_answer_door(struct keeper_self *s)
{
	CLEAN_FD int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
	struct ucred peer = { 0 };
	socklen_t size = sizeof(peer);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size))
		return;
	if (peer.uid != 0 && peer.uid != geteuid())
		refuse(fd, -EACCES, 0);
	else if (s->sock >= 0)
		refuse(fd, -EBUSY, s->supervisor);
	else
		let_in(s, take_fd(&fd), peer.pid);
}
