/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop itself: descriptors through epoll, and the pass that ties them to timers, bottom halves and polling.
 *
 * A pass waits (polling first, if that is on), then runs the descriptors that are ready, the timers that are due
 * and the bottom halves that were posted, in this order. Whatever a handler posts or arms for now is left for the
 * next pass, which then does not wait; so no kind of work can starve another.
 *
 * Handlers may remove handlers. The events fetched for a pass point to their loop_fd; loop_del_fd clears those of
 * the one that it frees, so none is called after its removal.
 */
#include "loop_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "num.h"

#define BUSY_PASSES_MAX 16 /* passes that polling feeds before descriptors are looked at again */

static int open_descriptors(struct loop *loop)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLET };

	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		return -errno;
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0 || epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &ev) < 0)
		return -errno;
	return 0;
}

int loop_new(const char *name, struct loop **out)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int err;

	if (!loop)
		return -ENOMEM;
	loop->epoll_fd = loop->wake_fd = -1;
	strncpy(loop->name, name, sizeof(loop->name) - 1);
	err = open_descriptors(loop);
	if (err) {
		loop_free(loop);
		return err;
	}
	*out = loop;
	return 0;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	while (loop->fds)
		loop_del_fd(loop->fds);
	while (loop->polling.first)
		loop_del_poller(loop->polling.first);
	while (loop->timers.all)
		loop_del_timer(loop->timers.all);
	free(loop->timers.heap);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	free(loop);
}

const char *loop_name(const struct loop *loop)
{
	return loop->name;
}

/* ---- descriptors ---- */

static int control(struct loop_fd *h, int op, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = h };

	return epoll_ctl(h->loop->epoll_fd, op, h->fd, &ev) < 0 ? -errno : 0;
}

int loop_add_fd(struct loop *loop, int fd, uint32_t events, loop_fd_fn fn, void *arg, struct loop_fd **out)
{
	struct loop_fd *h = calloc(1, sizeof(*h));
	int err;

	if (!h)
		return -ENOMEM;
	h->loop = loop;
	h->fd = fd;
	h->fn = fn;
	h->arg = arg;
	err = loop_mod_fd(h, events);
	if (err) {
		free(h);
		return err;
	}
	h->next = loop->fds;
	if (h->next)
		h->next->prev = h;
	loop->fds = h;
	*out = h;
	return 0;
}

int loop_mod_fd(struct loop_fd *h, uint32_t events)
{
	int err = 0;

	/* epoll reports errors and hang-ups even if asked for nothing, so watching none means to leave. */
	if (events && h->events)
		err = control(h, EPOLL_CTL_MOD, events);
	else if (events)
		err = control(h, EPOLL_CTL_ADD, events);
	else if (h->events)
		err = control(h, EPOLL_CTL_DEL, 0);
	if (!err)
		h->events = events;
	return err;
}

void loop_del_fd(struct loop_fd *h)
{
	struct loop *loop;

	if (!h)
		return;
	loop = h->loop;
	if (h->events)
		control(h, EPOLL_CTL_DEL, 0);
	for (int i = 0; i < loop->nfetched; i++)
		if (loop->fetched[i].data.ptr == h)
			loop->fetched[i].data.ptr = NULL;
	if (h->prev)
		h->prev->next = h->next;
	else
		loop->fds = h->next;
	if (h->next)
		h->next->prev = h->prev;
	free(h);
}

/* Waits for descriptors; a signal counts as none. */
static int fetch(struct loop *loop, uint64_t timeout_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(timeout_ns / NS_PER_S),
			       .tv_nsec = (long)(timeout_ns % NS_PER_S) };
	int n = epoll_pwait2(loop->epoll_fd, loop->fetched, LOOP_FETCH_MAX,
			     timeout_ns == UINT64_MAX ? NULL : &ts, NULL);

	loop->nfetched = MAX(n, 0);
	return n < 0 && errno != EINTR ? -errno : 0;
}

