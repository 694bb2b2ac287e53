/* SPDX-License-Identifier: Apache-2.0 */
/* bulkhead: runs virtual machines and speaks to those that run. */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adopt.h"
#include "client.h"
#include "clean.h"
#include "confine.h"
#include "files.h"
#include "image.h"
#include "machine.h"
#include "num.h"
#include "options.h"
#include "plan.h"
#include "saved.h"
#include "signals.h"

static void help(FILE *to)
{
	fputs("usage: bulkhead COMMAND ...\n"
	      "A virtual machine monitor that gives each device a process of its own.\n\n"
	      "  run    run a virtual machine\n"
	      "  ctl    ask a running machine for something\n"
	      "  events tell what happens in a running machine\n"
	      "  ps     list the machines that run\n"
	      "  adopt  take over a machine that lost its supervisor\n"
	      "  image  list the snapshots of a disk image, or revert to one\n"
	      "  trace  print the report of a process that died\n\n"
	      "  --help     print this and exit; bulkhead COMMAND --help tells more\n"
	      "  --version  print the version and exit\n",
	      to);
}

/* What a run holds that its processes need; all of it ends with the keeper. */
struct run {
	struct vmconf conf;
	struct plan_files files;
	struct rundir dir;
	struct cgroup cgroup;
	struct keeper_plan plan;
	struct machine machine;
	int signal_fd;
};

/* The folders of the bus of a device's processes. */
static int add_folders(struct run *r, size_t i, struct vmconf_error *error)
{
	const struct vmconf_device *device = &r->conf.device[i];
	char folder[RUNDIR_SLOT_MAX];

	if (device->vhost_user || vmconf_leader(&r->conf, i) != i)
		return 0;
	for (size_t slot = 0; slot < KEEPER_PLACES; slot++) {
		if ((slot == KEEPER_HELPER && !vmconf_helper(device)) || slot == KEEPER_BEFORE ||
		    (slot >= KEEPER_WINDOW && !device->disk.window))
			continue;
		rundir_slot(folder, vmconf_process_id(device), slot);
		if (rundir_add(&r->dir, folder, plan_uid(&r->conf, KEEPER_INDEX(i, slot)), error))
			return -EINVAL;
	}
	return 0;
}

/* Where reports go; the directory is made when there is the first one. */
static int crash_dir(struct run *r, struct vmconf_error *error)
{
	static char path[REPORT_PATH_MAX];
	int err = 0;

	if (r->conf.crash_dir)
		err = snprintf(path, sizeof(path), "%s", r->conf.crash_dir) < (int)sizeof(path)
			  ? 0
			  : -ENAMETOOLONG;
	else
		err = report_default_dir(path, sizeof(path));
	if (err)
		return vmconf_refuse(error, "--crash-dir: %s; a short absolute path is needed",
				     strerror(-err));
	r->plan.crash_dir = path;
	return 0;
}

static void tell_of_cgroup(const struct cgroup *group)
{
	if (group->path)
		say_info("its processes run in control groups in %s", group->path);
	for (size_t i = 0; group->path && i < CGROUP_CONTROLLERS; i++)
		if (group->missing & 1U << i)
			say_warn(
			    "--cgroup: no controller %s was made over: rlimits alone bound what it would",
			    cgroup_controllers[i]);
}

/* A format is never guessed, or a guest could choose one by what it writes; but who gave none may have meant this one. */
static void tell_of_formats(const struct run *r)
{
	for (size_t i = 0; i < r->conf.ndevices; i++) {
		const struct vmconf_disk *disk = &r->conf.device[i].disk;

		if (r->files.image[i] >= 0 && !disk->format_said &&
		    files_begins_like_qcow2(r->files.image[i]))
			say_warn(
			    "%s: \"%s\" begins like a qcow2 image and is used as raw; format=qcow2 is for "
			    "such an image, format=raw for what only looks like one",
			    r->conf.device[i].id, disk->path);
	}
}

