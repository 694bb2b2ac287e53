/* SPDX-License-Identifier: Apache-2.0 */
/* The table of what `bulkhead run` can be told, and the command line read by it. */
#include "options.h"
#include "options_priv.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "num.h"
#include "parse.h"

static int number(const char *value, uint64_t min, uint64_t max, unsigned *to, struct vmconf_error *error)
{
	uint64_t v;

	if (parse_u64(value, min, max, &v))
		return vmconf_refuse(error, "\"%s\" is not a number from %llu to %llu", value,
				     (unsigned long long)min, (unsigned long long)max);
	*to = (unsigned)v;
	return 0;
}

static int parse_name(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	if (!vmconf_name_ok(value))
		return vmconf_refuse(
		    error, "\"%s\" is not a name: 1 to %d of a-z A-Z 0-9 - _, a letter or digit first", value,
		    BUS_NAME_MAX - 1);
	memcpy(conf->name, value, strlen(value) + 1);
	return 0;
}

static int parse_kernel(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	return options_keep(&conf->kernel, value, error);
}

static int parse_initrd(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	return options_keep(&conf->initrd, value, error);
}

static int parse_append(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	if (strlen(value) > VMCONF_APPEND_MAX)
		return vmconf_refuse(error, "has %zu bytes; at most %d are possible", strlen(value),
				     VMCONF_APPEND_MAX);
	for (const char *p = value; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 127)
			return vmconf_refuse(error, "\"%s\" holds a control character; only text is possible",
					     value);
	free(conf->append);
	conf->append = strdup(value);
	return conf->append ? 0 : vmconf_refuse(error, "out of memory");
}

static int parse_cpus(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	return number(value, 1, VMCONF_CPUS_MAX, &conf->cpus, error);
}

static int memory_size(struct vmconf *conf, const char *value, struct vmconf_error *error)
{
	uint64_t bytes;

	if (parse_size(value, &bytes) || bytes < VMCONF_MEMORY_MIN || bytes > VMCONF_MEMORY_MAX ||
	    bytes % VMCONF_MEMORY_STEP)
		return vmconf_refuse(
		    error, "\"%s\" is not a size from 16M to 512G in whole M (suffixes K, M, G, T)", value);
	conf->memory = bytes;
	return 0;
}

static int parse_memory(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	char *key, *val;
	bool first = true;
	int got;

	conf->hugepages = false;
	for (; (got = parse_next_pair(&value, &key, &val)) > 0; first = false) {
		int err = 0, on;

		if (first && !val) {
			err = memory_size(conf, key, error);
		} else if (!strcmp(key, "size") && val) {
			err = memory_size(conf, val, error);
		} else if (!strcmp(key, "hugepages") && val) {
			on = parse_on_off(val);
			if (on < 0)
				return vmconf_refuse(
				    error, "hugepages=\"%s\" is not possible; allowed: on, off", val);
			conf->hugepages = on;
		} else {
			return vmconf_refuse(error,
					     "\"%s\" is not possible; allowed: SIZE[,hugepages=on|off]", key);
		}
		if (err)
			return err;
	}
	if (got < 0 || first)
		return vmconf_refuse(error, "\"%s\" is not possible; allowed: SIZE[,hugepages=on|off]",
				     value);
	if (conf->hugepages && conf->memory % (2ULL << 20))
		return vmconf_refuse(
		    error, "an odd number of M can't be had in huge pages; allowed: multiples of 2M");
	return 0;
}

static int parse_cpu(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	size_t len = strcspn(value, ",");

	if (len != 4 || strncmp(value, "host", 4))
		return vmconf_refuse(error, "\"%s\" is not a processor; allowed: host[,-feature...]", value);
	for (const char *p = value + len; *p; p += len) {
		len = 1 + strcspn(p + 1, ",");
		if (p[1] != '-' || len < 3 ||
		    strspn(p + 2, "abcdefghijklmnopqrstuvwxyz0123456789_.-") < len - 2)
			return vmconf_refuse(
			    error, "\"%.*s\" does not take a feature away; allowed: host[,-feature...]",
			    (int)len - 1, p + 1);
	}
	return options_keep(&conf->cpu, value, error);
}

