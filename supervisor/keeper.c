/* SPDX-License-Identifier: Apache-2.0 */
/* The keeper process: starts, reaps and kills the children of the plan, and cleans up when the supervisor is gone. */
#include "keeper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "files.h"
#include "logs.h"
#include "num.h"
#include "program.h"
#include "sandbox.h"

#define ANSWER_SECONDS    60 /* making namespaces can take long while a host removes many */
#define SUPERVISOR_END_MS 2000

/* KEEPER_FINISH has no answer but the keeper's end. */
enum keeper_verb {
	KEEPER_SPAWN = 1,
	KEEPER_REAP,
	KEEPER_KILL,
	KEEPER_CONNECT,
	KEEPER_PROGRAM,
	KEEPER_SAME_PROGRAM,
	KEEPER_FINISH,
	KEEPER_VERBS
};

struct keeper_request {
	uint32_t verb, child;
	uint32_t option;            /* of SPAWN: restricted; of SAME_PROGRAM: the other child */
	char path[KEEPER_PATH_MAX]; /* of PROGRAM; empty: the plan's */
};

struct keeper_answer {
	int32_t err, pid, code, status;
	char what[128];
};

struct keeper {
	int sock;
	pid_t pid;
};

/* ---- the keeper's side ---- */

struct state {
	const struct keeper_plan *plan;
	struct program program[KEEPER_CHILDREN_MAX];
	int sock;
	int supervisor_fd; /* pidfd, or -1 */
	pid_t supervisor;
	bool finished; /* it took its leave */
	int pidfd[KEEPER_CHILDREN_MAX];
};

static void do_program(struct state *s, const struct keeper_request *request, struct keeper_answer *answer)
{
	const struct keeper_child *child = &s->plan->child[request->child];

	answer->err = -EINVAL;
	if (child->program && memchr(request->path, 0, sizeof(request->path)))
		answer->err =
		    program_set(&s->program[request->child], *request->path ? request->path : child->program,
				answer->what, sizeof(answer->what));
}

static int do_same_program(struct state *s, const struct keeper_request *request)
{
	if (request->option >= s->plan->nchildren)
		return -EINVAL;
	return program_copy(&s->program[request->child], &s->program[request->option]);
}

/* spawn: fds[0] is the child's stderr, the others are its sockets. */
static void do_spawn(struct state *s, const struct keeper_request *request, int *fds, size_t nfds,
		     struct keeper_answer *answer, int *send_fd)
{
	size_t i = request->child;
	const struct keeper_child *child = &s->plan->child[i];
	struct program *program = &s->program[i];
	CLEAN_FREE char **argv = NULL;
	char exe[PROGRAM_EXE_MAX];
	int all[KEEPER_FIXED_MAX + KEEPER_PASSED_MAX];
	const char *what = "";
	pid_t pid = 0;
	struct sandbox_spawn spawn = {
		.path = exe,
		.envp = s->plan->sandbox ? NULL : environ,
		.fds = all,
		.nfds = child->nfixed + nfds - 1,
		.namespaces = s->plan->sandbox,
		.uid = child->uid,
		.die_with_parent = true,
	};

	if (!child->program || s->pidfd[i] >= 0 || nfds < 1 || nfds > KEEPER_PASSED_MAX + 1) {
		answer->err = -EINVAL;
		return;
	}
	answer->err = program_take(program, child, request->option, exe, &argv);
	if (answer->err) {
		snprintf(answer->what, sizeof(answer->what), "open the program");
		return;
	}
	spawn.argv = argv;
	spawn.stderr_fd = fds[0];
	for (size_t f = 0; f < child->nfixed; f++) {
		all[f] = child->fixed[f];
		lseek(all[f], 0,
		      SEEK_SET); /* a child before may have read it; fails on what has no position */
	}
	memcpy(all + child->nfixed, fds + 1, (nfds - 1) * sizeof(int));
	answer->err = sandbox_spawn(&spawn, &pid, &s->pidfd[i], &what);
	if (answer->err) {
		s->pidfd[i] = -1;
		snprintf(answer->what, sizeof(answer->what), "%s", what ? what : "");
		return;
	}
	answer->pid = pid;
	*send_fd = s->pidfd[i];
}

static void do_reap(struct state *s, size_t i, struct keeper_answer *answer)
{
	siginfo_t info = { 0 };

	if (s->pidfd[i] < 0) {
		answer->err = -ESRCH;
		return;
	}
	if (waitid(P_PIDFD, (id_t)s->pidfd[i], &info, WEXITED)) {
		answer->err = -errno;
		return;
	}
	close(s->pidfd[i]);
	s->pidfd[i] = -1;
	answer->code = info.si_code;
	answer->status = info.si_status;
}

