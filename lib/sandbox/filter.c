/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables into seccomp filters.
 *
 * libseccomp compiles; the program is taken out of it (through a memfd) and kept, so that installing it is one
 * system call without allocation. The default is SIGSYS, for a foreign architecture too, which trap.c says more about;
 * one number that is no call's is answered by killing the process, for the handler's last step.
 *
 * Which alternatives it is given. Joining several rules of one call, libseccomp 2.5.4 may never return if they look at
 * different arguments or at the same in different ways, and what it makes of several conditions like <= or != may
 * allow what no rule allows (both seen with random tables). So a rule that says no more than another of its
 * call is left out here; what remains of a call is either one rule, or rules of one shape: the same arguments, compared
 * for equality with the same masks, so that only the values differ. Other tables are refused. So is a
 * condition on an argument that the same rule looks at already, which libseccomp does not take.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "num.h"
#include "sandbox.h"

static uint32_t otherwise = SCMP_ACT_TRAP; /* what no rule names */

struct sandbox_filter {
	struct sock_fprog prog;
	struct sock_filter code[];
};

static void clean_ctx(scmp_filter_ctx *ctx)
{
	if (*ctx)
		seccomp_release(*ctx);
}

/* One condition in libseccomp's terms; -EINVAL for one that does not exist. */
static int convert_arg(const struct sandbox_arg *arg, struct scmp_arg_cmp *out)
{
	if (arg->index > 5)
		return -EINVAL;
	*out = (struct scmp_arg_cmp) { .arg = arg->index, .datum_a = arg->value };
	switch ((enum sandbox_op)arg->op) {
	case SANDBOX_EQ:
		out->op = SCMP_CMP_EQ;
		return 0;
	case SANDBOX_NE:
		out->op = SCMP_CMP_NE;
		return 0;
	case SANDBOX_LE:
		out->op = SCMP_CMP_LE;
		return 0;
	case SANDBOX_MASKED:
		/* A value with bits outside of its mask could never match. */
		if (arg->value & ~arg->mask)
			return -EINVAL;
		*out = (struct scmp_arg_cmp) { .arg = arg->index,
					       .op = SCMP_CMP_MASKED_EQ,
					       .datum_a = arg->mask,
					       .datum_b = arg->value };
		return 0;
	case SANDBOX_ANY:
	default:
		return -EINVAL;
	}
}

/* The condition of rule on argument index, or NULL. */
static const struct sandbox_arg *find_arg(const struct sandbox_rule *rule, unsigned index)
{
	for (size_t i = 0; i < SANDBOX_ARGS_MAX; i++)
		if (rule->args[i].op != SANDBOX_ANY && rule->args[i].index == index)
			return &rule->args[i];
	return NULL;
}

/* Whether two conditions are alternatives that libseccomp joins correctly. */
static bool joinable(const struct sandbox_arg *a, const struct sandbox_arg *b)
{
	return a && b && a->op == b->op &&
	       (a->op == SANDBOX_EQ || (a->op == SANDBOX_MASKED && a->mask == b->mask));
}

static bool same_condition(const struct sandbox_arg *a, const struct sandbox_arg *b)
{
	return a && b && a->op == b->op && a->value == b->value &&
	       (a->op != SANDBOX_MASKED || a->mask == b->mask);
}

static bool is_unconditional(const struct sandbox_rule *rule)
{
	for (unsigned i = 0; i < 6; i++)
		if (find_arg(rule, i))
			return false;
	return true;
}

/* Whether all that b allows, a allows: every condition of a is one of b's. */
static bool covers(const struct sandbox_rule *a, const struct sandbox_rule *b)
{
	for (unsigned i = 0; i < 6; i++) {
		const struct sandbox_arg *x = find_arg(a, i), *y = find_arg(b, i);

		if (x && !same_condition(x, y))
			return false;
	}
	return true;
}

/* Whether a and b have one shape. */
static bool alike(const struct sandbox_rule *a, const struct sandbox_rule *b)
{
	for (unsigned i = 0; i < 6; i++) {
		const struct sandbox_arg *x = find_arg(a, i), *y = find_arg(b, i);

		if ((x || y) && !joinable(x, y))
			return false;
	}
	return true;
}

/* Whether rule refuses what another allows: one without conditions gives way to any, others to one that covers them. */
static bool is_void(const struct sandbox_rule *const *tables, size_t n, const struct sandbox_rule *rule)
{
	for (size_t t = 0; t < n && rule->refuse; t++)
		for (const struct sandbox_rule *r = tables[t]; r->why; r++)
			if (r->nr == rule->nr && !r->refuse && (is_unconditional(rule) || covers(r, rule)))
				return true;
	return false;
}

/* Whether rule is void, or another that counts and does the same covers it (the first of equals stays). */
static bool is_superfluous(const struct sandbox_rule *const *tables, size_t n,
			   const struct sandbox_rule *rule)
{
	bool before = true;

	if (is_void(tables, n, rule))
		return true;
	for (size_t t = 0; t < n; t++)
		for (const struct sandbox_rule *r = tables[t]; r->why; r++) {
			if (r == rule)
				before = false;
			else if (r->nr == rule->nr && !rule->refuse == !r->refuse && covers(r, rule) &&
				 (before || !covers(rule, r)) && !is_void(tables, n, r))
				return true;
		}
	return false;
}

