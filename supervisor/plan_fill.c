/* SPDX-License-Identifier: Apache-2.0 */
/* The options and descriptors of each process of a machine. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"
#include "files.h"
#include "plan.h"

/* ---- words ---- */

#define ARGS_MAX 400 /* most of them are the forwards of a network port */

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
	add_pair(a, "--sandbox", conf->sandbox_log ? "log" : conf->sandbox ? "on" : "off");
	add_pair(a, "--log-level", levels[conf->log_level]);
}

static void add_fixed(struct args *a, struct keeper_child *child, const char *option, int fd)
{
	add_fd(a, option, child->nfixed);
	child->fixed[child->nfixed++] = fd;
}

static int finish(struct keeper_child *child, struct args *a)
{
	child->argv = a->word;
	child->argc = a->n;
	return a->failed ? -ENOMEM : 0;
}

/* What the core is to present; a back end of somebody else's may not know its address. */
static void add_device(struct args *a, const struct vmconf *conf, size_t i)
{
	const struct vmconf_device *device = &conf->device[i];
	char mac[VMCONF_MAC_TEXT] = "", ring[32] = "";
	unsigned before = vmconf_first_ring(conf, i);

	if (before)
		snprintf(ring, sizeof(ring), ",first-ring=%u", before);
	if (device->kind == KIND_NET && device->vhost_user)
		vmconf_mac_text(mac, &device->net);
	add(a, "--device");
	add(a, "%s:%s,hang-timeout=%u%s%s%s", device->id, device->kind == KIND_NET ? "net" : "blk",
	    device->hang_timeout_ms, ring, *mac ? ",mac=" : "", mac);
}

static int fill_core(struct keeper_child *child, const struct vmconf *conf, const struct plan_files *files,
		     const struct rundir *dir)
{
	struct args a = { 0 };

	child->id = "core";
	child->program = files->core;
	add(&a, "%s", files->core);
	add_common(&a, conf, dir, "core", "core");
	add_fixed(&a, child, "--kvm-fd", files->kvm);
	add_fixed(&a, child, "--kernel-fd", files->kernel);
	if (files->initrd >= 0)
		add_fixed(&a, child, "--initrd-fd", files->initrd);
	add_fixed(&a, child, "--flight-fd", files->flight[0]);
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
	for (size_t i = 0; i < conf->ndevices; i++)
		add_device(&a, conf, i);
	if (conf->test_devices)
		add(&a, "--test-devices");
	return finish(child, &a);
}

/* What every server has; then come what is new at each start, and the device's own options. */
static void begin_server(struct args *a, struct keeper_child *child, const struct vmconf *conf,
			 const struct vmconf_device *device, size_t slot, const char *program,
			 const struct rundir *dir)
{
	char folder[RUNDIR_SLOT_MAX];

	child->id = vmconf_process_id(device);
	child->program = program;
	add(a, "%s", program);
	rundir_slot(folder, child->id, slot);
	add_common(a, conf, dir, child->id, folder);
}

static void add_anchor(struct args *a, struct keeper_child *child, const struct vmconf *conf, size_t place)
{
	child->anchored = conf->sandbox;
	if (child->anchored)
		add_fd(a, "--anchor-fd", place);
}

/* The sockets that are made for each start, in their order: the front end's, others, the anchor's. */
static void add_passed(struct args *a, struct keeper_child *child, const struct vmconf *conf,
		       const char *other)
{
	size_t place = child->nfixed;

	add_fd(a, "--vhost-fd", place++);
	if (other)
		add_fd(a, other, place++);
	add_anchor(a, child, conf, place);
}

static void add_disk_limits(struct args *a, struct keeper_child *child, const struct vmconf *conf,
			    const struct vmconf_disk *disk, const struct plan_files *files)
{
	if (*disk->group)
		add_fixed(a, child, "--group-fd", files->group[vmconf_find_group(conf, disk->group)]);
	for (size_t i = 0; i < QUOTA_KEYS; i++) {
		if (!disk->limit[i])
			continue;
		add(a, "--%s", quota_names[i]);
		add(a, "%s", disk->limit[i]);
	}
}

static void add_given(struct args *a, const char *option, const char *value)
{
	if (value)
		add_pair(a, option, value);
}

static void add_threads(struct args *a, const struct vmconf_device *device)
{
	add_given(a, "--io-threads", device->io_threads);
	if (device->poll_max_us == VMCONF_POLL_DEFAULT)
		return;
	add(a, "--poll-max-us");
	add(a, "%u", device->poll_max_us);
}

