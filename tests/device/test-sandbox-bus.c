/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bus from inside the sandbox: a child dials from stage one, narrows at once, and finds the bus again twice
 * after its parent's end was made anew. It runs under the common tables alone, so a call of nng's that they lack
 * kills it.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bus.h"
#include "clock.h"
#include "config.h"
#include "loop.h"
#include "num.h"
#include "sandbox.h"
#include "tables.h"
#include "temp_dir.h"

#define CONNECTIONS 3
#define DEADLINE_NS (40 * NS_PER_S)
#define ALL_SEEN    42

static int
    connections;  /* the parent counts the child's greetings, so that none is cut before the child saw it */
static int ended; /* connections that the child saw end */
static struct bus *own; /* the child's end */

static void on_message(void *arg, const struct bus_msg *msg)
{
	(void)arg;
	connections += msg->type == BUS_HELLO;
}

static void on_connected(void *arg, bool up)
{
	static const struct bus_msg hello = {
		.type = BUS_HELLO,
		.hello = { .protocol = BUS_PROTOCOL, .kind = "blk", .name = "disk0", .version = "1" }
	};

	(void)arg;
	if (own && up)
		bus_event(own, &hello);
	ended += !up;
}

static void on_malformed(void *arg, unsigned count, const char *what)
{
	(void)arg;
	(void)count;
	(void)what;
}

static const struct bus_ops ops = { .message = on_message,
				    .connected = on_connected,
				    .malformed = on_malformed };

/* Runs the loop until *count is n; false if the deadline passes first. */
static bool run_until(struct loop *loop, const int *count, int n)
{
	uint64_t deadline = clock_ns() + DEADLINE_NS;

	while (*count < n && clock_ns() < deadline)
		loop_run_once(loop, 100 * (int64_t)NS_PER_MS);
	return *count >= n;
}

/* The child's whole life; its exit status. */
static int child(const char *dir)
{
	static const struct sandbox_rule *const tables[] = {
		sandbox_table_runtime,    sandbox_table_loop,      sandbox_table_bus,   sandbox_table_threads,
		sandbox_table_loop_setup, sandbox_table_bus_setup, sandbox_table_narrow
	};
	struct sandbox_filter *first = NULL, *steady = NULL;
	struct sandbox_enter enter = {
		.bus_dir = dir,
		.limits = { .files = 64, .processes = 64, .file_size = UINT64_MAX, .memlock = UINT64_MAX }
	};
	const char *what = "";
	struct loop *loop;

	if (sandbox_compile(tables, ARRAY_SIZE(tables), &first) || sandbox_compile(tables, 3, &steady))
		return 1;
	enter.filter = first;
	if (sandbox_enter(&enter, &what) || loop_new("child", &loop) ||
	    bus_dial(loop, "/bus/bus", &ops, NULL, &own) || sandbox_narrow(steady, &what))
		return 2;
	/* The last one too is the parent's to end, or the greeting could be lost with us. */
	return run_until(loop, &ended, CONNECTIONS) ? ALL_SEEN : 3;
}

Test(sandbox_bus, child_redials_under_its_steady_filter, .timeout = 120)
{
	char dir[64], path[72], program[] = "child", word[] = "--child";
	char *argv[] = { program, word, dir, NULL };
	struct sandbox_spawn spawn = { .path = "/proc/self/exe",
				       .argv = argv,
				       .stderr_fd = STDERR_FILENO,
				       .namespaces = true,
				       .uid = SANDBOX_NOBODY,
				       .die_with_parent = true };
	const char *what = "";
	siginfo_t info = { 0 };
	struct loop *loop;
	struct bus *bus;
	int pidfd;
	pid_t pid;

#ifdef BH_SANITIZE
	cr_skip_test("a sanitizer's run-time needs calls that the filters do not allow");
#endif
	cr_assert(temp_dir_make(dir, sizeof(dir)));
	cr_assert(geteuid() != 0 || chown(dir, SANDBOX_NOBODY, SANDBOX_NOBODY) == 0);
	snprintf(path, sizeof(path), "%s/bus", dir);
	cr_assert_eq(loop_new("parent", &loop), 0);
	cr_assert_eq(sandbox_spawn(&spawn, &pid, &pidfd, &what), 0, "%s", what);
	for (int i = 1; i <= CONNECTIONS; i++) {
		cr_assert_eq(bus_listen(loop, path, pid, &ops, NULL, &bus), 0);
		cr_expect(run_until(loop, &connections, i), "connection %d", i);
		bus_close(bus);
	}
	cr_assert_eq(waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED), 0);
	cr_expect_eq(info.si_status, ALL_SEEN, "code %d, status %d", info.si_code, info.si_status);
	loop_free(loop);
	unlink(path);
	rmdir(dir);
}

int main(int argc, char **argv)
{
	struct criterion_test_set *tests;
	int status = 0;

	if (argc == 3 && !strcmp(argv[1], "--child"))
		return child(argv[2]);
	tests = criterion_initialize();
	if (criterion_handle_args(argc, argv, true))
		status = !criterion_run_all_tests(tests);
	criterion_finalize(tests);
	return status;
}
