/* SPDX-License-Identifier: Apache-2.0 */
/* A qcow2 image's files. */
#include "chain.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crash.h"
#include "disk.h"
#include "log.h"

/* Opening an image may take long, if it must be repaired: it ends here when somebody is in a hurry. */
static bool is_called_off(const struct chain *c)
{
	return c->opening && atomic_load(&c->hurry);
}

static int file_sync(void *arg)
{
	struct chain *c = arg;
	int err;

	CRASH_POINT("qcow2 flush before");
	err = disk_flush(c->disk);
	CRASH_POINT("qcow2 flush after");
	return err;
}

static int64_t file_read(void *arg, void *buf, size_t len, uint64_t off)
{
	struct chain *c = arg;

	return is_called_off(c) ? -ECANCELED : qcow2_fd_ops.read(c->fd, buf, len, off);
}

static int file_write(void *arg, const void *buf, size_t len, uint64_t off)
{
	int err;

	CRASH_POINT("qcow2 write before");
	err = qcow2_fd_ops.write(((struct chain *)arg)->fd, buf, len, off);
	CRASH_POINT("qcow2 write after");
	return err;
}

static int file_zero(void *arg, uint64_t off, uint64_t len)
{
	return qcow2_fd_ops.zero(((struct chain *)arg)->fd, off, len);
}

static int file_size(void *arg, uint64_t *bytes)
{
	return qcow2_fd_ops.size(((struct chain *)arg)->fd, bytes);
}

/* The image's own file: a flush of it that failed once fails for ever, whoever makes it. */
static const struct qcow2_file_ops file_ops = {
	.read = file_read,
	.write = file_write,
	.sync = file_sync,
	.zero = file_zero,
	.size = file_size,
};

/* "raw:FILE", "qcow2:FILE", or FILE, whose format the header above names. */
static const char *split_format(const char *value, enum qcow2_format *format)
{
	*format = !strncmp(value, "raw:", 4)     ? QCOW2_FORMAT_RAW
		  : !strncmp(value, "qcow2:", 6) ? QCOW2_FORMAT_QCOW2
						 : QCOW2_FORMAT_HEADER;
	return *format == QCOW2_FORMAT_HEADER ? value : strchr(value, ':') + 1;
}

/* Past the page cache, if the disk is, and if this file takes what suits the disk's own. */
static int set_direct(const struct disk *disk, int fd)
{
	int flags = fcntl(fd, F_GETFL, 0), err;
	uint32_t mem, io;

	if (flags < 0)
		return -errno;
	flags &= ~(O_NONBLOCK | O_DIRECT);
	if (!disk->buffered && fcntl(fd, F_SETFL, flags | O_DIRECT) == 0) {
		err = disk_find_alignment(fd, &mem, &io);
		if (!err && mem <= disk->mem_align && io <= disk->io_align)
			return 0;
	}
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

static int open_backing(struct chain *c, unsigned i)
{
	struct disk *disk = c->disk;
	const char *path = split_format(disk->backing[i], &c->backing[i].format);
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
	struct stat st = { 0 };
	int fd = disk->backing_fd[i], err = 0;

	if (fd < 0)
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		err = -errno;
	c->fd[i + 1] = fd;
	if (!err && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		err = -EINVAL;
	/* Others may read it too, but nobody may write to it. A descriptor's lock is its sender's. */
	if (!err && disk->backing_fd[i] < 0 && fcntl(fd, F_OFD_SETLK, &lock) < 0)
		err = -errno;
	if (!err && fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		err = -errno;
	if (!err)
		err = set_direct(disk, fd);
	if (err)
		log_error_errno(err, "backing file %s", disk->backing[i]);
	c->backing[i].file = (struct qcow2_file) { .ops = &qcow2_fd_ops, .arg = &c->fd[i + 1] };
	return err;
}

int chain_open(struct chain *c, struct disk *disk)
{
	int err = 0;

	c->disk = disk;
	for (unsigned i = 0; i < QCOW2_CHAIN_MAX; i++)
		c->fd[i] = -1;
	c->fd[0] = disk->fd;
	for (unsigned i = 0; i < disk->nbacking && !err; i++)
		err = open_backing(c, i);
	return err;
}

void chain_close(struct chain *c)
{
	for (unsigned i = 1; i < QCOW2_CHAIN_MAX; i++)
		if (c->fd[i] >= 0)
			close(c->fd[i]);
}

int chain_image(struct chain *c, bool readonly, struct qcow2 **out)
{
	const struct disk *disk = c->disk;
	struct qcow2_file file = { .ops = &file_ops, .arg = c };
	struct qcow2_options options = { .readonly = readonly,
					 .device = disk->is_device,
					 .cache_bytes = (size_t)disk->cache_bytes,
					 .backing = c->backing,
					 .nbacking = disk->nbacking };
	char why[256];
	int err;

	if (!readonly)
		c->opening = true;
	err = qcow2_open(&file, &options, out, why, sizeof(why));
	if (!readonly)
		c->opening = false;
	if (err && err != -ECANCELED)
		log_error("image %s can't be used as qcow2: %s", disk->name, why);
	return err;
}
