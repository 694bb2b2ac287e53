/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest without a machine: Linux's own network stack, in a network namespace of its own, behind a tap whose frames go to
 * and from a net-user by the same kind of socket that net-server would use.
 *
 *   net-guest [--mtu N] NET-USER [OPTION...] -- COMMAND [ARGUMENT...]
 *
 * starts NET-USER with --packet-fd and the options where this process was, then COMMAND inside of the namespace, where
 * the tap is called eth0, and ends as COMMAND ended. SIGUSR1 has it give the socket to a process that is new, as if
 * net-server had been killed and replaced.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define STAY_FD 3

static pid_t user;

static void die(const char *what)
{
	fprintf(stderr, "net-guest: %s: %s\n", what, strerror(errno));
	exit(99);
}

static void start_user(char **argv, int count, int fd)
{
	char number[] = "--packet-fd=3";
	char **args = calloc((size_t)count + 2, sizeof(*args));

	if (!args)
		die("arguments");
	memcpy(args, argv, (size_t)count * sizeof(*args));
	args[count] = number;
	user = fork();
	if (user == 0) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		dup2(fd, STAY_FD);
		close_range(STAY_FD + 1, ~0U, 0);
		execvp(args[0], args);
		die(args[0]);
	}
	free(args);
}

/* A namespace with a tap in it that is up; as root without a user namespace. */
static int make_tap(int mtu)
{
	struct ifreq req = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd, sock;

	if (unshare((geteuid() ? CLONE_NEWUSER : 0) | CLONE_NEWNET) < 0)
		die("unshare");
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	strcpy(req.ifr_name, "eth0");
	if (fd < 0 || ioctl(fd, TUNSETIFF, &req) < 0)
		die("tap");
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	req.ifr_mtu = mtu;
	if (sock < 0 || ioctl(sock, SIOCSIFMTU, &req) < 0)
		die("mtu");
	req.ifr_flags = IFF_UP;
	if (ioctl(sock, SIOCSIFFLAGS, &req) < 0)
		die("up");
	strcpy(req.ifr_name, "lo");
	if (ioctl(sock, SIOCSIFFLAGS, &req) < 0)
		die("lo up");
	close(sock);
	return fd;
}

static void copy(int from, int to)
{
	static char frame[70000];
	ssize_t n = read(from, frame, sizeof(frame));

	/* What the other side has no room for is lost, as on any wire. */
	if (n > 0 && send(to, frame, (size_t)n, MSG_NOSIGNAL) < 0 && errno == ENOTSOCK)
		(void)!write(to, frame, (size_t)n);
}

static void carry(int tap, int sock)
{
	struct pollfd fds[] = { { .fd = tap, .events = POLLIN }, { .fd = sock, .events = POLLIN } };

	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			die("poll");
		if (fds[0].revents & POLLIN)
			copy(tap, sock);
		if (fds[1].revents & POLLIN)
			copy(sock, tap);
		if (fds[1].revents & (POLLHUP | POLLERR))
			exit(98);
	}
}

static pid_t start_carrier(int tap, int sock)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		carry(tap, sock);
	}
	if (pid < 0)
		die("fork");
	return pid;
}

/* Ends all that the command left behind, and net-user. */
static void end_all(void)
{
	char path[64], word[16];
	FILE *f;
	int pid;

	kill(user, SIGTERM); /* a second one would kill */
	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	do {
		f = fopen(path, "re");
		while (f && fscanf(f, "%15s", word) == 1 && (pid = atoi(word)) > 0)
			if (pid != user)
				kill(pid, SIGKILL);
		if (f)
			fclose(f);
	} while (wait(NULL) > 0 || errno != ECHILD);
}

int main(int argc, char **argv)
{
	int mtu = 1500, pair[2], tap, first = 1, count = 0, status;
	pid_t carrier, command;
	sigset_t signals;

	if (argc > 2 && !strcmp(argv[1], "--mtu")) {
		mtu = atoi(argv[2]);
		first = 3;
	}
	while (first + count < argc && strcmp(argv[first + count], "--"))
		count++;
	if (!count || first + count + 1 >= argc) {
		fprintf(stderr, "usage: net-guest [--mtu N] NET-USER [OPTION...] -- COMMAND [ARGUMENT...]\n");
		return 2;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		die("socketpair");
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	start_user(argv + first, count, pair[1]);
	close(pair[1]);
	tap = make_tap(mtu);
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	sigaddset(&signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	carrier = start_carrier(tap, pair[0]);
	command = fork();
	if (command == 0) {
		sigprocmask(SIG_UNBLOCK, &signals, NULL);
		execvp(argv[first + count + 1], argv + first + count + 1);
		die(argv[first + count + 1]);
	}
	for (;;) {
		int sig = sigwaitinfo(&signals, NULL);

		if (sig == SIGUSR1) {
			kill(carrier, SIGKILL);
			waitpid(carrier, &status, 0);
			carrier = start_carrier(tap, pair[0]);
		} else if (waitpid(command, &status, WNOHANG) == command) {
			break;
		} else if (waitpid(carrier, &status, WNOHANG) == carrier) {
			fprintf(stderr, "net-guest: net-user is gone\n");
			break;
		}
	}
	end_all();
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
