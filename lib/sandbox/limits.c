/* SPDX-License-Identifier: Apache-2.0 */
/* Resource limits, soft and hard alike, so that the process can't raise them again. */
#include <errno.h>
#include <sys/resource.h>

#include "num.h"
#include "sandbox_priv.h"

static int lower(__rlimit_resource_t resource, uint64_t value)
{
	struct rlimit limit;

	if (getrlimit(resource, &limit) < 0)
		return -errno;
	limit.rlim_max = MIN(limit.rlim_max, value);
	limit.rlim_cur = limit.rlim_max;
	return setrlimit(resource, &limit) < 0 ? -errno : 0;
}

int limits_apply(const struct sandbox_limits *limits, const char **what)
{
	int err;

	*what = "limit core files";
	err = lower(RLIMIT_CORE, 0);
	if (err)
		return err;
	*what = "limit open files";
	err = lower(RLIMIT_NOFILE, limits->files);
	if (err)
		return err;
	*what = "limit threads";
	err = limits->processes ? lower(RLIMIT_NPROC, limits->processes) : 0;
	if (err)
		return err;
	*what = "limit file size";
	err = limits->file_size != UINT64_MAX ? lower(RLIMIT_FSIZE, limits->file_size) : 0;
	if (err)
		return err;
	*what = "limit locked memory";
	err = limits->memlock != UINT64_MAX ? lower(RLIMIT_MEMLOCK, limits->memlock) : 0;
	if (err)
		return err;
	*what = "limit data";
	return limits->data ? lower(RLIMIT_DATA, limits->data) : 0;
}
