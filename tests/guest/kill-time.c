/* SPDX-License-Identifier: Apache-2.0 */
/* kill-time PID: kills a process and prints how many microseconds the kernel took until it could be reaped. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"

int main(int argc, char **argv)
{
	pid_t pid = argc == 2 ? atoi(argv[1]) : 0;
	struct pollfd death = { .events = POLLIN };
	uint64_t begun;

	if (pid <= 1) {
		fprintf(stderr, "usage: kill-time PID\n");
		return 2;
	}
	death.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (death.fd < 0) {
		perror("kill-time: pidfd_open");
		return 1;
	}
	begun = clock_ns();
	if (syscall(SYS_pidfd_send_signal, death.fd, SIGKILL, NULL, 0) || poll(&death, 1, 10000) != 1) {
		perror("kill-time");
		return 1;
	}
	printf("%llu\n", (unsigned long long)(clock_ns() - begun) / 1000);
	return 0;
}
