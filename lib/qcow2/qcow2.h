/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qcow2 images, read and written (QEMU's docs/interop/qcow2.txt). No threads, no loop and no logging of its own.
 *
 * An image has two sides. The fast side is for any thread and takes no lock: qcow2_map says where bytes of the disk are in
 * the file, and the caller moves them. The owner's side is for one thread at a time, and blocks: it knows the tables,
 * allocates and frees. What the fast side can't tell it calls QCOW2_ASK; the caller then has the owner do it, and maps again.
 *
 * A cluster is allocated before it is written to: the owner gives it the content that it had for the guest so far (zeroes,
 * or a copy), and from then on it is written in place. So nothing need be remembered between the two, an allocation that is
 * asked for twice is made once, and whoever is killed between them has changed nothing.
 *
 * Nothing that stands in the image can lead outside its file: offsets are checked wherever they are used. An image whose
 * tables lie can only lose its own content.
 */
#ifndef QCOW2_H
#define QCOW2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QCOW2_CHAIN_MAX   8  /* files of an image, its own among them */
#define QCOW2_READERS_MAX 64 /* threads or queues that move data */
#define QCOW2_BLOCK       512
#define QCOW2_CACHE_BYTES (4U << 20) /* of tables, if nothing else is asked for */

struct qcow2;

/* How the owner's side reaches a file. Offsets, lengths and addresses are multiples of QCOW2_BLOCK. */
struct qcow2_file_ops {
	int64_t (*read)(void *arg, void *buf, size_t len,
			uint64_t off); /* bytes, fewer only at the file's end */
	int (*write)(void *arg, const void *buf, size_t len, uint64_t off);
	int (*sync)(void *arg); /* what was written is on stable storage */
	int (*zero)(void *arg, uint64_t off,
		    uint64_t len); /* reads as zeroes then; its space is given up if it can be */
	int (*size)(void *arg, uint64_t *bytes);
};

struct qcow2_file {
	const struct qcow2_file_ops *ops;
	void *arg;
};

/* A file by its descriptor, which stays the caller's: arg is a pointer to it. */
extern const struct qcow2_file_ops qcow2_fd_ops;

enum qcow2_format {
	QCOW2_FORMAT_HEADER, /* as the header of the image above names it */
	QCOW2_FORMAT_RAW,
	QCOW2_FORMAT_QCOW2,
};

struct qcow2_backing {
	struct qcow2_file file;
	enum qcow2_format format;
};

struct qcow2_options {
	bool readonly;
	bool device;        /* the file can't grow, and what it holds past its end is not zeroes */
	size_t cache_bytes; /* of tables that are kept in memory, all files together; 0: QCOW2_CACHE_BYTES */
	const struct qcow2_backing *backing; /* the only files that may be backing files, nearest first */
	unsigned nbacking;
	bool
	    alone; /* without what is below it, for snapshots and checks only: content is neither read nor written */
};

/* Opens an image and its chain; repairs one that is marked dirty. The files must stay open. 0 or -errno, with a line in why.
 * Blocks. */
int qcow2_open(const struct qcow2_file *file, const struct qcow2_options *options, struct qcow2 **out,
	       char *why, size_t size);

/* Gives back what was reserved. Nobody uses the image any more. 0, or the first error of writing. Blocks; NULL is ignored. */
int qcow2_close(struct qcow2 *image);
/* Forgets the image and writes nothing: what was reserved leaks. For one that somebody else may have changed. */
void qcow2_abandon(struct qcow2 *image);

uint64_t qcow2_size(const struct qcow2 *image); /* of the virtual disk, in bytes; any thread */
uint64_t qcow2_cluster(const struct qcow2 *image);
bool qcow2_can_zero(const struct qcow2 *image); /* discarded clusters read as zeroes whatever is below */

/* ---- the fast side: any thread, never blocks, takes no lock ---- */

enum qcow2_kind {
	QCOW2_DATA, /* in file layer of the chain (0: the image's own), from off on */
	QCOW2_ZERO, /* reads as zeroes */
	QCOW2_ASK,  /* the owner must be asked */
};

struct qcow2_extent {
	enum qcow2_kind kind;
	unsigned layer;
	uint64_t off, len; /* len is at least 1 and at most what was asked for */
};

/* Where the bytes from off on are, to be read, or to be written in place. The range is within the disk, len is not 0. */
void qcow2_map(const struct qcow2 *image, uint64_t off, uint64_t len, bool write, struct qcow2_extent *out);

/* Goes round whatever is moved by what qcow2_map said: meanwhile no cluster gets another owner that could have been mapped.
 * reader is below QCOW2_READERS_MAX and a thread's own; what comes back goes into qcow2_leave. */
unsigned qcow2_enter(struct qcow2 *image, unsigned reader);
void qcow2_leave(struct qcow2 *image, unsigned reader, unsigned token);

/* True if qcow2_reclaim may have something to do. */
bool qcow2_wants_reclaim(const struct qcow2 *image);

/* ---- the owner's side: one thread at a time, blocks; 0 or -errno ---- */

/* Brings the tables of the range, or of as much of it as is sensible, to where qcow2_map sees them. */
int qcow2_load(struct qcow2 *image, uint64_t off, uint64_t len);

/*
 * Makes the range writable in place: clusters that are not, get allocated with the content that they have for the
 * guest. Nothing of it is to be seen before qcow2_commit, which makes all that was prepared since the last one visible
 * with one flush if one is needed. After an error either may be tried again.
 */
int qcow2_prepare(struct qcow2 *image, uint64_t off, uint64_t len);
int qcow2_commit(struct qcow2 *image);

/* Whether the tables' changes, of whatever call, are on stable storage before qcow2_map shows them, so that somebody
 * who writes there durably has written all that is needed. What was shown so far is made so. */
int qcow2_write_through(struct qcow2 *image, bool on);

/* Whole blocks. buf is aligned to one. */
int qcow2_read(struct qcow2 *image, uint64_t off, void *buf, size_t len);
int qcow2_write(struct qcow2 *image, uint64_t off, const void *buf, size_t len);

/* Gives up whole clusters within the range, which read as zeroes then; parts of clusters stay as they are. */
int qcow2_discard(struct qcow2 *image, uint64_t off, uint64_t len);
/* Zeroes, giving up the space or not. */
int qcow2_zero(struct qcow2 *image, uint64_t off, uint64_t len, bool unmap);
int qcow2_sync(struct qcow2 *image);

/* Gives back clusters that nobody can be moving data of any more. */
int qcow2_reclaim(struct qcow2 *image);

/* Makes the virtual disk larger; what comes to it reads as zeroes, whatever a longer backing file holds there. -ENOTSUP:
 * smaller. *why is NULL, or says more than the error. */
int qcow2_resize(struct qcow2 *image, uint64_t bytes, const char **why);

/* ---- snapshots and checks: the owner's side, while nobody maps ---- */

struct qcow2_snapshot {
	char id[64], name[256]; /* cut to fit */
	uint64_t bytes;         /* of the virtual disk */
	uint64_t vm_state;      /* bytes of machine state that go with it */
	uint64_t time;          /* seconds since the Epoch */
};

/* The index-th snapshot; -ENOENT past the last. */
int qcow2_snapshot_get(struct qcow2 *image, unsigned index, struct qcow2_snapshot *out);

/* Has fn see each of them in turn, until one call does not return 0; that, 0 or -errno. */
int qcow2_snapshot_each(struct qcow2 *image, int (*fn)(void *arg, const struct qcow2_snapshot *s), void *arg);

/* Makes the disk what it was at the snapshot, which stays. Found by id, else by name. */
int qcow2_snapshot_revert(struct qcow2 *image, const char *which);

struct qcow2_check {
	uint64_t
	    corruptions; /* clusters with fewer references counted than there are, wrong flags, wild pointers */
	uint64_t leaks; /* clusters with more */
};

/* Compares the reference counts with the references. repair: makes them right. */
int qcow2_check(struct qcow2 *image, bool repair, struct qcow2_check *out);

#endif