static void do_kill(struct state *s, size_t i)
{
	if (s->pidfd[i] >= 0)
		syscall(SYS_pidfd_send_signal, s->pidfd[i], SIGKILL, NULL, 0);
}

/* One request; false at the end of the supervisor, which says so if it can. */
static bool serve(struct state *s)
{
	struct keeper_answer answer = { 0 };
	struct keeper_request request;
	int fds[FD_PASS_MAX], send_fd = -1, made = -1;
	size_t nfds = 0;
	ssize_t n = fd_recv(s->sock, &request, sizeof(request), fds, ARRAY_SIZE(fds), &nfds);

	if (n <= 0)
		return false;
	if (n == sizeof(request) && request.verb == KEEPER_FINISH) {
		s->finished = true;
		return false;
	}
	if (n != sizeof(request) || request.child >= s->plan->nchildren || request.verb >= KEEPER_VERBS) {
		answer.err = -EINVAL;
	} else if (request.verb == KEEPER_SPAWN) {
		do_spawn(s, &request, fds, nfds, &answer, &send_fd);
	} else if (request.verb == KEEPER_REAP) {
		do_reap(s, request.child, &answer);
	} else if (request.verb == KEEPER_KILL) {
		do_kill(s, request.child);
	} else if (request.verb == KEEPER_PROGRAM) {
		do_program(s, &request, &answer);
	} else if (request.verb == KEEPER_SAME_PROGRAM) {
		answer.err = do_same_program(s, &request);
	} else if (request.verb == KEEPER_CONNECT && s->plan->child[request.child].connect) {
		send_fd = made = files_connect(s->plan->child[request.child].connect);
		answer.err = made < 0 ? made : 0;
	} else {
		answer.err = -EINVAL;
	}
	while (nfds)
		close(fds[--nfds]);
	n = fd_send(s->sock, &answer, sizeof(answer), &send_fd, send_fd >= 0);
	clean_fd(&made);
	return n >= 0;
}

/* All that is left of the machine ends here. */
static void clean_up(struct state *s)
{
	struct keeper_answer unused;

	for (size_t i = 0; i < s->plan->nchildren; i++)
		do_kill(s, i);
	for (size_t i = 0; i < s->plan->nchildren; i++)
		if (s->pidfd[i] >= 0)
			do_reap(s, i, &unused);
	if (s->plan->terminal >= 0)
		tcsetattr(s->plan->terminal, TCSANOW, &s->plan->settings);
	rundir_remove(s->plan->dir);
}

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
	return state && last && state[1] && state[2] == 'Z' ? atoi(last) : -1;
}

/* Its parent is not us, so how it ended is known only if we look in time or the kernel is a new one. -1: not known. */
static int supervisor_status(const struct state *s)
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

static void report_supervisor(const struct state *s, int status)
{
	const char *name = s->plan->dir->name;

	if (status < 0 || !WIFSIGNALED(status))
		say_error("%s: the supervisor (process %d) died; all others were ended", name,
			  (int)s->supervisor);
	else
		say_error("%s: the supervisor (process %d) died of signal %d (%s)%s; all others were ended",
			  name, (int)s->supervisor, WTERMSIG(status), strsignal(WTERMSIG(status)),
			  WTERMSIG(status) == SIGSYS ? ": a system call that its sandbox forbids" : "");
}

__attribute__((noreturn)) static void keeper_main(const struct keeper_plan *plan, int sock, int supervisor_fd)
{
	struct state s = {
		.plan = plan, .sock = sock, .supervisor_fd = supervisor_fd, .supervisor = getppid()
	};
	int status;

	prctl(PR_SET_NAME, "bulkhead-keeper");
	/* A session of its own: what the terminal sends to the supervisor is not meant for us. */
	setsid();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	for (size_t i = 0; i < ARRAY_SIZE(s.pidfd); i++)
		s.pidfd[i] = s.program[i].fd = -1;
	if (plan->listener >= 0)
		close(plan->listener);
	while (serve(&s))
		;
	status = s.finished ? 0 : supervisor_status(&s);
	clean_up(&s);
	if (!s.finished)
		report_supervisor(&s, status);
	_exit(0);
}

/* ---- the supervisor's side ---- */

