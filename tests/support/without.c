/* SPDX-License-Identifier: Apache-2.0 */
/* without CALL=ERROR... -- COMMAND...: runs a command for which these system calls fail in this way (ENOSYS, EPERM), as on a
 * kernel that lacks or forbids them. Exits 77 if this kernel can't have it so. */
#include <errno.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UNABLE 77

/* "ENOSYS" and "EPERM" only; 0 for others. */
static unsigned read_error(const char *name)
{
	if (!strcmp(name, "ENOSYS"))
		return ENOSYS;
	return strcmp(name, "EPERM") ? 0 : EPERM;
}

static int add(scmp_filter_ctx ctx, char *word)
{
	char *error = strchr(word, '=');
	int nr;

	if (!error)
		return -EINVAL;
	*error++ = '\0';
	nr = seccomp_syscall_resolve_name(word);
	if (nr < 0 || !read_error(error))
		return -EINVAL;
	return seccomp_rule_add(ctx, SCMP_ACT_ERRNO(read_error(error)), nr, 0);
}

int main(int argc, char **argv)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
	int i = 1;

	if (!ctx)
		return UNABLE;
	for (; i < argc && strcmp(argv[i], "--"); i++)
		if (add(ctx, argv[i])) {
			fprintf(stderr, "without: %s: no such call or error\n", argv[i]);
			return 2;
		}
	if (i + 1 >= argc) {
		fprintf(stderr, "usage: without CALL=ERROR... -- COMMAND...\n");
		return 2;
	}
	if (seccomp_load(ctx))
		return UNABLE;
	execvp(argv[i + 1], argv + i + 1);
	fprintf(stderr, "without: %s: %s\n", argv[i + 1], strerror(errno));
	return 127;
}
