/* SPDX-License-Identifier: Apache-2.0 */
/* supervisor/keeper_call, against a keeper that takes its time: each answer goes to the question that it is for. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "config.h"
#include "fd.h"
#include "num.h"
#include "supervisor/keeper_priv.h"

static char path[64];
static int listener, life[2]; /* life's writing end comes with the answer to a start */
static sem_t go;
static uint32_t verb[4]; /* what was asked first */
static size_t nverbs;

/* What keeper_start would run; these tests join a keeper. */
void keeper_main(const struct keeper_plan *plan, int sock, int door, int supervisor_fd)
{
	(void)plan;
	(void)sock;
	(void)door;
	(void)supervisor_fd;
	abort();
}

int keeper_listen(const struct keeper_plan *plan)
{
	(void)plan;
	return -ENOSYS;
}

/* Lets in whoever comes, reads a start and waits for go; then answers that and all that follows. */
static void *be_keeper(void *arg)
{
	struct keeper_answer hello = { .pid = 1, .status = KEEPER_PROTOCOL };
	struct keeper_request request;
	int sock = accept(listener, NULL, NULL), fds[FD_PASS_MAX];
	size_t nfds;

	fd_send(sock, &hello, sizeof(hello), &life[0], 1);
	while (fd_recv(sock, &request, sizeof(request), fds, FD_PASS_MAX, &nfds) == sizeof(request)) {
		bool start = request.verb == KEEPER_SPAWN;
		struct keeper_answer answer = { .number = request.number };

		if (nverbs < ARRAY_SIZE(verb))
			verb[nverbs++] = request.verb;
		if (request.verb == KEEPER_FINISH)
			break;
		if (request.verb == KEEPER_REPORT)
			continue;
		if (!start) {
			answer.code = CLD_EXITED;
			answer.status = 7;
		}
		while (nfds)
			close(fds[--nfds]);
		if (start)
			sem_wait(&go);
		fd_send(sock, &answer, sizeof(answer), &life[1], start);
		if (start)
			close(life[1]);
	}
	close(sock);
	return arg;
}

static void limit(struct keeper *k, struct timeval limit)
{
	cr_assert_eq(setsockopt(keeper_fd(k), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
}

static struct keeper *k;
static pthread_t thread;

/* A keeper that is busy with a start until go, for which nobody waits any more. */
static void join_busy_keeper(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct keeper_launch launch = { .fds = (int[]) { -1 }, .held = (int[]) { -1 } };
	struct keeper_found found = { 0 };
	struct keeper_estate estate;
	char what[128];

	snprintf(path, sizeof(path), "/tmp/bulkhead-keeper.%d", (int)getpid());
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	launch.stderr_fd = listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	cr_assert_eq(listen(listener, 1), 0);
	cr_assert_eq(pipe(life), 0);
	sem_init(&go, 0, 0);
	cr_assert_eq(pthread_create(&thread, NULL, be_keeper, NULL), 0);
	cr_assert_eq(keeper_join(path, &k, &estate), 0);
	close(estate.saved_fd);
	unlink(path);

	limit(k, (struct timeval) { .tv_usec = 20000 });
	cr_assert_eq(keeper_spawn(k, 0, &launch, &found, what, sizeof(what)), -ETIMEDOUT);
	limit(k, (struct timeval) { .tv_sec = 20 });
}

static void leave(void)
{
	keeper_finish(k);
	pthread_join(thread, NULL);
}

Test(keeper_call, late_answer_is_not_the_next_ones, .timeout = 30)
{
	struct pollfd closed;
	int code, status;

	join_busy_keeper();
	sem_post(&go);
	cr_assert_eq(keeper_reap(k, 0, &code, &status), 0);
	cr_expect_eq(code, CLD_EXITED);
	cr_expect_eq(status, 7);
	closed = (struct pollfd) { .fd = life[0] };
	cr_expect_eq(poll(&closed, 1, 5000), 1, "what came with the late answer was not closed");
	leave();
}

/* It would keep the image until the next start in its place. */
Test(keeper_call, start_that_came_late_is_ended, .timeout = 30)
{
	join_busy_keeper();
	sem_post(&go);
	leave();
	cr_assert_eq(nverbs, 4);
	cr_expect_eq(verb[0], KEEPER_SPAWN);
	cr_expect_eq(verb[1], KEEPER_KILL);
	cr_expect_eq(verb[2], KEEPER_REAP);
	cr_expect_eq(verb[3], KEEPER_FINISH);
}

/* Or what it still holds would be taken for what the core never got. */
Test(keeper_call, forgetting_that_nobody_confirms_is_an_error, .timeout = 30)
{
	join_busy_keeper();
	limit(k, (struct timeval) { .tv_usec = 20000 });
	cr_expect_eq(keeper_forget(k, 0), -ETIMEDOUT);
	limit(k, (struct timeval) { .tv_sec = 20 });
	sem_post(&go);
	cr_expect_eq(keeper_forget(k, 0), 0);
	leave();
}

Test(keeper_call, report_waits_for_nothing, .timeout = 30)
{
	struct timeval limit = { 0 };
	socklen_t size = sizeof(limit);
	int code, status, err = 0;

	join_busy_keeper();
	for (int i = 0; !err && i < 10000; i++)
		err = keeper_report(k, 0, "how: it died");
	cr_expect_eq(err, -EAGAIN, "10000 reports fit into a socket: %d", err);
	cr_assert_eq(getsockopt(keeper_fd(k), SOL_SOCKET, SO_SNDTIMEO, &limit, &size), 0);
	cr_expect_gt(limit.tv_sec, 0, "a request may wait for ever to be sent");
	sem_post(&go);
	cr_expect_eq(keeper_reap(k, 0, &code, &status), 0, "it is of no use any more");
	leave();
}
