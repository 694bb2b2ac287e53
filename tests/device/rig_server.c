/* SPDX-License-Identifier: Apache-2.0 */
/* The program under test as a process: how it is started, with what, and how it ends. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "config.h"
#include "crashes.h"
#include "num.h"
#include "rig.h"
#include "rig_priv.h"
#include "sandbox.h"

extern char **environ;

#ifdef BH_SANITIZE
#define SANDBOX false
#else
#define SANDBOX true
#endif

static const char *server_path(bool net, bool crashing)
{
	static const char *const paths[2][2] = {
		{ "blk-server/blk-server", "tests/device/blk-server-crash" },
		{ "net-server/net-server", "tests/device/net-server-crash" },
	};
	static char path[4096];
	const char *top = getenv("top_builddir");

	snprintf(path, sizeof(path), "%s/%s", top ? top : "../..", paths[net][crashing]);
	return realpath(path, NULL);
}

/* An order for the crash points, which a confined server gets as all of its environment. */
static void set_crash(struct rig *rig, struct sandbox_spawn *how, int *fds)
{
	static char text[256];
	static char *env[] = { text, NULL };

	atomic_store(&rig->told->go, 0);
	snprintf(text, sizeof(text), "%s=%s;go=fd:%zu", CRASHES_ENV, rig->options.crash, 3 + how->nfds);
	fds[how->nfds++] = rig->go_fd;
	setenv(CRASHES_ENV, strchr(text, '=') + 1, 1);
	how->envp = SANDBOX ? env : environ;
}

void rig_go(struct rig *rig)
{
	atomic_store(&rig->told->go, 1);
}

void rig_crash_list(bool net, char *out, size_t size)
{
	char command[4096 + 64];
	size_t len;
	FILE *f;

	cr_assert_not_null(server_path(net, true), "there is no server with crash points");
	snprintf(command, sizeof(command), "%s=list '%s'", CRASHES_ENV, server_path(net, true));
	f = popen(command, "re");
	cr_assert_not_null(f);
	len = fread(out, 1, size - 1, f);
	out[len] = '\0';
	cr_assert_eq(pclose(f), 0);
}

/* What stands behind the device becomes descriptors 4 and on: the image, or what a network port's backend has. */
static unsigned give_backend(struct rig *rig, const char **argv, int *fds)
{
	static char list[64];
	const struct rig_net *net = rig->options.net;
	size_t len = 0;

	argv[0] = "--image-fd";
	argv[1] = "4";
	if (rig->options.nbd) {
		argv[0] = "--dial-fd";
		fds[0] = rig->options.nbd->fd;
		return 1;
	}
	if (!net) {
		fds[0] = rig->lock_fd;
		return 1;
	}
	for (unsigned i = 0; i < net->n_fds; i++) {
		fds[i] = net->fds[i];
		len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%u", i ? "," : "", 4 + i);
	}
	argv[0] = net->option;
	argv[1] = list;
	return net->n_fds;
}

#define FD_TEXT 16

/* One more descriptor, with the option that tells of it; 0: none. */
static void give_fd(struct sandbox_spawn *how, int *fds, const char **argv, unsigned *n, const char *option,
		    int fd, char text[FD_TEXT])
{
	if (!fd)
		return;
	snprintf(text, FD_TEXT, "%zu", 3 + how->nfds);
	fds[how->nfds++] = fd;
	argv[(*n)++] = option;
	argv[(*n)++] = text;
}

