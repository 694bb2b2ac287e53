/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sandbox from inside and outside: escape attempts under the tables of every process in every stage, what
 * the kernel says of a process that has entered, and what a child starts with.
 *
 * The program starts itself as the process that tries (tests/support/probe.h).
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "config.h"
#include "note.h"
#include "num.h"
#include "sandbox.h"
#include "sandbox_subjects.h"
#include "tables.h"
#include "temp_dir.h"

#define OUTER_UID   65533
#define DEADLINE_MS 40000
#define DIR_MAX     64

static const char *const stage_names[PROBE_STAGES] = { "no filter", "stage one", "steady",
						       "vCPU or I/O thread" };

/* In a copy of the test process, which has one thread and may change its ids. */
static void run_as(void (*test)(uid_t uid), uid_t uid, bool become)
{
	int status;
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0) {
		if (become &&
		    (syscall(SYS_setgroups, 0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid)))
			_exit(99);
		test(uid);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0, "for uid %u: wait status %#x", uid, status);
}

/* Root tests as root, whose children get another uid, and as an ordinary user; others as what they are. */
static void as_user(void (*test)(uid_t uid))
{
#ifdef BH_SANITIZE
	cr_skip_test("a sanitizer's run-time needs calls that the filters do not allow");
#endif
	if (geteuid() != 0) {
		run_as(test, geteuid(), false);
		return;
	}
	run_as(test, OUTER_UID, false);
	run_as(test, SANDBOX_NOBODY, true);
}

/* Criterion's assertions would not end the copy. */
#define CHECK(cond, ...)                                                                                     \
	do {                                                                                                 \
		if (!(cond)) {                                                                               \
			fprintf(stderr, "# uid %u: ", geteuid());                                            \
			fprintf(stderr, __VA_ARGS__);                                                        \
			fprintf(stderr, "\n");                                                               \
			_exit(1);                                                                            \
		}                                                                                            \
	} while (0)

/* A folder that uid can search, like the one that a child finds its bus socket in. */
static void make_bus(char *dir, uid_t uid)
{
	CHECK(temp_dir_make(dir, DIR_MAX), "no folder %s", dir);
	CHECK(chown(dir, uid, uid) == 0, "chown %s", dir);
}

/* Whether result is what stage must give. */
static bool held(enum probe_stage stage, const struct probe_result *result)
{
	switch (stage) {
	case PROBE_LAYERS:
		return result->outcome == PROBE_REFUSED ||
		       (!result->by_layer && result->outcome != PROBE_BROKEN);
	case PROBE_ONE:
		return result->outcome == PROBE_KILLED || result->outcome == PROBE_REFUSED ||
		       (result->set_up && result->outcome == PROBE_ESCAPED);
	case PROBE_STEADY:
	case PROBE_THREAD:
	case PROBE_STAGES:
	default:
		return result->outcome == PROBE_KILLED;
	}
}

static bool is_listed(const char *const *list, const char *name)
{
	for (; list && *list; list++)
		if (!strcmp(*list, name))
			return true;
	return false;
}

static void probe_stage(size_t which, enum probe_stage stage, uid_t uid)
{
	unsigned killed = 0, refused = 0;
	char bus[DIR_MAX];

	make_bus(bus, uid);
	for (size_t i = 0; i < probe_count(); i++) {
		struct probe_result r = probe_run(sandbox_subjects, which, stage, i, uid, bus);

		killed += r.outcome == PROBE_KILLED;
		refused += r.outcome == PROBE_REFUSED;
		if (is_listed(sandbox_subjects[which].tasks, r.name))
			continue;
		if (is_listed(sandbox_subjects[which].refused, r.name) && r.outcome == PROBE_REFUSED)
			continue;
		CHECK(held(stage, &r), "%s, %s: %s: outcome %d, error %d (%s)", sandbox_subjects[which].name,
		      stage_names[stage], r.name, r.outcome, r.error, strerror(r.error));
	}
	rmdir(bus);
	note("%s, %s, uid %u: %zu escape attempts: %u killed, %u refused", sandbox_subjects[which].name,
	     stage_names[stage], uid, probe_count(), killed, refused);
}

static size_t count_calls(const struct sandbox_rule *const *a, const struct sandbox_rule *const *b)
{
	const struct sandbox_rule *all[32];
	size_t n = 0;

	for (; *a; a++)
		all[n++] = *a;
	for (; b && *b; b++)
		all[n++] = *b;
	return sandbox_count(all, n);
}

