/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel has no write to an eventfd that never waits, whatever the descriptor's flags, which are whoever's shares it.
 * But a signal ends the wait, the one that brings vCPUs out of the guest too: a thread looks on while the main loop writes,
 * and sends it when that takes too long, again and again, since one that comes just before the write is lost. A timer
 * would do instead of the thread, but for one more system call in the main loop's filter.
 */
#include "kick.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "lock.h"
#include "thread.h"

#define PATIENCE (1 * NS_PER_MS)

static struct {
	struct lock lock;
	pthread_cond_t began;
	bool writing GUARDED_BY(lock);
	pid_t pid, tid;
} guard = { .lock = LOCK_INIT };

static void interrupt(int sig)
{
	(void)sig;
}

static bool takes_too_long(void) REQUIRES(guard.lock)
{
	uint64_t end = clock_ns() + PATIENCE;
	struct timespec ts = { .tv_sec = (time_t)(end / NS_PER_S), .tv_nsec = (long)(end % NS_PER_S) };

	while (pthread_cond_timedwait(&guard.began, &guard.lock.mutex, &ts) != ETIMEDOUT)
		;
	return guard.writing;
}

static void *look_on(void *arg)
{
	thread_set_name("kicks");
	lock_take(&guard.lock);
	for (;;) {
		while (!guard.writing)
			pthread_cond_wait(&guard.began, &guard.lock.mutex);
		if (takes_too_long())
			syscall(SYS_tgkill, guard.pid, guard.tid, SIGRTMIN);
	}
	lock_drop(&guard.lock);
	return arg;
}

int kick_init(void)
{
	const struct sigaction sa = { .sa_handler = interrupt }; /* without SA_RESTART, as vcpu.c's */
	pthread_condattr_t monotonic;
	sigset_t every, old;
	pthread_t thread;
	int err;

	guard.pid = getpid();
	guard.tid = gettid();
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&guard.began, &monotonic);
	pthread_condattr_destroy(&monotonic);
	if (sigaction(SIGRTMIN, &sa, NULL) < 0)
		return -errno;
	sigfillset(&every);
	sigdelset(&every, SIGSYS); /* a forbidden call is to be told of */
	pthread_sigmask(SIG_SETMASK, &every, &old);
	err = pthread_create(&thread, NULL, look_on, NULL);
	sigdelset(&old, SIGRTMIN);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!err)
		pthread_detach(thread);
	return -err;
}

static void set_writing(bool writing)
{
	lock_take(&guard.lock);
	guard.writing = writing;
	if (writing)
		pthread_cond_signal(&guard.began);
	lock_drop(&guard.lock);
}

void kick_offer(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	uint64_t one = 1;

	if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT))
		return;
	set_writing(true);
	(void)!write(fd, &one, sizeof(one));
	set_writing(false);
}