/* NULL if there are as many as possible. */
static struct vmconf_device *new_device(struct vmconf *conf, enum vmconf_kind kind, size_t max)
{
	struct vmconf_device *device = &conf->device[conf->ndevices];

	if (conf->ndevices == VMCONF_DEVICES_MAX || vmconf_count(conf, kind) == max)
		return NULL;
	conf->ndevices++;
	*device = (struct vmconf_device) { .kind = kind,
					   .queues = 1,
					   .poll_max_us = VMCONF_POLL_DEFAULT,
					   .spare = true,
					   .hang_timeout_ms = 1500 };
	return device;
}

static int parse_disk(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	struct vmconf_device *device = new_device(conf, KIND_DISK, VMCONF_DISKS_MAX);

	if (!device)
		return vmconf_refuse(error, "\"%s\" is one too many; at most %d disks are possible", value,
				     VMCONF_DISKS_MAX);
	return options_disk(device, value, error);
}

static int parse_net(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	struct vmconf_device *device = new_device(conf, KIND_NET, VMCONF_NETS_MAX);

	if (!device)
		return vmconf_refuse(error, "\"%s\" is one too many; at most %d ports are possible", value,
				     VMCONF_NETS_MAX);
	return options_net(device, value, error);
}

static int parse_console(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	static const struct {
		const char *word;
		enum vmconf_console kind;
		bool path;
	} kinds[] = { { "stdio", CONSOLE_STDIO, false },
		      { "pty", CONSOLE_PTY, false },
		      { "file=", CONSOLE_FILE, true },
		      { "socket=", CONSOLE_SOCKET, true } };

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		size_t len = strlen(kinds[i].word);

		if (strncmp(value, kinds[i].word, len) || (!kinds[i].path && value[len]))
			continue;
		conf->console = kinds[i].kind;
		if (!kinds[i].path)
			return 0;
		if (kinds[i].kind == CONSOLE_SOCKET && strlen(value + len) > VMCONF_SOCKET_MAX)
			return vmconf_refuse(error, "\"%s\" has %zu bytes; a socket's path can have %d",
					     value + len, strlen(value + len), VMCONF_SOCKET_MAX);
		return options_keep(&conf->console_path, value + len, error);
	}
	return vmconf_refuse(error, "\"%s\" is no console; allowed: stdio, pty, file=FILE, socket=SOCKET",
			     value);
}

static int parse_config(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	return options_keep(&conf->config, value, error);
}

static int parse_run_dir(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	if (*value != '/')
		return vmconf_refuse(error, "\"%s\" is not absolute; a path that starts with / is needed",
				     value);
	return options_keep(&conf->run_dir, value, error);
}

static int parse_crash_dir(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	if (*value != '/')
		return vmconf_refuse(error, "\"%s\" is not absolute; a path that starts with / is needed",
				     value);
	return options_keep(&conf->crash_dir, value, error);
}

static int parse_cgroup(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	if (*value != '/' && strcmp(value, "self") != 0)
		return vmconf_refuse(
		    error, "\"%s\" is not possible; allowed: the absolute path of a cgroup, self", value);
	return options_keep(&conf->cgroup, value, error);
}

static int parse_on_reboot(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	return options_choice(value, "exit", "restart", &conf->restart_on_reboot, error);
}

static int parse_on_crash(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	return options_choice(value, "stop", "restart", &conf->restart_on_crash, error);
}

static int parse_restarts(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	return options_restarts(value, &conf->restarts, &conf->restarts_s, error);
}

static int parse_grace(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	return number(value, 0, 3600, &conf->grace_s, error);
}

static int parse_start_timeout(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	return number(value, 1, 3600, &conf->start_timeout_s, error);
}

static int parse_on_supervisor_death(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	return options_choice(value, "end", "keep", &conf->keep, error);
}

