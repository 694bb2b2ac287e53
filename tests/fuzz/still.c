/* SPDX-License-Identifier: Apache-2.0 */
/* Time and descriptors that stand still. */
#include "still.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>

#include "clock.h"
#include "log.h"
#include "num.h"

#define FD_FIRST (1 << 24) /* no process has as many */
#define FDS      256
#define BEGIN    (1000 * NS_PER_S)

static struct watched {
	uint32_t events, ready;
	epoll_data_t data;
} fds[FDS];
static int next_fd;
static uint64_t now;
static bool waited;

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_epoll_create1(int flags);
int __wrap_eventfd(unsigned count, int flags);
int __wrap_epoll_ctl(int epoll, int op, int fd, struct epoll_event *ev);
int __wrap_epoll_pwait2(int epoll, struct epoll_event *ev, int max, const struct timespec *timeout,
			const void *sigmask);
bool __wrap_log_limit_take(struct log_limit *limit, uint32_t burst, uint32_t *suppressed);

void still_close(void)
{
	for (int i = 0; i < next_fd; i++)
		fds[i] = (struct watched) { .events = 0 };
	next_fd = 0;
}

void still_reset(void)
{
	still_close();
	now = BEGIN;
}

int still_fd(void)
{
	if (next_fd == FDS)
		abort();
	return FD_FIRST + next_fd++;
}

void still_raise(int fd, uint32_t events)
{
	fds[fd - FD_FIRST].ready |= events;
}

void still_advance(uint64_t ns)
{
	now += ns;
}

/* A pass that comes to wait has nothing to do, and its queues have looked once more before it. */
void still_run(struct loop *loop, unsigned passes)
{
	waited = false;
	while (passes-- && !waited)
		if (loop_run_once(loop, NS_PER_US))
			abort();
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
	(void)clock;
	ts->tv_sec = (time_t)(now / NS_PER_S);
	ts->tv_nsec = (long)(now % NS_PER_S);
	return 0;
}

int __wrap_epoll_create1(int flags)
{
	(void)flags;
	return still_fd();
}

int __wrap_eventfd(unsigned count, int flags)
{
	(void)count;
	(void)flags;
	return still_fd();
}

int __wrap_epoll_ctl(int epoll, int op, int fd, struct epoll_event *ev)
{
	struct watched *w = &fds[fd - FD_FIRST];

	(void)epoll;
	w->events = op == EPOLL_CTL_DEL ? 0 : ev->events;
	if (op != EPOLL_CTL_DEL)
		w->data = ev->data;
	return 0;
}

int __wrap_epoll_pwait2(int epoll, struct epoll_event *ev, int max, const struct timespec *timeout,
			const void *sigmask)
{
	int n = 0;

	(void)epoll;
	(void)sigmask;
	for (int i = 0; i < next_fd && n < max; i++) {
		struct watched *w = &fds[i];
		uint32_t events = w->ready & (w->events | EPOLLERR | EPOLLHUP);

		if (!w->events || !events)
			continue;
		w->ready &= ~events;
		ev[n++] = (struct epoll_event) { .events = events, .data = w->data };
	}
	if (!n && timeout && (timeout->tv_sec || timeout->tv_nsec)) {
		waited = true;
		now += (uint64_t)timeout->tv_sec * NS_PER_S + (uint64_t)timeout->tv_nsec;
	}
	return n;
}

/* Which would remember earlier inputs. */
bool __wrap_log_limit_take(struct log_limit *limit, uint32_t burst, uint32_t *suppressed)
{
	(void)limit;
	(void)burst;
	*suppressed = 0;
	return true;
}
