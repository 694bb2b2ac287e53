/* SPDX-License-Identifier: Apache-2.0 */
/* Reads vmm-core's options from one table, which is also what --help prints. */
#include "options.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "boot.h"
#include "clock.h"
#include "config.h"
#include "cpuid.h"
#include "flight.h"
#include "layout.h"
#include "log.h"
#include "num.h"
#include "parse.h"
#include "ram.h"

#define MEMORY_DEFAULT (512ULL << 20)
#define SOCKET_MAX     107
#define FIRST_VAL      256 /* getopt's own values lie below */
#define DEVICE_FORM    "ID:KIND[,socket=PATH][,hang-timeout=MS][,first-ring=N][,mac=MAC]"

#define HANG_TIMEOUT_DEFAULT (1500 * NS_PER_MS)
#define HANG_TIMEOUT_MAX_MS  3600000

struct context {
	struct options *o;
	char *err;
	size_t err_size;
};

static int refuse(const struct context *c, const char *option, const char *value, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static int refuse(const struct context *c, const char *option, const char *value, const char *fmt, ...)
{
	char why[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	snprintf(c->err, c->err_size, "--%s%s%s: %s", option, value ? " " : "", value ? value : "", why);
	return -EINVAL;
}

static bool name_ok(const char *name, size_t len)
{
	return len > 0 && len < DEVICE_ID_MAX &&
	       strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") >= len;
}

static int set_id(const struct context *c, const char *option, char *value)
{
	if (!name_ok(value, strlen(value)))
		return refuse(c, option, value, "must be 1 to %d letters, digits, '.', '_' or '-'",
			      DEVICE_ID_MAX - 1);
	c->o->id = value;
	return 0;
}

static int set_bus(const struct context *c, const char *option, char *value)
{
	if (!*value)
		return refuse(c, option, value, "must name a directory");
	c->o->bus_dir = value;
	return 0;
}

static int set_fd(const struct context *c, const char *option, const char *value, int *fd)
{
	uint64_t n;

	if (parse_u64(value, 0, INT_MAX, &n) < 0)
		return refuse(c, option, value, "must be the number of an open descriptor");
	if (fcntl((int)n, F_GETFD) < 0)
		return refuse(c, option, value, "descriptor is not open");
	*fd = (int)n;
	return 0;
}

static int set_flight_fd(const struct context *c, const char *option, char *value)
{
	return set_fd(c, option, value, &c->o->flight_fd);
}

static int set_desc_fd(const struct context *c, const char *option, char *value)
{
	return set_fd(c, option, value, &c->o->desc_fd);
}

static int set_kvm_fd(const struct context *c, const char *option, char *value)
{
	return set_fd(c, option, value, &c->o->kvm_fd);
}

static int set_kernel_fd(const struct context *c, const char *option, char *value)
{
	return set_fd(c, option, value, &c->o->kernel_fd);
}

static int set_initrd_fd(const struct context *c, const char *option, char *value)
{
	return set_fd(c, option, value, &c->o->initrd_fd);
}

static int set_console_fd(const struct context *c, const char *option, char *value)
{
	return set_fd(c, option, value, &c->o->console_fd);
}

static int set_append(const struct context *c, const char *option, char *value)
{
	if (strlen(value) > BOOT_CMDLINE_MAX)
		return refuse(c, option, NULL, "must be at most %d bytes", BOOT_CMDLINE_MAX);
	c->o->append = value;
	return 0;
}

static int set_cpus(const struct context *c, const char *option, char *value)
{
	uint64_t n;

	if (parse_u64(value, 1, LAYOUT_CPUS_MAX, &n) < 0)
		return refuse(c, option, value, "must be 1 to %d", LAYOUT_CPUS_MAX);
	c->o->cpus = (unsigned)n;
	return 0;
}

static int set_memory(const struct context *c, const char *option, char *value)
{
	char *list = value, *size, *key, *arg;
	int r = parse_next_pair(&list, &size, &arg);

	if (r != 1 || arg || parse_size(size, &c->o->memory) < 0 || c->o->memory < RAM_SIZE_MIN ||
	    c->o->memory > RAM_SIZE_MAX || c->o->memory % 4096)
		return refuse(c, option, value,
			      "must be SIZE[,hugepages=on|off], SIZE a multiple of 4K from %lluM to %lluG",
			      RAM_SIZE_MIN >> 20, RAM_SIZE_MAX >> 30);
	while ((r = parse_next_pair(&list, &key, &arg)) == 1) {
		int on = arg ? parse_on_off(arg) : -EINVAL;

		if (strcmp(key, "hugepages") || on < 0)
			return refuse(c, option, key, "must be hugepages=on or hugepages=off");
		c->o->hugepages = on;
	}
	if (r == 0 && c->o->hugepages && c->o->memory % (2 << 20))
		return refuse(c, option, value, "must be a multiple of 2M with hugepages=on");
	return r < 0 ? refuse(c, option, value, "must be SIZE[,hugepages=on|off]") : 0;
}

static int set_cpu(const struct context *c, const char *option, char *value)
{
	char why[200];

	if (cpuid_check(value, why, sizeof(why)) < 0)
		return refuse(c, option, value, "%s", why);
	c->o->cpu = value;
	return 0;
}

static int set_device_key(const struct context *c, const char *option, struct options_device *d,
			  const char *key, const char *arg)
{
	uint64_t ms, ring;

	if (!strcmp(key, "socket")) {
		if (!arg || !*arg || strlen(arg) > SOCKET_MAX)
			return refuse(c, option, key, "must be socket=PATH, PATH at most %d bytes",
				      SOCKET_MAX);
		d->socket = arg;
		return 0;
	}
	if (!strcmp(key, "hang-timeout")) {
		if (!arg || parse_u64(arg, 0, HANG_TIMEOUT_MAX_MS, &ms) < 0)
			return refuse(c, option, key,
				      "must be hang-timeout=MS, MS at most %d; 0 turns it off",
				      HANG_TIMEOUT_MAX_MS);
		d->hang_timeout_ns = ms * NS_PER_MS;
		return 0;
	}
	if (!strcmp(key, "first-ring")) {
		if (!arg || parse_u64(arg, 0, FLIGHT_QUEUES_MAX - 1, &ring) < 0)
			return refuse(c, option, key, "must be first-ring=N, N at most %d",
				      FLIGHT_QUEUES_MAX - 1);
		d->first_ring = (unsigned)ring;
		return 0;
	}
	if (!strcmp(key, "mac")) {
		if (!d->kind->mac_feature || !arg || parse_mac(arg, d->mac) < 0)
			return refuse(c, option, key,
				      "must be a network device's mac=MAC, as 52:54:00:12:34:56");
		return 0;
	}
	return refuse(c, option, key, "must be socket, hang-timeout, first-ring or mac");
}

static int set_device(const struct context *c, const char *option, char *value)
{
	struct options_device *d = &c->o->devices[c->o->n_devices];
	char *list = value, *name, *key, *arg, *colon;
	int r;

	if (c->o->n_devices == OPTIONS_DEVICES_MAX)
		return refuse(c, option, value, "there are at most %d devices", OPTIONS_DEVICES_MAX);
	r = parse_next_pair(&list, &name, &arg);
	colon = r == 1 && !arg ? strchr(name, ':') : NULL;
	if (!colon || !name_ok(name, (size_t)(colon - name)))
		return refuse(c, option, value,
			      "must be " DEVICE_FORM ", ID 1 to %d letters, digits, '.', '_' or '-'",
			      DEVICE_ID_MAX - 1);
	*d = (struct options_device) { .kind = device_kind_find(colon + 1),
				       .hang_timeout_ns = HANG_TIMEOUT_DEFAULT };
	if (!d->kind)
		return refuse(c, option, colon + 1, "kind of device must be one of: %s", device_kind_names());
	memcpy(d->id, name, (size_t)(colon - name));
	for (unsigned i = 0; i < c->o->n_devices; i++)
		if (!strcmp(c->o->devices[i].id, d->id))
			return refuse(c, option, d->id, "is there twice");
	while ((r = parse_next_pair(&list, &key, &arg)) == 1)
		if (set_device_key(c, option, d, key, arg) < 0)
			return -EINVAL;
	if (r < 0)
		return refuse(c, option, d->id, "must be " DEVICE_FORM);
	c->o->n_devices++;
	return 0;
}

static int set_test_devices(const struct context *c, const char *option, char *value)
{
	(void)option;
	(void)value;
	c->o->test_devices = true;
	return 0;
}

static int set_sandbox(const struct context *c, const char *option, char *value)
{
	int on = parse_on_off(value);

	c->o->sandbox_log = !strcmp(value, "log");
	if (on < 0 && !c->o->sandbox_log)
		return refuse(c, option, value, "must be on, off or log");
	c->o->sandbox = on != 0;
	return 0;
}

static int set_log_level(const struct context *c, const char *option, char *value)
{
	int level = log_level_parse(value);

	if (level < 0)
		return refuse(c, option, value, "must be error, warning, info or debug");
	c->o->log_level = level;
	return 0;
}

static const struct {
	const char *name;
	const char *arg; /* NULL: takes none */
	const char *help;
	int (*set)(const struct context *c, const char *option, char *value);
} table[] = {
	{ "id", "NAME", "this process's name on the bus (core)", set_id },
	{ "bus", "DIR", "directory that holds the bus's socket, \"bus\"; without it the guest runs at once",
	  set_bus },
	{ "desc-fd", "N", "seqpacket socket over which device connections come", set_desc_fd },
	{ "kvm-fd", "N", "open /dev/kvm", set_kvm_fd },
	{ "kernel-fd", "N", "bzImage, ELF with a PVH note, or multiboot ELF", set_kernel_fd },
	{ "initrd-fd", "N", "initial RAM disk", set_initrd_fd },
	{ "console-fd", "N", "stream socket or pipe for the first serial port", set_console_fd },
	{ "flight-fd", "N", "memory for the flight recorder", set_flight_fd },
	{ "append", "TEXT", "the kernel's command line", set_append },
	{ "cpus", "N", "virtual processors (1)", set_cpus },
	{ "memory", "SIZE[,hugepages=on|off]", "guest RAM (512M)", set_memory },
	{ "cpu", "host[,-FEATURE...]", "processor features (host)", set_cpu },
	{ "device", DEVICE_FORM, "a PCI device, in the order of slots; repeatable", set_device },
	{ "test-devices", NULL, "a debug-exit port at 0xf4", set_test_devices },
	{ "sandbox", "on|off|log",
	  "give up what is not needed (on); log: forbid no system call, have the kernel log it",
	  set_sandbox },
	{ "log-level", "LEVEL", "error, warning, info or debug (info)", set_log_level },
	{ "help", NULL, "print this and exit", NULL },
	{ "version", NULL, "print the version and exit", NULL },
};

static_assert(ARRAY_SIZE(table) <= 32, "a bit for each option");

static void print_help(void)
{
	printf(
	    "usage: vmm-core --kvm-fd N --kernel-fd N [OPTION]...\n"
	    "Runs one virtual machine; its devices are other processes. Usually started by bulkhead(1).\n\n");
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		char left[64];

		snprintf(left, sizeof(left), "--%s%s%s", table[i].name, table[i].arg ? " " : "",
			 table[i].arg ? table[i].arg : "");
		printf("  %-34s %s\n", left, table[i].help);
	}
}

static int print_and_leave(const char *option)
{
	if (!strcmp(option, "help"))
		print_help();
	else
		printf("vmm-core %s\n", PACKAGE_VERSION);
	return 1;
}

static int check_whole(const struct context *c)
{
	if (c->o->kvm_fd < 0)
		return refuse(c, "kvm-fd", NULL, "is needed");
	if (c->o->kernel_fd < 0)
		return refuse(c, "kernel-fd", NULL, "is needed");
	for (unsigned i = 0; i < c->o->n_devices; i++)
		if (!c->o->devices[i].socket && c->o->desc_fd < 0)
			return refuse(c, "device", c->o->devices[i].id, "needs socket=PATH, or --desc-fd");
	return 0;
}

int options_parse(int argc, char **argv, struct options *o, char *err, size_t err_size)
{
	const struct context c = { o, err, err_size };
	struct option longs[ARRAY_SIZE(table) + 1] = { { .name = NULL } };
	uint32_t seen = 0;
	int got, r;

	*o = (struct options) { .id = "core",
				.desc_fd = -1,
				.kvm_fd = -1,
				.kernel_fd = -1,
				.initrd_fd = -1,
				.console_fd = -1,
				.flight_fd = -1,
				.append = "",
				.cpus = 1,
				.memory = MEMORY_DEFAULT,
				.cpu = "host",
				.sandbox = true,
				.log_level = LOG_LEVEL_INFO };
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		longs[i] = (struct option) { .name = table[i].name,
					     .has_arg = table[i].arg != NULL,
					     .val = FIRST_VAL + (int)i };
	optind = 1;
	opterr = 0;
	while ((got = getopt_long(argc, argv, ":", longs, NULL)) >= FIRST_VAL) {
		unsigned i = (unsigned)(got - FIRST_VAL);

		if (!table[i].set)
			return print_and_leave(table[i].name);
		if (seen & 1u << i && table[i].set != set_device)
			return refuse(&c, table[i].name, NULL, "is given twice");
		seen |= 1u << i;
		r = table[i].set(&c, table[i].name, optarg);
		if (r < 0)
			return r;
	}
	if (got != -1) {
		snprintf(err, err_size, "%s: %s; see vmm-core --help", argv[optind - 1],
			 got == ':' ? "needs a value"
			 : optopt   ? "takes no value"
				    : "no such option");
		return -EINVAL;
	}
	if (optind < argc) {
		snprintf(err, err_size, "%s: not an option; see vmm-core --help", argv[optind]);
		return -EINVAL;
	}
	return check_whole(&c);
}