static int parse_test_devices(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	return options_choice(value, "off", "on", &conf->test_devices, error);
}

static int parse_sandbox(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	conf->sandbox_log = !strcmp(value, "log");
	conf->sandbox = strcmp(value, "off") != 0;
	if (!conf->sandbox || conf->sandbox_log || !strcmp(value, "on"))
		return 0;
	return vmconf_refuse(error, "\"%s\" is not possible; allowed: on, off, log", value);
}

static int parse_log(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	bool syslog;

	if (options_choice(value, "stderr", "syslog", &syslog, error))
		return -EINVAL;
	conf->log = syslog ? LOG_TO_SYSLOG : LOG_TO_STDERR;
	return 0;
}

static int parse_log_level(struct vmconf *conf, char *value, struct vmconf_error *error)
{
	int level = log_level_parse(value);

	if (level < 0)
		return vmconf_refuse(error, "\"%s\" is no level; allowed: error, warning, info, debug",
				     value);
	conf->log_level = level;
	return 0;
}

const struct option_def option_table[] = {
	{ "name", "NAME", "vm-PID", "name of the machine, for ctl and ps", .parse = parse_name },
	{ "kernel", "FILE", NULL, "guest kernel: bzImage, PVH ELF or multiboot ELF (required)",
	  .parse = parse_kernel },
	{ "initrd", "FILE", NULL, "initial RAM disk or multiboot modules", .parse = parse_initrd },
	{ "append", "TEXT", NULL, "kernel command line", .parse = parse_append },
	{ "cpus", "N", "1", "number of virtual processors, 1 to 64", .parse = parse_cpus },
	{ "memory", "SIZE[,hugepages=on|off]", "512M", "guest memory, 16M to 512G", .parse = parse_memory },
	{ "cpu", "host[,-FEATURE...]", "host", "processor model, less the features named",
	  .parse = parse_cpu },
	{ "disk",
	  "path=FILE|nbd=URI[,reconnect=SECONDS][,id=ID][,server=NAME][,format=raw|qcow2][,backing=FILE]...[,"
	  "readonly=on|"
	  "off][,queues=N][,cache=direct|"
	  "buffered][,engine=aio|io_uring|null]"
	  "[,on-error=report|stop|enospc|retry][,memory=all|window][,window=SIZE]"
	  "[,bps=RATE][,iops=RATE][,bps-burst=SIZE][,iops-burst=N][,group=ID]"
	  "[,io-threads=N|NAME[@CPUS]:...][,map=QUEUE:NAME,...|1:1|round-robin][,poll-max-us=N]"
	  "[,spare=on|off][,restarts=N/"
	  "SECONDS][,on-failure=quarantine|read-only|needs-reset|stop][,hang-timeout=MS] | "
	  "vhost-user=SOCKET[,id=ID][,restarts=...][,on-failure=...]",
	  NULL,
	  "a disk: an image, the export of an NBD server, or the socket of a vhost-user back end; repeatable",
	  .repeats = true, .parse = parse_disk },
	{ "limit-group", "id=ID[,bps=RATE][,iops=RATE][,bps-burst=SIZE][,iops-burst=N]", NULL,
	  "limits that the disks with group=ID share; repeatable", .repeats = true,
	  .parse = options_limit_group },
	{ "net",
	  "user[,hostfwd=tcp|udp:[ADDRESS]:PORT-[ADDRESS]:PORT]...[,restrict=on|off][,allow=DESTINATION]..."
	  "[,ipv6=on|off][,net=ADDRESS/BITS][,dns=ADDRESS][,hostname=NAME] | "
	  "tap=NAME[,bridge=NAME] | stream=SOCKET | listen=SOCKET, each with "
	  "[,id=ID][,mac=MAC][,mtu=N][,queues=N]"
	  "[,io-threads=N|NAME[@CPUS]:...][,map=PAIR:NAME,...|1:1|round-robin][,poll-max-us=N]"
	  "[,rx-bytes|rx-packets|tx-bytes|tx-packets=RATE[/BURST]][,spare=on|off][,restarts=N/SECONDS]"
	  "[,on-failure=quarantine|needs-reset|stop][,hang-timeout=MS]; or "
	  "vhost-user=SOCKET[,id=ID][,mac=MAC][,restarts=...][,on-failure=...]",
	  NULL,
	  "a network port: user-mode networking, a tap, a peer's stream, or a vhost-user back end; "
	  "repeatable",
	  .repeats = true, .parse = parse_net },
	{ "console", "stdio|pty|file=FILE|socket=SOCKET", "stdio", "where the serial console is",
	  .parse = parse_console },
	{ "config", "FILE", NULL, "JSON file with these options as keys; the command line wins",
	  .command_line_only = true, .parse = parse_config },
	{ "run-dir", "DIR", "/run/bulkhead (root), $XDG_RUNTIME_DIR/bulkhead or /tmp/bulkhead-UID",
	  "where machines have sockets", .parse = parse_run_dir },
	{ "crash-dir", "DIR", "/var/lib/bulkhead",
	  "where a process that dies leaves a report; $XDG_STATE_HOME/bulkhead goes before it",
	  .parse = parse_crash_dir },
	{ "cgroup", "DIR|self", NULL,
	  "a cgroup made over to this user, in which each process gets one of its own with limits",
	  .parse = parse_cgroup },
	{ "on-reboot", "restart|exit", "restart", "what follows a reboot of the guest",
	  .parse = parse_on_reboot },
	{ "on-crash", "restart|stop", "stop", "what follows a crash of the guest or of vmm-core",
	  .parse = parse_on_crash },
	{ "on-supervisor-death", "keep|end", "end",
	  "what becomes of the machine if this process dies: keep it for bulkhead adopt",
	  .parse = parse_on_supervisor_death },
	{ "restarts", "N/SECONDS", "30/60", "a device that dies more often is given up",
	  .parse = parse_restarts },
	{ "grace", "SECONDS", "10", "time for the guest to power off when asked to", .parse = parse_grace },
	{ "start-timeout", "SECONDS", "30", "time for a process to become ready",
	  .parse = parse_start_timeout },
	{ "test-devices", NULL, "off", "add the debug-exit port 0xf4", .parse = parse_test_devices },
	{ "sandbox", "on|off|log", "on",
	  "confine every process; off is for debugging, log forbids no system call and has the kernel log it",
	  .parse = parse_sandbox },
	{ "log", "stderr|syslog", "stderr", "where log lines go", .parse = parse_log },
	{ "log-level", "error|warning|info|debug", "info", "least important lines to log",
	  .parse = parse_log_level },
	{ .name = NULL },
};

