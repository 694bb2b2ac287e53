/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Growing a disk that is in use.
 *
 * The image comes first, then the size that requests are checked against, then configuration space and the guest: so
 * whoever dies in between leaves an image that is larger than what was told, and a successor opens it as it is. A file grows
 * by having its last block written, which a server may do anyway, so that it needs no right to cut files off.
 *
 * While the disk is served a worker looks at the image and enlarges it, since its storage may take its time and whoever
 * asks the main loop for a sign of life has none. Before, configuration space can't be told without a look at the image either.
 */
#include "resize.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "disk.h"
#include "fd.h"
#include "log.h"
#include "nbd.h"
#include "num.h"
#include "owner.h"
#include "parse.h"

#define BLOCK_MAX 4096

static const uint8_t zeroes[BLOCK_MAX] __attribute__((aligned(BLOCK_MAX)));

__attribute__((format(printf, 4, 5))) static int refuse(int err, char *why, size_t size, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, size, fmt, ap);
	va_end(ap);
	return err;
}

static int raw_bytes(const struct disk *disk, uint64_t *bytes)
{
	off_t end = lseek(disk->fd, 0, SEEK_END);

	if (end < 0)
		return -errno;
	*bytes = num_align_down((uint64_t)end, SECTOR);
	return 0;
}

/* What the image has now, whole sectors of it, while nobody is served. */
static int image_bytes(struct disk *disk, uint64_t *bytes)
{
	*bytes = disk_bytes(disk);
	if (disk->nbd)
		*bytes = nbd_remembered(disk);
	if (disk->nbd)
		return 0;
	return disk->owner ? owner_look(disk->owner, bytes) : raw_bytes(disk, bytes);
}

static void announce(struct disk *disk, uint64_t bytes)
{
	if (disk->nbd)
		nbd_set_bytes(disk, bytes);
	atomic_store_explicit(&disk->bytes, bytes, memory_order_release);
	disk->config.capacity = bytes / SECTOR;
}

/* Makes the file longer: nothing that the guest has is in its last block. */
static int grow(const struct disk *disk, uint64_t bytes, const char **why)
{
	uint32_t block = MAX(disk->io_align, SECTOR);

	if (disk->owner)
		return owner_resize(disk->owner, bytes, why);
	return fd_pwrite_full(disk->fd, zeroes, block, (off_t)(bytes - block));
}

/* The image has so many bytes now, or that can't be found out: has it grow if it must. 1 and *bytes for the disk, or what
 * resize_set returns. Blocks; any one thread. */
static int take(struct disk *disk, int err, uint64_t now, const char *value, uint64_t *bytes, char *why,
		size_t size)
{
	uint64_t old = disk_bytes(disk), wanted = now;
	const char *more = NULL;

	if (err)
		return refuse(err, why, size, "the image's size can't be found out: %s", strerror(-err));
	if (strcmp(value, "image") && parse_size(value, &wanted))
		return refuse(-EINVAL, why, size,
			      "\"%s\" is no size: a number with K, M, G or T, or \"image\"", value);
	if (!wanted || wanted % MAX(disk->io_align, SECTOR) || wanted > INT64_MAX)
		return refuse(-EINVAL, why, size, "the size must be a multiple of %u bytes",
			      MAX(disk->io_align, SECTOR));
	if (wanted < old || wanted < now)
		return refuse(-EINVAL, why, size,
			      "a disk in use does not shrink: it has %llu bytes, its image %llu",
			      (unsigned long long)old, (unsigned long long)now);
	if (wanted > now && disk->nbd)
		return refuse(-EINVAL, why, size,
			      "the export has %llu bytes; its server must enlarge it first",
			      (unsigned long long)now);
	if (wanted > now && disk->is_device && !disk->owner)
		return refuse(-EINVAL, why, size, "the device has %llu bytes; it must be enlarged first",
			      (unsigned long long)now);
	if (wanted > now && !disk_takes_writes(disk))
		return refuse(-EROFS, why, size, "the image is only read; it must be enlarged first");
	if (wanted > now)
		err = grow(disk, wanted, &more);
	if (err)
		return refuse(err, why, size, "the image can't be enlarged: %s",
			      more ? more : strerror(-err));
	*bytes = wanted;
	return wanted != old;
}

/* ---- while the disk is served ---- */

/* On a worker: storage may take its time over each of these calls. */
static void work(void *arg)
{
	struct disk *disk = arg;
	struct resize *r = &disk->resize;
	uint64_t now = disk_bytes(disk);
	int err = disk->owner ? 0 : raw_bytes(disk, &now);

	r->result = take(disk, err, now, r->value, &r->bytes, r->why, sizeof(r->why));
}

/* Back on the main loop. */
static void finish(void *arg)
{
	struct disk *disk = arg;
	struct resize *r = &disk->resize;

	r->busy = false;
	if (r->result > 0)
		announce(disk, r->bytes);
	r->done(r->arg, r->result, r->why);
}

static void on_look(struct disk *disk, int err, uint64_t bytes)
{
	struct resize *r = &disk->resize;

	r->result = take(disk, err, bytes, r->value, &r->bytes, r->why, sizeof(r->why));
	finish(disk);
}

static int begin(struct disk *disk, const struct resize *what)
{
	struct resize *r = &disk->resize;
	int err = 0;

	*r = *what;
	r->job = (struct loop_job) { .work = work, .done = finish, .arg = disk };
	r->why[0] = '\0';
	if (disk->nbd)
		err = nbd_look(disk, r->loop, on_look);
	else
		loop_pool_submit(r->pool, r->loop, &r->job);
	r->busy = !err;
	return err;
}

int resize_set(struct disk *disk, const struct resize *what, char *why, size_t size)
{
	uint64_t now = 0, bytes = 0;
	int err, result;

	if (disk->resize.busy)
		return refuse(-EBUSY, why, size, "it is being resized already");
	err = disk->serving ? begin(disk, what) : image_bytes(disk, &now);
	if (!err && disk->serving)
		return -EINPROGRESS;
	result = take(disk, err, now, what->value, &bytes, why, size);
	if (result > 0)
		announce(disk, bytes);
	return result;
}

void resize_look(struct disk *disk)
{
	uint64_t bytes = 0;

	if (image_bytes(disk, &bytes) || bytes <= disk_bytes(disk) || bytes % disk->io_align)
		return;
	announce(disk, bytes);
	log_info("image %s has grown to %llu bytes", disk->name, (unsigned long long)bytes);
}
