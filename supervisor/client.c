/* SPDX-License-Identifier: Apache-2.0 */
/* `bulkhead ctl` and `bulkhead ps`: ask running machines over their ctl endpoints and print what they say. */
#include "client.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bus_ctl.h"
#include "clean.h"
#include "client_loops.h"
#include "client_print.h"
#include "client_priv.h"
#include "clock.h"
#include "machine.h"
#include "num.h"
#include "rundir.h"
#include "vmconf.h"

#define CTL_NS    (15 * NS_PER_S)
#define CHANGE_NS (180 * NS_PER_S) /* a process may have to start first, and another to end */
#define PS_NS     (2 * NS_PER_S)   /* for each machine: one that hangs must not hide the others */

static const struct {
	const char *verb, *help;
	bool device;       /* it is about one, which is named */
	bool change;       /* ... and KEY=VALUE follows */
	bool size;         /* ... and SIZE follows */
	unsigned words;    /* of no device alone: so many words follow */
	const char *wants; /* ... which are these */
	bool again;        /* asked for twice it is what it is asked for once */
} verbs[] = {
	{ .verb = "status", .help = "what the machine and its processes do", .again = true },
	{ .verb = "pause", .help = "stop its vCPUs", .again = true },
	{ .verb = "resume", .help = "let its vCPUs run on", .again = true },
	{ .verb = "power-button", .help = "press the ACPI power button" },
	{ .verb = "quit", .help = "end it at once, without asking the guest" },
	{ .verb = "revive",
	  .help = "start a device again that was given up, or let it write again",
	  .device = true },
	{ .verb = "upgrade", .help = "have a device served by a new version of its program", .device = true },
	{ .verb = "resize",
	  .help = "make a disk larger: its new SIZE follows",
	  .device = true,
	  .size = true,
	  .again = true },
	{ .verb = "set",
	  .help = "change a device's property: KEY=VALUE follows",
	  .device = true,
	  .change = true,
	  .again = true },
	{ .verb = "stats", .help = "the counters of a device's process", .device = true, .again = true },
	{ .verb = "loops",
	  .help = "the event loops of all processes: what they serve, how busy they are",
	  .again = true },
	{ .verb = "move-queue",
	  .help = "have another I/O thread serve a queue: DEVICE QUEUE THREAD follow",
	  .words = 3,
	  .wants = "needs a device's id, the number of a queue and the name of an I/O thread after it",
	  .again = true },
	{ .verb = "pin",
	  .help = "have a thread run on these processors: [DEVICE/]THREAD CPUS follow",
	  .words = 2,
	  .wants = "needs a thread, THREAD or DEVICE/THREAD, and processors as 0-3,8 after it",
	  .again = true },
};

#define REQUESTS                                                                                             \
	"status, pause, resume, power-button, quit, revive, upgrade, resize, set, stats, loops, "            \
	"move-queue, pin"

void client_ctl_help(FILE *to)
{
	fputs("usage: bulkhead ctl [--run-dir DIR] [--json] NAME REQUEST [WORD...] [--exec "
	      "PROGRAM]\n"
	      "Asks a running machine for something.\n\n",
	      to);
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		fprintf(to, "  %-14s %s\n", verbs[i].verb, verbs[i].help);
	fputs("\n  --exec PROGRAM the program to upgrade to; else what is installed now\n"
	      "  --json         print the answer as JSON\n"
	      "  --run-dir DIR  the directory that bulkhead run was given\n"
	      "  --help         print this and exit\n",
	      to);
}

void client_ps_help(FILE *to)
{
	fputs("usage: bulkhead ps [--run-dir DIR] [--json]\n"
	      "Lists the machines that run.\n\n"
	      "  --json         print the list as JSON\n"
	      "  --run-dir DIR  the directory that bulkhead run was given\n"
	      "  --help         print this and exit\n",
	      to);
}

/* ---- words ---- */

int client_refuse(const struct client *c, const char *word, const char *why)
{
	fprintf(stderr, "bulkhead: %s: \"%s\": %s\n", c->command, word, why);
	return EXIT_CONFIG;
}