/* Whether all other rules of rule's call that count have its shape. */
static bool is_joinable(const struct sandbox_rule *const *tables, size_t n, const struct sandbox_rule *rule)
{
	for (size_t t = 0; t < n; t++)
		for (const struct sandbox_rule *r = tables[t]; r->why; r++)
			if (r != rule && r->nr == rule->nr && !alike(r, rule) &&
			    !is_superfluous(tables, n, r))
				return false;
	return true;
}

/* Converts the conditions of a rule, *n of them; -EINVAL if it is one that can't be had. */
static int convert_rule(const struct sandbox_rule *rule, struct scmp_arg_cmp *cmp, unsigned *n)
{
	*n = 0;
	for (size_t i = 0; i < SANDBOX_ARGS_MAX; i++) {
		const struct sandbox_arg *arg = &rule->args[i];
		int err;

		if (arg->op == SANDBOX_ANY)
			continue;
		err = convert_arg(arg, &cmp[(*n)++]);
		if (err)
			return err;
		if (find_arg(rule, arg->index) != arg)
			return -EINVAL;
	}
	if (rule->nr < 0 || rule->nr == SANDBOX_CALL_DIE || rule->refuse < 0)
		return -EINVAL;
	return 0;
}

static int add_rule(scmp_filter_ctx ctx, const struct sandbox_rule *const *tables, size_t n,
		    const struct sandbox_rule *rule)
{
	uint32_t action = rule->refuse ? SCMP_ACT_ERRNO((unsigned)rule->refuse) : SCMP_ACT_ALLOW;
	struct scmp_arg_cmp cmp[SANDBOX_ARGS_MAX];
	unsigned conditions;
	int err = convert_rule(rule, cmp, &conditions);

	if (err || is_superfluous(tables, n, rule))
		return err;
	if (!is_joinable(tables, n, rule))
		return -EINVAL;
	return seccomp_rule_add_array(ctx, action, rule->nr, conditions, cmp);
}

/* Takes the program out of ctx. */
static int export_filter(scmp_filter_ctx ctx, struct sandbox_filter **out)
{
	CLEAN_FD int fd = memfd_create("filter", MFD_CLOEXEC);
	CLEAN_FREE struct sandbox_filter *filter = NULL;
	struct stat st;
	size_t size;
	int err;

	if (fd < 0)
		return -errno;
	err = seccomp_export_bpf(ctx, fd);
	if (err)
		return err;
	if (fstat(fd, &st) < 0)
		return -errno;
	size = (size_t)st.st_size;
	if (size == 0 || size / sizeof(struct sock_filter) > BPF_MAXINSNS)
		return -E2BIG;
	filter = malloc(sizeof(*filter) + size);
	if (!filter)
		return -ENOMEM;
	err = fd_pread_full(fd, filter->code, size, 0);
	if (err)
		return err;
	filter->prog.len = (unsigned short)(size / sizeof(struct sock_filter));
	filter->prog.filter = filter->code;
	*out = TAKE_PTR(filter);
	return 0;
}

void sandbox_log_only(void)
{
	otherwise = SCMP_ACT_LOG;
}

int sandbox_compile(const struct sandbox_rule *const *tables, size_t n, struct sandbox_filter **out)
{
	__attribute__((cleanup(clean_ctx))) scmp_filter_ctx ctx = NULL;
	uint32_t last = SECCOMP_RET_KILL_PROCESS;
	int err;

	/* Of a kernel without it libseccomp would say that the arguments are wrong. */
	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &last) < 0)
		return -errno;
	ctx = seccomp_init(otherwise);
	if (!ctx)
		return -ENOMEM;
	err = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, otherwise);
	if (!err)
		err = seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, SANDBOX_CALL_DIE, 0);
	for (size_t t = 0; t < n && !err; t++)
		for (const struct sandbox_rule *rule = tables[t]; rule->why && !err; rule++)
			err = add_rule(ctx, tables, n, rule);
	return err ? err : export_filter(ctx, out);
}

void sandbox_filter_free(struct sandbox_filter *filter)
{
	free(filter);
}

/* Whether an earlier rule of these tables allows rule's call. */
static bool counted(const struct sandbox_rule *const *tables, const struct sandbox_rule *rule)
{
	for (size_t t = 0;; t++)
		for (const struct sandbox_rule *r = tables[t]; r->why; r++) {
			if (r == rule)
				return false;
			if (r->nr == rule->nr && !r->refuse)
				return true;
		}
}

size_t sandbox_count(const struct sandbox_rule *const *tables, size_t n)
{
	size_t count = 0;

	for (size_t t = 0; t < n; t++)
		for (const struct sandbox_rule *rule = tables[t]; rule->why; rule++)
			count += !rule->refuse && !counted(tables, rule);
	return count;
}

int sandbox_install(const struct sandbox_filter *filter, bool all_threads)
{
	unsigned flags = all_threads ? SECCOMP_FILTER_FLAG_TSYNC : 0;
	long n = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter->prog);

	/* With TSYNC a positive number is a thread that could not be brought under the filter. */
	if (n > 0)
		return -ESRCH;
	return n < 0 ? -errno : 0;
}
