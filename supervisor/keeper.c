/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper process: starts, reaps and kills the children of the plan, and cleans up when the supervisor is gone, or
 * stays with them until another one comes (keeper_alone.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "files.h"
#include "keeper_priv.h"
#include "logs.h"
#include "num.h"
#include "sandbox.h"

/* ---- requests ---- */

static void do_program(struct keeper_self *s, const struct keeper_request *request,
		       struct keeper_answer *answer)
{
	const struct keeper_child *child = &s->plan->child[request->child];

	answer->err = -EINVAL;
	if (child->program && memchr(request->path, 0, sizeof(request->path)))
		answer->err =
		    program_set(&s->program[request->child], *request->path ? request->path : child->program,
				answer->what, sizeof(answer->what));
}

static int do_same_program(struct keeper_self *s, const struct keeper_request *request)
{
	if (request->option >= s->plan->nchildren)
		return -EINVAL;
	return program_copy(&s->program[request->child], &s->program[request->option]);
}

/* Rings of io_uring outlive their process, and hold a lock on the device's state until they are gone (blk-server/fence.h). */
static int do_quiet(const struct keeper_self *s, const struct keeper_request *request)
{
	int fd = request->option < s->plan->ndevices ? s->plan->state[request->option] : -1;

	if (fd < 0)
		return 0;
	if (flock(fd, LOCK_EX | LOCK_NB))
		return -errno;
	return flock(fd, LOCK_UN) ? -errno : 0;
}

static void let_go(struct keeper_self *s, size_t i, size_t h)
{
	clean_fd(&s->held[i][h]);
	s->held[i][h] = -1;
}

/* Takes what the supervisor wants to be held, if it is there for another one later. */
static void hold(struct keeper_self *s, size_t i, int *fds, size_t nfds)
{
	for (size_t h = 0; s->plan->keep && h < nfds; h++)
		s->held[i][h] = take_fd(&fds[h]);
}

/* A child's anchor socket, whose own end is to tell who speaks. 0 for a child that gets none. */
static int make_anchor_socket(const struct keeper_child *child, int pair[2])
{
	const int on = 1;
	int err;

	pair[0] = pair[1] = -1;
	if (!child->anchored)
		return 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	if (!setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)))
		return 0;
	err = -errno;
	clean_fd(&pair[0]);
	clean_fd(&pair[1]);
	return err;
}

/* Its successor will write to the same memory. Where nothing was recorded, or without memory, there is no copy. */
static void keep_last(struct keeper_self *s, size_t i)
{
	const struct keeper_child *child = &s->plan->child[i];

	clock_gettime(CLOCK_REALTIME, &s->reaped[i]);
	flight_free(s->last[i]);
	s->last[i] = NULL;
	if (child->recorder[0] >= 0)
		flight_load(child->recorder[0], 0, &s->last[i]);
}

/* Only the control group knows why the kernel sent SIGKILL. */
static void tell_of_memory(struct keeper_self *s, size_t i)
{
	const struct keeper_child *child = &s->plan->child[i];
	unsigned long n = child->cgroup ? cgroup_oom_kills(child->cgroup) : 0;

	if (n > s->oom_kills[i])
		say_warn("%s: the kernel ended it for want of memory: see memory.max of %s", child->id,
			 child->cgroup);
	s->oom_kills[i] = n;
}

static void do_reap(struct keeper_self *s, size_t i, struct keeper_answer *answer)
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
	for (size_t h = 0; h < KEEPER_HELD_MAX; h++)
		let_go(s, i, h);
	keep_last(s, i);
	tell_of_memory(s, i);
	answer->code = info.si_code;
	answer->status = info.si_status;
}

static void do_kill(struct keeper_self *s, size_t i)
{
	if (s->pidfd[i] >= 0)
		syscall(SYS_pidfd_send_signal, s->pidfd[i], SIGKILL, NULL, 0);
}

/* The supervisor has not waited for the answer to its last start: it does not know of this one. */
static void end_unclaimed(struct keeper_self *s, size_t i)
{
	struct keeper_answer unused;

	do_kill(s, i);
	do_reap(s, i, &unused);
}

