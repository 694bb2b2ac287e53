/* SPDX-License-Identifier: Apache-2.0 */
/* What is to be started for a machine, and with which files. */
#include "plan.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clean.h"
#include "files.h"
#include "flight.h"
#include "num.h"
#include "state.h"

/*
 * Outer user ids of children that root starts: a machine's name chooses one of 65536 slots of 256 ids above this
 * base, far above what distributions and containers hand out, so that children of two machines share an id
 * only by a collision of their names.
 */
#define UID_BASE  0x6b000000U
#define UID_SLOTS 65536U
#define UID_STEP  256U

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

/* What the successors of a server are to know. */
static int make_state(const struct vmconf_device *device, struct plan_files *files, size_t i,
		      struct vmconf_error *error)
{
	files->state[i] = state_create();
	if (files->state[i] < 0)
		return vmconf_refuse(error, "--%s: no memory for the state of %s: %s",
				     vmconf_kind_name(device->kind), device->id, strerror(-files->state[i]));
	return 0;
}

/* A device's server and the process with the host's network. */
static int join(const struct vmconf_device *device, struct plan_files *files, size_t i,
		struct vmconf_error *error)
{
	if (!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, files->packet[i]))
		return 0;
	return vmconf_refuse(error, "--%s: id=\"%s\": no sockets: %s", vmconf_kind_name(device->kind),
			     device->id, strerror(errno));
}

static int open_disk(const struct vmconf *conf, size_t i, struct plan_files *files,
		     struct vmconf_error *error)
{
	struct vmconf_error why;

	if (conf->device[i].disk.nbd)
		return join(&conf->device[i], files, i, error) ||
			       make_state(&conf->device[i], files, i, error)
			   ? -EINVAL
			   : 0;
	if (check_twice(conf, i, error))
		return -EINVAL;
	files->image[i] = files_open_image(&conf->device[i].disk, &files->direct[i], &why);
	if (files->image[i] < 0)
		return vmconf_refuse(error, "--disk: %s", why.text);
	for (size_t j = 0; j < conf->device[i].disk.backing.n; j++) {
		files->backing[i][j] = files_open_backing(conf->device[i].disk.backing.word[j], &why);
		if (files->backing[i][j] < 0)
			return vmconf_refuse(error, "--disk: %s", why.text);
	}
	return make_state(&conf->device[i], files, i, error);
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
	return conf->device[i].kind == KIND_DISK ? open_disk(conf, i, files, error) : 0;
}

/* ---- networks ---- */

/* A connection just to try it would be the one that the peer takes. */
static int check_stream(const struct vmconf_device *port, struct vmconf_error *error)
{
	const char *path = port->net.stream;
	struct stat st;
	int err = stat(path, &st) ? errno : 0;

	if (!err && S_ISSOCK(st.st_mode))
		return 0;
	return vmconf_refuse(
	    error, "--net: id=\"%s\": stream=\"%s\": %s; a socket on which a peer listens is needed",
	    port->id, path, err ? strerror(err) : "no socket");
}

static int open_listener(const struct vmconf_device *port, struct plan_files *files, size_t i,
			 struct vmconf_error *error)
{
	int fd = files_listen(port->net.stream);

	files->listener[i] = fd < 0 ? -1 : fd;
	if (fd < 0)
		return vmconf_refuse(error,
				     "--net: id=\"%s\": listen=\"%s\" can't be made: %s; a path where "
				     "nothing is yet is needed",
				     port->id, port->net.stream, strerror(-fd));
	files->listens_at[i] = port->net.stream;
	return 0;
}

/* The ports that net-user will listen on; what is in use is better told of before it starts. */
static int try_forwards(const struct vmconf_device *port, struct vmconf_error *error)
{
	const struct vmconf_words *forwards = &port->net.forwards;
	struct usernet_forward forward;

	for (size_t i = 0; i < forwards->n; i++) {
		int err = usernet_parse_forward(forwards->word[i], &forward);

		if (!err)
			err = files_try_port(&forward);
		if (err)
			return vmconf_refuse(error,
					     "--net: id=\"%s\": hostfwd=\"%s\": this host's port can't be "
					     "had: %s",
					     port->id, forwards->word[i], strerror(-err));
	}
	return 0;
}

/* What the server of a port and whoever is behind it are joined by, and what a successor is to know. */
static int open_net(const struct vmconf_device *port, struct plan_files *files, size_t i,
		    struct vmconf_error *error)
{
	struct vmconf_error why;

	if (port->vhost_user)
		return 0;
	if (make_state(port, files, i, error))
		return -EINVAL;
	if (port->net.link == LINK_STREAM && check_stream(port, error))
		return -EINVAL;
	if (port->net.link == LINK_LISTEN && open_listener(port, files, i, error))
		return -EINVAL;
	if (port->net.link == LINK_TAP && files_open_tap(port, &files->tap[i], &why))
		return vmconf_refuse(error, "--net: id=\"%s\": %s", port->id, why.text);
	if (port->net.link != LINK_USER)
		return 0;
	return try_forwards(port, error) ? -EINVAL : join(port, files, i, error);
}

int plan_open_nets(const struct vmconf *conf, struct plan_files *files, struct vmconf_error *error)
{
	for (size_t i = 0; i < conf->ndevices; i++)
		if (conf->device[i].kind == KIND_NET && open_net(&conf->device[i], files, i, error))
			return -EINVAL;
	return 0;
}

