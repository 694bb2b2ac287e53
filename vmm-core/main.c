/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmm-core: the process that has the guest's RAM and processors. Descriptors are given, connections that were
 * asked for by path are made, and then stage one begins: the kernel image is the first hostile input, and is
 * read inside.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core.h"
#include "fd.h"
#include "log.h"
#include "sandbox.h"
#include "syscalls.h"
#include "thread.h"

static struct loop_bh on_signal;
static volatile sig_atomic_t signal_number;
static volatile pid_t ward;

/* ---- by hand: a guardian outside of the namespaces ---- */

static void forward(int sig)
{
	if (ward > 0)
		kill(ward, sig);
}

static int guard(pid_t child)
{
	const struct sigaction sa = { .sa_handler = forward };
	int status;

	ward = child;
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Started by hand, the process goes on as the first one of its own namespaces, as it would under a supervisor. */
static void enter_namespaces(void)
{
	const char *what = "";
	pid_t child;
	int pidfd, r = sandbox_fork(SANDBOX_NOBODY, false, &child, &pidfd, &what);

	if (r < 0)
		log_die(1, r, "no namespaces (%s)", what);
	if (child > 0)
		_exit(guard(child));
}

/* ---- set-up ---- */

static int connect_socket(const struct options_device *d)
{
	int fd = fd_connect(d->socket);

	if (fd < 0)
		log_die(1, fd, "device %s: no connection to %s", d->id, d->socket);
	return fd;
}

static void compile(const struct sandbox_rule *const *tables, struct sandbox_filter **out)
{
	size_t n = 0;
	int r;

	while (tables[n])
		n++;
	r = sandbox_compile(tables, n, out);
	if (r < 0)
		log_die(1, r, "a filter can't be made");
}

/* The flight recorder's memory: the supervisor's, or without one our own. */
static void open_flight(struct core *core, int fd)
{
	int r = fd < 0 ? flight_alloc(0, &core->flight) : flight_map(fd, true, &core->flight);

	if (r < 0)
		log_die(EXIT_USAGE, r, "--flight-fd %d: must be memory made for it", fd);
	if (fd >= 0)
		close(fd);
	flight_begin(core->flight);
	flight_open_main(core->flight, &core->log);
	flight_say(&core->log, FLIGHT_STATE, 0, "starting");
}

/* A forbidden call is told of before the core dies of it. */
static void set_trap(struct core *core)
{
	char prefix[64];
	const struct sandbox_trap trap = { .prefix = prefix, .note = flight_note_trap, .arg = core->flight };
	int r;

	log_prefix(LOG_LEVEL_ERROR, prefix, sizeof(prefix));
	r = sandbox_set_trap(&trap);
	if (r < 0)
		log_die(1, r, "no handler for forbidden calls");
}

static void enter_sandbox(struct core *core, const struct options *o)
{
	struct sandbox_enter enter = {
		.bus_dir = o->bus_dir,
		.limits = { .files = 8192,
			    .processes = o->cpus + 64u, /* nng's threads among them */
			    .file_size = UINT64_MAX,    /* guest RAM is a file; no other can be opened */
			    .memlock = 65536,
			    .data = 1ULL
				    << 30 }, /* heap and threads' stacks, of which each processor has one */
	};
	struct sandbox_filter *first = NULL;
	const char *what = "";
	int r;

	if (o->sandbox_log) {
		sandbox_log_only();
		log_warn(SANDBOX_LOG_ONLY);
	}
	compile(syscalls_stage_one, &first);
	compile(syscalls_steady, &core->steady);
	compile(syscalls_vcpu, &core->vcpu);
	set_trap(core);
	r = thread_shrink_stacks();
	if (r < 0)
		log_die(1, r, "threads' stacks can't be made smaller");
	enter.filter = first;
	r = sandbox_enter(&enter, &what);
	if (r < 0)
		log_die(1, r, "the sandbox can't be entered (%s)", what);
	sandbox_filter_free(first);
}

static void on_stop(void *arg)
{
	core_quit(arg, 128 + signal_number);
}

static void handle_signal(int sig)
{
	signal_number = sig;
	loop_bh_post(&on_signal);
}

static void watch_signals(struct core *core)
{
	const struct sigaction sa = { .sa_handler = handle_signal };

	loop_bh_init(&on_signal, core->loop, on_stop, core);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
}

int main(int argc, char **argv)
{
	static struct options opts;
	static struct core core;
	int sockets[OPTIONS_DEVICES_MAX];
	char err[512];
	int r = options_parse(argc, argv, &opts, err, sizeof(err));

	if (r > 0)
		return 0;
	log_init("vmm-core", NULL, opts.bus_dir != NULL);
	if (r < 0)
		log_die(EXIT_USAGE, 0, "%s", err);
	log_set_level((enum log_level)opts.log_level);
	signal(SIGPIPE, SIG_IGN);
	for (unsigned i = 0; i < opts.n_devices; i++)
		sockets[i] = opts.devices[i].socket ? connect_socket(&opts.devices[i]) : -1;
	if (opts.console_fd >= 0)
		fd_set_nonblock(opts.console_fd, true);

	if (opts.sandbox && !opts.bus_dir)
		enter_namespaces();
	open_flight(&core, opts.flight_fd);
	if (opts.sandbox)
		enter_sandbox(&core, &opts);
	if (core_new(&core, &opts) < 0)
		return core.exit_status;
	watch_signals(&core);
	if (control_start(&core) < 0 || core_add_devices(&core, sockets) < 0 || attach_start(&core) < 0)
		return 1;
	r = loop_run(core.loop);
	if (r < 0)
		log_die(1, r, "the main loop broke");
	/* The kernel takes everything back at once, faster than we can one by one. */
	_exit(core.exit_status);
}
