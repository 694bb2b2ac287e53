/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The supervisor's own sandbox. A seccomp filter is inherited over exec, so a process that starts others must either
 * allow all that they will need or not be the one that starts them: here it is the keeper that does (keeper.h), and
 * the filter can be narrow.
 */
#include "confine.h"

#include <cap-ng.h>
#include <errno.h>
#include <jansson.h>
#include <sys/prctl.h>
#include <unistd.h>

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

/*
 * The start of every thread that exists is behind it, so that the filter need not allow what belongs to one. The kernel
 * keeps a thread's ids and the C library has all of them change together: setresuid, which changes nothing here, returns
 * once each thread has taken the library's signal and answered (nptl(7)), and none takes signals before it is set up. What
 * nng's threads do next, name themselves and sleep, the filter allows.
 */
static int await_threads(void)
{
	return setresuid((uid_t)-1, (uid_t)-1, (uid_t)-1) ? -errno : 0;
}

int confine_calls(bool log_only, const char **what)
{
	struct sandbox_filter *filter;
	int err;

	*what = "the handler of forbidden calls";
	err = sandbox_set_trap(&(const struct sandbox_trap) { .prefix = "bulkhead: " });
	if (err)
		return err;
	if (log_only)
		sandbox_log_only();
	*what = "compiling the system-call filter";
	supervisor_abort[1].args[0].value = (uint64_t)getpid();
	json_object_seed(0); /* reads random bytes, once; later it could not */
	err = sandbox_compile(supervisor_steady, count_tables(), &filter);
	if (err)
		return err;
	*what = "the start of all threads";
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
