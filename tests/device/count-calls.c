/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which rules of the system-call tables are used.
 *
 *	count-calls FILE -- COMMAND...	runs the command and adds to FILE which rules its confined processes used
 *	count-calls FILE		tells, per process and stage, what is allowed, used and unused
 *
 * The command and all that it starts run under a filter of ours that shows each call to this process (SECCOMP_RET_TRACE), which
 * finds the stage that a process is in by its own calls of seccomp: the first filter for all its threads is stage one, the
 * second the steady one, one for a single thread is that thread's. What a stricter filter refuses is not shown; it is not used.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clean.h"
#include "num.h"
#include "sandbox_stage.h"
#include "sandbox_subjects.h"

#define SUBJECTS_MAX 16
#define RULES_MAX    192
#define THREADS_MAX  4096
#define NOBODY       SIZE_MAX /* a process that has no tables */
#define OPTIONS                                                                                              \
	(PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC |               \
	 PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL)

/* A thread, and of its process what each of its threads has alike. */
struct thread {
	pid_t tid, pid;
	size_t subject;
	unsigned stages; /* filters of all threads */
	bool own;        /* has one of its own */
};

static struct thread threads[THREADS_MAX];
static struct stage stages[SUBJECTS_MAX][PROBE_STAGES];
static unsigned long used[SUBJECTS_MAX][PROBE_STAGES][RULES_MAX];

static volatile sig_atomic_t over; /* to end: what was seen until then counts */

static const char *const stage_names[PROBE_STAGES] = {
	[PROBE_ONE] = "stage one", [PROBE_STEADY] = "steady", [PROBE_THREAD] = "narrower threads"
};

static void fill_stages(void)
{
	for (size_t i = 0; i < sandbox_subjects_n; i++) {
		const struct probe_subject *s = &sandbox_subjects[i];

		stage_join(&stages[i][PROBE_ONE], s->one, s->one_more);
		stage_join(&stages[i][PROBE_STEADY], s->steady, s->steady_more);
		stage_join(&stages[i][PROBE_THREAD], s->thread, s->thread_more);
	}
}

/* The n-th rule of a stage, or NULL after the last. */
static const struct sandbox_rule *rule_at(const struct stage *stage, size_t n)
{
	for (size_t t = 0; t < stage->n; t++)
		for (const struct sandbox_rule *r = stage->table[t]; r->why; r++)
			if (n-- == 0)
				return r;
	return NULL;
}

/* ---- who is who ---- */

static size_t subject_named(const char *name)
{
	for (size_t i = 0; i < sandbox_subjects_n; i++)
		if (!strcmp(sandbox_subjects[i].name, name))
			return i;
	return NOBODY;
}

static bool has_word(const char *words, size_t len, const char *word)
{
	for (const char *w = words; w < words + len; w += strlen(w) + 1)
		if (!strcmp(w, word))
			return true;
	return false;
}

/* By its first word and its options. */
static size_t subject_of(const char *words, size_t len)
{
	const char *program = strrchr(words, '/') ? strrchr(words, '/') + 1 : words;

	if (!strcmp(program, "test-confine"))
		return subject_named("supervisor"); /* under whose filter its parts are */
	if (!strcmp(program, "bulkhead"))
		return subject_named(has_word(words, len, "image") ? "bulkhead image" : "supervisor");
	if (strcmp(program, "blk-server") && strcmp(program, "blk-server-crash"))
		return subject_named(strcmp(program, "net-server-crash") ? program : "net-server");
	if (has_word(words, len, "--nbd"))
		return subject_named("blk-server with an NBD export");
	if (has_word(words, len, "io_uring"))
		return subject_named("blk-server with io_uring");
	return subject_named(has_word(words, len, "--bus") ? "blk-server" : "blk-server by hand");
}

static void identify(struct thread *t)
{
	char path[40], words[4096];
	CLEAN_FILE FILE *f = NULL;
	size_t len;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)t->pid);
	f = fopen(path, "re");
	len = f ? fread(words, 1, sizeof(words) - 1, f) : 0;
	words[len] = '\0';
	t->subject = subject_of(words, len);
}

static pid_t process_of(pid_t tid)
{
	char value[32];

	return probe_status(tid, "Tgid", value, sizeof(value)) ? (pid_t)strtol(value, NULL, 10) : tid;
}

/* The thread, made if it is not known; a new one has what any of its process, or else its parent has. */
static struct thread *thread_of(pid_t tid, const struct thread *parent)
{
	struct thread *free = NULL;
	pid_t pid;

