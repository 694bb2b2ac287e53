/* SPDX-License-Identifier: Apache-2.0 */
/* A disk that is an export of an NBD server: what it is, and who connects to it. */
#include "nbd.h"

#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "beside.h"
#include "clean.h"
#include "disk.h"
#include "fd.h"
#include "log.h"
#include "nbd_priv.h"
#include "num.h"

#define DIAL_MS      8000 /* for the first answer of nbd-dial, which may just be starting */
#define FIRST_TRY_MS 10000

/* ---- what the export is ---- */

struct nbd_handle *nbd_shake(const struct nbd *nbd, int fd)
{
	struct nbd_handle *h = nbd_create();
	CLEAN_FD int its = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	bool there = h && its >= 0;

	/* It is libnbd's even if that fails. */
	if (there && nbd_set_export_name(h, nbd->uri.export) == 0 &&
	    nbd_set_pread_initialize(h, false) == 0 && nbd_aio_connect_socket(h, take_fd(&its)) == 0)
		return h;
	log_warn_limited("the NBD server: %s", there ? nbd_get_error() : "out of memory");
	nbd_close(h);
	return NULL;
}

static uint64_t flags_of(struct nbd_handle *h)
{
	static const struct {
		int (*is)(struct nbd_handle *h);
		uint64_t flag;
	} all[] = {
		{ nbd_is_read_only, NBD_READ_ONLY },
		{ nbd_can_flush, NBD_FLUSH },
		{ nbd_can_fua, NBD_FUA },
		{ nbd_can_trim, NBD_TRIM },
		{ nbd_can_zero, NBD_ZERO },
		{ nbd_can_multi_conn, NBD_MULTI },
	};
	uint64_t flags = NBD_KNOWN;

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].is(h) > 0)
			flags |= all[i].flag;
	return flags;
}

static uint64_t block_size(struct nbd_handle *h, int which, uint64_t otherwise)
{
	int64_t n = nbd_get_block_size(h, which);

	return n > 0 ? (uint64_t)n : otherwise;
}

/* What a server or a predecessor says is used only if it makes sense. */
static bool makes_sense(const struct nbd *nbd)
{
	return nbd->bytes >= SECTOR && nbd->bytes <= INT64_MAX && nbd->block_min &&
	       !(nbd->block_min & (nbd->block_min - 1)) && nbd->block_min <= NBD_BLOCK_MAX &&
	       nbd->block_max >= 65536 && nbd->block_max <= NBD_BYTES_MAX &&
	       !(nbd->block_max & (NBD_BLOCK_MAX - 1)) && !(nbd->bytes & (nbd->block_min - 1));
}

int nbd_learn(struct nbd *nbd, struct nbd_handle *h)
{
	int64_t size = nbd_get_size(h);

	nbd->flags = flags_of(h);
	nbd->bytes = size < 0 ? 0 : num_align_down((uint64_t)size, SECTOR);
	nbd->block_min = block_size(h, LIBNBD_SIZE_MINIMUM, 1);
	nbd->block_max = num_align_down(MIN(block_size(h, LIBNBD_SIZE_MAXIMUM, NBD_BYTES_MAX), NBD_BYTES_MAX),
					NBD_BLOCK_MAX);
	if (makes_sense(nbd))
		return 0;
	log_error("--nbd: an export of %llu bytes in blocks of %llu to %llu can't be a disk",
		  (unsigned long long)nbd->bytes, (unsigned long long)nbd->block_min,
		  (unsigned long long)nbd->block_max);
	return -EINVAL;
}

bool nbd_fits(const struct nbd *nbd, struct nbd_handle *h, uint64_t *bytes)
{
	struct nbd now = { .flags = 0 };
	uint64_t wanted = nbd->flags & ~(NBD_READ_ONLY | (nbd->nlinks > 1 ? 0 : NBD_MULTI));

	if (nbd_learn(&now, h))
		return false;
	*bytes = now.bytes;
	return (now.flags & wanted) == wanted && now.bytes >= disk_bytes(nbd->disk) &&
	       now.block_min <= nbd->block_min && now.block_max >= nbd->block_max &&
	       (!(now.flags & NBD_READ_ONLY) || !disk_takes_writes(nbd->disk));
}

/* ---- who connects ---- */

static int start_dialler(struct nbd *nbd, bool sandbox)
{
	const char *argv[] = { "nbd-dial",    "--uri",     nbd->disk->nbd_options.uri,
			       "--socket-fd", "3",         "--id",
			       "nbd",         "--sandbox", sandbox ? "on" : "off",
			       NULL };
	const struct beside beside = {
		.program = "nbd-dial", .option = "--nbd", .argv = argv, .sandbox = sandbox
	};
	int pair[2], err;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	err = beside_start(&beside, pair[1], &nbd->beside);
	close(pair[1]);
	nbd->dial_fd = pair[0];
	return err;
}

