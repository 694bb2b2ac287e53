/* SPDX-License-Identifier: Apache-2.0 */
/* A net-server whose supervisor is the test. */
#include "net_bus.h"

#include <criterion/criterion.h>
#include <unistd.h>

#include "clock.h"
#include "num.h"

void net_bus_start(struct net *n, struct supervisor *s, struct net_options *options)
{
	static const char *args[16] = { "--id", "net0", "--bus" };
	unsigned count = 3;

	supervisor_open(s);
	args[count++] = s->dir;
	for (const char *const *own = options->rig.args; own && *own; own++) {
		cr_assert_lt(count, ARRAY_SIZE(args) - 1);
		args[count++] = *own;
	}
	args[count] = NULL;
	options->rig.args = args;
	net_start(n, options);
	supervisor_expect(s, &n->rig);
}

void net_bus_stop(struct net *n, struct supervisor *s)
{
	supervisor_ask_ok(s, BUS_SHUTDOWN);
	net_stop(n);
	supervisor_close(s);
}

FILE *net_bus_start_logged(struct net *n, struct supervisor *s, struct net_options *options)
{
	FILE *text = tmpfile();

	cr_assert_not_null(text);
	options->rig.log_fd = fileno(text);
	net_bus_start(n, s, options);
	return text;
}

void net_bus_said(FILE *text, char *said, size_t size)
{
	ssize_t len = pread(fileno(text), said, size - 1, 0);

	cr_assert_gt(len, 0, "nothing was logged");
	said[len] = '\0';
}

void net_bus_falls_asleep(struct net *n, struct supervisor *s)
{
	uint64_t end = clock_ns() + RIG_DEADLINE_S * NS_PER_S, passes, until;

	do {
		cr_assert(clock_ns() < end, "it does not sleep");
		passes = supervisor_stat(s, "passes");
		until = clock_ns() + 100 * NS_PER_MS;
		while (clock_ns() < until)
			cr_assert_eq(loop_run_once(n->rig.loop, (int64_t)(20 * NS_PER_MS)), 0);
	} while (supervisor_stat(s, "passes") != passes);
}