Test(sandbox, steady_stages_allow_few_calls)
{
	static const struct {
		const char *name;
		const struct sandbox_rule *const *a, *const *b;
		size_t max;
	} stages[] = {
		{ "vmm-core, main loop", syscalls_steady, NULL, 32 },
		{ "vmm-core, vCPU thread", syscalls_vcpu, NULL, 7 },
		{ "blk-server, I/O thread", server_io, blk_aio_io, 15 },
		{ "net-user, network's thread", user_net, NULL, 25 },
		{ "net-user, all threads", user_steady_bus, NULL, 35 },
		{ "net-server, I/O thread", server_io, net_io, 16 },
		{ "net-server, all threads", server_steady_bus, net_steady, 34 },
		/* nng's and workers' too. */
		{ "blk-server, all threads", server_steady_bus, blk_aio_steady, 39 },
		{ "blk-server, I/O thread with io_uring", server_io, blk_uring_io, 14 },
		{ "blk-server, all threads with io_uring", server_steady_bus, blk_uring_steady, 38 },
		{ "blk-server with an NBD export, I/O thread", server_io, blk_nbd_io, 20 },
		{ "blk-server with an NBD export, all threads", server_steady_bus, blk_nbd_steady, 34 },
		{ "window, I/O thread", server_io, window_io, 13 },
		{ "window, all threads", server_steady_bus, window_steady, 32 },
		{ "nbd-dial", dial_steady, NULL, 28 },
		{ "bulkhead image", supervisor_image, NULL, 13 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(stages); i++) {
		size_t n = count_calls(stages[i].a, stages[i].b);

		note("%s: %zu system calls allowed", stages[i].name, n);
		cr_expect_leq(n, stages[i].max, "%s: %zu", stages[i].name, n);
	}
}

static void layers(uid_t uid)
{
	probe_stage(0, PROBE_LAYERS, uid);
}

Test(sandbox, layers_hold_without_a_filter)
{
	as_user(layers);
}

static void every_stage(uid_t uid)
{
	for (size_t which = 0; which < sandbox_subjects_n; which++) {
		if (sandbox_subjects[which].one)
			probe_stage(which, PROBE_ONE, uid);
		probe_stage(which, PROBE_STEADY, uid);
		if (sandbox_subjects[which].thread)
			probe_stage(which, PROBE_THREAD, uid);
	}
}

Test(sandbox, no_process_escapes_in_any_stage)
{
	as_user(every_stage);
}

/* The child sees two mounts and nothing else: an empty root and the bus folder, both read-only. */
static void mounts(uid_t uid)
{
	char bus[DIR_MAX], path[64], line[512];
	CLEAN_FILE FILE *f = NULL;
	unsigned n = 0;
	int pidfd;
	pid_t pid;

	make_bus(bus, uid);
	CHECK(probe_hold(sandbox_subjects, 0, PROBE_ONE, uid, bus, NULL, 0, &pid, &pidfd) == 0, "no child");
	snprintf(path, sizeof(path), "/proc/%d/mountinfo", (int)pid);
	f = fopen(path, "re");
	CHECK(f, "no %s", path);
	for (; fgets(line, sizeof(line), f); n++)
		CHECK((strstr(line, " / / ro,nosuid,nodev,noexec") && strstr(line, " - tmpfs ")) ||
			  strstr(line, " /bus ro,nosuid,nodev,noexec"),
		      "a mount: %s", line);
	CHECK(n == 2, "%u mounts", n);
	probe_end(pidfd);
	rmdir(bus);
}

Test(sandbox, root_is_empty_and_read_only)
{
	as_user(mounts);
}

static void state(uid_t uid)
{
	for (size_t which = 0; which < sandbox_subjects_n; which++)
		for (int stage = PROBE_ONE; stage <= PROBE_STEADY; stage++) {
			const char *wrong;
			char value[64];
			int pidfd;
			pid_t pid;

			CHECK(probe_hold(sandbox_subjects, which, (enum probe_stage)stage, uid, NULL, NULL, 0,
					 &pid, &pidfd) == 0,
			      "%s does not start", sandbox_subjects[which].name);
			wrong = probe_check_state(pid, uid, (unsigned)stage,
						  sandbox_subjects[which].host_network);
			CHECK(!wrong, "%s, %s: %s", sandbox_subjects[which].name, stage_names[stage], wrong);
			CHECK(probe_status(pid, "NSsid", value, sizeof(value)) && strstr(value, "\t1"),
			      "not a session of its own: %s", value);
			probe_end(pidfd);
			close(pidfd);
		}
}

Test(sandbox, kernel_confirms_ids_capabilities_filters_and_namespaces)
{
	as_user(state);
}

/* ---- what a child starts with ---- */

static size_t count_fds(pid_t pid)
{
	char path[40];
	size_t n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	CHECK(dir, "no %s", path);
	for (struct dirent *d; (d = readdir(dir));)
		n += d->d_name[0] != '.';
	closedir(dir);
	return n;
}

static bool same_file(int mine, pid_t pid, int theirs)
{
	char path[40];
	struct stat a, b;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, theirs);
	return fstat(mine, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

static void descriptors(uid_t uid)
{
	int fds[6], pidfd, null;
	pid_t pid;

	/* Low numbers, whatever the test runner has open. */
	CHECK(close_range(3, ~0U, 0) == 0, "close_range");
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	/* Six pipes' read ends in reverse, so that most stand where another belongs; the write ends stay behind. */
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		int ends[2];

		CHECK(pipe(ends) == 0, "no pipe");
		fds[ARRAY_SIZE(fds) - 1 - i] = ends[0];
	}
	CHECK(probe_hold(sandbox_subjects, 0, PROBE_STEADY, uid, NULL, fds, ARRAY_SIZE(fds), &pid, &pidfd) ==
		  0,
	      "no child");
	CHECK(count_fds(pid) == 3 + ARRAY_SIZE(fds), "%zu descriptors", count_fds(pid));
	CHECK(same_file(null, pid, 0) && same_file(null, pid, 1), "0 and 1 are not /dev/null");
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		CHECK(same_file(fds[i], pid, 3 + (int)i), "descriptor %zu is not what was passed", 3 + i);
	probe_end(pidfd);
}

Test(sandbox, child_has_exactly_its_descriptors)
{
	as_user(descriptors);
}

static void signals(uid_t uid)
{
	char value[64];
	sigset_t set;
	int pidfd;
	pid_t pid;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	CHECK(probe_hold(sandbox_subjects, 0, PROBE_ONE, uid, NULL, NULL, 0, &pid, &pidfd) == 0, "no child");
	for (size_t i = 0; i < 3; i++) {
		static const char *const keys[] = { "SigBlk", "SigIgn", "SigCgt" };
		/* The one handler that it has set by itself by now. */
		unsigned long long want = i == 2 ? 1ULL << (SIGSYS - 1) : 0;

		CHECK(probe_status(pid, keys[i], value, sizeof(value)) && strtoull(value, NULL, 16) == want,
		      "%s is %s", keys[i], value);
	}
	probe_end(pidfd);
	close(pidfd);
}

Test(sandbox, child_starts_with_default_signals)
{
	as_user(signals);
}

static bool ends_in_time(int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	return poll(&p, 1, DEADLINE_MS) == 1;
}

static void with_parent(uid_t uid)
{
	CLEAN_FD int watch = -1;
	int ends[2], status, pidfd;
	pid_t middle, pid = 0;

	CHECK(pipe(ends) == 0, "no pipe");
	middle = fork();
	if (middle == 0) {
		if (probe_hold(sandbox_subjects, 0, PROBE_STEADY, uid, NULL, NULL, 0, &pid, &pidfd) ||
		    write(ends[1], &pid, sizeof(pid)) != sizeof(pid))
			_exit(1);
		for (;;)
			pause();
	}
	close(ends[1]);
	CHECK(read(ends[0], &pid, sizeof(pid)) == sizeof(pid), "no child");
	watch = (int)syscall(SYS_pidfd_open, pid, 0);
	CHECK(watch >= 0, "no pidfd");
	kill(middle, SIGKILL);
	CHECK(waitpid(middle, &status, 0) == middle, "waitpid");
	CHECK(ends_in_time(watch), "the child outlives its parent");
}

Test(sandbox, child_dies_with_its_parent)
{
	as_user(with_parent);
}

static void errors(uid_t uid)
{
	char program[] = "program", *argv[] = { program, NULL };
	struct sandbox_spawn spawn = {
		.path = "/no/such/program", .argv = argv, .stderr_fd = -1, .namespaces = true, .uid = uid
	};
	const char *what = "";
	int pidfd = -1;
	pid_t pid = 0;

	CHECK(sandbox_spawn(&spawn, &pid, &pidfd, &what) == -ENOENT, "missing program: %s", what);
	CHECK(!strcmp(what, "open the program"), "step is %s", what);
	spawn.path = "/etc/passwd";
	CHECK(sandbox_spawn(&spawn, &pid, &pidfd, &what) == -EACCES, "program that is none: %s", what);
	CHECK(!strcmp(what, "execute the program"), "step is %s", what);
	if (geteuid() == 0) {
		spawn.uid = 0;
		spawn.path = "/bin/true";
		CHECK(sandbox_spawn(&spawn, &pid, &pidfd, &what) == -EINVAL, "root as the outer uid");
	}
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "a failed child was left behind");
}