/* spawn: fds[0] is the child's stderr, then come its sockets. *anchor becomes our end of its anchor's, or -1. */
static void do_spawn(struct keeper_self *s, const struct keeper_request *request, const int *fds, size_t nfds,
		     struct keeper_answer *answer, int *anchor)
{
	size_t i = request->child;
	const struct keeper_child *child = &s->plan->child[i];
	struct program *program = &s->program[i];
	CLEAN_FREE char **argv = NULL;
	char exe[PROGRAM_EXE_MAX];
	int all[KEEPER_FIXED_MAX + KEEPER_PASSED_MAX + 1], pair[2];
	CLEAN_FD int theirs = -1;
	const char *what = "";
	pid_t pid = 0;
	struct sandbox_spawn spawn = {
		.path = exe,
		.envp = s->plan->sandbox ? NULL : environ,
		.fds = all,
		.nfds = child->nfixed + nfds - 1,
		.namespaces = s->plan->sandbox,
		.host_network = child->host_network,
		.uid = child->uid,
		.cgroup = child->cgroup,
		.die_with_parent = true,
	};

	if (s->pidfd[i] >= 0)
		end_unclaimed(s, i);
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
	answer->err = make_anchor_socket(child, pair);
	if (answer->err)
		return;
	*anchor = pair[0];
	theirs = pair[1];
	if (theirs >= 0)
		all[spawn.nfds++] = theirs;
	answer->err = sandbox_spawn(&spawn, &pid, &s->pidfd[i], &what);
	if (answer->err) {
		s->pidfd[i] = -1;
		clean_fd(anchor);
		*anchor = -1;
		snprintf(answer->what, sizeof(answer->what), "%s", what ? what : "");
		return;
	}
	answer->pid = s->pid[i] = pid;
	answer->serial = s->serial[i] = ++s->starts;
}

/* What goes with the answer: its pidfd and, if it has one, its anchor's socket, which is *made. */
static size_t spawn_and_hold(struct keeper_self *s, const struct keeper_request *request, int *fds,
			     size_t nfds, struct keeper_answer *answer, int *out, int *made)
{
	size_t nheld = request->nheld;

	if (nheld > KEEPER_HELD_MAX || nheld > nfds) {
		answer->err = -EINVAL;
		return 0;
	}
	do_spawn(s, request, fds, nfds - nheld, answer, made);
	if (answer->err)
		return 0;
	hold(s, request->child, fds + nfds - nheld, nheld);
	if (s->plan->keep && *made >= 0)
		s->held[request->child][KEEPER_HELD_ANCHOR] = fcntl(*made, F_DUPFD_CLOEXEC, 0);
	out[0] = s->pidfd[request->child];
	out[1] = *made;
	return *made < 0 ? 1 : 2;
}

/* All that there is of a child: its pidfd and what is held of it. */
static size_t do_fetch(const struct keeper_self *s, size_t i, struct keeper_answer *answer, int *fds)
{
	size_t n = 0;

	if (s->pidfd[i] < 0)
		return 0;
	answer->pid = s->pid[i];
	answer->serial = s->serial[i];
	fds[n++] = s->pidfd[i];
	for (size_t h = 0; h < KEEPER_HELD_MAX; h++) {
		if (s->held[i][h] < 0)
			continue;
		answer->mask |= 1U << h;
		fds[n++] = s->held[i][h];
	}
	return n;
}

/* From now on our lines go where the adopter's go, and its terminal is ours to give back. */
static void do_settle(struct keeper_self *s, const struct keeper_request *request, int *fds, size_t nfds)
{
	if (nfds > 0) {
		dup2(fds[0], STDERR_FILENO);
		logs_stderr_changed();
	}
	if (nfds > 1) {
		s->terminal = take_fd(&fds[1]);
		s->settings = request->settings;
	}
}

/* Carries out a request; what is to be sent with the answer is put into out, and *made is closed afterwards. */
static size_t obey(struct keeper_self *s, const struct keeper_request *request, int *fds, size_t nfds,
		   struct keeper_answer *answer, int *out, int *made)
{
	const struct keeper_child *child = &s->plan->child[request->child];

	switch ((enum keeper_verb)request->verb) {
	case KEEPER_SPAWN:
		return spawn_and_hold(s, request, fds, nfds, answer, out, made);
	case KEEPER_REAP:
		do_reap(s, request->child, answer);
		return 0;
	case KEEPER_KILL:
		do_kill(s, request->child);
		return 0;
	case KEEPER_PROGRAM:
		do_program(s, request, answer);
		return 0;
	case KEEPER_SAME_PROGRAM:
		answer->err = do_same_program(s, request);
		return 0;
	case KEEPER_QUIET:
		answer->err = do_quiet(s, request);
		return 0;
	case KEEPER_CONNECT:
		*out = *made = child->connect ? files_connect(child->connect) : -EINVAL;
		answer->err = *made < 0 ? *made : 0;
		return *made >= 0;
	case KEEPER_FORGET:
		for (size_t h = KEEPER_HELD_FRONT; h < KEEPER_HELD_ANCHOR; h++)
			let_go(s, request->child, h);
		return 0;
	case KEEPER_FETCH:
		return do_fetch(s, request->child, answer, out);
	case KEEPER_RECORDER:
		memcpy(out, child->recorder, sizeof(child->recorder));
		return child->recorder[0] >= 0 && child->recorder[1] >= 0 ? 2 : 0;
	case KEEPER_SETTLE:
		do_settle(s, request, fds, nfds);
		return 0;
	case KEEPER_REPORT:
	case KEEPER_FINISH:
	case KEEPER_VERBS:
	default:
		answer->err = -EINVAL;
	}
	return 0;
}

