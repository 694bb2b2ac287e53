/* SPDX-License-Identifier: Apache-2.0 */
/* The processor time of a process with all its threads and descendants. */
#include "cputime.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "clean.h"

/* The first number of schedstat is the time on a processor, to the nanosecond; stat counts in ticks. */
static void add_thread(pid_t pid, const char *tid, uint64_t *ns)
{
	CLEAN_FILE FILE *f = NULL;
	unsigned long long on_cpu;
	char path[80];

	snprintf(path, sizeof(path), "/proc/%d/task/%.20s/schedstat", (int)pid, tid);
	f = fopen(path, "re");
	if (f && fscanf(f, "%llu", &on_cpu) == 1)
		*ns += on_cpu;
}

static void add_children(pid_t pid, const char *tid, uint64_t *ns)
{
	CLEAN_FILE FILE *f = NULL;
	char path[80];
	int child;

	snprintf(path, sizeof(path), "/proc/%d/task/%.20s/children", (int)pid, tid);
	f = fopen(path, "re");
	while (f && fscanf(f, "%d", &child) == 1) {
		uint64_t more = 0;

		if (cputime_ns(child, &more) == 0)
			*ns += more;
	}
}

int cputime_ns(pid_t pid, uint64_t *ns)
{
	char path[40];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	*ns = 0;
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		add_thread(pid, entry->d_name, ns);
		add_children(pid, entry->d_name, ns);
	}
	closedir(dir);
	return 0;
}
