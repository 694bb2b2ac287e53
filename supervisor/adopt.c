/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking over a machine. Theory of operation: who connects to the keeper's socket and is let in is the machine's
 * supervisor from that moment, as if it had started it; should it die on the way, the keeper is alone again and the next
 * one begins anew, since nothing that is handed over leaves the keeper. All that is needed comes from there: settings
 * and state (saved.h), the processes (keeper_fetch), the console. Root takes over as the user whose machine it is.
 */
#include "adopt.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

#include "clean.h"
#include "confine.h"
#include "keeper.h"
#include "machine.h"
#include "num.h"
#include "options.h"
#include "plan.h"
#include "rundir.h"
#include "saved.h"
#include "signals.h"

/* Options of run that an adopter may give anew. */
static const char *const mine[] = { "console", "log", "log-level" };

struct adopter {
	const char *name, *run_dir;
	char *given[ARRAY_SIZE(mine)]; /* values of these options, NULL: as saved */
	struct vmconf conf;
	struct rundir dir;
	struct keeper_estate estate;
	struct plan_files files; /* the flight recorders alone */
	struct machine machine;
	int signal_fd;
};

void adopt_help(FILE *to)
{
	fputs("usage: bulkhead adopt [--run-dir DIR] [OPTION...] NAME\n"
	      "Takes over a machine that lost its supervisor (see bulkhead ps) and was started with\n"
	      "--on-supervisor-death keep, and runs it until its guest powers off, as bulkhead run does.\n\n"
	      "  --run-dir DIR  the directory that bulkhead run was given\n",
	      to);
	for (size_t i = 0; i < ARRAY_SIZE(mine); i++) {
		const struct option_def *o = &option_table[option_find(mine[i], strlen(mine[i]))];

		fprintf(to, "  --%s %s\n        %s (default: as it was started with)\n", o->name, o->arg,
			o->help);
	}
	fputs("  --help         print this and exit\n", to);
}

/* ---- words ---- */

static int place_of(const char *word, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(mine); i++)
		if (strlen(mine[i]) == len && !memcmp(mine[i], word, len))
			return (int)i;
	return -1;
}

/* One option at argv[*at]; moves *at past it. */
static int read_option(struct adopter *a, int argc, char **argv, int *at, struct vmconf_error *error)
{
	char *word = argv[(*at)++] + 2, *value = strchr(word, '=');
	size_t len = strcspn(word, "=");
	int i = place_of(word, len);
	bool dir = len == 7 && !memcmp(word, "run-dir", len);

	if (i < 0 && !dir)
		return vmconf_refuse(error, "--%.*s: no such option; bulkhead adopt --help lists all",
				     (int)len, word);
	if (!value && *at == argc)
		return vmconf_refuse(error, "--%s: needs a value", word);
	value = value ? value + 1 : argv[(*at)++];
	if (dir)
		a->run_dir = value;
	else
		a->given[i] = value;
	return 0;
}

static int read_words(struct adopter *a, int argc, char **argv, struct vmconf_error *error)
{
	for (int at = 0; at < argc;) {
		if (!strncmp(argv[at], "--", 2)) {
			if (read_option(a, argc, argv, &at, error))
				return -EINVAL;
		} else if (a->name) {
			return vmconf_refuse(
			    error, "\"%s\": one word too many; one machine's name is allowed", argv[at]);
		} else {
			a->name = argv[at++];
		}
	}
	if (!a->name)
		return vmconf_refuse(error, "adopt: a machine's name is missing; bulkhead ps lists all");
	if (!vmconf_name_ok(a->name))
		return vmconf_refuse(error, "\"%s\": not a machine's name; bulkhead ps lists all", a->name);
	return 0;
}

/* ---- joining ---- */

static int become(uid_t uid, struct vmconf_error *error)
{
	const struct passwd *user = getpwuid(uid);
	gid_t gid = user ? user->pw_gid : (gid_t)uid;

	if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
		return vmconf_refuse(error, "adopt: can't become user %d, whose machine it is: %s", (int)uid,
				     strerror(errno));
	return 0;
}

static int refuse_join(const struct adopter *a, int err, struct vmconf_error *error)
{
	int base = rundir_open_base(a->dir.base);
	int owner = base < 0 ? base : rundir_owner(base, a->name, NULL);

	if (base >= 0)
		close(base);
	if (err == -EBUSY)
		return vmconf_refuse(
		    error, "adopt: \"%s\" has a supervisor, process %d; there is never more than one",
		    a->name, (int)a->estate.before);
	if (err == -EACCES)
		return vmconf_refuse(error, "adopt: \"%s\" is the machine of another user", a->name);
	if (err == -EPROTONOSUPPORT)
		return vmconf_refuse(
		    error, "adopt: \"%s\" was started by another version of bulkhead; that one can", a->name);
	if (owner > 0 && err != -ENOENT)
		return vmconf_refuse(error, "adopt: can't reach the keeper of \"%s\": %s", a->name,
				     strerror(-err));
	if (owner > 0)
		return vmconf_refuse(
		    error,
		    "adopt: \"%s\" runs with process %d as its supervisor, and ends with it: it was "
		    "not started with --on-supervisor-death keep",
		    a->name, owner);
	return rundir_refuse_absent(a->dir.base, a->name, error);
}

static int join(struct adopter *a, struct vmconf_error *error)
{
	char path[RUNDIR_PATH_MAX + 16];
	uid_t owner;
	int err;

	if (rundir_look(a->run_dir, a->name, &a->dir, &owner, error))
		return -EINVAL;
	if (geteuid() == 0 && owner != 0 && become(owner, error))
		return -EINVAL;
	snprintf(path, sizeof(path), "%s/keeper", a->dir.path);
	err = rundir_has_socket(&a->dir, "keeper") ? keeper_join(path, &a->machine.keeper, &a->estate)
						   : -ENOENT;
	return err ? refuse_join(a, err, error) : 0;
}

