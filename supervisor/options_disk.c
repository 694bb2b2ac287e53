/* SPDX-License-Identifier: Apache-2.0 */
/* What --disk takes. */
#include <string.h>

#include "nbd_uri.h"
#include "options_priv.h"
#include "parse.h"

/* As window has them: for each queue, and of all. */
#define WINDOW_MIN     (2ULL << 20)
#define WINDOW_MAX     (4ULL << 30)
#define WINDOW_DEFAULT (64ULL << 20)

static int disk_path(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	return options_keep(&device->disk.path, value, error);
}

static int disk_nbd(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	struct nbd_uri uri;
	const char *why;

	if (nbd_uri_parse(value, &uri, &why))
		return vmconf_refuse(error, "nbd=\"%s\" is not possible: %s; allowed: " NBD_URI_FORM, value,
				     why);
	return options_keep(&device->disk.nbd, value, error);
}

static int disk_reconnect(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	uint64_t seconds;

	if (parse_u64(value, 1, 86400, &seconds))
		return vmconf_refuse(error, "reconnect=\"%s\" is not possible; allowed: 1 to 86400 seconds",
				     value);
	device->disk.reconnect_s = (unsigned)seconds;
	return 0;
}

static int disk_format(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	if (options_choice(value, "raw", "qcow2", &device->disk.qcow2, error))
		return vmconf_refuse(error, "format=\"%s\" is not possible; allowed: raw, qcow2", value);
	device->disk.format_said = true;
	return 0;
}

static int disk_backing(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	struct vmconf_words *backing = &device->disk.backing;
	int err;

	if (backing->n == VMCONF_BACKING_MAX)
		return vmconf_refuse(error, "backing is given more than %d times", VMCONF_BACKING_MAX);
	err = options_keep(&backing->word[backing->n], value, error);
	backing->n += !err;
	return err;
}

static int disk_readonly(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	int on = parse_on_off(value);

	if (on < 0)
		return vmconf_refuse(error, "readonly=\"%s\" is not possible; allowed: on, off", value);
	device->disk.readonly = on;
	return 0;
}

static int disk_cache(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	bool buffered;

	if (options_choice(value, "direct", "buffered", &buffered, error))
		return vmconf_refuse(error, "cache=\"%s\" is not possible; allowed: direct, buffered", value);
	device->disk.cache = buffered ? CACHE_BUFFERED : CACHE_DIRECT;
	return 0;
}

static int disk_engine(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	for (size_t i = 0; i < ENGINES; i++)
		if (!strcmp(value, vmconf_engine_names[i])) {
			device->disk.engine = (enum vmconf_engine)i;
			return 0;
		}
	return vmconf_refuse(error, "engine=\"%s\" is not possible; allowed: aio, io_uring, null", value);
}

static int disk_on_error(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	for (size_t i = ERROR_REPORT; i <= ERROR_RETRY; i++)
		if (!strcmp(value, vmconf_on_error_names[i])) {
			device->disk.on_error = (enum vmconf_on_error)i;
			return 0;
		}
	return vmconf_refuse(error, "on-error=\"%s\" is not possible; allowed: report, stop, enospc, retry",
			     value);
}

static int disk_memory(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	if (options_choice(value, "all", "window", &device->disk.window, error))
		return vmconf_refuse(error, "memory=\"%s\" is not possible; allowed: all, window", value);
	return 0;
}

static int disk_window(struct vmconf_device *device, const char *value, struct vmconf_error *error)
{
	uint64_t *bytes = &device->disk.window_bytes;

	if (parse_size(value, bytes) || *bytes < WINDOW_MIN || *bytes > WINDOW_MAX)
		return vmconf_refuse(error, "window=\"%s\" is not a size from 2M to 4G", value);
	return 0;
}

