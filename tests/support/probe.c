/* SPDX-License-Identifier: Apache-2.0 */
/* Escape attempts: starting them, judging how they ended, and reading what the kernel says of a process. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "num.h"
#include "probe_try.h"

#define PROBE_WORD  "--probe"
#define HOLD        "hold"
#define TABLES_MAX  32
#define EXIT_BROKEN 255

/* ---- inside ---- */

/* The last thread's exit is the process's, and the one that a vCPU's filter lets through. */
__attribute__((noreturn)) static void end(int status)
{
	for (;;)
		syscall(SYS_exit, status);
}

static int complaints = STDERR_FILENO;

__attribute__((noreturn)) static void broken(const char *what, int err)
{
	dprintf(complaints, "probe: %s: %s\n", what, strerror(-err));
	end(EXIT_BROKEN);
}

static size_t join(const struct sandbox_rule **out, size_t n, const struct sandbox_rule *const *list)
{
	for (; list && *list && n < TABLES_MAX; list++)
		out[n++] = *list;
	return n;
}

static struct sandbox_filter *compile(const struct sandbox_rule *const *list,
				      const struct sandbox_rule *const *more)
{
	const struct sandbox_rule *tables[TABLES_MAX];
	struct sandbox_filter *filter = NULL;
	int err = sandbox_compile(tables, join(tables, join(tables, 0, list), more), &filter);

	if (err)
		broken("compile", err);
	return filter;
}

/* A filter that allows every call there is. */
static struct sandbox_filter *compile_all(void)
{
	static struct sandbox_rule all[513];
	static const struct sandbox_rule *const list[] = { all, NULL };

	for (int nr = 0; nr < 512; nr++)
		all[nr] = (struct sandbox_rule) { .nr = nr, .why = "everything" };
	return compile(list, NULL);
}

static void go_in(const struct probe_subject *s, enum probe_stage stage, const char *bus_dir)
{
	struct sandbox_enter enter = { .bus_dir = *bus_dir ? bus_dir : NULL,
				       .file = s->file,
				       .host_network = s->host_network,
				       .limits = s->limits };
	struct sandbox_filter *steady = NULL, *thread = NULL;
	const struct sandbox_trap trap = { .prefix = "probe: " };
	const char *what = "";
	int err;

	enter.filter = stage == PROBE_LAYERS || !s->one ? compile_all() : compile(s->one, s->one_more);
	if (stage >= PROBE_STEADY)
		steady = compile(s->steady, s->steady_more);
	if (stage >= PROBE_THREAD)
		thread = compile(s->thread, s->thread_more);
	err = sandbox_set_trap(&trap);
	if (!err)
		err = sandbox_enter(&enter, &what);
	if (!err && steady)
		err = sandbox_narrow(steady, &what);
	if (!err && thread)
		err = sandbox_install(thread, false);
	if (err)
		broken(what, err);
}

/* argv: PROGRAM --probe SUBJECT STAGE ATTEMPT|hold BUS PARENT */
void probe_main(int argc, char **argv, const struct probe_subject *subjects, size_t n)
{
	static uint32_t word;
	size_t which, attempt;
	int result;

	if (argc != 7 || strcmp(argv[1], PROBE_WORD))
		return;
	which = strtoul(argv[2], NULL, 10);
	if (which >= n)
		broken("subject", -EINVAL);
	if (strcmp(argv[4], HOLD)) {
		/* What is tried is expected to be forbidden, and told of each time. */
		complaints = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
		dup2(STDIN_FILENO, STDERR_FILENO);
	}
	go_in(&subjects[which], (enum probe_stage)strtoul(argv[3], NULL, 10), argv[5]);
	if (!strcmp(argv[4], HOLD)) {
		syscall(SYS_write, STDERR_FILENO, "in\n", 3);
		for (;;)
			syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
	}
	attempt = strtoul(argv[4], NULL, 10);
	result =
	    attempt < probe_tries_count ? probe_tries[attempt].fn((pid_t)strtol(argv[6], NULL, 10)) : -EINVAL;
	/* 0 means that it worked. */
	end(result < 0 ? -result : 0);
}

/* ---- outside ---- */

size_t probe_count(void)
{
	return probe_tries_count;
}

static int start(const struct probe_subject *subjects, size_t which, enum probe_stage stage, const char *what,
		 uid_t uid, const char *bus_dir, const struct sandbox_spawn *more, pid_t *pid, int *pidfd)
{
	char subject[24], level[24], parent[24], program[] = "probe", word[] = PROBE_WORD, arg[24], bus[128];
	char *argv[] = { program, word, subject, level, arg, bus, parent, NULL };
	struct sandbox_spawn spawn = *more;
	const char *step = "";
	int err;

	snprintf(subject, sizeof(subject), "%zu", which);
	snprintf(level, sizeof(level), "%d", (int)stage);
	snprintf(arg, sizeof(arg), "%s", what);
	snprintf(bus, sizeof(bus), "%s", bus_dir ? bus_dir : "");
	snprintf(parent, sizeof(parent), "%d", (int)getpid());
	spawn.path = "/proc/self/exe";
	spawn.argv = argv;
	spawn.namespaces = true;
	spawn.host_network = subjects[which].host_network;
	spawn.uid = uid;
	spawn.die_with_parent = true;
	err = sandbox_spawn(&spawn, pid, pidfd, &step);
	if (err)
		fprintf(stderr, "probe: %s: %s\n", step, strerror(-err));
	return err;
}

