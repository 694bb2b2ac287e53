/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a queue reads and writes its image: asynchronous transfers, staged one by one, submitted as one batch,
 * reaped when done. An engine belongs to one queue's thread. It neither allocates nor blocks once open. Each kind has a
 * file of its own.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define ENGINE_MAX 64 /* that can be open at a time */

#define ENGINE_FILES_MAX 8

struct blk_calls;
struct engine;
struct nbd;
struct loop;

/* What may be read and written; the descriptors stay the caller's. */
struct engine_files {
	int fd[ENGINE_FILES_MAX]; /* the first is meant where a transfer names none */
	unsigned n;
	struct nbd *nbd; /* or an export of a server (nbd.h); NULL: they are files */
	int fence;       /* one more that is only kept open, until all that was submitted is done; -1: none */
};

enum engine_op { ENGINE_READ, ENGINE_WRITE, ENGINE_FSYNC, ENGINE_DISCARD, ENGINE_ZERO };

/* One transfer, embedded in whatever waits for it. */
struct engine_io {
	uint64_t priv[8];  /* the engine's own, while the transfer runs */
	struct iovec *iov; /* must stay valid until it is reaped */
	unsigned niov;
	enum engine_op op;
	int fd; /* another of the engine's files than the first; -1: that one */
	uint64_t off;
	uint64_t len; /* of what is discarded or zeroed, by an engine that can (ranges) */
	bool unmap;   /* zeroes may give up the space */
	bool dsync;   /* the write is to be on stable storage when it is reaped */
	int64_t res;  /* when reaped: bytes, or -errno */
};

struct engine_ops {
	const char *name;
	const struct blk_calls *calls; /* the system calls that it needs (syscalls.h) */
	bool ranges;                   /* it discards and zeroes, too */
	bool lingers;                  /* what a process submitted may go on after it was reaped (fence.h) */

	/* With at most depth transfers at a time. 0 or -errno. May block. */
	int (*open)(const struct engine_files *files, unsigned depth, struct engine **out);
	void (*close)(struct engine *engine);

	/* A descriptor that becomes readable with completions; to be watched edge-triggered, never read. */
	int (*event_fd)(const struct engine *engine);

	/* Or, where that is NULL: registers what it waits for with the queue's loop, and calls run(arg) there when there are
	 * completions; and takes that back, while nothing runs. 0 or -errno. */
	int (*attach)(struct engine *engine, struct loop *loop, void (*run)(void *arg), void *arg);
	void (*detach)(struct engine *engine);

	/* Since when (clock_ns) there is nobody who could carry out transfers; 0: there is somebody. Where that changes, run is
	 * called. NULL: there always is. */
	uint64_t (*since)(const struct engine *engine);

	/* Stages a transfer; at most depth may be staged and running. */
	void (*stage)(struct engine *engine, struct engine_io *io);

	/* Submits what is staged. What the kernel does not take for now stays staged; what it refuses is
	 * reaped with its error. How many stay. */
	unsigned (*submit)(struct engine *engine);

	/* At most max transfers that are done. */
	unsigned (*reap)(struct engine *engine, struct engine_io **done, unsigned max);

	/* How many transfers run whose end event_fd will announce. */
	unsigned (*busy)(const struct engine *engine);

	/* In a process that is dead, by system calls alone: waits until the kernel has done all that any engine submitted. False
	 * if that can't be told. */
	bool (*drained)(void);

	/* True if reap or submit would get on now, without any descriptor becoming readable. If not, event_fd announces when they
	 * would, until reap is called. */
	bool (*pending)(const struct engine *engine);
};

extern const struct engine_ops engine_aio;
extern const struct engine_ops engine_io_uring;
extern const struct engine_ops engine_null; /* moves nothing */
extern const struct engine_ops engine_nbd;  /* of an export, where libnbd is there */

#define ENGINE_NAMES "aio, io_uring or null"

/* By its name; NULL: there is none. */
const struct engine_ops *engine_find(const char *name);

/* For engines: puts what is new in the place of what is old among those that are open; NULL: none. False if that is
 * nowhere. */
bool engine_list(struct engine *old, struct engine *new);
/* Whether it is so with all that are open; by no system call but its own. */
bool engine_all(bool (*is)(const struct engine *engine));

/* What stands between the disk and an engine: nothing, unless a test wants faults there. */
#ifdef BH_CRASH_POINTS
const struct engine_ops *engine_tested(const struct engine_ops *real);
#else
static inline const struct engine_ops *engine_tested(const struct engine_ops *real)
{
	return real;
}
#endif

#endif