static const struct options_key keys[] = {
	{ .key = "path", .parse = disk_path, .own = true },
	{ .key = "id", .parse = options_id },
	{ .key = "server", .parse = options_server, .own = true },
	{ .key = "nbd", .parse = disk_nbd, .own = true },
	{ .key = "reconnect", .parse = disk_reconnect, .own = true },
	{ .key = "format", .parse = disk_format, .own = true },
	{ .key = "backing", .parse = disk_backing, .own = true, .repeats = true },
	{ .key = "readonly", .parse = disk_readonly, .own = true },
	{ .key = "queues", .parse = options_queues, .own = true },
	{ .key = "io-threads",
	  .parse = options_io_threads,
	  .own = true,
	  .list = true,
	  .common = COMMON_IO_THREADS },
	{ .key = "map", .parse = options_map, .own = true, .list = true },
	{ .key = "poll-max-us", .parse = options_poll_max, .own = true, .common = COMMON_POLL_MAX },
	{ .key = "cache", .parse = disk_cache, .own = true },
	{ .key = "engine", .parse = disk_engine, .own = true, .common = COMMON_ENGINE },
	{ .key = "on-error", .parse = disk_on_error, .own = true },
	{ .key = "memory", .parse = disk_memory, .own = true },
	{ .key = "window", .parse = disk_window, .own = true },
	{ .key = "bps", .parse = options_bps, .own = true },
	{ .key = "iops", .parse = options_iops, .own = true },
	{ .key = "bps-burst", .parse = options_bps_burst, .own = true },
	{ .key = "iops-burst", .parse = options_iops_burst, .own = true },
	{ .key = "group", .parse = options_group, .own = true },
	{ .key = "spare", .parse = options_spare, .own = true, .common = COMMON_SPARE },
	{ .key = "restarts", .parse = options_device_restarts, .common = COMMON_RESTARTS },
	{ .key = "on-failure", .parse = options_on_failure, .common = COMMON_ON_FAILURE },
	{ .key = "hang-timeout", .parse = options_hang_timeout, .own = true },
	{ .key = "vhost-user", .parse = options_vhost_user },
	{ .key = NULL },
};

static const struct options_kind kind = {
	.name = "disk",
	.form = "path=FILE[,KEY=VALUE...] or nbd=URI[,KEY=VALUE...]",
	.bare = "an image is path=",
	.beside = "id, restarts, on-failure",
	.keys = keys,
};

/* What an export is made of, and how it is cached, is its server's affair. */
static int check_nbd(const struct vmconf_disk *disk, struct vmconf_error *error)
{
	if (disk->reconnect_s && !disk->nbd)
		return vmconf_refuse(error, "reconnect=\"%u\" goes with nbd only", disk->reconnect_s);
	if (!disk->nbd)
		return 0;
	if (disk->path)
		return vmconf_refuse(error, "path=\"%s\" does not go with nbd", disk->path);
	if (disk->qcow2 || disk->backing.n || disk->cache != CACHE_DEFAULT || disk->engine)
		return vmconf_refuse(error, "format, backing, cache and engine do not go with nbd: they are "
					    "for files");
	return 0;
}

/* Disks that share a server would have one window each, and be as near to each other as ever. */
static int check_window(const struct vmconf_device *device, struct vmconf_error *error)
{
	const struct vmconf_disk *disk = &device->disk;

	if (disk->window_bytes && !disk->window)
		return vmconf_refuse(error, "window=\"%lluM\" goes with memory=window only",
				     (unsigned long long)disk->window_bytes >> 20);
	if (!disk->window)
		return 0;
	if (*device->server)
		return vmconf_refuse(error, "memory=\"window\" does not go with server");
	if (device->queues * WINDOW_MIN > disk->window_bytes)
		return vmconf_refuse(error, "window is too small for %u queues; allowed: at least %lluM",
				     device->queues, (unsigned long long)(device->queues * WINDOW_MIN) >> 20);
	return 0;
}

int options_check_engine(const struct vmconf_disk *disk, struct vmconf_error *error)
{
	if (disk->engine == ENGINE_NULL && disk->qcow2)
		return vmconf_refuse(error, "engine=null goes with format=raw only");
	return 0;
}

int options_disk(struct vmconf_device *device, char *value, struct vmconf_error *error)
{
	bool given[OPTIONS_KEYS_MAX] = { false };
	int err = options_device(device, &kind, value, given, error);

	if (err)
		return err;
	if (!device->disk.path && !device->disk.nbd && !device->vhost_user)
		return vmconf_refuse(error, "names no image; allowed: path=FILE[,KEY=VALUE...], "
					    "nbd=URI[,KEY=VALUE...] or vhost-user=SOCKET");
	err = check_nbd(&device->disk, error);
	if (err)
		return err;
	if (device->disk.backing.n && !device->disk.qcow2)
		return vmconf_refuse(error, "backing=\"%s\" goes with format=qcow2 only",
				     device->disk.backing.word[0]);
	if (device->disk.window && !device->disk.window_bytes)
		device->disk.window_bytes = WINDOW_DEFAULT;
	err = options_check_engine(&device->disk, error);
	if (!err)
		err = check_window(device, error);
	if (err)
		return err;
	if (device->vhost_user && device->on_failure == FAILURE_READ_ONLY)
		return vmconf_refuse(error, "on-failure=\"read-only\" does not go with vhost-user; allowed: "
					    "quarantine, needs-reset, stop");
	return *device->server ? 0 : options_place(device, error);
}