	for (size_t i = 0; i < THREADS_MAX; i++) {
		if (threads[i].tid == tid)
			return &threads[i];
		if (!threads[i].tid && !free)
			free = &threads[i];
	}
	if (!free) {
		fprintf(stderr, "count-calls: too many threads\n");
		exit(2);
	}
	pid = process_of(tid);
	*free = (struct thread) { .subject = NOBODY };
	for (size_t i = 0; i < THREADS_MAX && !parent; i++)
		if (threads[i].tid && threads[i].pid == pid)
			parent = &threads[i];
	if (parent)
		*free = *parent;
	free->tid = tid;
	free->pid = pid;
	return free;
}

/* ---- what they do ---- */

static void count(size_t subject, enum probe_stage stage, const struct call *call)
{
	const struct sandbox_rule *r;

	for (size_t n = 0; n < RULES_MAX && (r = rule_at(&stages[subject][stage], n)); n++)
		used[subject][stage][n] += stage_matches(r, call);
}

static void on_call(struct thread *t)
{
	struct __ptrace_syscall_info info = { 0 };
	struct call call = { 0 };
	size_t s = t->subject;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, t->tid, sizeof(info), &info) < 0)
		return;
	call.nr = (int)info.seccomp.nr;
	for (size_t i = 0; i < ARRAY_SIZE(call.args); i++)
		call.args[i] = info.seccomp.args[i];
	if (s != NOBODY && t->stages) {
		count(s, t->stages == 1 && stages[s][PROBE_ONE].n ? PROBE_ONE : PROBE_STEADY, &call);
		if (t->own)
			count(s, PROBE_THREAD, &call);
	}
	/* Without a filter to install, it is libseccomp that asks what there is. */
	if (call.nr != __NR_seccomp || call.args[0] != SECCOMP_SET_MODE_FILTER || !call.args[2])
		return;
	if (call.args[1] & SECCOMP_FILTER_FLAG_TSYNC) {
		for (size_t i = 0; i < THREADS_MAX; i++)
			threads[i].stages += threads[i].tid && threads[i].pid == t->pid;
	} else {
		t->own = t->stages > 1;
	}
}

/* The child's first stop may have been told of before, when nobody knew whose it is. */
static void inherit(struct thread *child, const struct thread *parent)
{
	child->subject = parent->subject;
	if (child->stages < parent->stages)
		child->stages = parent->stages;
	child->own = false;
}

/* What follows a stop: the signal to deliver. */
static int on_stop(struct thread *t, int status)
{
	unsigned long message = 0;

	switch (status >> 16) {
	case PTRACE_EVENT_SECCOMP:
		on_call(t);
		return 0;
	case PTRACE_EVENT_CLONE:
	case PTRACE_EVENT_FORK:
	case PTRACE_EVENT_VFORK:
		if (ptrace(PTRACE_GETEVENTMSG, t->tid, NULL, &message) == 0)
			inherit(thread_of((pid_t)message, t), t);
		return 0;
	case PTRACE_EVENT_EXEC:
		*t = (struct thread) { .tid = t->tid, .pid = t->tid };
		identify(t);
		return 0;
	case PTRACE_EVENT_STOP:
		return 0;
	default:
		return WSTOPSIG(status);
	}
}

static void go_on(const struct thread *t, int status, int sig)
{
	int stop = WSTOPSIG(status);
	bool group = status >> 16 == PTRACE_EVENT_STOP &&
		     (stop == SIGSTOP || stop == SIGTSTP || stop == SIGTTIN || stop == SIGTTOU);

	/* One that is gone by now is told of by its end. */
	ptrace(group ? PTRACE_LISTEN : PTRACE_CONT, t->tid, NULL, (long)sig);
}

static void end(int sig)
{
	over = sig;
}

/* Until the command and all that it left behind has ended, or somebody has waited long enough; the command's wait status. */
static int follow(pid_t command)
{
	int status, result = 0;
	pid_t tid;

	while (!over && ((tid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR)) {
		struct thread *t;

		if (tid <= 0)
			continue;
		t = thread_of(tid, NULL);
		if (WIFSTOPPED(status)) {
			go_on(t, status, on_stop(t, status));
			continue;
		}
		t->tid = 0;
		if (tid == command)
			result = status;
	}
	return result;
}

/* The child: is traced from its first own call on. */
__attribute__((noreturn)) static void start(char **argv, int seized)
{
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE) };
	struct sock_fprog prog = { .len = ARRAY_SIZE(code), .filter = code };
	char byte;

	if (read(seized, &byte, 1) == 1 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) == 0)
		execvp(argv[0], argv);
	fprintf(stderr, "count-calls: %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

static void save(const char *path)
{
	CLEAN_FD int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);

	for (size_t s = 0; s < sandbox_subjects_n; s++)
		for (size_t stage = PROBE_ONE; stage < PROBE_STAGES; stage++)
			for (size_t n = 0; n < RULES_MAX; n++)
				if (used[s][stage][n])
					dprintf(fd, "%zu %zu %zu %lu\n", s, stage, n, used[s][stage][n]);
}

