/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a child comes to life: clone3 with namespaces and a pidfd, its user map, its ids.
 *
 * Theory of operation. The parent may have many threads, and the child is a copy of one of them with every lock
 * as it happened to be, so between clone3 and execve the child calls only what is async-signal-safe and never
 * glibc's set*id functions, which wait for threads that the copy does not have. The two are joined by a socket
 * pair, close-on-exec on both sides:
 *
 *	parent                              child
 *	socketpair, block signals, clone3
 *	                                    become dumpable, else its /proc files belong to root
 *	                                    send BIRTH_READY
 *	write setgroups, gid_map, uid_map
 *	send one byte
 *	                                    setgroups, setresgid, setresuid to 0 inside
 *	                                    setsid: a terminal's Ctrl-C is the parent's business
 *	                                    parent-death signal: after the ids, as changing them clears it
 *	                                    parent still there? its end of the socket tells; getppid()
 *	                                    is 0 in a new pid namespace whether it lives or not
 *	                                    exec
 *	end of file: the exec has happened
 *
 * A step that fails in the child is sent as {step, errno}; the parent reaps the child and returns it.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "sandbox_priv.h"

struct birth_note {
	int step; /* enum birth_step */
	int err;  /* -errno */
};

static const char *const birth_step_names[] = {
	[BIRTH_READY] = "wait for the child",
	[BIRTH_DUMPABLE] = "make the child dumpable for its user map",
	[BIRTH_WAIT] = "wait for the parent's user map",
	[BIRTH_GROUPS] = "drop supplementary groups",
	[BIRTH_IDS] = "take the inner user and group 0",
	[BIRTH_SESSION] = "start a session",
	[BIRTH_PARENT_DEATH] = "ask for death with the parent",
	[BIRTH_FDS] = "place descriptors",
	[BIRTH_EXEC] = "execute the program",
};
_Static_assert(sizeof(birth_step_names) / sizeof(birth_step_names[0]) == BIRTH_STEPS, "each step has a name");

void birth_fail(int sock, enum birth_step step, int err)
{
	struct birth_note note = { .step = step, .err = err };

	send(sock, &note, sizeof(note), MSG_NOSIGNAL);
	_exit(127);
}

/* Child: waits until the parent has written the maps, then takes its ids. */
static void take_ids(int sock, bool root)
{
	struct birth_note ready = { .step = BIRTH_READY };
	ssize_t n;
	char go;

	if (prctl(PR_SET_DUMPABLE, 1) < 0)
		birth_fail(sock, BIRTH_DUMPABLE, -errno);
	if (send(sock, &ready, sizeof(ready), MSG_NOSIGNAL) < 0)
		_exit(127);
	do
		n = recv(sock, &go, 1, 0);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		birth_fail(sock, BIRTH_WAIT, n < 0 ? -errno : -ESRCH);
	/* Without root the kernel leaves the groups alone, and the map denies setgroups. */
	if (root && syscall(SYS_setgroups, 0, NULL) < 0)
		birth_fail(sock, BIRTH_GROUPS, -errno);
	if (syscall(SYS_setresgid, 0, 0, 0) < 0 || syscall(SYS_setresuid, 0, 0, 0) < 0)
		birth_fail(sock, BIRTH_IDS, -errno);
}

/* Child: everything between clone3 and what the caller wants. */
static void grow_up(const struct birth *birth, int sock, bool root)
{
	char byte;

	if (birth->namespaces)
		take_ids(sock, root);
	if (setsid() < 0)
		birth_fail(sock, BIRTH_SESSION, -errno);
	if (!birth->die_with_parent)
		return;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		birth_fail(sock, BIRTH_PARENT_DEATH, -errno);
	if (recv(sock, &byte, 1, MSG_DONTWAIT) == 0)
		_exit(127);
}

/* Writes text to the file name of directory dir. */
static int write_file(int dir, const char *name, const char *text)
{
	CLEAN_FD int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -errno;
}

