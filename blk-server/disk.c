/* SPDX-License-Identifier: Apache-2.0 */
/* The image file: opening, locking, what direct I/O on it needs, configuration space, and calls that block. */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clean.h"
#include "config.h"
#include "crash.h"
#include "fd.h"
#include "log.h"
#include "num.h"
#include "owner.h"
#include "resize.h"
#include "slow.h"

#define ALIGN_MAX    4096
#define LOCK_TRIES   100 /* 10 ms apart: a server that was just killed may still hold the lock */
#define ZEROES_BYTES 65536

static _Alignas(ALIGN_MAX) const uint8_t zeroes[ZEROES_BYTES];

/* ---- opening ---- */

/* Takes the lock that keeps two servers off one image; with --image-fd the supervisor has it. */
static int take_lock(const struct disk *disk)
{
	struct flock lock = { .l_type = disk->readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	const struct timespec pause = { .tv_nsec = 10000000 };

	for (int i = 0; i < LOCK_TRIES; i++) {
		if (fcntl(disk->fd, F_OFD_SETLK, &lock) == 0)
			return 0;
		if (errno != EAGAIN && errno != EACCES && errno != EINTR) {
			int err = -errno;

			log_error_errno(err, "image %s can't be locked", disk->name);
			return err;
		}
		nanosleep(&pause, NULL);
	}
	log_error("image %s is in use by another process", disk->name);
	return -EBUSY;
}

/* What the kernel calls the file behind --image-fd, for people; nothing is opened by that name. */
static const char *name_of_fd(struct disk *disk)
{
	char path[32];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", disk->image_fd);
	n = readlink(path, disk->fd_name, sizeof(disk->fd_name) - 1);
	disk->fd_name[MAX(n, 0)] = '\0';
	return n > 0 ? disk->fd_name : "of --image-fd";
}

static int open_image(struct disk *disk)
{
	int flags;

	if (!disk->image) {
		disk->name = name_of_fd(disk);
		disk->fd = disk->image_fd;
		flags = fcntl(disk->fd, F_GETFL, 0);
		if (flags < 0 || fcntl(disk->fd, F_SETFD, FD_CLOEXEC) < 0) {
			log_error("--image-fd %d: must be an open file", disk->fd);
			return -EBADF;
		}
		if ((flags & O_ACCMODE) != O_RDWR && (!disk->readonly || (flags & O_ACCMODE) != O_RDONLY)) {
			log_error("--image-fd %d: must be open for reading%s", disk->fd,
				  disk->readonly ? "" : " and writing");
			return -EBADF;
		}
		return 0;
	}
	disk->name = disk->image;
	disk->fd =
	    open(disk->image, (disk->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (disk->fd < 0) {
		int err = -errno;

		log_error_errno(err, "--image %s", disk->image);
		return err;
	}
	return take_lock(disk);
}

static int find_size(struct disk *disk)
{
	struct stat st;
	uint64_t bytes;

	if (fstat(disk->fd, &st) < 0)
		return -errno;
	if (S_ISBLK(st.st_mode)) {
		disk->is_device = true;
		if (ioctl(disk->fd, BLKGETSIZE64, &bytes) < 0)
			return -errno;
	} else if (S_ISREG(st.st_mode)) {
		bytes = (uint64_t)st.st_size;
	} else {
		log_error("image %s: must be a regular file or a block device", disk->name);
		return -EINVAL;
	}
	bytes = num_align_down(bytes, SECTOR);
	atomic_store(&disk->bytes, bytes);
	if (!bytes) {
		log_error("image %s: must be at least %d bytes long", disk->name, SECTOR);
		return -EINVAL;
	}
	return 0;
}

/* True if a direct read with buffer, offset and length aligned to align works. */
static bool read_works(int fd, uint8_t *buf, uint32_t align)
{
	/* One step into the buffer, which is aligned to twice as much. */
	return pread(fd, buf + align, align, 0) >= 0;
}

int disk_find_alignment(int fd, uint32_t *mem, uint32_t *io)
{
	CLEAN_FREE uint8_t *buf = NULL;
#ifdef STATX_DIOALIGN
	struct statx stx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 && (stx.stx_mask & STATX_DIOALIGN) &&
	    stx.stx_dio_offset_align) {
		*mem = stx.stx_dio_mem_align;
		*io = MAX(stx.stx_dio_offset_align, SECTOR);
		return 0;
	}
#endif
	buf = aligned_alloc(2 * ALIGN_MAX, 4 * ALIGN_MAX);
	if (!buf)
		return -ENOMEM;
	for (uint32_t align = SECTOR; align <= ALIGN_MAX; align *= 2) {
		if (!read_works(fd, buf, align))
			continue;
		*mem = *io = align;
		return 0;
	}
	return -errno;
}

static int set_direct(struct disk *disk)
{
	int flags = fcntl(disk->fd, F_GETFL, 0), err;

	flags &= ~(O_NONBLOCK | O_DIRECT);
	disk->mem_align = disk->io_align = 1;
	if (fcntl(disk->fd, F_SETFL, disk->buffered ? flags : flags | O_DIRECT) < 0) {
		err = -errno;
		log_error_errno(err, "image %s can't be used with --cache direct; --cache buffered may do",
				disk->name);
		return err;
	}
	if (disk->buffered)
		return 0;
	err = disk_find_alignment(disk->fd, &disk->mem_align, &disk->io_align);
	if (!err && (disk->io_align > ALIGN_MAX || disk->mem_align > ALIGN_MAX))
		err = -EINVAL;
	if (err) {
		log_error_errno(err, "image %s can't be read with --cache direct; --cache buffered may do",
				disk->name);
		return err;
	}
	if (!disk->qcow2 && disk_bytes(disk) % disk->io_align) {
		log_error("image %s: its size must be a multiple of %u bytes for --cache direct; "
			  "--cache buffered takes it",
			  disk->name, disk->io_align);
		return -EINVAL;
	}
	return 0;
}

/* Finds out, without touching data, whether holes can be punched. */
static bool can_punch(const struct disk *disk)
{
	if (disk->readonly)
		return false;
	if (disk->null || disk->is_device || disk->owner)
		return true;
	return fallocate(disk->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 (off_t)num_align_up(disk_bytes(disk), ALIGN_MAX), ALIGN_MAX) == 0;
}

static void fill_config(struct disk *disk, unsigned queues)
{
	uint32_t physical = MAX(disk->io_align, SECTOR);
	struct stat st;

	if (!disk->is_device && !disk->nbd && fstat(disk->fd, &st) == 0 && st.st_blksize == ALIGN_MAX)
		physical = ALIGN_MAX; /* the file system's block: smaller writes make it read first */
	disk->config = (struct virtio_blk_config) {
		.capacity = disk_bytes(disk) / SECTOR,
		.seg_max = DISK_SEG_MAX,
		.blk_size = disk->nbd ? physical : SECTOR, /* a server writes no parts of blocks */
		.physical_block_exp = disk->nbd ? 0 : (uint8_t)__builtin_ctz(physical / SECTOR),
		.min_io_size = disk->nbd ? 1 : (uint16_t)(physical / SECTOR),
		.wce = !disk->readonly,
		.num_queues = (uint16_t)queues,
	};
	if (disk->can_discard) {
		disk->config.max_discard_sectors = DISK_RANGE_MAX;
		disk->config.max_discard_seg = DISK_RANGES;
		disk->config.discard_sector_alignment =
		    disk->owner ? (uint32_t)(disk->cluster / SECTOR) : physical / SECTOR;
	}
	if (disk->can_zero) {
		disk->config.max_write_zeroes_sectors = DISK_RANGE_MAX;
		disk->config.max_write_zeroes_seg = DISK_RANGES;
		disk->config.write_zeroes_may_unmap = disk->can_discard;
	}
}

/* From here on the disk is the virtual one. */
static int open_qcow2(struct disk *disk)
{
	uint64_t bytes = 0;
	int err;

	/* Tables are read and written in sectors. */
	if (disk->io_align > SECTOR) {
		log_error("image %s: direct I/O needs blocks of %u bytes here, too many for qcow2; "
			  "--cache buffered takes it",
			  disk->name, disk->io_align);
		return -EINVAL;
	}
	err = owner_open(disk, &bytes);
	if (!err && !bytes) {
		log_error("image %s: must have at least %d bytes", disk->name, SECTOR);
		err = -EINVAL;
	}
	atomic_store(&disk->bytes, bytes);
	return err;
}

static int open_file(struct disk *disk)
{
	int err;

	/* Whatever goes past an engine is for files that hold something; it is not wanted either. */
	disk->null = disk->engine == &engine_null;
	if (disk->null) {
		disk->buffered = true;
		log_warn("--engine null: for measuring only; the disk reads as zeroes, and nothing that is "
			 "written to it is kept");
	}
	err = open_image(disk);
	if (!err)
		err = find_size(disk);
	if (!err)
		err = set_direct(disk);
	if (!err && disk->qcow2)
		err = open_qcow2(disk);
	if (!err && disk->io_align > SECTOR && !disk->readonly)
		err = gate_new(disk, &disk->gate);
	if (err) {
		owner_close(disk);
		if (disk->fd >= 0)
			close(disk->fd);
		return err;
	}
	disk->can_discard = can_punch(disk);
	disk->files.fd[0] = disk->fd;
	disk->files.n = 1;
	disk->files.fence = disk->fence.fd;
	for (unsigned i = 0; i < disk->nbacking; i++)
		disk->files.fd[disk->files.n++] = owner_fd(disk->owner, i + 1);
	disk->can_zero = !disk->readonly;
	disk->can_flush = true;
	disk->engine = engine_tested(disk->engine);
	return 0;
}

/* What the driver is told. */
static void offer(struct disk *disk, unsigned queues, uint64_t *features)
{
	fill_config(disk, queues);
	*features =
	    1ULL << VIRTIO_BLK_F_SEG_MAX | 1ULL << VIRTIO_BLK_F_BLK_SIZE | 1ULL << VIRTIO_BLK_F_TOPOLOGY;
	if (disk->can_flush)
		*features |= 1ULL << VIRTIO_BLK_F_FLUSH;
	if (queues > 1)
		*features |= 1ULL << VIRTIO_BLK_F_MQ;
	if (disk->readonly)
		*features |= 1ULL << VIRTIO_BLK_F_RO;
	else if (!disk->nbd)
		*features |= 1ULL << VIRTIO_BLK_F_CONFIG_WCE;
	if (disk->can_zero)
		*features |= 1ULL << VIRTIO_BLK_F_WRITE_ZEROES;
	if (disk->can_discard)
		*features |= 1ULL << VIRTIO_BLK_F_DISCARD;
}

int disk_open(struct disk *disk, const char *id, unsigned queues, bool sandbox, uint64_t *features)
{
	int err;

	memcpy(disk->serial, id, strnlen(id, sizeof(disk->serial)));
	if (disk->nbd_options.uri) {
		disk->name = disk->nbd_options.uri;
		return nbd_open(disk, sandbox);
	}
	err = open_file(disk);
	if (!err)
		offer(disk, queues, features);
	return err;
}

int disk_examine(struct disk *disk, unsigned queues, uint64_t *features)
{
	int err = disk->nbd ? nbd_examine(disk, queues) : 0;

	if (!err && disk->nbd)
		offer(disk, queues, features);
	return err;
}

void disk_close(struct disk *disk)
{
	gate_free(disk->gate);
	owner_close(disk);
	nbd_close_disk(disk);
	if (disk->fd >= 0)
		close(disk->fd);
}

int disk_get_config(struct disk *disk, uint32_t off, uint32_t len, uint8_t *buf)
{
	const uint8_t *config = (const uint8_t *)&disk->config;
	uint64_t end;

	/* A spare opened it long ago. */
	if (!disk->serving)
		resize_look(disk);
	if (!num_add(off, len, &end))
		return -EINVAL;
	for (uint64_t i = off; i < end; i++)
		buf[i - off] = i < sizeof(disk->config) ? config[i] : 0;
	return 0;
}

int disk_set_config(struct disk *disk, uint32_t off, uint32_t len, const uint8_t *buf)
{
	if (disk->readonly || off != offsetof(struct virtio_blk_config, wce) || len != 1 || buf[0] > 1)
		return -EINVAL;
	/* Writes that begin from now on are stable by themselves; a flush that fails is told of with the next one. */
	atomic_store(&disk->write_through, !buf[0]);
	if (disk->config.wce && !buf[0]) {
		if (disk->owner)
			owner_settle(disk->owner);
		disk_flush(disk);
	}
	disk->config.wce = buf[0];
	return 0;
}

/* ---- calls that block ---- */

int disk_flushed(struct disk *disk, int64_t res)
{
	int none = 0;

	if (res < 0 && atomic_compare_exchange_strong(&disk->flush_err, &none, (int)res))
		atomic_store(disk->flush_word, (uint64_t)-res);
	return atomic_load(&disk->flush_err) ? -EIO : 0;
}

void disk_remember_flush(struct disk *disk)
{
	uint64_t word = atomic_load(disk->flush_word);

	if (word)
		disk_flushed(disk, word <= 4095 ? -(int64_t)word : -EIO);
}

void disk_tell_flush(struct disk *disk)
{
	int err = atomic_load(&disk->flush_err);

	if (!err)
		return;
	CRASH_POINT("failure-told before");
	if (atomic_exchange(&disk->flush_told, true))
		return;
	log_error_errno(err,
			"image %s: a flush failed; written data may be lost, so every later flush fails too",
			disk->name);
}

int disk_flush(struct disk *disk)
{
	int64_t fault;

	if (disk->null)
		return 0;
	if (CRASH_FAULT(CRASH_FSYNC, 0, 1, &fault))
		return disk_flushed(disk, fault);
	return disk_flushed(disk, fdatasync(disk->fd) < 0 ? -errno : 0);
}

static int change_space(const struct disk *disk, int how, uint64_t off, uint64_t len)
{
	int64_t fault;

	if (disk->null)
		return 0;
	if (CRASH_FAULT(how & FALLOC_FL_PUNCH_HOLE ? CRASH_PUNCH : CRASH_ZERO, off, len, &fault))
		return (int)fault;
	while (fallocate(disk->fd, how | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int disk_discard(const struct disk *disk, uint64_t off, uint64_t len)
{
	return len ? change_space(disk, FALLOC_FL_PUNCH_HOLE, off, len) : 0;
}

static int write_zeroes(const struct disk *disk, uint64_t off, uint64_t len)
{
	int err = 0;

	for (uint64_t n; len && !err; off += n, len -= n) {
		n = MIN(len, sizeof(zeroes));
		err = fd_pwrite_full(disk->fd, zeroes, n, (off_t)off);
	}
	return err;
}

int disk_zero(const struct disk *disk, uint64_t off, uint64_t len, bool unmap)
{
	int err = -EOPNOTSUPP;

	if (!len)
		return 0;
	if (unmap && disk->can_discard)
		err = change_space(disk, FALLOC_FL_PUNCH_HOLE, off, len);
	if (err == -EOPNOTSUPP)
		err = change_space(disk, FALLOC_FL_ZERO_RANGE, off, len);
	/* Not every file system can; a device may refuse a range that is not aligned to its blocks. */
	return err == -EOPNOTSUPP || err == -EINVAL ? write_zeroes(disk, off, len) : err;
}