Test(sandbox, failures_name_their_step_and_leave_nothing)
{
	as_user(errors);
}

Test(sandbox, program_in_a_folder_that_the_child_cannot_reach)
{
	char dir[DIR_MAX], path[DIR_MAX + 8], command[DIR_MAX + 32], program[] = "true";
	char *argv[] = { program, NULL };
	struct sandbox_spawn spawn = { .path = path, .argv = argv, .stderr_fd = 2, .uid = OUTER_UID };
	const char *what = "";
	siginfo_t info = { 0 };
	int pidfd = -1;
	pid_t pid;

	if (geteuid() != 0)
		cr_skip_test("only root starts children under another uid");
	cr_assert(temp_dir_make(dir, sizeof(dir)));
	snprintf(path, sizeof(path), "%s/true", dir);
	snprintf(command, sizeof(command), "cp /bin/true %s", path);
	cr_assert_eq(system(command), 0);
	spawn.namespaces = true;
	cr_assert_eq(sandbox_spawn(&spawn, &pid, &pidfd, &what), 0, "%s", what);
	cr_assert_eq(waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED), 0);
	cr_expect_eq(info.si_status, 0);
	unlink(path);
	rmdir(dir);
}

/* ---- by hand ---- */

static void *wait_here(void *arg)
{
	pause();
	return arg;
}

