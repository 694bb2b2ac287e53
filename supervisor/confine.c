/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The supervisor's own sandbox. A seccomp filter is inherited over exec, so a process that starts others must either
 * allow all that they will need or not be the one that starts them: here it is the keeper that does (keeper.h), and
 * the filter can be narrow.
 */
#include "confine.h"

#include <cap-ng.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "clean.h"
#include "clock.h"
#include "sandbox.h"
#include "syscalls.h"

static size_t count_tables(void)
{
	size_t n = 0;

	while (supervisor_steady[n])
		n++;
	return n;
}

size_t confine_count(void)
{
	return sandbox_count(supervisor_steady, count_tables());
}

int confine_privileges(const char **what)
{
	sandbox_tame_malloc();
	*what = "dropping capabilities";
	capng_clear(CAPNG_SELECT_BOTH);
	if (capng_apply(CAPNG_SELECT_BOTH))
		return -EPERM;
	*what = "no_new_privs";
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	*what = "not to be dumped";
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
		return -errno;
	return 0;
}

#define FIRST_TURN_NS (10 * NS_PER_S)

/* True if that thread has a name of its own and sleeps. */
static bool has_settled(int tasks, const char *id, const char *mine)
{
	char path[300], text[64] = "";
	const char *name = text, *end;
	CLEAN_FD int fd = -1;

	snprintf(path, sizeof(path), "%s/stat", id);
	fd = openat(tasks, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return true; /* it has ended meanwhile */
	name = strchr(text, '(');
	end = strrchr(text, ')');
	if (!name || !end || end[1] != ' ' || end[2] != 'S')
		return false;
	name++;
	return strncmp(name, mine, (size_t)(end - name)) || mine[end - name];
}

/*
 * A thread of nng's sleeps for the first time when its start is behind it: until it is told to run, with the name of
 * its maker or one that its maker gave it. Then most name themselves, and sleep until there is something to do.
 */
static bool all_settled(void)
{
	char mine[16] = "";
	DIR *tasks = opendir("/proc/self/task");
	bool all = tasks && !prctl(PR_GET_NAME, mine);
	struct dirent *entry;

	while (all && (entry = readdir(tasks)))
		if (atoi(entry->d_name) > 0 && atoi(entry->d_name) != getpid())
			all = has_settled(dirfd(tasks), entry->d_name, mine);
	if (tasks)
		closedir(tasks);
	return all;
}

/* Each thread that exists has had its first turn, so that the filter need not allow what belongs to a start. */
static int await_threads(void)
{
	uint64_t end = clock_ns() + FIRST_TURN_NS;

	while (!all_settled()) {
		if (clock_ns() >= end)
			return -ETIMEDOUT;
		nanosleep(&(const struct timespec) { .tv_nsec = 200000 }, NULL);
	}
	return 0;
}

int confine_calls(const char **what)
{
	struct sandbox_filter *filter;
	int err;

	*what = "the handler of forbidden calls";
	err = sandbox_set_trap(&(const struct sandbox_trap) { .prefix = "bulkhead: " });
	if (err)
		return err;
	*what = "compiling the system-call filter";
	supervisor_abort[1].args[0].value = (uint64_t)getpid();
	json_object_seed(0); /* reads random bytes, once; later it could not */
	err = sandbox_compile(supervisor_steady, count_tables(), &filter);
	if (err)
		return err;
	*what = "the first turn of nng's threads";
	err = await_threads();
	if (err) {
		sandbox_filter_free(filter);
		return err;
	}
	*what = "installing the system-call filter";
	err = sandbox_install(filter, true);
	sandbox_filter_free(filter);
	return err;
}
