/* SPDX-License-Identifier: Apache-2.0 */
/*
 * disturb stop|spin PID THREAD: makes one thread of a process, whose name begins so, do nothing, or nothing useful,
 * while the others go on. Prints "done" when it is so. A stopped one goes on when this program is killed; a spinning
 * one never does.
 */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define JUMP_TO_ITSELF 0xfeebUL /* eb fe */

static bool is_named(const char *pid, const char *tid, const char *name)
{
	char path[600], comm[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%s/task/%s/comm", pid, tid);
	f = fopen(path, "re");
	if (!f)
		return false;
	if (!fgets(comm, sizeof(comm), f))
		comm[0] = '\0';
	fclose(f);
	return !strncmp(comm, name, strlen(name));
}

static pid_t find_thread(const char *pid, const char *name)
{
	char path[300];
	struct dirent *e;
	pid_t found = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%s/task", pid);
	dir = opendir(path);
	while (dir && !found && (e = readdir(dir)))
		if (e->d_name[0] != '.' && is_named(pid, e->d_name, name))
			found = atoi(e->d_name);
	if (dir)
		closedir(dir);
	return found;
}

/* Where the program began, which it never runs again. */
static unsigned long entry_of(const char *pid)
{
	char path[300];
	Elf64_auxv_t aux;
	unsigned long entry = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%s/auxv", pid);
	f = fopen(path, "re");
	while (f && !entry && fread(&aux, sizeof(aux), 1, f) == 1)
		if (aux.a_type == AT_ENTRY)
			entry = aux.a_un.a_val;
	if (f)
		fclose(f);
	return entry;
}

/* The thread is stopped: has it go on in an endless loop. */
static int spin(pid_t tid, unsigned long entry)
{
	struct user_regs_struct regs;
	long word;

	errno = 0;
	word = ptrace(PTRACE_PEEKTEXT, tid, (void *)entry, NULL);
	if (errno || !entry)
		return -1;
	word = (long)(((unsigned long)word & ~0xffffUL) | JUMP_TO_ITSELF);
	if (ptrace(PTRACE_POKETEXT, tid, (void *)entry, (void *)word) ||
	    ptrace(PTRACE_GETREGS, tid, NULL, &regs))
		return -1;
	regs.rip = entry;
	regs.orig_rax = ~0ULL; /* a system call that was interrupted is not made again */
	return ptrace(PTRACE_SETREGS, tid, NULL, &regs) || ptrace(PTRACE_DETACH, tid, NULL, NULL) ? -1 : 0;
}

int main(int argc, char **argv)
{
	bool spinning = argc == 4 && !strcmp(argv[1], "spin");
	pid_t tid = argc == 4 ? find_thread(argv[2], argv[3]) : 0;
	int status;

	if (!tid) {
		fprintf(stderr, "usage: disturb stop|spin PID THREAD, which exists\n");
		return 2;
	}
	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) || ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) ||
	    waitpid(tid, NULL, __WALL) != tid || (spinning && spin(tid, entry_of(argv[2])))) {
		perror("disturb");
		return 1;
	}
	puts("done");
	fflush(stdout);
	/* Its process can't be reaped before we have taken note of its death. */
	while (!spinning && waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status))
		;
	return 0;
}
