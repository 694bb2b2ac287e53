/* SPDX-License-Identifier: Apache-2.0 */
/* System calls made in another process, by ptrace. */
#include "inject.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"

#define DEADLINE_NS (40 * NS_PER_S)
#define SYSCALL     0x050fU /* the instruction, as it is in memory */
#define INT_80      0x80cdU

static bool has_name(pid_t pid, const char *tid, const char *name)
{
	char path[64], comm[32] = "";
	CLEAN_FILE FILE *f = NULL;

	snprintf(path, sizeof(path), "/proc/%d/task/%.10s/comm", (int)pid, tid);
	f = fopen(path, "re");
	if (!f || !fgets(comm, sizeof(comm), f))
		return false;
	comm[strcspn(comm, "\n")] = '\0';
	return !strcmp(comm, name);
}

static pid_t find_thread(pid_t pid, const char *name)
{
	char path[64];
	pid_t tid = -ESRCH;
	DIR *dir;

	if (!name)
		return pid;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	for (struct dirent *d; tid < 0 && (d = readdir(dir));)
		if (d->d_name[0] != '.' && has_name(pid, d->d_name, name))
			tid = (pid_t)atoi(d->d_name);
	closedir(dir);
	return tid;
}

/* Stops the thread; 1 if it stands behind a system call instruction, 0 if elsewhere, or -errno. */
static int stop(pid_t tid, struct user_regs_struct *regs, long *word)
{
	int status;

	if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
		return -errno;
	if (waitpid(tid, &status, __WALL) != tid || !WIFSTOPPED(status))
		return -ESRCH;
	if (ptrace(PTRACE_GETREGS, tid, NULL, regs) < 0)
		return -errno;
	if ((long)regs->orig_rax < 0)
		return 0;
	errno = 0;
	*word = ptrace(PTRACE_PEEKTEXT, tid, (void *)(uintptr_t)(regs->rip - 2), NULL);
	if (errno)
		return -errno;
	return (*word & 0xffff) == SYSCALL;
}

/* Sends the stopped thread over the instruction again, with another number. */
static int redirect(pid_t tid, struct user_regs_struct *regs, long word, long nr, bool by_32)
{
	regs->rip -= 2;
	regs->rax = (unsigned long long)nr;
	regs->orig_rax = ~0ULL; /* not a call that is to be restarted */
	if (by_32 && ptrace(PTRACE_POKETEXT, tid, (void *)(uintptr_t)regs->rip,
			    (void *)(uintptr_t)((word & ~0xffffL) | INT_80)) < 0)
		return -errno;
	return ptrace(PTRACE_SETREGS, tid, NULL, regs) < 0 ? -errno : 0;
}

int inject_call(pid_t pid, const char *thread, long nr, bool by_32)
{
	uint64_t deadline = clock_ns() + DEADLINE_NS;
	struct user_regs_struct regs;
	pid_t tid = find_thread(pid, thread);
	long word = 0;
	int n;

	if (tid < 0)
		return tid;
	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0)
		return -errno;
	while ((n = stop(tid, &regs, &word)) == 0 && clock_ns() < deadline)
		ptrace(PTRACE_CONT, tid, NULL, NULL);
	if (n > 0)
		n = redirect(tid, &regs, word, nr, by_32);
	else if (n == 0)
		n = -ETIMEDOUT;
	ptrace(PTRACE_DETACH, tid, NULL, NULL);
	return n;
}

pid_t inject_hold(pid_t pid, const char *thread)
{
	pid_t tid = find_thread(pid, thread);
	int status;

	if (tid < 0)
		return tid;
	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) < 0 || ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
		return -errno;
	return waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status) ? tid : -ESRCH;
}

void inject_let_go(pid_t tid)
{
	ptrace(PTRACE_DETACH, tid, NULL, NULL);
}
