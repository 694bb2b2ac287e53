/* SPDX-License-Identifier: Apache-2.0 */
/* What is to be started for a machine, and with which files and options. */
#include "plan.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clean.h"
#include "files.h"
#include "flight.h"
#include "log.h"
#include "num.h"

/*
 * Outer user ids of children that root starts: a machine's name chooses one of 65536 slots of 64 ids above this
 * base, far above what distributions and containers hand out, so that children of two machines share an id
 * only by a collision of their names.
 */
#define UID_BASE  0x6b000000U
#define UID_SLOTS 65536U
#define UID_STEP  64U

static_assert(KEEPER_CHILDREN_MAX <= UID_STEP, "each child of a machine needs a user id of its own");

uid_t plan_uid(const struct vmconf *conf, size_t i)
{
	uint32_t hash = 2166136261U; /* FNV-1a */

	for (const char *p = conf->name; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 16777619U;
	return UID_BASE + (hash ^ hash >> 16) % UID_SLOTS * UID_STEP + (uid_t)i;
}

/* ---- files and programs ---- */

/* Looks for a program in $BULKHEAD_PATH, then where it is installed. */
static int find_program(const char *name, char **path, struct vmconf_error *error)
{
	const char *env = getenv("BULKHEAD_PATH");
	CLEAN_FREE char *all = NULL;
	char *rest, *dir;

	if (asprintf(&all, "%s:%s:%s", env ? env : "", PKGLIBEXECDIR, BINDIR) < 0)
		return vmconf_refuse(error, "out of memory");
	rest = all;
	while ((dir = strsep(&rest, ":"))) {
		if (*dir != '/')
			continue;
		if (asprintf(path, "%s/%s", dir, name) < 0)
			return vmconf_refuse(error, "out of memory");
		if (!access(*path, X_OK))
			return 0;
		free(*path);
		*path = NULL;
	}
	return vmconf_refuse(
	    error,
	    "the program %s is not installed; looked in $BULKHEAD_PATH (absolute, with colons), "
	    "%s, %s",
	    name, PKGLIBEXECDIR, BINDIR);
}

/* One image given to two disks would be refused by its lock anyway, but this says it better. */
static int check_twice(const struct vmconf *conf, size_t i, struct vmconf_error *error)
{
	const struct vmconf_disk *disk = &conf->device[i].disk;
	struct stat mine, other;

	if (stat(disk->path, &mine))
		return 0;
	for (size_t j = 0; j < i; j++) {
		const struct vmconf_disk *before = &conf->device[j].disk;

		if (before->path && !stat(before->path, &other) && mine.st_dev == other.st_dev &&
		    mine.st_ino == other.st_ino && !(disk->readonly && before->readonly))
			return vmconf_refuse(
			    error, "--disk: path=\"%s\" is the image of %s, too; one writer is allowed",
			    disk->path, conf->device[j].id);
	}
	return 0;
}

static int open_disk(const struct vmconf *conf, size_t i, struct plan_files *files,
		     struct vmconf_error *error)
{
	struct vmconf_error why;

	if (check_twice(conf, i, error))
		return -EINVAL;
	files->image[i] = files_open_image(&conf->device[i].disk, &files->direct[i], &why);
	if (files->image[i] < 0)
		return vmconf_refuse(error, "--disk: %s", why.text);
	return 0;
}

/* A back end that somebody else runs must be there. */
static int try_external(const struct vmconf_device *device, struct vmconf_error *error)
{
	CLEAN_FD int fd = files_connect(device->vhost_user);

	if (fd < 0)
		return vmconf_refuse(
		    error, "--%s: vhost-user=\"%s\": %s; a socket on which a back end listens is needed",
		    vmconf_kind_name(device->kind), device->vhost_user, strerror(-fd));
	return 0;
}

static int open_device(const struct vmconf *conf, size_t i, struct plan_files *files,
		       struct vmconf_error *error)
{
	if (conf->device[i].vhost_user)
		return try_external(&conf->device[i], error);
	return open_disk(conf, i, files, error);
}

static int make_recorder(struct plan_files *files, size_t index, unsigned queues, struct vmconf_error *error)
{
	int fd = flight_create(queues), reader = fd < 0 ? fd : flight_reader(fd);

	files->flight[index] = fd;
	files->flight_reader[index] = reader;
	return reader < 0
		   ? vmconf_refuse(error, "memory for flight recorders can't be had: %s", strerror(-reader))
		   : 0;
}

/* Of a device's processes. */
static int make_recorders(const struct vmconf *conf, size_t i, struct plan_files *files,
			  struct vmconf_error *error)
{
	int err = 0;

	for (size_t slot = 0; slot < KEEPER_SLOTS && !conf->device[i].vhost_user && !err; slot++)
		err = make_recorder(files, KEEPER_INDEX(i, slot), conf->device[i].queues, error);
	return err;
}

int plan_open(const struct vmconf *conf, struct plan_files *files, struct vmconf_error *error)
{
	struct vmconf_error why;

	*files = (struct plan_files) { .kvm = -1, .kernel = -1, .initrd = -1 };
	for (size_t i = 0; i < VMCONF_DEVICES_MAX; i++)
		files->image[i] = -1;
	for (size_t i = 0; i < KEEPER_CHILDREN_MAX; i++)
		files->flight[i] = files->flight_reader[i] = -1;
	files->kernel = files_open_kernel(conf->kernel, &why);
	if (files->kernel < 0)
		return vmconf_refuse(error, "--kernel: %s", why.text);
	if (conf->initrd) {
		files->initrd = files_open(conf->initrd, &why);
		if (files->initrd < 0)
			return vmconf_refuse(error, "--initrd: %s", why.text);
	}
	if (make_recorder(files, 0, 0, error))
		return -EINVAL;
	for (size_t i = 0; i < conf->ndevices; i++)
		if (open_device(conf, i, files, error) || make_recorders(conf, i, files, error))
			return -EINVAL;
	files->kvm = files_open_kvm(error);
	if (files->kvm < 0)
		return -EINVAL;
	if (find_program("vmm-core", &files->core, error))
		return -EINVAL;
	for (size_t i = 0; i < conf->ndevices; i++)
		if (!conf->device[i].vhost_user && !files->blk &&
		    find_program("blk-server", &files->blk, error))
			return -EINVAL;
	return 0;
}

void plan_close(struct plan_files *files)
{
	clean_fd(&files->kvm);
	clean_fd(&files->kernel);
	clean_fd(&files->initrd);
	for (size_t i = 0; i < VMCONF_DEVICES_MAX; i++)
		clean_fd(&files->image[i]);
	for (size_t i = 0; i < KEEPER_CHILDREN_MAX; i++) {
		clean_fd(&files->flight[i]);
		clean_fd(&files->flight_reader[i]);
	}
	free(files->core);
	free(files->blk);
}

/* ---- options of the children ---- */

#define ARGS_MAX 64

struct args {
	char **word;
	size_t n;
	bool failed;
};

/* Adds one word; a failure is remembered and reported at the end. */
__attribute__((format(printf, 2, 3))) static void add(struct args *a, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!a->word)
		a->word = calloc(ARGS_MAX + 1, sizeof(*a->word));
	if (!a->word || a->n == ARGS_MAX || vasprintf(&a->word[a->n], fmt, ap) < 0)
		a->failed = true;
	else
		a->n++;
	va_end(ap);
}

