/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill-time PID [LOG WORDS]: kills a process and prints how many microseconds the kernel took until it could be reaped.
 * With LOG it then waits until a line that was not there before the kill has WORDS in it: asleep, so that nothing of
 * a test's own disturbs a recovery that it measures.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"

#define DEATH_MS 10000
#define WORDS_NS (120 * NS_PER_S)

static int fail(const char *what)
{
	fprintf(stderr, "kill-time: %s: %s\n", what, strerror(errno));
	return 1;
}

/* True once what was appended to the file has the words; a line may come in parts. */
static bool has(FILE *log, const char *words, char *line, size_t size)
{
	size_t len = strlen(line);

	clearerr(log);
	while (fgets(line + len, (int)(size - len), log)) {
		if (strstr(line, words))
			return true;
		len = strlen(line);
		if (len == size - 1 || (len && line[len - 1] == '\n'))
			len = 0;
		line[len] = '\0';
	}
	return false;
}

static int wait_words(FILE *log, int watch, const char *words)
{
	char line[1024] = "", events[4096];
	uint64_t end = clock_ns() + WORDS_NS;

	while (!has(log, words, line, sizeof(line))) {
		struct pollfd p = { .fd = watch, .events = POLLIN };
		uint64_t now = clock_ns();

		if (now >= end || poll(&p, 1, (int)((end - now) / NS_PER_MS) + 1) != 1 ||
		    read(watch, events, sizeof(events)) < 0) {
			fprintf(stderr, "kill-time: the log does not say \"%s\"\n", words);
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	pid_t pid = argc == 2 || argc == 4 ? atoi(argv[1]) : 0;
	struct pollfd death = { .events = POLLIN };
	int watch = inotify_init1(IN_CLOEXEC);
	FILE *log = NULL;
	uint64_t begun;

	if (pid <= 1) {
		fprintf(stderr, "usage: kill-time PID [LOG WORDS]\n");
		return 2;
	}
	if (argc == 4) {
		log = fopen(argv[2], "re");
		if (!log || fseek(log, 0, SEEK_END) || inotify_add_watch(watch, argv[2], IN_MODIFY) < 0)
			return fail(argv[2]);
	}
	death.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (death.fd < 0)
		return fail("pidfd_open");
	begun = clock_ns();
	if (syscall(SYS_pidfd_send_signal, death.fd, SIGKILL, NULL, 0) || poll(&death, 1, DEATH_MS) != 1)
		return fail("pidfd_send_signal");
	printf("%llu\n", (unsigned long long)(clock_ns() - begun) / 1000);
	return log ? wait_words(log, watch, argv[3]) : 0;
}