static int wait_status(int pidfd)
{
	siginfo_t info = { 0 };

	while (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0)
		if (errno != EINTR)
			return -1;
	if (info.si_code == CLD_EXITED)
		return info.si_status << 8;
	return info.si_status;
}

struct probe_result probe_run(const struct probe_subject *subjects, size_t which, enum probe_stage stage,
			      size_t attempt, uid_t uid, const char *bus_dir)
{
	struct probe_result result = { .name = probe_tries[attempt].name,
				       .by_layer = probe_tries[attempt].by_layer,
				       .set_up = probe_tries[attempt].set_up,
				       .outcome = PROBE_BROKEN };
	struct sandbox_spawn spawn = { .stderr_fd = STDERR_FILENO };
	CLEAN_FD int pidfd = -1;
	char number[24];
	pid_t pid;
	int status;

	snprintf(number, sizeof(number), "%zu", attempt);
	result.error = start(subjects, which, stage, number, uid, bus_dir, &spawn, &pid, &pidfd);
	if (result.error)
		return result;
	status = wait_status(pidfd);
	result.error = status;
	if (status < 0)
		return result;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) {
		result.outcome = PROBE_KILLED;
	} else if (WIFEXITED(status) && WEXITSTATUS(status) != EXIT_BROKEN) {
		result.error = WEXITSTATUS(status);
		result.outcome = result.error ? PROBE_REFUSED : PROBE_ESCAPED;
	}
	return result;
}

int probe_hold(const struct probe_subject *subjects, size_t which, enum probe_stage stage, uid_t uid,
	       const char *bus_dir, const int *fds, size_t nfds, pid_t *pid, int *pidfd)
{
	struct sandbox_spawn spawn = { .fds = fds, .nfds = nfds };
	char line[256];
	int ends[2], err;
	ssize_t n;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	spawn.stderr_fd = ends[1];
	err = start(subjects, which, stage, HOLD, uid, bus_dir, &spawn, pid, pidfd);
	close(ends[1]);
	if (!err) {
		n = read(ends[0], line, sizeof(line) - 1);
		if (n != 3 || memcmp(line, "in\n", 3)) {
			fprintf(stderr, "%.*s", n > 0 ? (int)n : 0, line);
			probe_end(*pidfd);
			close(*pidfd);
			err = -ECHILD;
		}
	}
	close(ends[0]);
	return err;
}

int probe_end(int pidfd)
{
	syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	return wait_status(pidfd);
}

/* ---- what the kernel says ---- */

const char *probe_status(pid_t pid, const char *key, char *value, size_t size)
{
	CLEAN_FILE FILE *f = NULL;
	size_t len = strlen(key);
	char line[512];

	snprintf(line, sizeof(line), "/proc/%d/status", (int)pid);
	f = fopen(line, "re");
	while (f && fgets(line, sizeof(line), f)) {
		char *p = line + len + 1;

		if (strncmp(line, key, len) || line[len] != ':')
			continue;
		p += strspn(p, " \t");
		p[strcspn(p, "\n")] = '\0';
		snprintf(value, size, "%s", p);
		return value;
	}
	return NULL;
}

unsigned probe_mounts(pid_t pid)
{
	char line[512];
	unsigned n = 0;
	FILE *f;

	snprintf(line, sizeof(line), "/proc/%d/mountinfo", (int)pid);
	f = fopen(line, "re");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		n++;
	fclose(f);
	return n;
}

/* Whether pid is in the same namespace as this process; an unreadable link counts as the same. */
static bool same_namespace(pid_t pid, const char *kind)
{
	char path[64], mine[64] = "", theirs[64] = "";

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, kind);
	if (readlink(path, theirs, sizeof(theirs) - 1) < 0)
		return true;
	snprintf(path, sizeof(path), "/proc/self/ns/%s", kind);
	if (readlink(path, mine, sizeof(mine) - 1) < 0)
		return true;
	return !strcmp(mine, theirs);
}

const char *probe_check_state(pid_t pid, uid_t uid, unsigned min_filters, bool host_network)
{
	static const char *const kinds[] = { "user", "mnt", "pid", "net", "ipc", "uts" };
	static char text[256];
	char ids[64], filters[8];
	const struct {
		const char *key, *value;
	} lines[] = {
		{ "Uid", ids },
		{ "Gid", ids },
		{ "CapInh", "0000000000000000" },
		{ "CapPrm", "0000000000000000" },
		{ "CapEff", "0000000000000000" },
		{ "CapBnd", "0000000000000000" },
		{ "CapAmb", "0000000000000000" },
		{ "NoNewPrivs", "1" },
		{ "Seccomp", "2" },
	};

	snprintf(ids, sizeof(ids), "%u\t%u\t%u\t%u", uid, uid, uid, uid);
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		char value[128];

		if (!probe_status(pid, lines[i].key, value, sizeof(value)) || strcmp(value, lines[i].value)) {
			snprintf(text, sizeof(text), "%s is %s, not %s", lines[i].key, value, lines[i].value);
			return text;
		}
	}
	if (!probe_status(pid, "Seccomp_filters", filters, sizeof(filters)) ||
	    strtoul(filters, NULL, 10) < min_filters)
		return "too few filters";
	if (!probe_status(pid, "NSpid", text, sizeof(text)) || strcmp(text + strcspn(text, "\t"), "\t1"))
		return "not process 1 of its own pid namespace";
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (same_namespace(pid, kinds[i]) != (host_network && !strcmp(kinds[i], "net"))) {
			snprintf(text, sizeof(text), "its %s namespace is %sthis process's", kinds[i],
				 same_namespace(pid, kinds[i]) ? "" : "not ");
			return text;
		}
	return NULL;
}