/* Its queues and who serves them. */
static void add_queues(struct args *a, const struct vmconf_device *device)
{
	add(a, "--queues");
	add(a, "%u", device->queues);
	add_given(a, "--map", device->map);
}

/* "qcow2:fd=6,raw:fd=7": formats as they were given, and descriptors in place of names. */
static void add_backing(struct args *a, struct keeper_child *child, const struct vmconf_disk *disk,
			const int *fd)
{
	char list[32 * VMCONF_BACKING_MAX] = "";
	size_t len = 0;

	for (size_t i = 0; i < disk->backing.n; i++) {
		const char *word = disk->backing.word[i];

		len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%.*sfd=%zu", i ? "," : "",
					(int)(files_backing_path(word) - word), word, child->nfixed + 3);
		child->fixed[child->nfixed++] = fd[i];
	}
	if (disk->backing.n)
		add_pair(a, "--backing", list);
}

/* What is one disk's alone; its front end's socket has the given place. */
static void add_disk(struct args *a, struct keeper_child *child, const struct vmconf *conf, size_t i,
		     const struct plan_files *files, size_t front)
{
	const struct vmconf_device *device = &conf->device[i];

	if (*device->server)
		add_pair(a, "--device", device->id);
	if (device->disk.nbd) {
		add_pair(a, "--nbd", device->disk.nbd);
		add_fixed(a, child, "--dial-fd", files->packet[i][0]);
	} else {
		add_fixed(a, child, "--image-fd", files->image[i]);
	}
	if (device->disk.reconnect_s) {
		add(a, "--reconnect");
		add(a, "%u", device->disk.reconnect_s);
	}
	add_fixed(a, child, "--state-fd", files->state[i]);
	add_disk_limits(a, child, conf, &device->disk, files);
	if (device->disk.on_error)
		add_pair(a, "--on-error", vmconf_on_error_names[device->disk.on_error]);
	add_backing(a, child, &device->disk, files->backing[i]);
	add_fd(a, "--vhost-fd", front);
	add_pair(a, "--format", device->disk.qcow2 ? "qcow2" : "raw");
	if (device->disk.readonly)
		add(a, "--readonly");
	add_queues(a, device);
	if (!device->disk.nbd)
		add_pair(a, "--cache", files->direct[i] ? "direct" : "buffered");
}

/* How many descriptors add_disk has the child get at each start. */
static size_t count_fixed(const struct vmconf_disk *disk)
{
	return 2 + (*disk->group != '\0') + disk->backing.n;
}

static int fill_blk(struct keeper_child *child, const struct vmconf *conf, size_t first, size_t slot,
		    const struct plan_files *files, const struct rundir *dir)
{
	const struct vmconf_device *device = &conf->device[first];
	struct args a = { 0 };
	size_t front = child->nfixed + 1;

	begin_server(&a, child, conf, device, slot, files->blk, dir);
	child->restricted = "--refuse-writes";
	if (device->disk.engine) /* before the first --device: it is all disks' */
		add_pair(&a, "--engine", vmconf_engine_names[device->disk.engine]);
	add_threads(&a, device);
	for (size_t i = first; i < conf->ndevices; i++)
		if (vmconf_leader(conf, i) == first)
			front += count_fixed(&conf->device[i].disk);
	for (size_t i = first; i < conf->ndevices; i++)
		if (vmconf_leader(conf, i) == first)
			add_disk(&a, child, conf, i, files, front++);
	add_fixed(&a, child, "--flight-fd", files->flight[KEEPER_INDEX(first, slot)]);
	add_anchor(&a, child, conf, front);
	return finish(child, &a);
}

/* ---- network ports ---- */

/* "3,4,5": the descriptors of the tap, which are the first ones. */
static void add_tap(struct args *a, struct keeper_child *child, const struct files_tap *tap, unsigned queues)
{
	char list[4 * VMCONF_PAIRS_MAX] = "";
	size_t len = 0;

	for (unsigned i = 0; i < queues; i++) {
		len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%zu", i ? "," : "",
					child->nfixed + 3);
		child->fixed[child->nfixed++] = tap->queue[i];
	}
	add_pair(a, "--tap-fd", list);
}

static void add_limits(struct args *a, const struct vmconf_net *net)
{
	for (size_t i = 0; i < LIMITS; i++) {
		if (!net->limit[i])
			continue;
		add(a, "--%s", vmconf_limit_names[i]);
		add(a, "%s", net->limit[i]);
	}
}

