/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a child program with exactly the descriptors that it needs.
 *
 * The program is opened by the parent and executed by descriptor, so that the child's uid need not reach it
 * through, say, a 0700 home directory. Descriptors are first copied above every target number and only then put
 * in place, since any of them may stand where another belongs.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clean.h"
#include "sandbox_priv.h"

#define FIRST_FD 3

struct spawn_plan {
	const struct sandbox_spawn *spawn;
	int exec_fd;
	int null_fd;
};

/* Child: a close-on-exec copy of fd above all the numbers that will be given out. */
static int copy_high(int sock, int fd, size_t nfds)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_FD + (int)nfds);

	if (copy < 0)
		birth_fail(sock, BIRTH_FDS, -errno);
	return copy;
}

static void put(int sock, int from, int to)
{
	if (dup2(from, to) < 0)
		birth_fail(sock, BIRTH_FDS, -errno);
}

/* Child: dispositions to default; those that were ignored would stay so over an exec. By the system call, since the
 * library's function refuses the two signals that it keeps for itself, and those can be inherited as ignored too. */
static void default_signals(void)
{
	static const uint64_t
	    all_default[4]; /* the kernel's struct sigaction: handler, flags, restorer, mask */

	for (int sig = 1; sig < NSIG; sig++)
		syscall(SYS_rt_sigaction, sig, all_default, NULL, sizeof(uint64_t));
}

/* Child: from here to the exec; async-signal-safe calls only. */
static void spawn_child(void *arg, int sock)
{
	static char *const no_env[] = { NULL };
	const struct spawn_plan *plan = arg;
	const struct sandbox_spawn *spawn = plan->spawn;
	int fds[SANDBOX_FDS_MAX], err_fd, null_fd, exec_fd;
	sigset_t none;

	sock = copy_high(sock, sock, spawn->nfds);
	exec_fd = copy_high(sock, plan->exec_fd, spawn->nfds);
	null_fd = copy_high(sock, plan->null_fd, spawn->nfds);
	err_fd = spawn->stderr_fd < 0 ? null_fd : copy_high(sock, spawn->stderr_fd, spawn->nfds);
	for (size_t i = 0; i < spawn->nfds; i++)
		fds[i] = copy_high(sock, spawn->fds[i], spawn->nfds);
	put(sock, null_fd, STDIN_FILENO);
	put(sock, null_fd, STDOUT_FILENO);
	put(sock, err_fd, STDERR_FILENO);
	for (size_t i = 0; i < spawn->nfds; i++)
		put(sock, fds[i], FIRST_FD + (int)i);
	if (close_range(FIRST_FD + (unsigned)spawn->nfds, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		birth_fail(sock, BIRTH_FDS, -errno);
	default_signals();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	syscall(SYS_execveat, exec_fd, "", spawn->argv, spawn->envp ? spawn->envp : no_env, AT_EMPTY_PATH);
	birth_fail(sock, BIRTH_EXEC, -errno);
}

/* Sets *what and returns the error of a request that makes no sense, or 0. */
static int check_spawn(const struct sandbox_spawn *spawn, const char **what)
{
	*what = "descriptors to pass";
	if (spawn->nfds > SANDBOX_FDS_MAX)
		return -E2BIG;
	for (size_t i = 0; i < spawn->nfds; i++)
		if (spawn->fds[i] < 0)
			return -EBADF;
	*what = "outer uid of the child: root is refused";
	return spawn->namespaces && geteuid() == 0 && spawn->uid == 0 ? -EINVAL : 0;
}

int sandbox_spawn(const struct sandbox_spawn *spawn, pid_t *pid, int *pidfd, const char **what)
{
	struct birth birth = { .namespaces = spawn->namespaces,
			       .host_network = spawn->host_network,
			       .clear_handlers = true,
			       .die_with_parent = spawn->die_with_parent,
			       .uid = spawn->uid,
			       .cgroup_fd = -1 };
	CLEAN_FD int exec_fd = -1;
	CLEAN_FD int null_fd = -1;
	CLEAN_FD int cgroup_fd = -1;
	const char *step;
	int err;

	if (!what)
		what = &step;
	err = check_spawn(spawn, what);
	if (err)
		return err;
	*what = "open the program";
	exec_fd = open(spawn->path, O_PATH | O_CLOEXEC);
	if (exec_fd < 0)
		return -errno;
	*what = "open /dev/null";
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null_fd < 0)
		return -errno;
	if (spawn->cgroup) {
		*what = "open the cgroup";
		cgroup_fd = open(spawn->cgroup, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (cgroup_fd < 0)
			return -errno;
		birth.cgroup_fd = cgroup_fd;
	}
	struct spawn_plan plan = { .spawn = spawn, .exec_fd = exec_fd, .null_fd = null_fd };
	return birth_run(&birth, spawn_child, &plan, pid, pidfd, what);
}

static void fork_child(void *arg, int sock)
{
	(void)arg;
	close(sock);
}

int sandbox_fork(uid_t uid, bool host_network, pid_t *pid, int *pidfd, const char **what)
{
	struct birth birth = { .namespaces = true,
			       .host_network = host_network,
			       .die_with_parent = true,
			       .uid = uid,
			       .cgroup_fd = -1 };
	int err;

	*what = "fork with other threads running";
	err = single_thread();
	if (err)
		return err;
	*what = "outer uid of the child: root is refused";
	if (geteuid() == 0 && uid == 0)
		return -EINVAL;
	return birth_run(&birth, fork_child, NULL, pid, pidfd, what);
}
