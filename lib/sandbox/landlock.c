/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Landlock: a second wall behind the empty root, should a mount or a descriptor ever let files in.
 *
 * The ruleset handles every right that the kernel's version knows and grants none. What Landlock handles is opening
 * and changing files, TCP, abstract sockets and signals out of the sandbox; connecting to a unix socket by its path
 * is none of these in the versions asked for here, so /bus/bus stays within reach. Descriptors that are
 * open already, /dev/kvm or an image, are not affected. A process that has the host's network is held to everything but
 * TCP: the host's abstract sockets, which its network namespace shows, stay out of reach.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clean.h"
#include "num.h"
#include "sandbox_priv.h"

/* As the kernel defines them; the C library's headers may be older than the kernel that runs. */
struct ruleset {
	uint64_t handled_access_fs;
	uint64_t handled_access_net; /* from version 4 */
	uint64_t scoped;             /* from version 6 */
};

/* What each version handles, and how long its structure is. */
static const struct {
	uint64_t fs, net, scoped;
	size_t size;
} versions[] = {
	[1] = { .fs = (1ULL << 13) - 1, .size = 8 },            /* execute … make_sym */
	[2] = { .fs = (1ULL << 14) - 1, .size = 8 },            /* refer */
	[3] = { .fs = (1ULL << 15) - 1, .size = 8 },            /* truncate */
	[4] = { .fs = (1ULL << 15) - 1, .net = 3, .size = 16 }, /* bind, connect */
	[5] = { .fs = (1ULL << 16) - 1, .net = 3, .size = 16 }, /* ioctl on devices */
	[6] = { .fs = (1ULL << 16) - 1, .net = 3, .scoped = 3, .size = sizeof(struct ruleset) }, /* scopes */
};

#define READ_FILE (1ULL << 2)

/* Grants reading path, as it is seen now. */
static int allow_reading(int ruleset, const char *path)
{
	CLEAN_FD int fd = open(path, O_PATH | O_CLOEXEC);
	struct landlock_path_beneath_attr rule = { .allowed_access = READ_FILE, .parent_fd = fd };

	if (fd < 0)
		return -errno;
	return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
}

int landlock_apply(const char *file, bool host_network, const char **what)
{
	struct ruleset rules = { 0 };
	CLEAN_FD int fd = -1;
	size_t v;
	long abi;
	int err;

	*what = "ask for Landlock";
	abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (abi < 0)
		return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -errno;
	v = MIN((size_t)abi, ARRAY_SIZE(versions) - 1);
	rules.handled_access_fs = versions[v].fs;
	rules.handled_access_net = host_network ? 0 : versions[v].net;
	rules.scoped = versions[v].scoped;
	*what = "make a Landlock ruleset";
	fd = (int)syscall(SYS_landlock_create_ruleset, &rules, versions[v].size, 0);
	if (fd < 0)
		return -errno;
	err = file ? allow_reading(fd, file) : 0;
	if (err)
		return err;
	*what = "enforce Landlock";
	return syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? -errno : 0;
}
