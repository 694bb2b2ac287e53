/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor's side of the keeper: forking it or finding it again, and asking it for things. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "keeper_priv.h"
#include "num.h"

#define ANSWER_SECONDS 60 /* making namespaces can take long while a host removes many */

struct keeper {
	int sock;
	bool holds;        /* it outlives us, and is told what to hold */
	uint32_t requests; /* so far; each has its number */
	pid_t pid;         /* 0: it is not our child */
};

static void limit_waiting(int sock)
{
	struct timeval limit = { .tv_sec = ANSWER_SECONDS };

	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
}

/* Sends what has no answer, or one that nobody needs, unless that would have to wait for the keeper. */
static int post(struct keeper *k, struct keeper_request *request)
{
	struct pollfd room = { .fd = k->sock, .events = POLLOUT };
	ssize_t n;

	request->number = ++k->requests;
	if (poll(&room, 1, 0) != 1)
		return -EAGAIN;
	n = fd_send(k->sock, request, sizeof(*request), NULL, 0);
	return n < 0 ? (int)n : 0;
}

int keeper_start(const struct keeper_plan *plan, struct keeper **out)
{
	CLEAN_FREE struct keeper *k = calloc(1, sizeof(*k));
	CLEAN_FD int listener = plan->keep ? keeper_listen(plan) : -1;
	CLEAN_FD int self = -1;
	CLEAN_FD int ours = -1;
	CLEAN_FD int its = -1;
	int pair[2];

	if (!k)
		return -ENOMEM;
	if (plan->keep && listener < 0)
		return listener;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	ours = pair[0];
	its = pair[1];
	self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	k->pid = fork();
	if (k->pid < 0)
		return -errno;
	if (!k->pid) {
		close(ours);
		keeper_main(plan, its, listener, self);
	}
	limit_waiting(ours);
	k->sock = take_fd(&ours);
	k->holds = plan->keep;
	*out = TAKE_PTR(k);
	return 0;
}

/* Takes out of got, in order, what mask says is there. */
static void sort_out(uint32_t mask, int *got, size_t ngot, int *to, size_t max)
{
	size_t at = 0;

	for (size_t i = 0; i < max; i++)
		to[i] = mask & 1U << i && at < ngot ? got[at++] : -1;
	while (at < ngot)
		close(got[at++]);
}

