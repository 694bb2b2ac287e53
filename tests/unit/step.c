/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a child by single steps and keeps each state of the memory that it shares. */
#include "step.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXIT_UNTRACED 77

static void keep(struct steps *s, const uint8_t *area)
{
	if (s->n && memcmp(s->copies[s->n - 1], area, s->len) == 0)
		return;
	s->copies = realloc(s->copies, (s->n + 1) * sizeof(*s->copies));
	s->copies[s->n] = malloc(s->len);
	memcpy(s->copies[s->n++], area, s->len);
}

static _Noreturn void child(void (*action)(void *arg), void *arg)
{
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
		_exit(EXIT_UNTRACED);
	raise(SIGSTOP);
	action(arg);
	_exit(0);
}

int step_run(void (*action)(void *arg), void *arg, uint8_t *area, size_t len, struct steps *steps)
{
	pid_t pid = fork();
	int status = 0;

	*steps = (struct steps) { .len = len };
	if (pid < 0)
		return -errno;
	if (pid == 0)
		child(action, arg);
	while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
		keep(steps, area);
		if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return -ECHILD;
		}
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_UNTRACED)
		return -EPERM;
	keep(steps, area);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ECHILD;
}

void step_free(struct steps *steps)
{
	for (unsigned i = 0; i < steps->n; i++)
		free(steps->copies[i]);
	free(steps->copies);
}
