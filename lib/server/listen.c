/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listening socket of a server that a person started, and the guardian that stays with it.
 *
 * A confined server has an empty root and could neither remove its socket nor, as process 1 of its namespace, be
 * ended by an ordinary signal. So the process that was started stays outside, reads nothing from anyone, and
 * waits: SIGTERM and SIGINT close the pipe whose other end the server watches, a second one kills it, and when
 * it has ended its sockets are removed and its exit status passed on. If the guardian itself is killed the pipe
 * closes too, and the kernel kills a confined server.
 */
#include "listen.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "log.h"
#include "sandbox.h"

/* Removes what stands at the address if it is a socket that nobody listens on. 0 or -errno. */
static int remove_stale(const struct sockaddr_un *addr)
{
	CLEAN_FD int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;

	if (probe < 0)
		return -errno;
	if (lstat(addr->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	if (connect(probe, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN)
		return -EADDRINUSE;
	if (errno != ECONNREFUSED)
		return -errno;
	return unlink(addr->sun_path) < 0 && errno != ENOENT ? -errno : 0;
}

int listen_open(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	CLEAN_FD int fd = -1;
	int err;

	if (strlen(path) >= sizeof(addr.sun_path)) {
		log_error("--socket %s: must be at most %zu bytes long", path, sizeof(addr.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	memcpy(addr.sun_path, path, strlen(path));
	err = remove_stale(&addr);
	if (err == -EADDRINUSE)
		log_error("--socket %s: must not be in use: another server listens there", path);
	else if (err == -ENOTSOCK)
		log_error("--socket %s: must not exist already: it is no socket", path);
	else if (err)
		log_error_errno(err, "--socket %s", path);
	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 1) < 0) {
		err = -errno;
		log_error_errno(err, "--socket %s", path);
		return err;
	}
	return take_fd(&fd);
}

/* Waits for the server's end, passing signals on; its exit status. */
static int guard_child(pid_t child, int *life, const sigset_t *signals)
{
	int status = 0;

	for (;;) {
		int sig = sigwaitinfo(signals, NULL);

		if (sig == SIGTERM || sig == SIGINT || sig == SIGHUP) {
			if (*life < 0)
				kill(child, SIGKILL);
			else
				close(take_fd(life));
		} else if (sig == SIGCHLD && waitpid(child, &status, WNOHANG) == child) {
			break;
		}
	}
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	log_error("the server was ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	return 128 + WTERMSIG(status);
}

/* Removes the socket, if what stands there is still the one that was bound. */
static void remove_own(const char *path, const struct stat *own)
{
	struct stat st;

	if (lstat(path, &st) == 0 && st.st_dev == own->st_dev && st.st_ino == own->st_ino)
		unlink(path);
}

static void remove_all(const struct listen_guard *guard, const struct stat *own)
{
	for (size_t i = 0; i < LISTEN_SOCKETS_MAX && guard->path[i]; i++)
		remove_own(guard->path[i], &own[i]);
}

int listen_guard(const struct listen_guard *guard, int *life)
{
	const char *what = "fork";
	sigset_t signals, before;
	struct stat own[LISTEN_SOCKETS_MAX];
	int ends[2], err, pidfd = -1, status;
	pid_t child;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	sigaddset(&signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &signals, &before);
	for (size_t i = 0; i < LISTEN_SOCKETS_MAX && guard->path[i]; i++)
		if (lstat(guard->path[i], &own[i]) < 0)
			return -errno;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	if (guard->sandboxed) {
		err = sandbox_fork(SANDBOX_NOBODY, guard->host_network, &child, &pidfd, &what);
	} else {
		child = fork();
		err = child < 0 ? -errno : 0;
	}
	if (err) {
		log_error_errno(err, "the server can't be split off (%s)", what);
		close(ends[0]);
		close(ends[1]);
		remove_all(guard, own);
		return err;
	}
	if (child == 0) {
		/* Signals to the whole process group reach both; the guardian alone decides what they mean. */
		signal(SIGTERM, SIG_IGN);
		signal(SIGINT, SIG_IGN);
		signal(SIGHUP, SIG_IGN);
		sigprocmask(SIG_SETMASK, &before, NULL);
		close(ends[1]);
		*life = ends[0];
		return 0;
	}
	close(ends[0]);
	/* Whatever else the device opened is the server's alone. */
	if (dup2(ends[1], 3) == 3)
		close_range(4, ~0U, 0);
	ends[1] = 3;
	status = guard_child(child, &ends[1], &signals);
	remove_all(guard, own);
	_exit(status);
}