/* ---- recorders ---- */

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
	const struct vmconf_device *device = &conf->device[i];
	unsigned rings = *device->server ? device->placing.queues : vmconf_rings(device);
	int err = 0;

	if (vmconf_leader(conf, i) != i)
		return 0; /* its server has them */
	for (size_t slot = 0; slot < KEEPER_SLOTS && !device->vhost_user && !err; slot++)
		err = make_recorder(files, KEEPER_INDEX(i, slot), rings, error);
	if (!err && vmconf_helper(device))
		err = make_recorder(files, KEEPER_INDEX(i, KEEPER_HELPER), 0, error);
	for (size_t slot = 0; slot < KEEPER_SLOTS && device->disk.window && !err; slot++)
		err = make_recorder(files, KEEPER_INDEX(i, KEEPER_WINDOW + slot), rings, error);
	return err;
}

/* The limits of groups of disks, which no process of them owns. */
static int make_groups(const struct vmconf *conf, struct plan_files *files, struct vmconf_error *error)
{
	for (size_t i = 0; i < conf->ngroups; i++) {
		struct state *state = NULL;
		int err;

		files->group[i] = state_create();
		err = files->group[i] < 0 ? files->group[i] : state_map(files->group[i], &state);
		if (err)
			return vmconf_refuse(error, "--limit-group: no memory for \"%s\": %s",
					     conf->group[i].id, strerror(-err));
		quota_init(state_words(state), conf->group[i].limit);
		state_free(state);
	}
	return 0;
}

/* The programs that the devices need. */
static int find_programs(const struct vmconf *conf, struct plan_files *files, struct vmconf_error *error)
{
	if (find_program("vmm-core", &files->core, error))
		return -EINVAL;
	for (size_t i = 0; i < conf->ndevices; i++) {
		const struct vmconf_device *device = &conf->device[i];

		if (device->vhost_user)
			continue;
		if (device->kind == KIND_DISK && !files->blk &&
		    find_program("blk-server", &files->blk, error))
			return -EINVAL;
		if (device->kind == KIND_NET && !files->net && find_program("net-server", &files->net, error))
			return -EINVAL;
		if (device->net.link == LINK_USER && !files->user &&
		    find_program("net-user", &files->user, error))
			return -EINVAL;
		if (device->disk.nbd && !files->dial && find_program("nbd-dial", &files->dial, error))
			return -EINVAL;
		if (device->disk.window && !files->window && find_program("window", &files->window, error))
			return -EINVAL;
	}
	return 0;
}

int plan_open(const struct vmconf *conf, struct plan_files *files, struct vmconf_error *error)
{
	struct vmconf_error why;

	*files = (struct plan_files) { .kvm = -1, .kernel = -1, .initrd = -1 };
	for (size_t i = 0; i < VMCONF_DEVICES_MAX; i++) {
		files->image[i] = files->state[i] = files->listener[i] = files->packet[i][0] =
		    files->packet[i][1] = -1;
		files->tap[i] = FILES_NO_TAP;
		for (size_t j = 0; j < VMCONF_BACKING_MAX; j++)
			files->backing[i][j] = -1;
	}
	for (size_t i = 0; i < VMCONF_GROUPS_MAX; i++)
		files->group[i] = -1;
	for (size_t i = 0; i < KEEPER_CHILDREN_MAX; i++)
		files->flight[i] = files->flight_reader[i] = -1;
	if (cgroup_check(conf, error))
		return -EINVAL;
	files->kernel = files_open_kernel(conf->kernel, &why);
	if (files->kernel < 0)
		return vmconf_refuse(error, "--kernel: %s", why.text);
	if (conf->initrd) {
		files->initrd = files_open(conf->initrd, &why);
		if (files->initrd < 0)
			return vmconf_refuse(error, "--initrd: %s", why.text);
	}
	if (make_recorder(files, 0, 0, error) || make_groups(conf, files, error))
		return -EINVAL;
	for (size_t i = 0; i < conf->ndevices; i++)
		if (open_device(conf, i, files, error) || make_recorders(conf, i, files, error))
			return -EINVAL;
	files->kvm = files_open_kvm(error);
	if (files->kvm < 0)
		return -EINVAL;
	return find_programs(conf, files, error);
}

void plan_undo(const struct plan_files *files)
{
	for (size_t i = 0; i < VMCONF_DEVICES_MAX; i++) {
		files_leave_bridge(&files->tap[i]);
		if (files->listens_at[i])
			unlink(files->listens_at[i]);
	}
}

void plan_close_nets(struct plan_files *files)
{
	for (size_t i = 0; i < VMCONF_DEVICES_MAX; i++) {
		clean_fd(&files->listener[i]);
		clean_fd(&files->packet[i][0]);
		clean_fd(&files->packet[i][1]);
		files->listener[i] = files->packet[i][0] = files->packet[i][1] = -1;
		files_close_tap(&files->tap[i]);
	}
}

void plan_close(struct plan_files *files)
{
	clean_fd(&files->kvm);
	clean_fd(&files->kernel);
	clean_fd(&files->initrd);
	for (size_t i = 0; i < VMCONF_DEVICES_MAX; i++) {
		clean_fd(&files->image[i]);
		for (size_t j = 0; j < VMCONF_BACKING_MAX; j++)
			clean_fd(&files->backing[i][j]);
		clean_fd(&files->state[i]);
	}
	for (size_t i = 0; i < VMCONF_GROUPS_MAX; i++)
		clean_fd(&files->group[i]);
	plan_close_nets(files);
	for (size_t i = 0; i < KEEPER_CHILDREN_MAX; i++) {
		clean_fd(&files->flight[i]);
		clean_fd(&files->flight_reader[i]);
	}
	free(files->core);
	free(files->blk);
	free(files->net);
	free(files->user);
	free(files->dial);
	free(files->window);
}