/* The side effects that come before the first process: the run directory, networks and the console. */
static int prepare(struct run *r, struct vmconf_error *error)
{
	struct machine *m = &r->machine;

	if (logs_open(r->conf.log, r->conf.log_level, r->conf.name, error) ||
	    rundir_take(&r->conf, &r->dir, error))
		return -EINVAL;
	if (r->dir.stale_pid)
		say_info("%s: took over what process %d left in %s when it died", r->conf.name,
			 r->dir.stale_pid, r->dir.path);
	tell_of_formats(r);
	if (rundir_add(&r->dir, "core", plan_uid(&r->conf, 0), error))
		return -EINVAL;
	for (size_t i = 0; i < r->conf.ndevices; i++)
		if (add_folders(r, i, error))
			return -EINVAL;
	if (plan_open_nets(&r->conf, &r->files, error))
		return -EINVAL;
	if (plan_fill(&r->plan, &r->conf, &r->files, &r->dir))
		return vmconf_refuse(error, "out of memory");
	r->plan.dir = &r->dir;
	r->plan.cgroup = &r->cgroup;
	if (plan_cgroups(&r->plan, &r->conf, error))
		return -EINVAL;
	tell_of_cgroup(&r->cgroup);
	if (crash_dir(r, error))
		return -EINVAL;
	r->plan.keep = r->conf.keep;
	r->plan.saved_fd = -1;
	if (r->conf.keep && saved_new(&r->conf, &r->plan.saved_fd, &m->saved))
		return vmconf_refuse(error, "out of memory for the machine's state");
	/* Last, since from here on the terminal is to be given back. */
	if (console_open(&r->conf, &m->console, error))
		return -EINVAL;
	r->plan.terminal = console_terminal(m->console, &r->plan.settings);
	r->plan.listener = console_listener(m->console);
	console_keep(m->console, r->plan.console);
	return 0;
}

/* Everything is open and checked: from here on it runs, and the keeper cleans up. */
static int run_machine(struct run *r)
{
	struct machine *m = &r->machine;
	const char *what = "the keeper";
	int status = EXIT_INTERNAL, err;

	m->conf = &r->conf;
	m->dir = &r->dir;
	m->files = &r->files;
	err = keeper_start(&r->plan, &m->keeper);
	if (err) {
		console_close(m->console);
		cgroup_remove(&r->cgroup);
		rundir_remove(&r->dir);
		plan_undo(&r->files);
		say_error_errno(err, "can't start %s", what);
		return EXIT_INTERNAL;
	}
	plan_close_nets(&r->files);
	if (r->conf.sandbox)
		err = confine_privileges(&what);
	if (!err)
		err = machine_init(m, r->signal_fd, &what);
	if (!err && r->conf.sandbox)
		err = confine_calls(r->conf.sandbox_log, &what);
	if (!err)
		status = machine_run(m);
	machine_fini(m);
	console_close(m->console);
	keeper_finish(m->keeper);
	if (err)
		say_error_errno(err, "can't start: %s", what);
	return status;
}

static int command_run(int argc, char **argv)
{
	static struct run r; /* large */
	struct vmconf_error error;
	int status;

	vmconf_init(&r.conf);
	r.dir = (struct rundir)RUNDIR_NONE;
	if (!argc) {
		options_usage(stderr);
		return EXIT_CONFIG;
	}
	switch (options_parse(argc, argv, &r.conf, &error)) {
	case OPTIONS_HELP:
		options_help(stdout);
		return 0;
	case OPTIONS_VERSION:
		puts(PACKAGE_STRING);
		return 0;
	case OPTIONS_REFUSED:
		goto refused;
	case OPTIONS_RUN:
		break;
	}
	/* A service that is started again goes on with the machine that it had. */
	if (r.conf.keep && adopt_waits(&r.conf))
		return adopt_run(r.conf.name, r.conf.run_dir);
	if (rundir_check(&r.conf, &error) || plan_open(&r.conf, &r.files, &error))
		goto refused;
	r.signal_fd = signals_take();
	if (r.signal_fd < 0 || prepare(&r, &error)) {
		cgroup_remove(&r.cgroup);
		rundir_remove(&r.dir);
		goto refused;
	}
	status = run_machine(&r);
	plan_free(&r.plan);
	plan_close(&r.files);
	vmconf_free(&r.conf);
	return status;
refused:
	fprintf(stderr, "bulkhead: %s\n", error.text);
	plan_undo(&r.files);
	plan_free(&r.plan);
	plan_close(&r.files);
	vmconf_free(&r.conf);
	return EXIT_CONFIG;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*fn)(int argc, char **argv);
	} commands[] = {
		{ "run", command_run },    { "ctl", client_ctl },      { "events", client_events },
		{ "ps", client_ps },       { "adopt", adopt_command }, { "image", image_command },
		{ "trace", report_trace },
	};

	if (argc < 2) {
		help(stderr);
		return EXIT_CONFIG;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].fn(argc - 2, argv + 2);
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		help(stdout);
		return 0;
	}
	if (!strcmp(argv[1], "--version")) {
		puts(PACKAGE_STRING);
		return 0;
	}
	fprintf(stderr,
		"bulkhead: \"%.60s\": no such command; allowed: run, ctl, events, ps, adopt, image, trace, "
		"--help, "
		"--version\n",
		argv[1]);
	return EXIT_CONFIG;
}