int client_read_words(struct client *c, int max, int argc, char **argv)
{
	bool exec = !strcmp(c->command, "ctl");
	struct vmconf_error error;

	for (int i = 0; i < argc; i++) {
		const char *word = argv[i];

		if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
			c->help = true;
		} else if (!strcmp(word, "--json")) {
			c->json = true;
		} else if (!strncmp(word, "--run-dir=", 10)) {
			c->run_dir = word + 10;
		} else if (!strcmp(word, "--run-dir")) {
			if (i + 1 == argc)
				return client_refuse(c, word, "needs a value: DIR");
			c->run_dir = argv[++i];
		} else if (exec && !strncmp(word, "--exec=", 7)) {
			c->exec = word + 7;
		} else if (exec && !strcmp(word, "--exec")) {
			if (i + 1 == argc)
				return client_refuse(c, word, "needs a value: PROGRAM");
			c->exec = argv[++i];
		} else if (*word == '-') {
			return client_refuse(
			    c, word,
			    exec ? "no such option; allowed: --exec PROGRAM, --json, --run-dir DIR, --help"
				 : "no such option; allowed: --json, --run-dir DIR, --help");
		} else if (c->nwords == max) {
			return client_refuse(c, word, "one word too many; --help tells what is allowed");
		} else {
			c->word[c->nwords++] = word;
		}
	}
	if (rundir_base(c->run_dir, c->base, sizeof(c->base), &error)) {
		fprintf(stderr, "bulkhead: %s\n", error.text);
		return EXIT_CONFIG;
	}
	return 0;
}

/* ---- ctl ---- */

int client_failed(const struct client *c, int err)
{
	const char *name = c->word[0];
	int base = rundir_open_base(c->base);
	struct vmconf_error error;
	bool alone = false;
	int owner = base < 0 ? base : rundir_owner(base, name, &alone);

	if (base >= 0)
		close(base);
	/* It ended, as it was asked to, before its answer was sent. */
	if (owner <= 0 && err == -EPIPE && c->nwords > 1 && !strcmp(c->word[1], "quit"))
		return 0;
	if (owner <= 0) {
		rundir_refuse_absent(c->base, name, &error);
		fprintf(stderr, "bulkhead: %s\n", error.text);
		return EXIT_CONFIG;
	}
	if (alone)
		fprintf(
		    stderr,
		    "bulkhead: %s: \"%s\": it runs without a supervisor; bulkhead adopt %s takes it over\n",
		    c->command, name, name);
	else if (err == -EPIPE)
		fprintf(
		    stderr,
		    "bulkhead: ctl: \"%s\": process %d was lost before it answered; bulkhead ctl %s status "
		    "tells whether it did what was asked\n",
		    name, owner, name);
	else
		fprintf(stderr, "bulkhead: %s: \"%s\": process %d does not answer: %s\n", c->command, name,
			owner, strerror(-err));
	return EXIT_INTERNAL;
}

/* What the words ask for: its place in the table, or -1 after having said what is wrong. */
static int find_request(const struct client *c)
{
	size_t i = 0;

	while (i < ARRAY_SIZE(verbs) && strcmp(c->word[1], verbs[i].verb))
		i++;
	if (i == ARRAY_SIZE(verbs)) {
		client_refuse(c, c->word[1], "no such request; allowed: " REQUESTS);
		return -1;
	}
	if (!vmconf_name_ok(c->word[0])) {
		client_refuse(c, c->word[0], "not a machine's name; bulkhead ps lists all");
		return -1;
	}
	if (c->nwords != 2 + verbs[i].device + verbs[i].change + verbs[i].size + (int)verbs[i].words) {
		client_refuse(c, c->word[1],
			      verbs[i].wants    ? verbs[i].wants
			      : verbs[i].change ? "needs a device's id and one KEY=VALUE after it"
			      : verbs[i].size   ? "needs a disk's id and its new size after it"
			      : verbs[i].device ? "needs a device's id after it"
						: "takes no device");
		return -1;
	}
	if (verbs[i].change && !strchr(c->word[3], '=')) {
		client_refuse(c, c->word[3], "is not KEY=VALUE");
		return -1;
	}
	if (c->exec && strcmp(verbs[i].verb, "upgrade") != 0) {
		client_refuse(c, "--exec", "only goes with upgrade");
		return -1;
	}
	if (c->exec && *c->exec != '/') {
		client_refuse(c, c->exec, "--exec takes an absolute path");
		return -1;
	}
	return (int)i;
}