/* One request; false at the end of the supervisor, which says so if it can. */
static bool serve(struct keeper_self *s)
{
	struct keeper_answer answer = { 0 };
	struct keeper_request request = { 0 };
	int fds[FD_PASS_MAX], out[KEEPER_HELD_MAX + 1], made = -1;
	size_t nfds = 0, nout = 0;
	ssize_t n = fd_recv(s->sock, &request, sizeof(request), fds, ARRAY_SIZE(fds), &nfds);

	if (n <= 0)
		return false;
	if (n == sizeof(request) && request.verb == KEEPER_FINISH) {
		s->finished = true;
		return false;
	}
	if (n == sizeof(request) && request.child < s->plan->nchildren && request.verb == KEEPER_REPORT) {
		while (nfds)
			clean_fd(&fds[--nfds]);
		request.text[sizeof(request.text) - 1] = '\0';
		keeper_add_report(s, request.child, request.text);
		return true;
	}
	if (n == sizeof(request) && request.child < s->plan->nchildren)
		nout = obey(s, &request, fds, nfds, &answer, out, &made);
	else
		answer.err = -EINVAL;
	answer.number = request.number;
	while (nfds)
		clean_fd(&fds[--nfds]);
	n = fd_send(s->sock, &answer, sizeof(answer), out, nout);
	clean_fd(&made);
	return n >= 0;
}

/* ---- the whole ---- */

/* All that is left of the machine ends here. */
static void clean_up(struct keeper_self *s)
{
	struct keeper_answer unused;

	for (size_t i = 0; i < s->plan->nchildren; i++)
		do_kill(s, i);
	for (size_t i = 0; i < s->plan->nchildren; i++)
		if (s->pidfd[i] >= 0)
			do_reap(s, i, &unused);
	if (s->terminal >= 0)
		tcsetattr(s->terminal, TCSANOW, &s->settings);
	for (size_t i = 0; i < s->plan->ndevices; i++) {
		files_leave_bridge(s->plan->tap[i]);
		files_close_tap(
		    s->plan->tap[i]); /* before the name is free, or who takes it finds them in use */
		if (s->plan->listens_at[i])
			unlink(s->plan->listens_at[i]);
	}
	cgroup_remove(s->plan->cgroup);
	keeper_end_reports(s);
	rundir_remove(s->plan->dir);
}

/* Until the machine is to end. */
static void keep_house(struct keeper_self *s)
{
	for (;;) {
		struct pollfd wait[] = { { .fd = s->sock, .events = POLLIN },
					 { .fd = s->listener, .events = POLLIN },
					 { .fd = s->reports.writer, .events = POLLIN } };

		if (poll(wait, ARRAY_SIZE(wait), -1) < 0)
			continue;
		if (wait[2].revents)
			keeper_report_written(s);
		if (wait[0].revents && !serve(s)) {
			if (s->finished || !keeper_can_stay(s))
				return;
			keeper_stay_alone(s);
		} else if (wait[1].revents) {
			keeper_answer_door(s);
		}
	}
}

void keeper_main(const struct keeper_plan *plan, int sock, int listener, int supervisor_fd)
{
	static struct keeper_self s; /* large */

	s = (struct keeper_self) { .plan = plan,
				   .sock = sock,
				   .listener = listener,
				   .supervisor_fd = supervisor_fd,
				   .supervisor = getppid(),
				   .terminal = plan->terminal,
				   .settings = plan->settings,
				   .reports = { .writer = -1, .result = -1 } };
	prctl(PR_SET_NAME, "bulkhead-keeper");
	/* A session of its own: what the terminal sends to the supervisor is not meant for us. */
	setsid();
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	for (size_t i = 0; i < KEEPER_CHILDREN_MAX; i++) {
		s.pidfd[i] = s.program[i].fd = -1;
		for (size_t h = 0; h < KEEPER_HELD_MAX; h++)
			s.held[i][h] = -1;
	}
	if (!plan->keep && plan->listener >= 0)
		close(plan->listener);
	keep_house(&s);
	keeper_end(&s, clean_up);
	_exit(0);
}
