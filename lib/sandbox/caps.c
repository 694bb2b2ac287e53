/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving up privilege for good.
 *
 * The order: securebits and the bounding set need CAP_SETPCAP, so they come before the capability sets; what is
 * left is read back, because a set that was not emptied must be an error. no_new_privs is what lets a process
 * without capabilities install filters and Landlock rules.
 */
#include <cap-ng.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox_priv.h"

#define SECUREBITS                                                                                           \
	(SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED |     \
	 SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED)

/* Drops every capability that the kernel knows from the bounding set: it says EINVAL past the last. */
static int drop_bounding(void)
{
	for (unsigned long cap = 0; cap < 64; cap++) {
		int set = prctl(PR_CAPBSET_READ, cap, 0, 0, 0);

		if (set < 0)
			return errno == EINVAL && cap > 0 ? 0 : -errno;
		if (set && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return -errno;
	}
	return 0;
}

static int check_empty(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2];

	if (syscall(SYS_capget, &head, sets) < 0)
		return -errno;
	for (int i = 0; i < 2; i++)
		if (sets[i].effective || sets[i].permitted || sets[i].inheritable)
			return -EPERM;
	return 0;
}

int caps_drop(const char **what)
{
	int err;

	*what = "set securebits";
	if (prctl(PR_SET_SECUREBITS, SECUREBITS) < 0)
		return -errno;
	*what = "clear ambient capabilities";
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -errno;
	*what = "drop the bounding set";
	err = drop_bounding();
	if (err)
		return err;
	*what = "drop capabilities";
	capng_clear(CAPNG_SELECT_CAPS);
	if (capng_apply(CAPNG_SELECT_CAPS) < 0)
		return -EPERM;
	err = check_empty();
	if (err)
		return err;
	*what = "set no_new_privs";
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	*what = "become undumpable";
	return prctl(PR_SET_DUMPABLE, 0) < 0 ? -errno : 0;
}