int client_ctl(int argc, char **argv)
{
	CLEAN_FREE struct bus_ctl_result *result = calloc(1, sizeof(*result));
	struct client c = { .command = "ctl" };
	char path[RUNDIR_PATH_MAX + BUS_NAME_MAX + 8];
	const char *args[4];
	size_t nargs = 0;
	int err = client_read_words(&c, 5, argc, argv), request;

	if (c.help)
		client_ctl_help(stdout);
	if (err || c.help)
		return err;
	if (!c.nwords) {
		fputs("bulkhead: ctl: a machine's name and a request are missing; bulkhead ps lists all "
		      "machines, "
		      "bulkhead ctl --help all requests\n",
		      stderr);
		return EXIT_CONFIG;
	}
	if (c.nwords == 1)
		return client_refuse(&c, c.word[0], "a request is missing after it; allowed: " REQUESTS);
	request = find_request(&c);
	if (request < 0)
		return EXIT_CONFIG;
	if (!result)
		return EXIT_INTERNAL;
	if (verbs[request].device)
		args[nargs++] = c.word[2];
	if (verbs[request].change || verbs[request].size)
		args[nargs++] = c.word[3];
	for (unsigned i = 0; i < verbs[request].words; i++)
		args[nargs++] = c.word[2 + i];
	if (c.exec)
		args[nargs++] = c.exec;
	snprintf(path, sizeof(path), "%s/%s/ctl", c.base, c.word[0]);
	/* A connection that is lost may have carried the request. */
	for (int tries = 0; tries < (verbs[request].again ? 3 : 1); tries++) {
		err =
		    bus_ctl_call(path, c.word[1], nargs, args,
				 verbs[request].device || verbs[request].words ? CHANGE_NS : CTL_NS, result);
		if (err != -EPIPE)
			break;
	}
	if (err)
		return client_failed(&c, err);
	if (result->err) {
		fprintf(stderr, "bulkhead: ctl: \"%s\" %s: %s\n", c.word[0], c.word[1], result->text);
		return EXIT_INTERNAL;
	}
	if (!strcmp(c.word[1], "loops")) {
		json_t *root = json_loads(result->json, 0, NULL);

		client_loops(root, c.json);
		json_decref(root);
	} else if (c.json) {
		puts(result->json);
	} else if (!strcmp(c.word[1], "status")) {
		json_t *root = json_loads(result->json, 0, NULL);

		client_print_status(root);
		json_decref(root);
	} else if (!strcmp(c.word[1], "stats")) {
		json_t *root = json_loads(result->json, 0, NULL);

		client_print_stats(root);
		json_decref(root);
	} else if (!strcmp(c.word[1], "upgrade")) {
		json_t *root = json_loads(result->json, 0, NULL);

		client_print_upgrade(c.word[2], root);
		json_decref(root);
	}
	return 0;
}

/* ---- ps ---- */

/* The status of one running machine, or what can be said of it without its help. */
static json_t *machine_json(const char *base, const char *name, int pid)
{
	CLEAN_FREE struct bus_ctl_result *result = calloc(1, sizeof(*result));
	char path[RUNDIR_PATH_MAX + 256 + 8];
	json_t *root = NULL;

	snprintf(path, sizeof(path), "%s/%s/ctl", base, name);
	if (result && !bus_ctl_call(path, "status", 0, NULL, PS_NS, result) && !result->err)
		root = json_loads(result->json, 0, NULL);
	return root ? root : json_pack("{s:s, s:i, s:s}", "name", name, "pid", pid, "state", "silent");
}

int client_ps(int argc, char **argv)
{
	struct client c = { .command = "ps" };
	int err = client_read_words(&c, 0, argc, argv), base;
	struct dirent *entry;
	json_t *list;
	DIR *dir;

	if (c.help)
		client_ps_help(stdout);
	if (err || c.help)
		return err;
	list = json_array();
	base = rundir_open_base(c.base);
	dir = base < 0 ? NULL : fdopendir(base);
	while (dir && (entry = readdir(dir))) {
		bool alone = false;
		int pid = vmconf_name_ok(entry->d_name) ? rundir_owner(base, entry->d_name, &alone) : 0;

		if (pid > 0 && alone)
			json_array_append_new(list, json_pack("{s:s, s:i, s:s}", "name", entry->d_name, "pid",
							      pid, "state", "alone"));
		else if (pid > 0)
			json_array_append_new(list, machine_json(c.base, entry->d_name, pid));
	}
	if (dir)
		closedir(dir);
	if (c.json) {
		json_dumpf(list, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		client_print_machines(list);
	}
	json_decref(list);
	return 0;
}