/* What a child of sandbox_fork ends with: the errno of sandbox_enter, after starting a thread if asked. */
static int forked_enter(uid_t uid, bool thread)
{
	const struct sandbox_rule *tables[] = { sandbox_table_runtime };
	struct sandbox_enter enter = { .limits = SANDBOX_LIMITS };
	struct sandbox_filter *filter = NULL;
	const char *what = "";
	int pidfd, status;
	pthread_t t;
	pid_t pid;

	CHECK(sandbox_compile(tables, 1, &filter) == 0, "compile");
	enter.filter = filter;
	CHECK(sandbox_fork(uid, false, &pid, &pidfd, &what) == 0, "fork: %s", what);
	if (pid == 0) {
		if (thread && pthread_create(&t, NULL, wait_here, NULL))
			syscall(SYS_exit_group, 98);
		status = sandbox_enter(&enter, &what);
		syscall(SYS_exit_group, -status);
	}
	sandbox_filter_free(filter);
	CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
	close(pidfd);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void by_hand(uid_t uid)
{
	CHECK(forked_enter(uid, false) == 0, "a forked child does not get in");
	CHECK(forked_enter(uid, true) == EBUSY, "a process with threads gets in");
}

Test(sandbox, forked_child_enters)
{
	as_user(by_hand);
}

static void outside(uid_t uid)
{
	const struct sandbox_rule *tables[] = { sandbox_table_runtime };
	struct sandbox_enter enter = { .limits = SANDBOX_LIMITS };
	struct sandbox_filter *filter = NULL;
	const char *what = "";

	(void)uid;
	CHECK(sandbox_enter(&enter, &what) == -EINVAL, "no filter is accepted");
	CHECK(sandbox_compile(tables, 1, &filter) == 0, "compile");
	enter.filter = filter;
	CHECK(sandbox_enter(&enter, &what) == -EPERM, "not refused: %s", what);
	CHECK(!strcmp(what, "stage one outside of namespaces made for it"), "step is %s", what);
	sandbox_filter_free(filter);
}

Test(sandbox, a_process_outside_is_refused)
{
	as_user(outside);
}

int main(int argc, char **argv)
{
	struct criterion_test_set *tests;
	int status = 0;

	probe_main(argc, argv, sandbox_subjects, sandbox_subjects_n);
	tests = criterion_initialize();
	if (criterion_handle_args(argc, argv, true))
		status = !criterion_run_all_tests(tests);
	criterion_finalize(tests);
	return status;
}