static int fill_net(struct keeper_child *child, const struct vmconf *conf, size_t i, size_t slot,
		    const struct plan_files *files, const struct rundir *dir)
{
	const struct vmconf_device *device = &conf->device[i];
	const struct vmconf_net *net = &device->net;
	char mac[VMCONF_MAC_TEXT];
	unsigned mtu = net->link == LINK_TAP ? files->tap[i].mtu : net->mtu;
	struct args a = { 0 };

	begin_server(&a, child, conf, device, slot, files->net, dir);
	if (net->link == LINK_TAP)
		add_tap(&a, child, &files->tap[i], device->queues);
	else if (net->link == LINK_USER)
		add_fixed(&a, child, "--packet-fd", files->packet[i][0]);
	else if (net->link == LINK_LISTEN)
		add_fixed(&a, child, "--listen-fd", files->listener[i]);
	add_fixed(&a, child, "--flight-fd", files->flight[KEEPER_INDEX(i, slot)]);
	add_fixed(&a, child, "--state-fd", files->state[i]);
	add_passed(&a, child, conf, net->link == LINK_STREAM ? "--stream-fd" : NULL);
	child->connect = net->link == LINK_STREAM ? net->stream : NULL;
	vmconf_mac_text(mac, net);
	add_pair(&a, "--mac", mac);
	if (mtu) {
		add(&a, "--mtu");
		add(&a, "%u", mtu);
	}
	add_threads(&a, device);
	add_queues(&a, device);
	add_limits(&a, net);
	return finish(child, &a);
}

static void add_words(struct args *a, const char *option, const struct vmconf_words *words)
{
	for (size_t i = 0; i < words->n; i++)
		add_pair(a, option, words->word[i]);
}

/* The process with the host's network, behind a port's server. */
static int fill_user(struct keeper_child *child, const struct vmconf *conf, size_t i,
		     const struct plan_files *files, const struct rundir *dir)
{
	const struct vmconf_device *device = &conf->device[i];
	struct args a = { 0 };

	begin_server(&a, child, conf, device, KEEPER_HELPER, files->user, dir);
	child->host_network = true;
	add_fixed(&a, child, "--packet-fd", files->packet[i][1]);
	add_fixed(&a, child, "--flight-fd", files->flight[KEEPER_INDEX(i, KEEPER_HELPER)]);
	if (device->net.mtu) {
		add(&a, "--mtu");
		add(&a, "%u", device->net.mtu);
	}
	add_given(&a, "--net", device->net.subnet);
	add_given(&a, "--dns", device->net.dns);
	add_given(&a, "--ipv6", device->net.ipv6 ? "on" : NULL);
	add_given(&a, "--hostname", device->net.hostname);
	add_words(&a, "--hostfwd", &device->net.forwards);
	if (device->net.restricted)
		add_pair(&a, "--restrict", "on");
	add_words(&a, "--allow", &device->net.allowed);
	return finish(child, &a);
}

/* The process that connects to a disk's NBD server. */
static int fill_dial(struct keeper_child *child, const struct vmconf *conf, size_t i,
		     const struct plan_files *files, const struct rundir *dir)
{
	const struct vmconf_device *device = &conf->device[i];
	struct args a = { 0 };

	begin_server(&a, child, conf, device, KEEPER_HELPER, files->dial, dir);
	child->host_network = true;
	add_fixed(&a, child, "--socket-fd", files->packet[i][1]);
	add_fixed(&a, child, "--flight-fd", files->flight[KEEPER_INDEX(i, KEEPER_HELPER)]);
	add_pair(&a, "--uri", device->disk.nbd);
	return finish(child, &a);
}

/* ---- between a disk's server and the core ---- */

static int fill_window(struct keeper_child *child, const struct vmconf *conf, size_t i, size_t slot,
		       const struct plan_files *files, const struct rundir *dir)
{
	const struct vmconf_device *device = &conf->device[i];
	size_t place = KEEPER_WINDOW + slot;
	struct args a = { 0 };

	begin_server(&a, child, conf, device, place, files->window, dir);
	add_fixed(&a, child, "--flight-fd", files->flight[KEEPER_INDEX(i, place)]);
	/* The order in which device_window.c makes them. */
	add_fd(&a, "--vhost-fd", child->nfixed);
	add_fd(&a, "--server-fd", child->nfixed + 1);
	add(&a, "--size");
	add(&a, "%llu", (unsigned long long)device->disk.window_bytes);
	add_threads(&a, device);
	add_queues(&a, device);
	return finish(child, &a);
}