static void add_pair(struct args *a, const char *option, const char *value)
{
	add(a, "%s", option);
	add(a, "%s", value);
}

static void add_fd(struct args *a, const char *option, size_t place)
{
	add(a, "%s", option);
	add(a, "%zu", place + 3);
}

static void add_common(struct args *a, const struct vmconf *conf, const struct rundir *dir, const char *id,
		       const char *folder)
{
	static const char *const levels[] = {
		[LOG_LEVEL_ERROR] = "error",
		[LOG_LEVEL_WARNING] = "warning",
		[LOG_LEVEL_INFO] = "info",
		[LOG_LEVEL_DEBUG] = "debug",
	};

	add_pair(a, "--id", id);
	add(a, "--bus");
	add(a, "%s/%s", dir->path, folder);
	add_pair(a, "--sandbox", conf->sandbox ? "on" : "off");
	add_pair(a, "--log-level", levels[conf->log_level]);
}

static int fill_core(struct keeper_child *child, const struct vmconf *conf, const struct plan_files *files,
		     const struct rundir *dir)
{
	struct args a = { 0 };
	int *fixed = child->fixed;

	child->id = "core";
	child->program = files->core;
	add(&a, "%s", files->core);
	add_common(&a, conf, dir, "core", "core");
	fixed[child->nfixed++] = files->kvm;
	add_fd(&a, "--kvm-fd", 0);
	fixed[child->nfixed++] = files->kernel;
	add_fd(&a, "--kernel-fd", 1);
	if (files->initrd >= 0) {
		fixed[child->nfixed++] = files->initrd;
		add_fd(&a, "--initrd-fd", 2);
	}
	add_fd(&a, "--flight-fd", child->nfixed);
	fixed[child->nfixed++] = files->flight[0];
	/* The order in which machine.c's core_sockets makes them. */
	add_fd(&a, "--desc-fd", child->nfixed);
	add_fd(&a, "--console-fd", child->nfixed + 1);
	if (*conf->append)
		add_pair(&a, "--append", conf->append);
	add(&a, "--cpus");
	add(&a, "%u", conf->cpus);
	add(&a, "--memory");
	add(&a, "%lluM%s", (unsigned long long)(conf->memory >> 20), conf->hugepages ? ",hugepages=on" : "");
	add_pair(&a, "--cpu", conf->cpu);
	for (size_t i = 0; i < conf->ndevices; i++) {
		add(&a, "--device");
		add(&a, "%s:blk,hang-timeout=%u", conf->device[i].id, conf->device[i].hang_timeout_ms);
	}
	if (conf->test_devices)
		add(&a, "--test-devices");
	child->argv = a.word;
	child->argc = a.n;
	return a.failed ? -ENOMEM : 0;
}