static void dispatch(struct loop *loop)
{
	for (int i = 0; i < loop->nfetched; i++) {
		struct loop_fd *h = loop->fetched[i].data.ptr;
		uint32_t events;

		if (!h)
			continue; /* removed by a handler of this pass, or the eventfd */
		/* What a handler of this pass no longer watches for is not told. */
		events = h->events ? loop->fetched[i].events & (h->events | EPOLLERR | EPOLLHUP) : 0;
		if (events)
			h->fn(h->arg, events);
	}
	loop->nfetched = 0;
}

/* ---- a pass ---- */

static bool must_not_wait(struct loop *loop)
{
	return loop_bh_pending(loop) || atomic_load(&loop->stop);
}

void loop_show(struct loop *loop, _Atomic uint64_t *turns)
{
	loop->turns = turns;
}

static void show_turn(struct loop *loop)
{
	if (loop->turns)
		atomic_store_explicit(loop->turns, ++loop->nturns, memory_order_relaxed);
}

/* Sleeps until a descriptor is ready, someone posts, or end_ns. bh.c has the argument why no post is lost. */
static int sleep_until(struct loop *loop, uint64_t end_ns, uint64_t began_ns)
{
	bool work = loop_poll_before_sleep(loop);
	uint64_t now = clock_ns();
	int err;

	/* What was polled may have armed a timer. */
	end_ns = MIN(end_ns, loop_timer_next(loop));

	atomic_store(&loop->asleep, true);
	if (work || must_not_wait(loop) || now >= end_ns) {
		err = fetch(loop, 0);
	} else {
		loop_count(&loop->stat_sleeps);
		show_turn(loop);
		err = fetch(loop, end_ns == UINT64_MAX ? UINT64_MAX : end_ns - now);
		show_turn(loop);
	}
	atomic_store(&loop->asleep, false);
	if (loop->polling.first) {
		loop_poll_adapt(loop, clock_ns() - began_ns, work || loop->nfetched > 0);
		loop_poll_after_sleep(loop);
		if (work)
			loop_poll_once(loop);
	}
	return err;
}

static int wait_for_work(struct loop *loop, uint64_t now, uint64_t end_ns)
{
	if (end_ns <= now || must_not_wait(loop)) {
		loop->polling.skipped = 0;
		return fetch(loop, 0);
	}
	if (loop_poll_window(loop, end_ns)) {
		if (++loop->polling.skipped < BUSY_PASSES_MAX)
			return 0;
		loop->polling.skipped = 0;
		return fetch(loop, 0);
	}
	loop->polling.skipped = 0;
	return sleep_until(loop, end_ns, now);
}

int loop_run_once(struct loop *loop, int64_t timeout_ns)
{
	uint64_t now = clock_ns(), end = UINT64_MAX;
	int err;

	loop_count(&loop->stat_passes);
	if (timeout_ns >= 0 && !num_add(now, (uint64_t)timeout_ns, &end))
		end = UINT64_MAX;
	err = wait_for_work(loop, now, MIN(end, loop_timer_next(loop)));
	if (err)
		return err;
	dispatch(loop);
	loop_timer_run(loop);
	loop_bh_run(loop);
	return 0;
}

int loop_run(struct loop *loop)
{
	int err;

	do
		err = loop_run_once(loop, -1);
	while (!err && !atomic_load(&loop->stop));
	atomic_store(&loop->stop, false);
	return err;
}

void loop_stop(struct loop *loop)
{
	atomic_store(&loop->stop, true);
	loop_wake(loop);
}

void loop_get_stats(const struct loop *loop, struct loop_stats *out)
{
	*out = (struct loop_stats) {
		.passes = atomic_load_explicit(&loop->stat_passes, memory_order_relaxed),
		.sleeps = atomic_load_explicit(&loop->stat_sleeps, memory_order_relaxed),
		.poll_hits = atomic_load_explicit(&loop->stat_poll_hits, memory_order_relaxed),
		.poll_misses = atomic_load_explicit(&loop->stat_poll_misses, memory_order_relaxed),
		.poll_ns = atomic_load_explicit(&loop->stat_poll_ns, memory_order_relaxed),
	};
}
