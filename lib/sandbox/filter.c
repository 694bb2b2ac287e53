/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables into seccomp filters.
 *
 * The program is generated here and not by libseccomp, whose 2.5.4 never returns from merging some sets of
 * alternative argument rules (seen with random tables), and which refuses two conditions on one argument. The
 * shape is as plain as can be checked by eye:
 *
 *	kill unless the architecture is x86-64, and the number not one of x32's
 *	for each call: if it is this number:
 *		for each rule, the allowing ones first: if all conditions hold, return its action
 *		kill
 *	kill
 *
 * The kernel answers calls without conditions from a bitmap, so the length of the program does not matter to them.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clean.h"
#include "num.h"
#include "sandbox.h"

#define X32_BIT 0x40000000U
#define NEXT    0   /* jump: to the next instruction */
#define FAIL    255 /* jump: to the end of the rule, once that is known */

struct sandbox_filter {
	struct sock_fprog prog;
	struct sock_filter code[];
};

/* A program in the making; what does not fit is counted but not stored. */
struct emit {
	struct sock_filter *code; /* BPF_MAXINSNS of them */
	size_t len;
};

static void put(struct emit *e, uint16_t code, uint32_t k, uint8_t jt, uint8_t jf)
{
	if (e->len < BPF_MAXINSNS)
		e->code[e->len] = (struct sock_filter) { .code = code, .jt = jt, .jf = jf, .k = k };
	e->len++;
}

static void put_load(struct emit *e, size_t offset)
{
	put(e, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, NEXT, NEXT);
}

static void put_jump(struct emit *e, uint16_t test, uint64_t k, uint8_t jt, uint8_t jf)
{
	put(e, BPF_JMP | test | BPF_K, (uint32_t)k, jt, jf);
}

static void put_return(struct emit *e, uint32_t action)
{
	put(e, BPF_RET | BPF_K, action, NEXT, NEXT);
}

/* One condition on 64 bits, in two halves, as the machine has 32: falls through if it holds, else jumps to FAIL. */
static void put_condition(struct emit *e, const struct sandbox_arg *arg)
{
	size_t low = offsetof(struct seccomp_data, args) + arg->index * sizeof(uint64_t), high = low + 4;
	bool masked = arg->op == SANDBOX_MASKED;

	put_load(e, high);
	switch ((enum sandbox_op)arg->op) {
	case SANDBOX_NE: /* a different upper half decides: over the load and the test */
		put_jump(e, BPF_JEQ, arg->value >> 32, NEXT, 2);
		put_load(e, low);
		put_jump(e, BPF_JEQ, arg->value, FAIL, NEXT);
		break;
	case SANDBOX_LE:
		put_jump(e, BPF_JGT, arg->value >> 32, FAIL, NEXT);
		put_jump(e, BPF_JEQ, arg->value >> 32, NEXT, 2);
		put_load(e, low);
		put_jump(e, BPF_JGT, arg->value, FAIL, NEXT);
		break;
	case SANDBOX_EQ:
	case SANDBOX_MASKED:
	case SANDBOX_ANY:
	default:
		if (masked)
			put(e, BPF_ALU | BPF_AND | BPF_K, (uint32_t)(arg->mask >> 32), NEXT, NEXT);
		put_jump(e, BPF_JEQ, arg->value >> 32, NEXT, FAIL);
		put_load(e, low);
		if (masked)
			put(e, BPF_ALU | BPF_AND | BPF_K, (uint32_t)arg->mask, NEXT, NEXT);
		put_jump(e, BPF_JEQ, arg->value, NEXT, FAIL);
		break;
	}
}

/* The conditions of a rule, its action, and where its failures lead: to what follows. */
static void put_rule(struct emit *e, const struct sandbox_rule *rule)
{
	size_t start = e->len;

	for (size_t i = 0; i < SANDBOX_ARGS_MAX; i++)
		if (rule->args[i].op != SANDBOX_ANY)
			put_condition(e, &rule->args[i]);
	put_return(e, rule->refuse ? SECCOMP_RET_ERRNO | (uint32_t)rule->refuse : SECCOMP_RET_ALLOW);
	for (size_t i = start; i < MIN(e->len, (size_t)BPF_MAXINSNS); i++) {
		uint8_t to_end = (uint8_t)(e->len - i - 1);

		if (e->code[i].jt == FAIL)
			e->code[i].jt = to_end;
		if (e->code[i].jf == FAIL)
			e->code[i].jf = to_end;
	}
}