/* ---- the whole ---- */

static int fill_device(struct keeper_plan *plan, const struct vmconf *conf, size_t i,
		       struct plan_files *files, const struct rundir *dir)
{
	const struct vmconf_device *device = &conf->device[i];
	bool leads = vmconf_leader(conf, i) == i; /* else its server is there already */
	int err = 0;

	plan->child[KEEPER_INDEX(i, 0)].connect = device->vhost_user;
	for (size_t slot = 0; !err && slot < KEEPER_SLOTS && leads && !device->vhost_user; slot++)
		err = (device->kind == KIND_NET ? fill_net : fill_blk)(&plan->child[KEEPER_INDEX(i, slot)],
								       conf, i, slot, files, dir);
	if (!err && vmconf_helper(device))
		err = (device->kind == KIND_NET ? fill_user : fill_dial)(
		    &plan->child[KEEPER_INDEX(i, KEEPER_HELPER)], conf, i, files, dir);
	for (size_t slot = 0; !err && slot < KEEPER_SLOTS && device->disk.window; slot++)
		err = fill_window(&plan->child[KEEPER_INDEX(i, KEEPER_WINDOW + slot)], conf, i, slot, files,
				  dir);
	plan->tap[i] = &files->tap[i];
	plan->listens_at[i] = files->listens_at[i];
	plan->state[i] = files->state[i];
	return err;
}

int plan_fill(struct keeper_plan *plan, const struct vmconf *conf, struct plan_files *files,
	      const struct rundir *dir)
{
	int err = fill_core(&plan->child[0], conf, files, dir);

	plan->sandbox = conf->sandbox;
	plan->nchildren = KEEPER_INDEX(conf->ndevices, 0);
	plan->ndevices = conf->ndevices;
	for (size_t i = 0; !err && i < conf->ndevices; i++)
		err = fill_device(plan, conf, i, files, dir);
	for (size_t i = 0; i < plan->nchildren; i++) {
		plan->child[i].recorder[0] = files->flight[i];
		plan->child[i].recorder[1] = files->flight_reader[i];
	}
	for (size_t i = 0; i < plan->nchildren; i++)
		plan->child[i].uid = plan_uid(conf, i);
	return err;
}

/* ---- control groups ---- */

/* What rlimits count and what they do not (sockets, page tables), beside the guest's memory, which is whose who touches it
 * first. */
#define CGROUP_MEMORY ((1ULL << 30) + (128ULL << 20))
#define CGROUP_TASKS  256
#define CGROUP_WEIGHT 100 /* the kernel's default */

static int add_cgroup(struct keeper_plan *plan, const struct vmconf *conf, size_t i,
		      struct vmconf_error *error)
{
	bool core = i == 0;
	size_t device = core ? 0 : (i - 1) / KEEPER_PLACES, slot = core ? 0 : (i - 1) % KEEPER_PLACES;
	const struct vmconf_disk *disk = &conf->device[device].disk;
	bool sees_guest = slot >= KEEPER_WINDOW || (slot < KEEPER_SLOTS && (core || !disk->window));
	struct cgroup_limits limits = {
		.memory = CGROUP_MEMORY + (sees_guest ? conf->memory : 0) + (core ? 0 : disk->window_bytes),
		.tasks = CGROUP_TASKS,
		.weight = core ? CGROUP_WEIGHT * conf->cpus : CGROUP_WEIGHT,
	};
	char id[RUNDIR_SLOT_MAX];

	rundir_slot(id, core ? "core" : vmconf_process_id(&conf->device[device]), slot);
	return cgroup_add(plan->cgroup, id, &limits, &plan->child[i].cgroup, error);
}

int plan_cgroups(struct keeper_plan *plan, const struct vmconf *conf, struct vmconf_error *error)
{
	if (cgroup_make(conf, plan->cgroup, error))
		return -EINVAL;
	for (size_t i = 0; plan->cgroup->path && i < plan->nchildren; i++)
		if (plan->child[i].program && add_cgroup(plan, conf, i, error))
			return -EINVAL;
	return 0;
}

void plan_free(struct keeper_plan *plan)
{
	for (size_t i = 0; i < KEEPER_CHILDREN_MAX; i++) {
		for (char **word = plan->child[i].argv; word && *word; word++)
			free(*word);
		free(plan->child[i].argv);
		free(plan->child[i].cgroup);
	}
}