/* Parent: maps user and group 0 inside to uid (for root) or to the parent's own ids outside. */
static int write_maps(const struct birth *birth, pid_t pid, const char **what)
{
	bool root = geteuid() == 0;
	char path[32], uids[32], gids[32];
	CLEAN_FD int dir = -1;
	int err = 0;

	*what = "write the child's user map (needs /proc, and user namespaces allowed)";
	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	snprintf(uids, sizeof(uids), "0 %u 1", root ? birth->uid : geteuid());
	snprintf(gids, sizeof(gids), "0 %u 1", root ? birth->uid : getegid());
	dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	if (!root)
		err = write_file(dir, "setgroups", "deny");
	if (!err)
		err = write_file(dir, "gid_map", gids);
	return err ? err : write_file(dir, "uid_map", uids);
}

/* Parent: answers the child until it execs (end of file) or reports an error. */
static int watch(const struct birth *birth, pid_t pid, int sock, const char **what)
{
	for (;;) {
		struct birth_note note;
		ssize_t n = recv(sock, &note, sizeof(note), 0);
		int err;

		if (n == 0)
			return 0;
		if (n < 0 && errno == EINTR)
			continue;
		*what = birth_step_names[BIRTH_READY];
		if (n != (ssize_t)sizeof(note) || note.step < 0 || note.step >= BIRTH_STEPS)
			return n < 0 ? -errno : -EPROTO;
		if (note.step != BIRTH_READY) {
			*what = birth_step_names[note.step];
			return note.err ? note.err : -EPROTO;
		}
		err = write_maps(birth, pid, what);
		if (err)
			return err;
		*what = birth_step_names[BIRTH_WAIT];
		if (send(sock, "", 1, MSG_NOSIGNAL) < 0 && errno != EPIPE)
			return -errno;
	}
}

void *tid_address(void)
{
	void *address = NULL;

	return prctl(PR_GET_TID_ADDRESS, &address) < 0 ? NULL : address;
}

static long clone_child(const struct birth *birth, int *pidfd)
{
	struct clone_args args = {
		.flags = CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)pidfd,
		.exit_signal = SIGCHLD,
	};

	if (birth->namespaces)
		args.flags |= CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
	if (birth->namespaces && !birth->host_network)
		args.flags |= CLONE_NEWNET;
	if (birth->cgroup_fd >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)birth->cgroup_fd;
	}
	if (birth->clear_handlers) {
		args.flags |= CLONE_CLEAR_SIGHAND;
	} else if (tid_address()) {
		/* The child goes on with this glibc, which must not take it for the parent's thread. */
		args.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
		args.child_tid = (uint64_t)(uintptr_t)tid_address();
	}
	return syscall(SYS_clone3, &args, sizeof(args));
}

/* Parent: ends and reaps a child that came to nothing. */
static void bury(int pidfd)
{
	siginfo_t info;

	syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0 && errno == EINTR)
		;
}

int birth_run(const struct birth *birth, void (*child)(void *arg, int sock), void *arg, pid_t *pid,
	      int *pidfd, const char **what)
{
	CLEAN_FD int mine = -1;
	CLEAN_FD int theirs = -1;
	CLEAN_FD int fd = -1;
	bool root = geteuid() == 0;
	int pair[2], err, raw_fd = -1;
	sigset_t all, old;
	long n;

	*what = "make a socket pair to the child";
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	mine = pair[0];
	theirs = pair[1];
	*what = "create namespaces (clone3; user namespaces must be allowed, which they are not in a chroot)";
	if (!birth->namespaces)
		*what = "create a process (clone3)";
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	n = clone_child(birth, &raw_fd);
	err = n < 0 ? -errno : 0;
	if (n == 0) {
		close(mine);
		mine = -1;
		grow_up(birth, theirs, root);
		child(arg, take_fd(&theirs));
		*pid = 0;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (n <= 0)
		return err;
	fd = raw_fd;
	close(take_fd(&theirs));
	err = watch(birth, (pid_t)n, mine, what);
	if (err) {
		bury(fd);
		return err;
	}
	*pid = (pid_t)n;
	*pidfd = take_fd(&fd);
	return 0;
}