static int run(const char *path, char **argv)
{
	int ends[2], status;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0 || (pid = fork()) < 0)
		return 2;
	if (pid == 0)
		start(argv, ends[0]);
	close(ends[0]);
	sigaction(SIGTERM, &(const struct sigaction) { .sa_handler = end }, NULL);
	if (ptrace(PTRACE_SEIZE, pid, NULL, (long)OPTIONS) < 0 || write(ends[1], "", 1) != 1) {
		fprintf(stderr, "count-calls: can't trace: %s\n", strerror(errno));
		kill(pid, SIGKILL);
		return 77;
	}
	status = follow(pid);
	save(path);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- the report ---- */

/* Allowed for hosts, C libraries and moments that a test can't choose; docs/security.md, "What holds without what". */
static bool is_elsewhere(int nr)
{
	static const int list[] = { __NR_clock_gettime,  __NR_restart_syscall, __NR_fstat,
				    __NR_rseq,           __NR_set_robust_list, __NR_prctl,
				    __NR_rt_sigprocmask, __NR_io_getevents,    __NR_poll };

	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		if (list[i] == nr)
			return true;
	return false;
}

static void load(const char *path)
{
	CLEAN_FILE FILE *f = fopen(path, "re");
	unsigned long times;
	size_t s, stage, n;

	while (f && fscanf(f, "%zu %zu %zu %lu", &s, &stage, &n, &times) == 4)
		if (s < SUBJECTS_MAX && stage < PROBE_STAGES && n < RULES_MAX)
			used[s][stage][n] += times;
}

/* Of one stage; how many calls too many are allowed. */
static unsigned report(size_t s, enum probe_stage which)
{
	const struct stage *stage = &stages[s][which];
	unsigned rules = 0, rules_used = 0, unused = 0, elsewhere = 0;
	bool call_used[1024] = { false }, told[1024] = { false };
	const struct sandbox_rule *r;
	char names[1024] = "";
	size_t allowed = sandbox_count(stage->table, stage->n);

	for (size_t n = 0; (r = rule_at(stage, n)); n++) {
		rules += !r->refuse;
		rules_used += !r->refuse && used[s][which][n];
		call_used[r->nr] = call_used[r->nr] || used[s][which][n];
	}
	for (size_t n = 0; (r = rule_at(stage, n)); n++) {
		char *name;

		if (r->refuse || call_used[r->nr] || told[r->nr])
			continue;
		told[r->nr] = true;
		name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, r->nr);
		snprintf(names + strlen(names), sizeof(names) - strlen(names), " %s%s", name ? name : "?",
			 is_elsewhere(r->nr) ? "*" : "");
		free(name);
		*(is_elsewhere(r->nr) ? &elsewhere : &unused) += 1;
	}
	printf(
	    "# %s, %s: calls allowed %zu, used %zu, for other hosts %u, unused %u; rules used %u of %u%s%s\n",
	    sandbox_subjects[s].name, stage_names[which], allowed, allowed - elsewhere - unused, elsewhere,
	    unused, rules_used, rules, *names ? "; not seen:" : "", names);
	return unused;
}

static bool was_seen(size_t s)
{
	for (size_t n = 0; n < RULES_MAX; n++)
		if (used[s][PROBE_STEADY][n])
			return true;
	return false;
}

static int report_all(void)
{
	unsigned worst = 0;

	for (size_t s = 1; s < sandbox_subjects_n; s++) {
		if (!was_seen(s)) {
			printf("# %s: not run\n", sandbox_subjects[s].name);
			continue;
		}
		for (int stage = PROBE_ONE; stage < PROBE_STAGES; stage++) {
			unsigned unused = stages[s][stage].n ? report(s, (enum probe_stage)stage) : 0;

			if (stage != PROBE_ONE && unused > worst)
				worst = unused;
		}
	}
	printf("# the most unused calls of a steady stage: %u\n", worst);
	return worst > 2;
}

int main(int argc, char **argv)
{
	fill_stages();
	if (argc > 3 && !strcmp(argv[2], "--"))
		return run(argv[1], argv + 3);
	if (argc != 2) {
		fprintf(stderr, "usage: count-calls FILE [-- COMMAND...]\n");
		return 2;
	}
	load(argv[1]);
	return report_all();
}