static void put_rules_of(struct emit *e, const struct sandbox_rule *const *tables, size_t n, int nr,
			 bool refuse)
{
	for (size_t t = 0; t < n; t++)
		for (const struct sandbox_rule *rule = tables[t]; rule->why; rule++)
			if (rule->nr == nr && !!rule->refuse == refuse)
				put_rule(e, rule);
}

/* All that is said of one call. The jump over it may be far, which only the unconditional one can. */
static void put_call(struct emit *e, const struct sandbox_rule *const *tables, size_t n, int nr)
{
	size_t jump;

	put_jump(e, BPF_JEQ, (uint32_t)nr, 1, NEXT);
	jump = e->len;
	put(e, BPF_JMP | BPF_JA, 0, NEXT, NEXT);
	put_rules_of(e, tables, n, nr, false);
	put_rules_of(e, tables, n, nr, true);
	put_return(e, SECCOMP_RET_KILL_PROCESS);
	if (jump < BPF_MAXINSNS)
		e->code[jump].k = (uint32_t)(e->len - jump - 1);
}

static bool rule_is_valid(const struct sandbox_rule *rule)
{
	if (rule->nr < 0 || (uint32_t)rule->nr >= X32_BIT || rule->refuse < 0 ||
	    (uint32_t)rule->refuse > SECCOMP_RET_DATA)
		return false;
	for (size_t i = 0; i < SANDBOX_ARGS_MAX; i++) {
		const struct sandbox_arg *arg = &rule->args[i];

		if (arg->index > 5 || arg->op > SANDBOX_MASKED)
			return false;
		/* A value with bits outside of its mask could never match. */
		if (arg->op == SANDBOX_MASKED && arg->value & ~arg->mask)
			return false;
	}
	return true;
}

/* Whether an earlier rule of these tables, of those that allow if only_allowed, is for rule's call. */
static bool seen_before(const struct sandbox_rule *const *tables, const struct sandbox_rule *rule,
			bool only_allowed)
{
	for (size_t t = 0;; t++)
		for (const struct sandbox_rule *r = tables[t]; r->why; r++) {
			if (r == rule)
				return false;
			if (r->nr == rule->nr && !(only_allowed && r->refuse))
				return true;
		}
}

int sandbox_compile(const struct sandbox_rule *const *tables, size_t n, struct sandbox_filter **out)
{
	CLEAN_FREE struct sandbox_filter *filter =
	    malloc(sizeof(*filter) + BPF_MAXINSNS * sizeof(struct sock_filter));
	struct emit e = { 0 };

	if (!filter)
		return -ENOMEM;
	e.code = filter->code;
	put_load(&e, offsetof(struct seccomp_data, arch));
	put_jump(&e, BPF_JEQ, AUDIT_ARCH_X86_64, 1, NEXT);
	put_return(&e, SECCOMP_RET_KILL_PROCESS);
	put_load(&e, offsetof(struct seccomp_data, nr));
	put_jump(&e, BPF_JGE, X32_BIT, NEXT, 1);
	put_return(&e, SECCOMP_RET_KILL_PROCESS);
	for (size_t t = 0; t < n; t++)
		for (const struct sandbox_rule *rule = tables[t]; rule->why; rule++) {
			if (!rule_is_valid(rule))
				return -EINVAL;
			if (!seen_before(tables, rule, false))
				put_call(&e, tables, n, rule->nr);
		}
	put_return(&e, SECCOMP_RET_KILL_PROCESS);
	if (e.len > BPF_MAXINSNS)
		return -E2BIG;
	filter->prog.len = (unsigned short)e.len;
	filter->prog.filter = filter->code;
	*out = TAKE_PTR(filter);
	return 0;
}

void sandbox_filter_free(struct sandbox_filter *filter)
{
	free(filter);
}

size_t sandbox_count(const struct sandbox_rule *const *tables, size_t n)
{
	size_t count = 0;

	for (size_t t = 0; t < n; t++)
		for (const struct sandbox_rule *rule = tables[t]; rule->why; rule++)
			count += !rule->refuse && !seen_before(tables, rule, true);
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
