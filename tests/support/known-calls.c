/* SPDX-License-Identifier: Apache-2.0 */
/*
 * known-calls.so: for programs that valgrind runs, preloaded. What it has no name for (3.19: epoll_pwait2) fails there with
 * ENOSYS; here are older calls in the place of such.
 */
#include <limits.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <time.h>

int epoll_pwait2(int fd, struct epoll_event *events, int max, const struct timespec *timeout,
		 const sigset_t *mask)
{
	long long ms = -1;

	/* Up: who wakes too early would ask again without end. */
	if (timeout)
		ms = (long long)timeout->tv_sec * 1000 + (timeout->tv_nsec + 999999) / 1000000;
	return epoll_pwait(fd, events, max, ms > INT_MAX ? INT_MAX : (int)ms, mask);
}
