/* SPDX-License-Identifier: Apache-2.0 */
/* Answers questions on the loop's thread; a worker makes one connection at a time. */
#include "keep.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clean.h"
#include "dial.h"
#include "fd.h"
#include "log.h"
#include "loop.h"
#include "num.h"

#define SLOTS (DIAL_ASIDE + 1)

/* A new connection is wanted, by whom; answer_to -1: none is. */
struct wanted {
	uint64_t id;
	int answer_to;
};

struct keep {
	struct loop *loop;
	struct loop_pool *pool;
	struct loop_fd *watch;
	const struct target *target;
	int fd;
	void (*gone)(void *arg);
	void *arg;
	int held[SLOTS]; /* -1: nothing */
	struct wanted wanted[SLOTS];
	struct loop_job job;
	bool busy;
	unsigned slot; /* of the job */
	int result;    /* of it: a socket or -errno */
	uint64_t made, failed;
};

static void answer(int to, uint64_t id, unsigned slot, int fd)
{
	struct dial_answer a = { .id = id, .err = fd < 0 ? fd : 0, .slot = slot };

	fd_send(to, &a, sizeof(a), fd < 0 ? NULL : &fd, fd < 0 ? 0 : 1);
}

static void forget(struct wanted *w)
{
	clean_fd(&w->answer_to);
	w->answer_to = -1;
}

/* Whoever still uses it must not go on, as another takes its place; the server is told that it is over. */
static void drop(struct keep *k, unsigned slot)
{
	if (k->held[slot] < 0)
		return;
	shutdown(k->held[slot], SHUT_RDWR);
	close(k->held[slot]);
	k->held[slot] = -1;
}

static void start_next(struct keep *k)
{
	for (unsigned i = 1; i <= SLOTS && !k->busy; i++) {
		unsigned slot = (k->slot + i) % SLOTS;

		if (k->wanted[slot].answer_to < 0)
			continue;
		drop(k, slot);
		k->busy = true;
		k->slot = slot;
		loop_pool_submit(k->pool, k->loop, &k->job);
	}
}

static void work(void *arg)
{
	struct keep *k = arg;

	k->result = target_connect(k->target, DIAL_DEADLINE_MS);
}

static void tell(struct keep *k, unsigned slot, int result)
{
	struct wanted *w = &k->wanted[slot];

	if (w->answer_to >= 0)
		answer(w->answer_to, w->id, slot, result);
	forget(w);
}

static void on_done(void *arg)
{
	struct keep *k = arg;

	k->busy = false;
	if (k->result < 0) {
		k->failed++;
		log_warn_limited("the NBD server can't be reached: %s", strerrordesc_np(-k->result));
	} else {
		k->made++;
		k->held[k->slot] = k->result;
	}
	tell(k, k->slot, k->result);
	if (k->slot == DIAL_ASIDE && k->held[DIAL_ASIDE] >= 0) {
		close(k->held[DIAL_ASIDE]);
		k->held[DIAL_ASIDE] = -1;
	}
	/* A server that does not answer would have each of them wait as long. */
	for (unsigned i = 0; k->result == -ETIMEDOUT && i < SLOTS; i++)
		tell(k, i, -ETIMEDOUT);
	start_next(k);
}

static void want(struct keep *k, const struct dial_question *q, int *answer_to)
{
	struct wanted *w = &k->wanted[q->slot];

	forget(w);
	w->id = q->id;
	w->answer_to = take_fd(answer_to);
	start_next(k);
}

static void on_question(void *arg, uint32_t events)
{
	struct keep *k = arg;
	struct dial_question q;
	int fds[2] = { -1, -1 };
	size_t nfds = 0;
	ssize_t n = fd_recv(k->fd, &q, sizeof(q), fds, ARRAY_SIZE(fds), &nfds);
	CLEAN_FD int from = nfds > 0 ? fds[0] : -1;
	CLEAN_FD int connection = nfds > 1 ? fds[1] : -1;

	(void)events;
	if (n == 0 || (n < 0 && n != -EAGAIN && n != -EINTR && n != -E2BIG)) {
		loop_del_fd(k->watch);
		k->watch = NULL;
		k->gone(k->arg);
		return;
	}
	if (n != sizeof(q) || nfds != (q.what == DIAL_KEEP ? 2 : 1) || q.slot >= SLOTS)
		return;
	if (q.what == DIAL_OLD)
		answer(from, q.id, q.slot, k->held[q.slot] < 0 ? -ENOENT : k->held[q.slot]);
	else if (q.what == DIAL_NEW)
		want(k, &q, &from);
	else if (q.what == DIAL_KEEP && q.slot != DIAL_ASIDE && k->held[q.slot] < 0 &&
		 !(k->busy && k->slot == q.slot))
		k->held[q.slot] = take_fd(&connection);
}

/* Others who can ask may have connections of a nbd-dial before this one. */
static int say_that_it_is_new(int fd)
{
	static const uint8_t something;
	ssize_t n = fd_send(fd, &something, sizeof(something), NULL, 0);

	/* Where it is full, or nobody is left, that is so without it. */
	return n < 0 && n != -EAGAIN && n != -EPIPE && n != -ECONNRESET ? (int)n : 0;
}

int keep_new(struct loop *loop, struct loop_pool *pool, int fd, const struct target *t,
	     void (*gone)(void *arg), void *arg, struct keep **out)
{
	struct keep *k = calloc(1, sizeof(*k));
	int err;

	if (!k)
		return -ENOMEM;
	k->loop = loop;
	k->pool = pool;
	k->fd = fd;
	k->target = t;
	k->gone = gone;
	k->arg = arg;
	k->job = (struct loop_job) { .work = work, .done = on_done, .arg = k };
	for (unsigned i = 0; i < SLOTS; i++) {
		k->held[i] = -1;
		k->wanted[i].answer_to = -1;
	}
	*out = k;
	err = say_that_it_is_new(fd);
	return err ? err : loop_add_fd(loop, fd, EPOLLIN, on_question, k, &k->watch);
}

void keep_stats(const struct keep *k, void (*add)(void *to, const char *name, uint64_t value), void *to)
{
	uint64_t held = 0;

	for (unsigned i = 0; i < DIAL_SLOTS; i++)
		held += k->held[i] >= 0;
	add(to, "connections", held);
	add(to, "connected", k->made);
	add(to, "refused", k->failed);
}
