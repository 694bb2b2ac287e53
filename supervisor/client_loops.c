/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `bulkhead ctl NAME loops` shows. A process knows its threads by the ids of its own namespace; those by which ps and
 * taskset know them, and the processors that they may use, are the host's to say. The command line can look there, and
 * so no confined process has to.
 */
#include "client_loops.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the kernel says of a thread. */
struct task {
	long long inside; /* its id in the innermost namespace */
	char cpus[512];
};

static bool read_task(long long pid, const char *tid, struct task *task)
{
	char path[64], line[512];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%lld/task/%.16s/status", pid, tid);
	f = fopen(path, "re");
	if (!f)
		return false;
	task->inside = 0;
	*task->cpus = '\0';
	while (fgets(line, sizeof(line), f)) {
		const char *last = strrchr(line, '\t');

		line[strcspn(line, "\n")] = '\0';
		if (!strncmp(line, "NSpid:", 6) && last)
			task->inside = strtoll(last, NULL, 10);
		else if (!strncmp(line, "Cpus_allowed_list:\t", 19))
			snprintf(task->cpus, sizeof(task->cpus), "%s", line + 19);
	}
	fclose(f);
	return true;
}

/* Tells of the loop that this thread runs. */
static void fill_loop(json_t *loops, const char *tid, const struct task *task)
{
	json_t *loop;
	size_t i;

	json_array_foreach(loops, i, loop)
	{
		if (json_integer_value(json_object_get(loop, "thread")) != task->inside)
			continue;
		json_object_set_new(loop, "tid", json_integer(strtoll(tid, NULL, 10)));
		json_object_set_new(loop, "cpus", json_string(task->cpus));
	}
}

static void fill_process(json_t *process)
{
	long long pid = json_integer_value(json_object_get(process, "pid"));
	json_t *loops = json_object_get(process, "loops"), *loop;
	struct dirent *entry;
	struct task task;
	char path[64];
	size_t i;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%lld/task", pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir)))
		if (*entry->d_name != '.' && read_task(pid, entry->d_name, &task))
			fill_loop(loops, entry->d_name, &task);
	if (dir)
		closedir(dir);
	json_array_foreach(loops, i, loop)
	{
		json_object_del(loop, "thread");
	}
}

static void print_queues(const json_t *queues)
{
	for (size_t i = 0; i < json_array_size(queues); i++) {
		const json_t *queue = json_array_get(queues, i);
		const char *name = json_string_value(queue);

		putchar(i ? ',' : ' ');
		if (name)
			printf("%s", name);
		else
			printf("%d", (int)json_integer_value(queue));
	}
	if (!json_array_size(queues))
		printf(" -");
}

static long long number(const json_t *of, const char *key)
{
	return json_integer_value(json_object_get(of, key));
}

static double real(const json_t *of, const char *key)
{
	return json_number_value(json_object_get(of, key));
}

static void print_loop(const char *id, const json_t *loop)
{
	const char *cpus = json_string_value(json_object_get(loop, "cpus"));
	const char *name = json_string_value(json_object_get(loop, "name"));

	printf("%-14s %-15s %8lld %-10s %5.1f%% %10lld %10lld %10lld %10lld %7.1f", id, name ? name : "?",
	       number(loop, "tid"), cpus ? cpus : "?", 100 * real(loop, "busy"), number(loop, "passes"),
	       number(loop, "sleeps"), number(loop, "polls"), number(loop, "poll_hits"),
	       real(loop, "poll_us"));
	print_queues(json_object_get(loop, "queues"));
	putchar('\n');
}

static void print_process(const json_t *process)
{
	const char *id = json_string_value(json_object_get(process, "id"));
	const char *error = json_string_value(json_object_get(process, "error"));
	const json_t *loops = json_object_get(process, "loops"), *loop;
	char text[64];
	size_t i;

	snprintf(text, sizeof(text), "%s%s", id ? id : "?",
		 json_is_true(json_object_get(process, "spare")) ? " (spare)" : "");
	if (error)
		printf("%-14s does not answer: %s\n", text, error);
	json_array_foreach(loops, i, loop)
	{
		print_loop(text, loop);
	}
}

void client_loops(json_t *root, bool as_json)
{
	const json_t *processes = json_object_get(root, "processes");
	json_t *process;
	size_t i;

	json_array_foreach(processes, i, process)
	{
		fill_process(process);
	}
	if (as_json) {
		json_dumpf(root, stdout, JSON_COMPACT);
		putchar('\n');
		return;
	}
	printf("%-14s %-15s %8s %-10s %6s %10s %10s %10s %10s %7s %s\n", "PROCESS", "LOOP", "TID", "CPUS",
	       "BUSY", "PASSES", "SLEEPS", "POLLS", "HITS", "POLL-US", "QUEUES");
	json_array_foreach(processes, i, process)
	{
		print_process(process);
	}
}