static_assert(ARRAY_SIZE(option_table) <= OPTIONS_MAX, "given[] arrays have OPTIONS_MAX entries");

int option_find(const char *name, size_t len)
{
	for (int i = 0; option_table[i].name; i++)
		if (strlen(option_table[i].name) == len && !memcmp(option_table[i].name, name, len))
			return i;
	return -1;
}

/* One option at argv[*at]; moves *at past it. Puts its name in front of what is wrong with it. */
static int parse_one(int argc, char **argv, int *at, bool *given, struct vmconf *conf,
		     struct vmconf_error *error)
{
	const char *word = argv[*at];
	char *value = NULL, on[] = "on";
	struct vmconf_error why;
	size_t len;
	int i;

	if (strncmp(word, "--", 2))
		return vmconf_refuse(
		    error, "\"%s\": not an option; allowed: --OPTION VALUE (see bulkhead run --help)", word);
	word += 2;
	len = strcspn(word, "=");
	i = option_find(word, len);
	if (i < 0)
		return vmconf_refuse(error, "--%.*s: no such option; bulkhead run --help lists all", (int)len,
				     word);
	(*at)++;
	if (word[len])
		value = (char *)(uintptr_t)(word + len + 1);
	else if (!option_table[i].arg)
		value = on;
	else if (*at < argc)
		value = argv[(*at)++];
	else
		return vmconf_refuse(error, "--%s: needs a value: %s", option_table[i].name,
				     option_table[i].arg);
	if (given[i] && !option_table[i].repeats)
		return vmconf_refuse(error, "--%s: \"%s\" is given after another value; once is allowed",
				     option_table[i].name, value);
	given[i] = true;
	if (!option_table[i].command_line_only && vmconf_note(conf, option_table[i].name, value))
		return vmconf_refuse(error, "out of memory");
	if (option_table[i].parse(conf, value, &why))
		return vmconf_refuse(error, "--%s: %s", option_table[i].name, why.text);
	return 0;
}

