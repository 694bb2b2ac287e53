/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two stages, seen from the child.
 *
 * Theory of operation. sandbox_spawn or sandbox_fork made the namespaces; the process is process 1 and user 0
 * in them, with all capabilities there. In this order:
 *	1. refuse to go on anywhere else: mounting over the host's "/" would be fatal to it
 *	2. root and host name, while there are capabilities
 *	3. capabilities, no_new_privs, undumpable
 *	4. limits, Landlock, which need no capability any more; Landlock after the last mount, which it forbids
 *	5. the filter, last: nothing above has to be allowed by it
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clean.h"
#include "sandbox_priv.h"
#include "thread.h"

int single_thread(void)
{
	/* Asks to stop sharing a thread group, which is refused to all but a group of one, where it does nothing. */
	if (unshare(CLONE_THREAD) == 0)
		return 0;
	return errno == EINVAL ? -EBUSY : -errno;
}

/* Process 1 with a user map of a single id, or its child (anchor.c): nothing but this library's children is that. */
static int check_inside(void)
{
	char map[128], *end;
	unsigned long inside, count;
	CLEAN_FD int fd = -1;
	ssize_t n;

	if ((getpid() != 1 && getppid() != 1) || getuid() != 0)
		return -EPERM;
	fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, map, sizeof(map) - 1);
	if (n <= 0)
		return -EPERM;
	map[n] = '\0';
	inside = strtoul(map, &end, 10);
	strtoul(end, &end, 10);
	count = strtoul(end, &end, 10);
	return inside == 0 && count == 1 && !strcmp(end, "\n") ? 0 : -EPERM;
}

void sandbox_tame_malloc(void)
{
	/*
	 * The first thread above a number of arenas would ask for the number of processors, and an arena other than the
	 * main one reads /proc/sys/vm/overcommit_memory before it first gives memory back.
	 */
	mallopt(M_ARENA_MAX, 1);
}

int sandbox_enter(const struct sandbox_enter *enter, const char **what)
{
	static const char host[] = "bulkhead";
	int err;

	*what = "no filter given";
	if (!enter->filter)
		return -EINVAL;
	*what = "stage one with other threads running";
	err = single_thread();
	if (err)
		return err;
	*what = "stage one outside of namespaces made for it";
	err = check_inside();
	if (err)
		return err;
	err = root_enter(enter->bus_dir, enter->dir, enter->file, what);
	if (err)
		return err;
	*what = "set the host name";
	if (sethostname(host, sizeof(host) - 1) < 0)
		return -errno;
	/* Executed by descriptor, the process would be listed under its number. */
	thread_set_name(program_invocation_short_name);
	sandbox_tame_malloc();
	err = caps_drop(what);
	if (!err)
		err = limits_apply(&enter->limits, what);
	if (!err)
		err = landlock_apply(enter->file, enter->host_network, what);
	if (err)
		return err;
	*what = "install the first filter";
	return sandbox_install(enter->filter, true);
}

int sandbox_narrow(const struct sandbox_filter *filter, const char **what)
{
	*what = "install the steady filter";
	return sandbox_install(filter, true);
}
