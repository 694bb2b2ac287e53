/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Growing a disk that is in use.
 *
 * The image comes first, then the size that requests are checked against, then configuration space and the guest: so
 * whoever dies in between leaves an image that is larger than what was told, and a successor opens it as it is. A file grows
 * by having its last block written, which a server may do anyway, so that it needs no right to cut files off.
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

/* What the image has now, whole sectors of it. */
static int image_bytes(struct disk *disk, uint64_t *bytes)
{
	*bytes = disk_bytes(disk);
	if (disk->nbd)
		*bytes = nbd_remembered(disk);
	if (disk->nbd)
		return 0;
	if (disk->owner)
		return disk->serving ? 0 : owner_look(disk->owner, bytes);
	return raw_bytes(disk, bytes);
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

/* The image has so many bytes now, or that can't be found out: the rest of resize_set. */
static int take(struct disk *disk, int err, uint64_t now, const char *value, char *why, size_t size)
{
	uint64_t old = disk_bytes(disk), bytes;
	const char *more = NULL;

	if (err)
		return refuse(err, why, size, "the image's size can't be found out: %s", strerror(-err));
	bytes = now;
	if (strcmp(value, "image") && parse_size(value, &bytes))
		return refuse(-EINVAL, why, size,
			      "\"%s\" is no size: a number with K, M, G or T, or \"image\"", value);
	if (!bytes || bytes % MAX(disk->io_align, SECTOR) || bytes > INT64_MAX)
		return refuse(-EINVAL, why, size, "the size must be a multiple of %u bytes",
			      MAX(disk->io_align, SECTOR));
	if (bytes < old || bytes < now)
		return refuse(-EINVAL, why, size,
			      "a disk in use does not shrink: it has %llu bytes, its image %llu",
			      (unsigned long long)old, (unsigned long long)now);
	if (bytes > now && disk->nbd)
		return refuse(-EINVAL, why, size,
			      "the export has %llu bytes; its server must enlarge it first",
			      (unsigned long long)now);
	if (bytes > now && disk->is_device && !disk->owner)
		return refuse(-EINVAL, why, size, "the device has %llu bytes; it must be enlarged first",
			      (unsigned long long)now);
	if (bytes > now && !disk_takes_writes(disk))
		return refuse(-EROFS, why, size, "the image is only read; it must be enlarged first");
	if (bytes > now)
		err = grow(disk, bytes, &more);
	if (err)
		return refuse(err, why, size, "the image can't be enlarged: %s",
			      more ? more : strerror(-err));
	if (bytes == old)
		return 0;
	announce(disk, bytes);
	return 1;
}

static void on_look(struct disk *disk, int err, uint64_t bytes)
{
	const struct resize *r = &disk->resize;
	char why[160] = "";
	int result = take(disk, err, bytes, r->value, why, sizeof(why));

	r->done(r->arg, result, why);
}

int resize_set(struct disk *disk, const struct resize *what, char *why, size_t size)
{
	uint64_t bytes;
	int err;

	if (!disk->nbd || !disk->serving) {
		err = image_bytes(disk, &bytes);
		return take(disk, err, bytes, what->value, why, size);
	}
	disk->resize = *what;
	err = nbd_look(disk, what->loop, on_look);
	return err ? take(disk, err, 0, what->value, why, size) : -EINPROGRESS;
}

void resize_look(struct disk *disk)
{
	uint64_t bytes = 0;

	if (image_bytes(disk, &bytes) || bytes <= disk_bytes(disk) || bytes % disk->io_align)
		return;
	announce(disk, bytes);
	log_info("image %s has grown to %llu bytes", disk->name, (unsigned long long)bytes);
}