int keeper_join(const char *path, struct keeper **out, struct keeper_estate *estate)
{
	CLEAN_FREE struct keeper *k = calloc(1, sizeof(*k));
	CLEAN_FD int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct keeper_answer answer;
	int got[FD_PASS_MAX];
	size_t ngot = 0;
	ssize_t n;

	if (!k || sock < 0)
		return -ENOMEM;
	if ((size_t)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	limit_waiting(sock);
	if (connect(sock, (struct sockaddr *)&addr, sizeof(addr)))
		return -errno;
	n = fd_recv(sock, &answer, sizeof(answer), got, ARRAY_SIZE(got), &ngot);
	if (n != sizeof(answer) || answer.err || answer.status != KEEPER_PROTOCOL || !ngot) {
		sort_out(0, got, ngot, NULL, 0);
		estate->before = n == sizeof(answer) ? answer.pid : 0;
		return n == sizeof(answer) && answer.err ? answer.err : n < 0 ? (int)n : -EPROTONOSUPPORT;
	}
	estate->before = answer.pid;
	estate->saved_fd = got[0];
	sort_out(answer.mask, got + 1, ngot - 1, estate->console, KEEPER_CONSOLE_MAX);
	k->sock = take_fd(&sock);
	k->holds = true;
	*out = TAKE_PTR(k);
	return 0;
}

/*
 * Asks and waits for the answer; got[] are the descriptors that came with it, the caller's. Answers to what was asked
 * before and not waited for to the end are of no use any more.
 */
static int ask_many(struct keeper *k, struct keeper_request *request, const int *fds, size_t nfds,
		    struct keeper_answer *answer, int got[FD_PASS_MAX], size_t *ngot)
{
	ssize_t n;

	*ngot = 0;
	request->number = ++k->requests;
	n = fd_send(k->sock, request, sizeof(*request), fds, nfds);
	while (n >= 0) {
		n = fd_recv(k->sock, answer, sizeof(*answer), got, FD_PASS_MAX, ngot);
		if (n != sizeof(*answer) || answer->number == request->number)
			break;
		sort_out(0, got, *ngot, NULL, 0);
	}
	if (n < 0)
		return n == -EAGAIN ? -ETIMEDOUT : (int)n;
	return n == sizeof(*answer) ? answer->err : -EPIPE;
}

/* The same where at most one comes; *fd_out (if any) gets it. */
static int ask(struct keeper *k, struct keeper_request *request, const int *fds, size_t nfds,
	       struct keeper_answer *answer, int *fd_out)
{
	int got[FD_PASS_MAX];
	size_t ngot;
	int err = ask_many(k, request, fds, nfds, answer, got, &ngot);

	if (fd_out)
		*fd_out = -1;
	if (fd_out && ngot)
		*fd_out = got[--ngot];
	while (ngot)
		close(got[--ngot]);
	return err;
}

/* The same for a request that is a verb and a child. */
static int ask_plain(struct keeper *k, enum keeper_verb verb, size_t i, struct keeper_answer *answer,
		     int *fd_out)
{
	struct keeper_request request = { .verb = verb, .child = (uint32_t)i };

	return ask(k, &request, NULL, 0, answer, fd_out);
}

/* Nobody waits for the answer to this start any more: what the keeper makes of it is to end when it comes to that. */
static void abandon(struct keeper *k, size_t i)
{
	static const enum keeper_verb end[] = { KEEPER_KILL, KEEPER_REAP };

	for (size_t v = 0; v < ARRAY_SIZE(end); v++)
		post(k, &(struct keeper_request) { .verb = end[v], .child = (uint32_t)i });
}

int keeper_spawn(struct keeper *k, size_t i, const struct keeper_launch *launch, struct keeper_found *found,
		 char *what, size_t what_size)
{
	struct keeper_request request = { .verb = KEEPER_SPAWN,
					  .child = (uint32_t)i,
					  .option = launch->restricted,
					  .nheld = k->holds ? (uint32_t)launch->nheld : 0 };
	struct keeper_answer answer = { 0 };
	int all[1 + KEEPER_PASSED_MAX + KEEPER_HELD_MAX] = { launch->stderr_fd };
	int got[FD_PASS_MAX], mine[2], err;
	size_t ngot;

	if (launch->nfds)
		memcpy(all + 1, launch->fds, launch->nfds * sizeof(int));
	if (request.nheld)
		memcpy(all + 1 + launch->nfds, launch->held, request.nheld * sizeof(int));
	err = ask_many(k, &request, all, 1 + launch->nfds + request.nheld, &answer, got, &ngot);
	sort_out(err ? 0 : 3, got, ngot, mine, 2);
	if (err == -ETIMEDOUT)
		abandon(k, i);
	found->pidfd = mine[0];
	found->anchor = mine[1];
	snprintf(what, what_size, "%.*s", (int)sizeof(answer.what), answer.what);
	found->pid = answer.pid;
	found->serial = answer.serial;
	sort_out(0, NULL, 0, found->held, KEEPER_HELD_MAX);
	return err;
}

int keeper_forget(struct keeper *k, size_t i)
{
	struct keeper_answer answer = { 0 };

	return k->holds ? ask_plain(k, KEEPER_FORGET, i, &answer, NULL) : 0;
}

int keeper_fetch(struct keeper *k, size_t i, struct keeper_found *found)
{
	struct keeper_request request = { .verb = KEEPER_FETCH, .child = (uint32_t)i };
	struct keeper_answer answer = { 0 };
	int got[FD_PASS_MAX];
	size_t ngot;
	int err = ask_many(k, &request, NULL, 0, &answer, got, &ngot);

	if (err)
		sort_out(0, got, ngot, NULL, 0);
	if (err)
		return err;
	found->pid = answer.pid;
	found->serial = answer.serial;
	found->pidfd = ngot ? got[0] : -1;
	sort_out(answer.mask, got + (ngot > 0), ngot - (ngot > 0), found->held, KEEPER_HELD_MAX);
	found->anchor = take_fd(&found->held[KEEPER_HELD_ANCHOR]);
	return 0;
}

int keeper_recorder(struct keeper *k, size_t i, int fds[2])
{
	struct keeper_request request = { .verb = KEEPER_RECORDER, .child = (uint32_t)i };
	struct keeper_answer answer = { 0 };
	int got[FD_PASS_MAX];
	size_t ngot;
	int err = ask_many(k, &request, NULL, 0, &answer, got, &ngot);

	sort_out(err || ngot != 2 ? 0 : 3, got, ngot, fds, 2);
	return err;
}

int keeper_is_quiet(struct keeper *k, size_t device)
{
	struct keeper_request request = { .verb = KEEPER_QUIET, .option = (uint32_t)device };
	struct keeper_answer answer = { 0 };

	return ask(k, &request, NULL, 0, &answer, NULL);
}

int keeper_settle(struct keeper *k, int terminal, const struct termios *settings)
{
	struct keeper_request request = { .verb = KEEPER_SETTLE, .settings = *settings };
	struct keeper_answer answer = { 0 };
	int fds[] = { STDERR_FILENO, terminal };

	return ask(k, &request, fds, terminal < 0 ? 1 : 2, &answer, NULL);
}

int keeper_reap(struct keeper *k, size_t i, int *code, int *status)
{
	struct keeper_answer answer = { 0 };
	int err = ask_plain(k, KEEPER_REAP, i, &answer, NULL);

	if (err)
		return err;
	*code = answer.code;
	*status = answer.status;
	return 0;
}

int keeper_report(struct keeper *k, size_t i, const char *text)
{
	struct keeper_request request = { .verb = KEEPER_REPORT, .child = (uint32_t)i };

	snprintf(request.text, sizeof(request.text), "%s", text);
	return post(k, &request);
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
	struct keeper_answer none;
	int got[FD_PASS_MAX], status;
	size_t ngot;

	fd_send(k->sock, &request, sizeof(request), NULL, 0);
	/* Until its end: with answers that nobody has read our own would look like a death, and the request be lost. */
	while (fd_recv(k->sock, &none, sizeof(none), got, FD_PASS_MAX, &ngot) > 0)
		sort_out(0, got, ngot, NULL, 0);
	close(k->sock);
	while (k->pid && waitpid(k->pid, &status, 0) < 0 && errno == EINTR)
		;
	free(k);
}
