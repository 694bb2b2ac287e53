/* SPDX-License-Identifier: Apache-2.0 */
/* Inside a program under test: dies where the test wants it to. */
#include "crashes.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "crash.h"

/* What the linker gathered. */
extern const struct crash_point *const __start_crash_points[];
extern const struct crash_point *const __stop_crash_points[];

static struct order {
	char label[64]; /* empty: none */
	int64_t number;
} die, later, at, result, answer, alloc, shared;
static _Atomic int64_t left;        /* times until die is carried out */
static struct crashes_shared *told; /* the test's; NULL: it never says anything */

static bool told_to_go(void)
{
	return told && atomic_load(&told->go);
}

static void map_go(int fd)
{
	void *page = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (page == MAP_FAILED)
		_exit(2);
	close(fd);
	told = page;
}

static bool is_for(const struct order *order, const char *label)
{
	return order->label[0] && !strcmp(order->label, label);
}

/*
 * Dies as by SIGKILL: no handler, no flush, the other threads where they are. A signal would not do, as the first
 * process of a PID namespace ignores its own; and so the test can tell this death from others.
 */
void crash_here(const struct crash_point *point)
{
	bool counts = is_for(&die, point->label) || (told_to_go() && is_for(&later, point->label));

	if (counts && atomic_fetch_sub(&left, 1) == 1)
		_exit(CRASHES_STATUS);
}

void crash_here_at(const char *label, uint64_t what)
{
	if (is_for(&at, label) && what == (uint64_t)at.number)
		_exit(CRASHES_STATUS);
}

int64_t crash_result(const char *label, int64_t value)
{
	if (told_to_go() && is_for(&answer, label))
		return answer.number;
	return is_for(&result, label) ? result.number : value;
}

bool crash_fault(enum crash_op op, uint64_t off, uint64_t len, int64_t *value)
{
	if (!told || atomic_load(&told->op) != (int)op || off >= atomic_load(&told->to) ||
	    off + len <= atomic_load(&told->from) || atomic_fetch_sub(&told->times, 1) <= 0)
		return false;
	*value = atomic_load(&told->result);
	atomic_fetch_add(&told->hits, 1);
	return true;
}

static void list(void)
{
	for (const struct crash_point *const *p = __start_crash_points; p < __stop_crash_points; p++) {
		if (*p) /* sanitizers pad what they watch */
			puts((*p)->label);
	}
	fflush(stdout);
	_exit(0);
}

static bool take(const char *order, const char *name, struct order *to)
{
	size_t len = strlen(name);
	const char *colon = strrchr(order, ':');

	if (strncmp(order, name, len) || order[len] != '=' || !colon)
		return false;
	snprintf(to->label, sizeof(to->label), "%.*s", (int)(colon - order - (long)len - 1), order + len + 1);
	to->number = strtoll(colon + 1, NULL, 10);
	return true;
}

/* Before main, while there is one thread. An order that is not understood ends the program: the test would wait in
 * vain. */
__attribute__((constructor)) static void read_orders(void)
{
	const char *env = getenv(CRASHES_ENV);
	char orders[256], *rest = orders, *order;

	if (!env)
		return;
	snprintf(orders, sizeof(orders), "%s", env);
	while ((order = strsep(&rest, ";"))) {
		if (!strcmp(order, "list"))
			list();
		if (*order && !take(order, "die", &die) && !take(order, "later", &later) &&
		    !take(order, "at", &at) && !take(order, "result", &result) &&
		    !take(order, "answer", &answer) && !take(order, "alloc", &alloc) &&
		    !take(order, "go", &shared))
			_exit(2);
	}
	atomic_store(&left, die.label[0] ? die.number : later.number);
	if (shared.label[0])
		map_go((int)shared.number);
	if (alloc.label[0])
		fail_alloc_at(alloc.number);
}
