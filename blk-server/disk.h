/* SPDX-License-Identifier: Apache-2.0 */
/* The disk: its image file, what direct I/O on it needs, and its configuration space. Fixed once open, but for the
 * marked fields; shared by all queues. */
#ifndef DISK_H
#define DISK_H

#include <linux/virtio_blk.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine.h"
#include "fence.h"
#include "loop.h"
#include "nbd.h"
#include "resize.h"
#include "onerror.h"
#include "qcow2.h"
#include "throttle.h"

#define SECTOR         512
#define DISK_SEG_MAX   126                    /* data segments of a request that are advertised */
#define DISK_RANGE_MAX (1U << 21)             /* sectors of one discard or write-zeroes range: 1 GiB */
#define DISK_RANGES    32                     /* ranges of one such request */
#define REQUEST_IOV    (2 * DISK_SEG_MAX + 8) /* vectors of one request, header and status among them */

struct gate;
struct server_queue;

struct disk {
	/* Options. */
	const char *image; /* NULL: image_fd */
	int image_fd;      /* -1: image */
	bool readonly;
	bool
	    refuse_writes; /* the driver was promised a disk that can be written to, and gets errors instead */
	bool buffered;
	const struct engine_ops *engine;
	enum on_error on_error;
	struct throttle throttle;
	bool qcow2;                               /* what the image is; never guessed from its content */
	const char *backing[QCOW2_CHAIN_MAX - 1]; /* files that may be its backing files, nearest first */
	int backing_fd[QCOW2_CHAIN_MAX - 1];      /* -1: by name */
	unsigned nbacking;
	uint64_t cache_bytes; /* of its tables; 0: as lib/qcow2 likes it */
	struct nbd_options nbd_options;

	int fd;
	const char *name;       /* for log lines */
	char fd_name[256];      /* ... of an inherited one */
	_Atomic uint64_t bytes; /* capacity, a multiple of SECTOR; grows (resize.h) */
	uint32_t mem_align;     /* of buffers; 1 if buffered */
	uint32_t io_align;      /* of offsets and lengths; 1 if buffered */
	bool can_discard;       /* holes can be punched */
	bool can_zero;          /* ranges can be zeroed */
	bool can_flush;         /* what was written can be made stable */
	bool is_device;         /* a block device */
	char serial[VIRTIO_BLK_ID_BYTES];
	struct virtio_blk_config config; /* the main thread's */
	_Atomic bool write_through;      /* as the driver chose: what is written is stable when it is told */
	bool serving;                    /* a driver has seen it; the main thread's */
	struct engine_files files;       /* that the engines move */
	struct fence fence;
	bool null;            /* they move nothing, and neither does anybody else */
	struct owner *owner;  /* of a qcow2 image's tables (owner.h); NULL: raw */
	uint64_t cluster;     /* of a qcow2 image */
	struct nbd *nbd;      /* an export of a server; NULL: a file, fd */
	struct resize resize; /* that is under way */

	_Atomic uint64_t *flush_word; /* the same, for successors: what they know, they say, too */
	_Atomic int flush_err;        /* of the first flush that failed, as then all later ones do; 0: none */
	_Atomic bool flush_told;      /* the log says so */
	_Atomic int stop_err;         /* of a request that is kept until there is an order, not told yet */
	_Atomic unsigned retries;     /* such orders */
	struct server_queue *stop_server; /* any; for what follows */
	struct loop_bh stopped;           /* the main loop's: tells the supervisor */
	struct gate *gate;                /* only if io_align is more than a sector: slow.h */
};

/* Any thread. */
static inline uint64_t disk_bytes(const struct disk *disk)
{
	return atomic_load_explicit(&disk->bytes, memory_order_acquire);
}

static inline bool disk_takes_writes(const struct disk *disk)
{
	return !disk->readonly && !disk->refuse_writes;
}

/* Opens and examines the image; *features gets the device's feature bits. Logs why not. 0 or -errno. */
int disk_open(struct disk *disk, const char *id, unsigned queues, bool sandbox, uint64_t *features);
/* The same of what is only to be examined in a process that is confined. */
int disk_examine(struct disk *disk, unsigned queues, uint64_t *features);
void disk_close(struct disk *disk);

/* What direct I/O on a file needs, of buffers, and of offsets and lengths: asks the kernel, or tries. 0 or -errno. */
int disk_find_alignment(int fd, uint32_t *mem, uint32_t *io);

/* len bytes of configuration space from off, or -EINVAL. */
int disk_get_config(struct disk *disk, uint32_t off, uint32_t len, uint8_t *buf);

/* What the driver writes there: the choice between write-back and write-through. What was written before the latter is made
 * stable first, so it blocks. 0 or -EINVAL. */
int disk_set_config(struct disk *disk, uint32_t off, uint32_t len, const uint8_t *buf);

/* Flushes what was written to stable storage. A flush that failed once fails for ever: the kernel has dropped
 * what it could not write and would report success the next time. 0 or -errno; blocks. */
int disk_flush(struct disk *disk);
/* The same of one that was made in another way, with this result; blocks not. */
int disk_flushed(struct disk *disk, int64_t res);
/* A predecessor may have seen one fail. */
void disk_remember_flush(struct disk *disk);
/* Logs, once, that a flush failed: not before it is written down for a successor, as that takes time. */
void disk_tell_flush(struct disk *disk);

/* Discards, or zeroes with or without giving up the space. The range is within the disk. 0 or -errno; blocks. */
int disk_discard(const struct disk *disk, uint64_t off, uint64_t len);
int disk_zero(const struct disk *disk, uint64_t off, uint64_t len, bool unmap);

#endif