/* The other disk of the process, with what it alone has. */
static int give_lodger(const struct rig *rig, struct sandbox_spawn *how, int *fds, const char **argv,
		       unsigned *n)
{
	static char front[FD_TEXT], image[FD_TEXT], state[FD_TEXT], queues[16];
	struct rig *lodger = rig->options.beside;
	int pair[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	lodger->its_fd = pair[0];
	snprintf(queues, sizeof(queues), "%u", lodger->queues);
	argv[(*n)++] = "--device";
	argv[(*n)++] = "one";
	argv[(*n)++] = "--device";
	argv[(*n)++] = "two";
	argv[(*n)++] = "--queues";
	argv[(*n)++] = queues;
	give_fd(how, fds, argv, n, "--vhost-fd", pair[1], front);
	give_fd(how, fds, argv, n, "--image-fd", lodger->lock_fd, image);
	give_fd(how, fds, argv, n, "--state-fd", lodger->options.state_fd, state);
	return pair[1];
}

/* The window, between our end of a socketpair and the server's, which is given to it. */
static int spawn_window(struct rig *rig, int server)
{
	static char path[4096];
	const char *top = getenv("top_builddir"), *level = getenv("RIG_LOG"), *what = "";
	char queues[16], threads[16], size[16];
	const char *argv[] = { "window",
			       "--vhost-fd",
			       "3",
			       "--server-fd",
			       "4",
			       "--queues",
			       queues,
			       "--io-threads",
			       threads,
			       "--size",
			       size,
			       "--sandbox",
			       SANDBOX ? "on" : "off",
			       "--log-level",
			       level                 ? level
			       : rig->options.log_fd ? "warning"
						     : "error",
			       NULL,
			       "5",
			       NULL };
	int pair[2], fds[3];
	struct sandbox_spawn how = { .path = path,
				     .argv = (char *const *)(uintptr_t)argv,
				     .envp = SANDBOX ? NULL : environ,
				     .fds = fds,
				     .nfds = 2,
				     .stderr_fd = rig->options.log_fd ? rig->options.log_fd : 2,
				     .namespaces = SANDBOX,
				     .uid = SANDBOX_NOBODY,
				     .die_with_parent = true };
	char relative[4096];
	int err;

	snprintf(relative, sizeof(relative), "%s/window/window", top ? top : "../..");
	cr_assert_not_null(realpath(relative, path));
	snprintf(queues, sizeof(queues), "%u", rig->queues);
	snprintf(threads, sizeof(threads), "%u", MAX(rig->options.io_threads, 1U));
	snprintf(size, sizeof(size), "%uM",
		 (rig->options.window_mib ? rig->options.window_mib : 2) * rig->queues);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	fds[0] = pair[1];
	fds[1] = server;
	/* That of the options is the server's, if there is one. */
	if (rig->options.play && rig->options.flight_fd) {
		argv[ARRAY_SIZE(argv) - 3] = "--flight-fd";
		fds[how.nfds++] = rig->options.flight_fd;
	}
	err = sandbox_spawn(&how, &rig->window_pid, &rig->window_pidfd, &what);
	cr_assert_eq(err, 0, "spawn: %s: %s", what, strerror(-err));
	close(pair[1]);
	close(server);
	return pair[0];
}

static bool has_window(const struct rig *rig)
{
	return rig->options.window || (getenv("RIG_WINDOW") && !rig->options.net && !rig->options.beside);
}

/* Starts a server with its end of a new socketpair as descriptor 3 and its backend after that; our end. */
int rig_spawn(struct rig *rig)
{
	const char *level = getenv("RIG_LOG");
	char queues[16], threads[16];
	static char flight[FD_TEXT], state[FD_TEXT], group[FD_TEXT], backing[64];
	const char *argv[RIG_ARGS_MAX] = { rig->options.net ? "net-server" : "blk-server",
					   "--vhost-fd",
					   "3",
					   NULL,
					   NULL,
					   "--queues",
					   queues,
					   "--io-threads",
					   threads,
					   "--sandbox",
					   SANDBOX ? "on" : "off",
					   "--log-level",
					   level                 ? level
					   : rig->options.log_fd ? "warning"
								 : "error" };
	struct rlimit old, limit;
	struct sandbox_spawn how = { .path = server_path(rig->options.net, rig->options.crash),
				     .argv = (char *const *)(uintptr_t)argv,
				     .envp = SANDBOX ? NULL : environ,
				     .nfds = 1,
				     .stderr_fd = rig->options.log_fd ? rig->options.log_fd : 2,
				     .namespaces = SANDBOX,
				     .uid = SANDBOX_NOBODY,
				     .die_with_parent = true };
	const char *what = "";
	unsigned n = 13;
	int pair[2], fds[RIG_FDS_MAX], base = -1, second = -1, err;

	snprintf(queues, sizeof(queues), "%u", rig->options.net ? MAX(rig->options.queues, 1U) : rig->queues);
	snprintf(threads, sizeof(threads), "%u", MAX(rig->options.io_threads, 1U));
	if (rig->options.thread_names)
		argv[8] = rig->options.thread_names;
	if (rig->options.readonly)
		argv[n++] = "--readonly";
	for (const char *const *arg = rig->options.args; arg && *arg; arg++)
		argv[n++] = *arg;
	if (rig->options.engine) {
		argv[n++] = "--engine";
		argv[n++] = rig->options.engine;
	}
	if (rig->options.nbd) {
		argv[n++] = "--nbd";
		argv[n++] = rig->options.nbd->uri;
	}
	if (rig->options.make) {
		argv[n++] = "--format";
		argv[n++] = "qcow2";
	}
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	if (rig->options.play) {
		rig->options.play(rig, pair[1]);
		return spawn_window(rig, pair[0]);
	}
	fds[0] = pair[1];
	how.nfds += give_backend(rig, argv + 3, fds + 1);
	if (rig->options.backing) {
		char path[160];

		snprintf(path, sizeof(path), "%s/base", rig->dir);
		base = open(path, O_RDONLY | O_CLOEXEC);
		cr_assert_geq(base, 0);
		snprintf(backing, sizeof(backing), "raw:fd=%zu", 3 + how.nfds);
		fds[how.nfds++] = base;
		argv[n++] = "--backing";
		argv[n++] = backing;
	}
	give_fd(&how, fds, argv, &n, "--flight-fd", rig->options.flight_fd, flight);
	give_fd(&how, fds, argv, &n, "--state-fd",
		rig->options.net ? rig->options.net->state_fd : rig->options.state_fd, state);
	give_fd(&how, fds, argv, &n, "--group-fd", rig->options.group_fd, group);
	if (rig->options.beside)
		second = give_lodger(rig, &how, fds, argv, &n);
	how.fds = fds;
	if (rig->options.crash)
		set_crash(rig, &how, fds);
	getrlimit(RLIMIT_FSIZE, &old);
	limit = (struct rlimit) { .rlim_cur = rig->options.file_limit, .rlim_max = old.rlim_max };
	if (rig->options.file_limit)
		setrlimit(RLIMIT_FSIZE, &limit);
	err = sandbox_spawn(&how, &rig->pid, &rig->pidfd, &what);
	setrlimit(RLIMIT_FSIZE, &old);
	cr_assert_eq(err, 0, "spawn: %s: %s", what, strerror(-err));
	close(pair[1]);
	if (base >= 0)
		close(base);
	if (second >= 0)
		close(second);
	return has_window(rig) ? spawn_window(rig, pair[0]) : pair[0];
}

/* The program as a descriptor, since a test that is no longer root may not reach the folder it is in. */
static int program_fd(void)
{
	const bool net = false;
	static int fd = -1;

	if (fd < 0)
		fd = open(server_path(net, false), O_PATH | O_CLOEXEC);
	cr_assert(fd >= 0, "%s: %s", server_path(net, false), strerror(errno));
	return fd;
}

void rig_become_user(void)
{
	program_fd();
	if (geteuid() == 0)
		cr_assert(setgid(65533) == 0 && setuid(65533) == 0);
}

/* fork and exec, with standard error to err (-1: as it is). */
static pid_t start_program(const char *const *args, int err)
{
	int fd = program_fd();
	pid_t pid = fork();

	cr_assert(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves none behind */
		if (err >= 0)
			dup2(err, 2);
		fexecve(fd, (char *const *)(uintptr_t)args, environ);
		_exit(127);
	}
	return pid;
}

int rig_run(const char *const *args, char *out, size_t size)
{
	int ends[2], status;
	size_t len = 0;
	ssize_t n;
	pid_t pid;

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	pid = start_program(args, ends[1]);
	close(ends[1]);
	while (out && len + 1 < size && (n = read(ends[0], out + len, size - 1 - len)) > 0)
		len += (size_t)n;
	if (out)
		out[len] = '\0';
	close(ends[0]);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Connects to the server's socket as soon as it listens. */
int rig_dial(struct rig *rig)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	uint64_t end = clock_ns() + RIG_DEADLINE_S * NS_PER_S;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert(fd >= 0);
	memcpy(addr.sun_path, rig->socket, strlen(rig->socket));
	while (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		cr_assert(clock_ns() < end, "nobody listens on %s", rig->socket);
		sched_yield();
	}
	return fd;
}

int rig_spawn_by_hand(struct rig *rig)
{
	const char *argv[RIG_ARGS_MAX] = {
		"blk-server",           "--socket",    rig->socket, "--image", rig->image, "--sandbox",
		SANDBOX ? "on" : "off", "--log-level", "error"
	};
	struct rig *lodger = rig->options.beside;
	unsigned n = 9;

	for (const char *const *arg = rig->options.args; arg && *arg; arg++)
		argv[n++] = *arg;
	if (rig->options.engine) {
		argv[n++] = "--engine";
		argv[n++] = rig->options.engine;
	}
	if (lodger) {
		const char *const more[] = { "--device", "one",          "--device", "two",
					     "--socket", lodger->socket, "--image",  lodger->image };

		memcpy(argv + n, more, sizeof(more));
	}
	rig->pid = start_program(argv, -1);
	rig->pidfd = (int)syscall(SYS_pidfd_open, rig->pid, 0);
	cr_assert(rig->pidfd >= 0);
	if (lodger)
		lodger->its_fd = rig_dial(lodger);
	return rig_dial(rig);
}

void rig_kill_guarded(struct rig *rig)
{
	struct pollfd ended = { .events = POLLIN };
	char path[64];
	int server;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)rig->pid, (int)rig->pid);
	f = fopen(path, "re");
	cr_assert_not_null(f);
	cr_assert_eq(fscanf(f, "%d", &server), 1, "the guardian has no server");
	fclose(f);
	ended.fd = (int)syscall(SYS_pidfd_open, server, 0);
	cr_assert(ended.fd >= 0);
	/* In this order: a guardian that sees its server end removes the socket. */
	kill(rig->pid, SIGKILL);
	syscall(SYS_pidfd_send_signal, ended.fd, SIGKILL, NULL, 0);
	cr_assert_eq(poll(&ended, 1, RIG_DEADLINE_S * 1000), 1, "the server does not end");
	close(ended.fd);
}

static int wait_for(pid_t *pid, int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	int status;

	cr_assert_eq(poll(&p, 1, RIG_DEADLINE_S * 1000), 1, "the server does not end");
	cr_assert_eq(waitpid(*pid, &status, 0), *pid);
	close(pidfd);
	*pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int rig_wait_end(struct rig *rig)
{
	int status = rig->pid ? wait_for(&rig->pid, rig->pidfd) : 0, window;

	if (!rig->window_pid)
		return status;
	/* It ends with its server, in order if that did. */
	window = wait_for(&rig->window_pid, rig->window_pidfd);
	return status ? status : window;
}

void rig_kill_processes(struct rig *rig)
{
	if (rig->window_pid && rig->options.window_first)
		kill(rig->window_pid, SIGKILL);
	if (rig->pid)
		kill(rig->pid, SIGKILL);
	if (rig->window_pid)
		kill(rig->window_pid, SIGKILL);
}
