/* SPDX-License-Identifier: Apache-2.0 */
/* A queue of the disk and its requests, all of them made before the first is served. */
#ifndef REQUEST_H
#define REQUEST_H

#include <stdatomic.h>

#include "disk.h"
#include "engine.h"
#include "loop.h"
#include "server.h"

#define QUEUE_DEPTH 256 /* requests of a queue at a time */

#define INLINE_IOV   4
#define BOUNCE_BYTES 65536 /* data bytes that one bounce buffer carries at a time */
#define BOUNCE_SLACK 8192  /* rounding to io_align at both ends */
#define BOUNCE_COUNT 16    /* bounce buffers of a queue */

struct blk_queue;

/* A range to discard or to zero, in bytes, within the disk. */
struct range {
	uint64_t off, len;
	bool unmap;
};

/*
 * One request. Its data vectors are those of the guest, consumed from the front as the transfer gets on: what is
 * left is iov[0 .. niov), left bytes from offset off.
 */
struct request {
	struct engine_io io;
	struct blk_queue *queue;
	struct request *next; /* free, or waiting for a bounce buffer, or in the gate */
	uint8_t *status;      /* where the guest wants the result */
	struct iovec *iov;
	unsigned niov;
	uint16_t head;
	uint8_t kind;     /* enum request_kind */
	bool plain_write; /* counted by the gate */
	bool again;       /* a predecessor had it */
	bool tried;       /* it failed, and was kept (onerror.h) */
	bool final;       /* ... and is not to be kept once more */
	uint64_t seq;     /* in the order in which they were taken */
	uint64_t off;
	uint32_t left;
	uint32_t done;    /* data bytes transferred */
	uint64_t at;      /* where in the file the part is that moves now */
	uint32_t part;    /* bytes of it */
	uint32_t cut;     /* bytes that were taken off the last of io's vectors, as the part ends there */
	bool entered;     /* the part moves by what qcow2_map said */
	unsigned token;   /* of that */
	uint64_t asked;   /* off when the owner was last asked (owner.h) */
	uint8_t *bounce;  /* in use for this transfer, or NULL */
	uint32_t lead;    /* bytes in it before the data, from rounding */
	uint32_t carried; /* data bytes in it */
	int result;       /* of a job: 0 or -errno */
	struct loop_job job;
	struct iovec inline_iov[INLINE_IOV];
	union {                        /* in memory that only long requests touch */
		struct iovec *big_iov; /* REQUEST_IOV of them */
		struct range *ranges;  /* DISK_RANGES of them */
	};
	unsigned nranges;
};

enum request_kind {
	REQUEST_READ,
	REQUEST_WRITE,
	REQUEST_FLUSH,
	REQUEST_DISCARD,
	REQUEST_ZERO,
};

struct blk_stats { /* written by the queue's thread, read by any */
	_Atomic uint64_t reads, writes, flushes, discards, zeroes, read_bytes, write_bytes, bounced, errors,
	    kept, throttled;
};

struct blk_queue {
	struct disk *disk;
	struct server_queue *server;
	struct engine *engine;
	struct loop_fd *watch;
	struct request *throttled; /* waits for the limits, and behind it the ring; NULL: none does */
	struct throttle_turn turn; /* its place in line */
	struct loop_timer *throttle_timer;
	/* What failed and waits to be carried on (onerror.h). */
	struct request *kept, **kept_end;
	unsigned nkept, retries_seen;
	bool releasing; /* nothing may be kept, until a request is taken again */
	uint64_t pause_ns, retry_at;
	struct loop_timer *retry_timer;
	uint64_t seq;
	bool dsync; /* the driver does not flush, so that each write must be stable by itself */
	bool staged;
	unsigned reader;         /* number for qcow2_enter */
	bool ring_waits;         /* its ring is on, but not served until the fence is passed */
	_Atomic unsigned active; /* requests that are taken; written by the queue's thread */
	unsigned njobs;          /* requests that workers carry out, or that wait for those */
	bool slow_disk;          /* the last submission was not done when the call returned */
	struct request *free;
	struct request *waiting, **waiting_end; /* for a bounce buffer, in order */
	uint8_t *bounce_free[BOUNCE_COUNT];
	unsigned nbounce_free;
	struct iovec bounce_iov[QUEUE_DEPTH];
	struct iovec pop_iov[REQUEST_IOV];
	struct request *requests;
	struct iovec *iov_memory;
	uint8_t *bounce_memory;
	struct blk_stats stats;
};

/* ---- request.c: what a request asks for ---- */

/* Decodes a chain and starts it; everything wrong with it is answered. */
void request_start(struct blk_queue *q, struct vq_chain *chain);

/* Begins or goes on with one that was let through. */
void request_carry_out(struct request *r);

/* Gives one back to the ring, if it is the last that was taken and the ring still shows it; else false. */
bool request_give_back(struct request *r);

/* Looks whether the limits let the one through that waits for them; true if they did. */
bool request_unthrottle(struct blk_queue *q);

/* Gives the one back that waits for the limits, or carries it out if that can't be. */
void request_release(struct blk_queue *q);

/* Its successor's: the one that waits for the limits; one that has been parked. */
void request_forget(struct blk_queue *q);
void request_drop(struct request *r);
/* The status of a discard, or of zeroes, that came to err: 0 or -errno. */
uint8_t request_status(const struct request *r, int err);

/* A job's or a transfer's end. status is VIRTIO_BLK_S_*; the request is free afterwards. */
void request_finish(struct request *r, uint8_t status);

/* A flush's end, 0 or -errno. The kernel tells of lost data once, so if we die before the driver was told, our successor
 * must not try again. */
void request_flushed(struct request *r, int err);

/* ---- transfer.c: reads and writes ---- */

/* Starts or continues what is left of r. */
void transfer_start(struct request *r);

/* Discards or zeroes r's ranges, by an engine that can. */
void transfer_ranges(struct request *r);

/* What the engine has done. */
void transfer_done(struct request *r);

/* Copies len bytes between the front of r's vectors and buf, and consumes nothing. */
void transfer_copy_out(const struct request *r, uint8_t *buf, uint32_t len); /* guest to buf */

/* The owner has answered (owner.h). */
void transfer_answered(struct request *r);

/* Drops n bytes off the front of r's vectors. */
void transfer_consume(struct request *r, uint32_t n);

/* Adds to a counter that only the calling thread writes. */
static inline void blk_count(_Atomic uint64_t *stat, uint64_t n)
{
	atomic_store_explicit(stat, atomic_load_explicit(stat, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

#endif