int keeper_start(const struct keeper_plan *plan, struct keeper **out)
{
	struct timeval limit = { .tv_sec = ANSWER_SECONDS };
	CLEAN_FREE struct keeper *k = calloc(1, sizeof(*k));
	CLEAN_FD int self = -1;
	int pair[2];

	if (!k)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	k->pid = fork();
	if (k->pid < 0) {
		int err = -errno;

		close(pair[0]);
		close(pair[1]);
		return err;
	}
	if (!k->pid) {
		close(pair[0]);
		keeper_main(plan, pair[1], self);
	}
	close(pair[1]);
	setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	k->sock = pair[0];
	*out = TAKE_PTR(k);
	return 0;
}

/* Asks and waits for the answer; *fd_out (if any) is the descriptor that came with it. */
static int ask(struct keeper *k, const struct keeper_request *request, const int *fds, size_t nfds,
	       struct keeper_answer *answer, int *fd_out)
{
	int got[FD_PASS_MAX];
	size_t ngot = 0;
	ssize_t n = fd_send(k->sock, request, sizeof(*request), fds, nfds);

	if (n >= 0)
		n = fd_recv(k->sock, answer, sizeof(*answer), got, ARRAY_SIZE(got), &ngot);
	if (fd_out)
		*fd_out = -1;
	if (fd_out && ngot)
		*fd_out = got[--ngot];
	while (ngot)
		close(got[--ngot]);
	if (n < 0)
		return n == -EAGAIN ? -ETIMEDOUT : (int)n;
	return n == sizeof(*answer) ? answer->err : -EPIPE;
}

/* The same for a request that is a verb and a child. */
static int ask_plain(struct keeper *k, enum keeper_verb verb, size_t i, struct keeper_answer *answer,
		     int *fd_out)
{
	struct keeper_request request = { .verb = verb, .child = (uint32_t)i };

	return ask(k, &request, NULL, 0, answer, fd_out);
}

int keeper_spawn(struct keeper *k, size_t i, bool restricted, int stderr_fd, const int *fds, size_t nfds,
		 pid_t *pid, int *pidfd, char *what, size_t what_size)
{
	struct keeper_request request = { .verb = KEEPER_SPAWN, .child = (uint32_t)i, .option = restricted };
	struct keeper_answer answer = { 0 };
	int all[KEEPER_PASSED_MAX + 1] = { stderr_fd };
	int err;

	memcpy(all + 1, fds, nfds * sizeof(int));
	err = ask(k, &request, all, nfds + 1, &answer, pidfd);
	snprintf(what, what_size, "%.*s", (int)sizeof(answer.what), answer.what);
	*pid = answer.pid;
	return err;
}

int keeper_reap(struct keeper *k, size_t i, int *code, int *status)
{
	struct keeper_answer answer = { 0 };
	int err = ask_plain(k, KEEPER_REAP, i, &answer, NULL);

	*code = answer.code;
	*status = answer.status;
	return err;
}

int keeper_kill(struct keeper *k, size_t i)
{
	struct keeper_answer answer = { 0 };

	return ask_plain(k, KEEPER_KILL, i, &answer, NULL);
}

int keeper_program(struct keeper *k, size_t i, const char *path, char *what, size_t what_size)
{
	struct keeper_request request = { .verb = KEEPER_PROGRAM, .child = (uint32_t)i };
	struct keeper_answer answer = { 0 };
	int err = -ENAMETOOLONG;

	if (!path || strlen(path) < sizeof(request.path)) {
		snprintf(request.path, sizeof(request.path), "%s", path ? path : "");
		err = ask(k, &request, NULL, 0, &answer, NULL);
	}
	snprintf(what, what_size, "%.*s", (int)sizeof(answer.what), answer.what);
	return err;
}

int keeper_same_program(struct keeper *k, size_t i, size_t j)
{
	struct keeper_request request = { .verb = KEEPER_SAME_PROGRAM,
					  .child = (uint32_t)i,
					  .option = (uint32_t)j };
	struct keeper_answer answer = { 0 };

	return ask(k, &request, NULL, 0, &answer, NULL);
}

int keeper_connect(struct keeper *k, size_t i)
{
	struct keeper_answer answer = { 0 };
	int fd, err = ask_plain(k, KEEPER_CONNECT, i, &answer, &fd);

	return err ? err : fd;
}

int keeper_fd(const struct keeper *k)
{
	return k->sock;
}

void keeper_finish(struct keeper *k)
{
	struct keeper_request request = { .verb = KEEPER_FINISH };
	int status;

	fd_send(k->sock, &request, sizeof(request), NULL, 0);
	close(k->sock);
	while (waitpid(k->pid, &status, 0) < 0 && errno == EINTR)
		;
	free(k);
}
