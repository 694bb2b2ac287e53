/* SPDX-License-Identifier: Apache-2.0 */
/* A file by its descriptor, for the owner's side. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "fd.h"
#include "qcow2_priv.h"

static int64_t fd_read(void *arg, void *buf, size_t len, uint64_t off)
{
	const int *fd = arg;
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(*fd, (uint8_t *)buf + done, len - done, (off_t)(off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += (size_t)n;
		if (!n || n % QCOW2_BLOCK) /* the end of the file */
			break;
	}
	return (int64_t)done;
}

static int fd_write(void *arg, const void *buf, size_t len, uint64_t off)
{
	return fd_pwrite_full(*(const int *)arg, buf, len, (off_t)off);
}

static int fd_sync(void *arg)
{
	return fdatasync(*(const int *)arg) < 0 ? -errno : 0;
}

static int fd_write_zeroes(int fd, uint64_t off, uint64_t len)
{
	static _Alignas(MEM_ALIGN) const uint8_t zeroes[65536];
	int err = 0;

	for (uint64_t n; len && !err; off += n, len -= n) {
		n = MIN(len, sizeof(zeroes));
		err = fd_pwrite_full(fd, zeroes, n, (off_t)off);
	}
	return err;
}

static int fd_zero(void *arg, uint64_t off, uint64_t len)
{
	int fd = *(const int *)arg;

	while (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) < 0) {
		if (errno == EINTR)
			continue;
		return errno == EOPNOTSUPP || errno == EINVAL ? fd_write_zeroes(fd, off, len) : -errno;
	}
	return 0;
}

static int fd_size(void *arg, uint64_t *bytes)
{
	off_t end = lseek(*(const int *)arg, 0, SEEK_END); /* of a device too */

	if (end < 0)
		return -errno;
	*bytes = (uint64_t)end;
	return 0;
}

const struct qcow2_file_ops qcow2_fd_ops = {
	.read = fd_read,
	.write = fd_write,
	.sync = fd_sync,
	.zero = fd_zero,
	.size = fd_size,
};