static int fill_server(struct keeper_child *child, const struct vmconf *conf, size_t i, size_t slot,
		       const struct plan_files *files, const struct rundir *dir)
{
	const struct vmconf_device *device = &conf->device[i];
	char folder[RUNDIR_SLOT_MAX];
	struct args a = { 0 };

	child->id = device->id;
	child->program = files->blk;
	child->restricted = "--refuse-writes";
	add(&a, "%s", files->blk);
	rundir_slot(folder, device->id, slot);
	add_common(&a, conf, dir, device->id, folder);
	child->fixed[child->nfixed++] = files->image[i];
	add_fd(&a, "--image-fd", 0);
	child->fixed[child->nfixed++] = files->flight[KEEPER_INDEX(i, slot)];
	add_fd(&a, "--flight-fd", 1);
	add_fd(&a, "--vhost-fd", 2);
	child->anchored = conf->sandbox;
	if (child->anchored)
		add_fd(&a, "--anchor-fd", 3);
	add_pair(&a, "--format", "raw");
	if (device->disk.readonly)
		add(&a, "--readonly");
	add(&a, "--queues");
	add(&a, "%u", device->queues);
	add_pair(&a, "--cache", files->direct[i] ? "direct" : "buffered");
	child->argv = a.word;
	child->argc = a.n;
	return a.failed ? -ENOMEM : 0;
}

int plan_fill(struct keeper_plan *plan, const struct vmconf *conf, const struct plan_files *files,
	      const struct rundir *dir)
{
	int err = fill_core(&plan->child[0], conf, files, dir);

	plan->sandbox = conf->sandbox;
	plan->nchildren = KEEPER_INDEX(conf->ndevices, 0);
	for (size_t i = 0; i < conf->ndevices; i++) {
		plan->child[KEEPER_INDEX(i, 0)].connect = conf->device[i].vhost_user;
		for (size_t slot = 0; !err && slot < KEEPER_SLOTS && !conf->device[i].vhost_user; slot++)
			err = fill_server(&plan->child[KEEPER_INDEX(i, slot)], conf, i, slot, files, dir);
	}
	for (size_t i = 0; i < plan->nchildren; i++) {
		plan->child[i].recorder[0] = files->flight[i];
		plan->child[i].recorder[1] = files->flight_reader[i];
	}
	for (size_t i = 0; i < plan->nchildren; i++)
		plan->child[i].uid = plan_uid(conf, i);
	return err;
}

void plan_free(struct keeper_plan *plan)
{
	for (size_t i = 0; i < KEEPER_CHILDREN_MAX; i++) {
		for (char **word = plan->child[i].argv; word && *word; word++)
			free(*word);
		free(plan->child[i].argv);
	}
}