int nbd_open(struct disk *disk, bool sandbox)
{
	struct nbd *nbd = calloc(1, sizeof(*nbd));
	const char *why;
	int err;

	if (!nbd)
		return -ENOMEM;
	disk->nbd = disk->files.nbd = nbd;
	nbd->disk = disk;
	nbd->kept = disk->nbd_options.kept;
	nbd->beside = -1;
	nbd->renewed = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (nbd->renewed < 0)
		return -errno;
	nbd->dial_fd = disk->nbd_options.dial_fd;
	nbd->reconnect_ns = disk->nbd_options.reconnect_s * NS_PER_S;
	if (nbd_uri_parse(disk->nbd_options.uri, &nbd->uri, &why)) {
		log_error("--nbd: %s", why);
		return -EINVAL;
	}
	if (nbd->dial_fd < 0)
		err = start_dialler(nbd, sandbox);
	else
		err = fd_set_cloexec(nbd->dial_fd, true);
	if (!err)
		err = dial_open(&nbd->dial, nbd->dial_fd);
	return err;
}

/* ---- the first look at it ---- */

static int await_ready(struct nbd_handle *h)
{
	uint64_t end = clock_ns() + FIRST_TRY_MS * NS_PER_MS;

	while (!nbd_aio_is_ready(h)) {
		struct pollfd p = { .fd = -1 };
		unsigned direction;

		if (nbd_is_over(h)) {
			const char *why = nbd_get_error(); /* of the last call that failed */

			log_error("--nbd: the server ends the connection: %s",
				  why ? why : "it does not say why");
			return -ECONNRESET;
		}
		if (clock_ns() >= end)
			return -ETIMEDOUT;
		direction = nbd_aio_get_direction(h);
		p.fd = nbd_aio_get_fd(h);
		p.events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
				   (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
		if (poll(&p, 1, 100) <= 0)
			continue;
		if (p.revents & POLLOUT && direction & LIBNBD_AIO_DIRECTION_WRITE)
			nbd_aio_notify_write(h);
		else if (direction & LIBNBD_AIO_DIRECTION_READ)
			nbd_aio_notify_read(h);
	}
	return 0;
}

/* By the first link's connection, which it then has. */
static int ask_server(struct nbd *nbd)
{
	struct nbd_handle *h;
	CLEAN_FD int fd = -1;
	int err = dial_ask(&nbd->dial, DIAL_NEW, 0);

	if (!err)
		err = dial_await(&nbd->dial, DIAL_MS, &fd);
	if (err) {
		log_error_errno(err, "--nbd: no connection to %s", nbd->disk->nbd_options.uri);
		return err;
	}
	h = nbd_shake(nbd, fd);
	if (!h)
		return -EIO;
	err = await_ready(h);
	if (err == -ETIMEDOUT)
		log_error("--nbd: the server does not answer");
	if (!err)
		err = nbd_learn(nbd, h);
	if (err) {
		nbd_close(h);
		return err;
	}
	atomic_store(&nbd->kept->bytes, nbd->bytes);
	atomic_store(&nbd->kept->block_min, nbd->block_min);
	atomic_store(&nbd->kept->block_max, nbd->block_max);
	atomic_store(&nbd->kept->flags, nbd->flags);
	nbd_link_give(nbd, h, take_fd(&fd));
	return 0;
}

static bool remembers(struct nbd *nbd)
{
	nbd->flags = atomic_load(&nbd->kept->flags);
	nbd->bytes = atomic_load(&nbd->kept->bytes);
	nbd->block_min = atomic_load(&nbd->kept->block_min);
	nbd->block_max = atomic_load(&nbd->kept->block_max);
	return nbd->flags & NBD_KNOWN && makes_sense(nbd);
}

int nbd_examine(struct disk *disk, unsigned queues)
{
	struct nbd *nbd = disk->nbd;
	int err = 0;

	for (unsigned i = 0; i < DIAL_SLOTS && !err; i++)
		err = nbd_link_open(nbd, i);
	if (!err && !remembers(nbd))
		err = ask_server(nbd);
	if (err)
		return err;
	if (nbd->flags & NBD_READ_ONLY && !disk->readonly) {
		log_error("--nbd: the server lets nobody write to this export; --readonly takes it");
		return -EROFS;
	}
	nbd->nlinks = nbd->flags & NBD_MULTI ? MIN(queues, DIAL_SLOTS) : 1;
	atomic_store(&disk->bytes, nbd->bytes);
	disk->mem_align = 1;
	disk->io_align = (uint32_t)nbd->block_min;
	disk->can_flush = nbd->flags & NBD_FLUSH;
	disk->can_discard = !disk->readonly && nbd->flags & NBD_TRIM;
	disk->can_zero = !disk->readonly && nbd->flags & NBD_ZERO;
	return 0;
}

/* ---- how large it is now ---- */

uint64_t nbd_remembered(struct disk *disk)
{
	struct nbd now = { .bytes = atomic_load(&disk->nbd->kept->bytes),
			   .block_min = disk->nbd->block_min,
			   .block_max = disk->nbd->block_max };

	return makes_sense(&now) ? now.bytes : disk_bytes(disk);
}

void nbd_set_bytes(struct disk *disk, uint64_t bytes)
{
	atomic_store(&disk->nbd->kept->bytes, bytes);
}

void nbd_close_disk(struct disk *disk)
{
	struct nbd *nbd = disk->nbd;

	if (!nbd)
		return;
	for (unsigned i = 0; i < DIAL_SLOTS; i++)
		if (nbd->link[i].nbd)
			nbd_link_close(&nbd->link[i]);
	dial_close(&nbd->dial);
	if (nbd->beside >= 0)
		close(nbd->beside);
	if (nbd->renewed >= 0)
		close(nbd->renewed);
	if (nbd->dial_fd >= 0)
		close(nbd->dial_fd);
	free(nbd);
	disk->nbd = NULL;
}
