/* SPDX-License-Identifier: Apache-2.0 */
/* What blk-server can be told to serve, and how. */
#include <errno.h>
#include <string.h>

#include "blk.h"
#include "config.h"
#include "nbd_uri.h"
#include "num.h"
#include "parse.h"

static int set_image(void *dev, const char *value)
{
	((struct blk *)dev)->disk.image = value;
	return *value ? 0 : -EINVAL;
}

static int set_image_fd(void *dev, const char *value)
{
	return option_fd(value, &((struct blk *)dev)->disk.image_fd);
}

static int set_nbd(void *dev, const char *value)
{
	struct nbd_uri uri;
	const char *why;

	((struct blk *)dev)->disk.nbd_options.uri = value;
#ifdef HAVE_LIBNBD
	blk_use_engine(dev, &engine_nbd);
#endif
	return nbd_uri_parse(value, &uri, &why);
}

static int set_dial_fd(void *dev, const char *value)
{
	return option_fd(value, &((struct blk *)dev)->disk.nbd_options.dial_fd);
}

static int set_reconnect(void *dev, const char *value)
{
	return option_number(value, 1, 86400, &((struct blk *)dev)->disk.nbd_options.reconnect_s);
}

static int set_format(void *dev, const char *value)
{
	((struct blk *)dev)->disk.qcow2 = !strcmp(value, "qcow2");
	return strcmp(value, "qcow2") && strcmp(value, "raw") ? -EINVAL : 0;
}

/* [FORMAT:]FILE or [FORMAT:]fd=N. */
static int add_backing(struct disk *disk, const char *value)
{
	const char *what = value;
	unsigned i = disk->nbacking;

	if (i == ARRAY_SIZE(disk->backing))
		return -E2BIG;
	if (!strncmp(value, "raw:", 4) || !strncmp(value, "qcow2:", 6))
		what = strchr(value, ':') + 1;
	disk->backing[i] = value;
	disk->backing_fd[i] = -1;
	disk->nbacking++;
	if (!strncmp(what, "fd=", 3))
		return option_fd(what + 3, &disk->backing_fd[i]);
	return *what ? 0 : -EINVAL;
}

static int set_backing(void *dev, const char *value)
{
	char *list = strdup(value), *next; /* kept, as names are */
	int err = list ? 0 : -ENOMEM;

	while (!err && (next = strsep(&list, ",")))
		err = add_backing(&((struct blk *)dev)->disk, next);
	return err;
}

static int set_table_cache(void *dev, const char *value)
{
	uint64_t bytes;
	int err = parse_size(value, &bytes);

	((struct blk *)dev)->disk.cache_bytes = err ? 0 : bytes;
	return err || !bytes || bytes > 1U << 30 ? -EINVAL : 0;
}

static int set_readonly(void *dev, const char *value)
{
	(void)value;
	((struct blk *)dev)->disk.readonly = true;
	return 0;
}

static int set_refuse_writes(void *dev, const char *value)
{
	(void)dev;
	(void)value;
	blk_refuse_writes = true;
	return 0;
}

static int set_cache(void *dev, const char *value)
{
	((struct blk *)dev)->disk.buffered = !strcmp(value, "buffered");
	return strcmp(value, "buffered") && strcmp(value, "direct") ? -EINVAL : 0;
}

static int set_engine(void *dev, const char *value)
{
	const struct engine_ops *engine = engine_find(value);

	if (engine)
		blk_use_engine(dev, engine);
	return engine ? 0 : -EINVAL;
}

static int set_on_error(void *dev, const char *value)
{
	return onerror_parse(value, &((struct blk *)dev)->disk.on_error);
}

static int set_limit(void *dev, enum quota_key key, const char *value)
{
	return throttle_parse(&((struct blk *)dev)->disk.throttle, key, value);
}

static int set_bps(void *dev, const char *value)
{
	return set_limit(dev, QUOTA_BPS, value);
}

static int set_iops(void *dev, const char *value)
{
	return set_limit(dev, QUOTA_IOPS, value);
}

static int set_bps_burst(void *dev, const char *value)
{
	return set_limit(dev, QUOTA_BPS_BURST, value);
}

static int set_iops_burst(void *dev, const char *value)
{
	return set_limit(dev, QUOTA_IOPS_BURST, value);
}

static int set_group_fd(void *dev, const char *value)
{
	return option_fd(value, &((struct blk *)dev)->disk.throttle.group_fd);
}

#define RATE_ALLOWED  "a number up to 1T, with K, M, G or T, or 0 for no limit"
#define BURST_ALLOWED "a number up to 4G, with K, M or G, or 0 for what passes in 100 ms"

const struct server_option blk_options[] = {
	{ "image", "FILE", "Serve this disk image or block device.", "a file", set_image },
	{ "image-fd", "N", "Serve this inherited descriptor, locked already, instead.",
	  "a descriptor from 3 to 1023", set_image_fd },
	{ "nbd", "URI", "Serve this export of an NBD server instead.", NBD_URI_FORM, set_nbd },
	{ "dial-fd", "N", "Have nbd-dial at the other end of this inherited socket connect to it.",
	  "a descriptor from 3 to 1023", set_dial_fd },
	{ "reconnect", "SECONDS", "Let requests fail after so long without a connection to it (30).",
	  "a number from 1 to 86400", set_reconnect },
	{ "format", "FORMAT", "Format of the image, raw or qcow2; never guessed (raw).", "raw or qcow2",
	  set_format },
	{ "backing", "FILES", "Allow these backing files, nearest first: [raw:|qcow2:]FILE,...",
	  "up to seven files, with commas between", set_backing },
	{ "table-cache", "SIZE", "Memory for a qcow2 image's tables (4M).", "a size up to 1G",
	  set_table_cache },
	{ "readonly", NULL, "Refuse to write.", NULL, set_readonly },
	{ "refuse-writes", NULL, "Answer writes with an error, on disks that offer them; on all.", NULL,
	  set_refuse_writes },
	{ "cache", "MODE", "Go past the page cache (direct) or through it (buffered).", "direct or buffered",
	  set_cache },
	{ "engine", "ENGINE", "How the image is read and written (aio).", ENGINE_NAMES, set_engine },
	{ "on-error", "POLICY", "What becomes of a request that the host refuses (report).",
	  "report, stop, enospc or retry", set_on_error },
	{ "bps", "RATE", "Let so many bytes through in a second (no limit).", RATE_ALLOWED, set_bps },
	{ "iops", "RATE", "Let so many requests through in a second (no limit).", RATE_ALLOWED, set_iops },
	{ "bps-burst", "SIZE", "... and so many bytes at once (100 ms' worth).", BURST_ALLOWED,
	  set_bps_burst },
	{ "iops-burst", "N", "... and so many requests at once (100 ms' worth).", BURST_ALLOWED,
	  set_iops_burst },
	{ "group-fd", "N", "Share the limits in this inherited memory with others, too.",
	  "a descriptor from 3 to 1023", set_group_fd },
	{ .name = NULL },
};