enum option_verb options_parse(int argc, char **argv, struct vmconf *conf, struct vmconf_error *error)
{
	bool given[OPTIONS_MAX] = { false };

	for (int at = 0; at < argc;) {
		if (!strcmp(argv[at], "--help") || !strcmp(argv[at], "-h"))
			return OPTIONS_HELP;
		if (!strcmp(argv[at], "--version"))
			return OPTIONS_VERSION;
		if (parse_one(argc, argv, &at, given, conf, error))
			return OPTIONS_REFUSED;
	}
	if (conf->config && vmconf_load(conf, conf->config, given, error))
		return OPTIONS_REFUSED;
	return vmconf_finish(conf, error) ? OPTIONS_REFUSED : OPTIONS_RUN;
}

void options_usage(FILE *to)
{
	fputs("usage: bulkhead run --kernel FILE [--initrd FILE] [--append TEXT] [--cpus N] [--memory SIZE]\n"
	      "                    [--disk path=FILE]... [--net user|tap=NAME]...\n"
	      "                    [--console stdio|pty|file=FILE|socket=SOCKET] ...\n"
	      "       bulkhead run --help lists all options\n",
	      to);
}

#define HELP_WIDTH  100
#define HELP_INDENT 8

/* Whether what an option takes may go on in another line at p, which is then its beginning. */
static bool may_break(const char *arg, const char *p)
{
	return p > arg && (p[-1] == ' ' || (*p == '[' && p[1] == ','));
}

/* What an option takes, after its name, in lines of a readable length. */
static void print_arg(FILE *to, const struct option_def *o)
{
	size_t at = strlen("  --") + strlen(o->name) + 1;

	fputc(' ', to);
	for (const char *p = o->arg, *end; *p; p = end) {
		for (end = p + 1; *end && !may_break(o->arg, end); end++)
			;
		if (at + (size_t)(end - p) > HELP_WIDTH) {
			fprintf(to, "\n%*s", HELP_INDENT + 2, "");
			at = HELP_INDENT + 2;
		}
		fprintf(to, "%.*s", (int)(end - p), p);
		at += (size_t)(end - p);
	}
}

void options_help(FILE *to)
{
	fputs("usage: bulkhead run --kernel FILE [OPTION...]\n"
	      "Runs a virtual machine until its guest powers off.\n\n",
	      to);
	for (const struct option_def *o = option_table; o->name; o++) {
		fprintf(to, "  --%s", o->name);
		if (o->arg)
			print_arg(to, o);
		fprintf(to, "\n%*s%s", HELP_INDENT, "", o->help);
		if (o->fallback)
			fprintf(to, " (default: %s)", o->fallback);
		fputc('\n', to);
	}
	fputs("  --help\n        print this and exit\n"
	      "  --version\n        print the version and exit\n\n"
	      "Sizes take the suffixes K, M, G and T. On a terminal, Ctrl-A x ends the machine and Ctrl-A h "
	      "tells more.\n"
	      "Exit status: 0 guest powered off, 1 internal error, 2 wrong configuration, 3 guest panic, 4 "
	      "guest crash,\n"
	      "5 vmm-core crashed, 6 a device failed for good; with --test-devices what the guest chose.\n"
	      "bulkhead(1) and bulkhead-config(5) say more.\n",
	      to);
}