/* ---- what is taken over ---- */

static int take_settings(struct adopter *a, struct vmconf_error *error)
{
	struct machine *m = &a->machine;
	int err = saved_map(a->estate.saved_fd, &m->saved);

	if (err)
		return vmconf_refuse(error, "adopt: the state of \"%s\" can't be read: %s", a->name,
				     strerror(-err));
	snprintf(a->conf.name, sizeof(a->conf.name), "%s", a->name);
	if (saved_settings(m->saved, &a->conf, error))
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(mine); i++) {
		const struct option_def *o = &option_table[option_find(mine[i], strlen(mine[i]))];
		struct vmconf_error why;

		if (a->given[i] && o->parse(&a->conf, a->given[i], &why))
			return vmconf_refuse(error, "--%s: %s", o->name, why.text);
	}
	return 0;
}

static int take_console(struct adopter *a, struct vmconf_error *error)
{
	bool anew = a->given[place_of("console", strlen("console"))];
	struct console **console = &a->machine.console;
	struct termios settings;
	int terminal, err;

	err = anew ? console_open(&a->conf, console, error)
		   : console_go_on(&a->conf, a->estate.console, console, error);
	if (err)
		return err;
	terminal = console_terminal(*console, &settings);
	err = keeper_settle(a->machine.keeper, terminal, &settings);
	if (!err)
		return 0;
	console_restore(*console);
	return vmconf_refuse(error, "adopt: the keeper of \"%s\" does not answer", a->name);
}

static int take_recorders(struct adopter *a)
{
	struct plan_files *files = &a->files;

	for (size_t i = 0; i < KEEPER_CHILDREN_MAX; i++)
		files->flight[i] = files->flight_reader[i] = -1;
	for (size_t i = 0; i < KEEPER_INDEX(a->conf.ndevices, 0); i++) {
		int fds[2], err = keeper_recorder(a->machine.keeper, i, fds);

		if (err)
			return err;
		files->flight[i] = fds[0];
		files->flight_reader[i] = fds[1];
	}
	return 0;
}

/* The machine as it was, with us as its supervisor. */
static int take_over(struct adopter *a, const char **what)
{
	struct machine *m = &a->machine;
	int err;

	m->conf = &a->conf;
	m->dir = &a->dir;
	m->files = &a->files;
	rundir_drop_sockets(&a->dir); /* whatever has got their names since the keeper did */
	*what = "the flight recorders";
	err = take_recorders(a);
	if (!err && a->conf.sandbox)
		err = confine_privileges(what);
	if (!err)
		err = machine_init(m, a->signal_fd, what);
	if (!err) {
		*what = "its state";
		err = saved_read(m->saved, m);
	}
	if (!err) {
		*what = "its processes";
		err = machine_adopt(m);
	}
	if (!err && a->conf.sandbox)
		err = confine_calls(a->conf.sandbox_log, what);
	return err;
}

/* The keeper ends when we say so, and stays alone if we just go. */
static int run(struct adopter *a)
{
	struct machine *m = &a->machine;
	const char *what = "";
	int err = take_over(a, &what), status;

	if (err) {
		say_error_errno(err, "%s: can't take over %s", a->name, what);
		console_restore(m->console);
		return EXIT_INTERNAL;
	}
	say_info("%s: taken over from process %d, which died; the machine is %s", a->name,
		 (int)a->estate.before, machine_state_name(m));
	machine_publish(m, "machine", "adopted", "by process %d", (int)getpid());
	status = machine_run(m);
	machine_fini(m);
	console_close(m->console);
	keeper_finish(m->keeper);
	return status;
}

static int adopt(struct adopter *a)
{
	struct vmconf_error error;

	vmconf_init(&a->conf);
	if (join(a, &error) || take_settings(a, &error) ||
	    logs_open(a->conf.log, a->conf.log_level, a->conf.name, &error))
		goto refused;
	a->signal_fd = signals_take();
	if (a->signal_fd < 0) {
		vmconf_refuse(&error, "adopt: no signals: %s", strerror(-a->signal_fd));
		goto refused;
	}
	if (take_console(a, &error))
		goto refused;
	return run(a);
refused:
	fprintf(stderr, "bulkhead: %s\n", error.text);
	return EXIT_CONFIG;
}

/* ---- commands ---- */

static struct adopter adopter; /* large */

int adopt_command(int argc, char **argv)
{
	struct vmconf_error error;

	for (int i = 0; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			adopt_help(stdout);
			return 0;
		}
	}
	if (read_words(&adopter, argc, argv, &error)) {
		fprintf(stderr, "bulkhead: %s\n", error.text);
		return EXIT_CONFIG;
	}
	return adopt(&adopter);
}

bool adopt_waits(const struct vmconf *conf)
{
	char base[RUNDIR_PATH_MAX];
	struct vmconf_error unused;
	bool alone = false;
	int fd;

	if (!*conf->name || rundir_base(conf->run_dir, base, sizeof(base), &unused))
		return false;
	fd = rundir_open_base(base);
	if (fd < 0)
		return false;
	if (rundir_owner(fd, conf->name, &alone) <= 0)
		alone = false;
	close(fd);
	return alone;
}

int adopt_run(const char *name, const char *run_dir)
{
	adopter.name = name;
	adopter.run_dir = run_dir;
	return adopt(&adopter);
}
