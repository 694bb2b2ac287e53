/* SPDX-License-Identifier: Apache-2.0 */
/* A queue of the disk: its engine, its requests and buffers, and the pass that moves them. */
#include "blk_queue.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include "num.h"
#include "onerror.h"
#include "owner.h"
#include "request.h"
#include "slow.h"

#define REAP_MAX 64
#define PASS_MAX 8 /* transfers at a time where memory answers */
#define BATCH    4 /* transfers that a disk gets at a time, so that it works while the rest is prepared */

/* Memory that costs nothing until it is touched. */
static void *map_lazily(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, len, MADV_DONTDUMP); /* guest data passes through */
	return p;
}

#define IOV_MEMORY    (QUEUE_DEPTH * REQUEST_IOV * sizeof(struct iovec))
#define BOUNCE_STRIDE (BOUNCE_BYTES + BOUNCE_SLACK)
#define BOUNCE_MEMORY ((size_t)BOUNCE_COUNT * BOUNCE_STRIDE)

_Static_assert(DISK_RANGES * sizeof(struct range) <= REQUEST_IOV * sizeof(struct iovec),
	       "a request's ranges fit the memory of its vectors");

static int make_requests(struct blk_queue *q)
{
	q->requests = calloc(QUEUE_DEPTH, sizeof(struct request));
	q->iov_memory = map_lazily(IOV_MEMORY);
	q->bounce_memory = map_lazily(BOUNCE_MEMORY);
	if (!q->requests || !q->iov_memory || !q->bounce_memory)
		return -ENOMEM;
	/* The first on the list is the first of the array, so that a shallow queue touches little. */
	for (unsigned i = QUEUE_DEPTH; i-- > 0;) {
		struct request *r = &q->requests[i];

		r->queue = q;
		r->big_iov = q->iov_memory + (size_t)i * REQUEST_IOV;
		r->next = q->free;
		q->free = r;
		slow_prepare(r);
	}
	for (unsigned i = BOUNCE_COUNT; i-- > 0;)
		q->bounce_free[q->nbounce_free++] = q->bounce_memory + (size_t)i * BOUNCE_STRIDE;
	return 0;
}

static void run(void *arg)
{
	server_run(((struct blk_queue *)arg)->server);
}

static void on_completions(void *arg, uint32_t events)
{
	(void)events;
	run(arg);
}

int blk_queue_open(struct disk *disk, struct server_queue *server, struct blk_queue **out)
{
	struct blk_queue *q = calloc(1, sizeof(*q));
	int err;

	if (!q)
		return -ENOMEM;
	q->disk = disk;
	q->server = server;
	q->waiting_end = &q->waiting;
	onerror_open(q);
	err = make_requests(q);
	if (!err && disk->owner)
		err = owner_start(disk->owner, q, &q->reader);
	if (!err)
		err = disk->engine->open(&disk->files, QUEUE_DEPTH, &q->engine);
	if (err) {
		blk_queue_close(q);
		return err;
	}
	*out = q;
	return 0;
}

int blk_queue_attach(struct blk_queue *q)
{
	const struct engine_ops *engine = q->disk->engine;
	struct loop *loop = server_loop(q->server);
	int err = engine->attach ? engine->attach(q->engine, loop, run, q)
				 : loop_add_fd(loop, engine->event_fd(q->engine), EPOLLIN | EPOLLET,
					       on_completions, q, &q->watch);

	if (!err)
		err = loop_add_timer(loop, run, q, &q->throttle_timer);
	return err ? err : onerror_attach(q);
}

void blk_queue_detach(struct blk_queue *q)
{
	if (q->disk->engine->detach)
		q->disk->engine->detach(q->engine);
	loop_del_fd(q->watch);
	loop_del_timer(q->throttle_timer);
	onerror_detach(q);
	q->watch = NULL;
	q->throttle_timer = NULL;
}

void blk_queue_close(struct blk_queue *q)
{
	onerror_close(q);
	if (q->disk->owner)
		owner_stop(q->disk->owner);
	if (q->engine)
		q->disk->engine->close(q->engine);
	if (q->iov_memory)
		munmap(q->iov_memory, IOV_MEMORY);
	if (q->bounce_memory)
		munmap(q->bounce_memory, BOUNCE_MEMORY);
	free(q->requests);
	free(q);
}

static bool reap(struct blk_queue *q)
{
	struct engine_io *done[REAP_MAX];
	unsigned n, total = 0;

	do {
		n = q->disk->engine->reap(q->engine, done, REAP_MAX);
		for (unsigned i = 0; i < n; i++) {
			struct request *r = CONTAINER_OF(done[i], struct request, io);

			server_take_up(q->server, r->head);
			transfer_done(r);
		}
		total += n;
	} while (n == REAP_MAX);
	server_lay_down(q->server);
	return total > 0;
}

/*
 * Takes what the ring holds and stages it, but never so much that driver and storage would take turns. A disk would do
 * nothing until the last request is prepared, so it gets the first ones early. Where memory answers, it is the driver
 * that would sleep until the last one is answered, so it is told of some before the others are taken.
 */
static unsigned take(struct blk_queue *q)
{
	struct vq_chain chain = { .iov = q->pop_iov };
	unsigned n = 0;

	while ((q->slow_disk || n < PASS_MAX) && blk_queue_has_room(q) &&
	       server_pop(q->server, &chain) == 1) {
		request_start(q, &chain);
		server_lay_down(q->server);
		if (++n % BATCH == 0 && q->slow_disk)
			q->disk->engine->submit(q->engine);
	}
	return n;
}

bool blk_queue_service(struct blk_queue *q)
{
	bool did = reap(q);

	if (q->ring_waits && !fence_waits(&q->disk->fence))
		blk_queue_ring(q, true);
	q->dsync = !(server_features(q->server) & 1ULL << VIRTIO_BLK_F_FLUSH) ||
		   atomic_load_explicit(&q->disk->write_through, memory_order_acquire);
	server_flush(q->server);
	did |= onerror_service(q);
	did |= request_unthrottle(q);
	did |= take(q) > 0;
	while (q->staged) {
		/* What is left could not be taken now; the next completion makes room for it. */
		bool left = q->disk->engine->submit(q->engine) > 0;

		q->staged = false;
		/* Where memory answered, everything is done already, and may go on. */
		did |= reap(q);
		q->slow_disk = q->disk->engine->busy(q->engine);
		if (left) {
			q->staged = true;
			break;
		}
	}
	return did;
}

void blk_queue_ring(struct blk_queue *q, bool on)
{
	q->ring_waits = on && fence_waits(&q->disk->fence);
	if (q->disk->owner && !q->ring_waits)
		owner_ring(q->disk->owner, q->reader, on);
}

/* A predecessor's transfers may go on, or a qcow2 image must be repaired first: what the driver asks for waits in the ring. */
static bool is_opening(const struct blk_queue *q)
{
	return q->ring_waits || (q->disk->owner && owner_is_opening(q->disk->owner, q->reader));
}

bool blk_queue_has_room(const struct blk_queue *q)
{
	return q->free && !q->throttled && !is_opening(q);
}

unsigned blk_queue_held(const struct blk_queue *q)
{
	return q->disk->engine->busy(q->engine) + q->njobs + q->nkept + !!q->throttled + is_opening(q);
}

uint64_t blk_queue_since(const struct blk_queue *q)
{
	const struct engine_ops *engine = q->disk->engine;

	if (q->ring_waits)
		return q->disk->fence.since;
	return engine->since ? engine->since(q->engine) : 0;
}

void blk_queue_release(struct blk_queue *q)
{
	request_release(q);
	onerror_release(q);
	if (q->staged)
		q->disk->engine->submit(q->engine);
}

unsigned blk_queue_parked(const struct blk_queue *q)
{
	return q->nkept + !!q->throttled;
}

void blk_queue_forget(struct blk_queue *q)
{
	request_forget(q);
	onerror_forget(q);
}

bool blk_queue_pending(const struct blk_queue *q)
{
	return q->disk->engine->pending(q->engine);
}

/* ---- counters ---- */

static const struct {
	const char *name;
	size_t at;
} counters[] = {
	{ "reads", offsetof(struct blk_stats, reads) },
	{ "writes", offsetof(struct blk_stats, writes) },
	{ "flushes", offsetof(struct blk_stats, flushes) },
	{ "discards", offsetof(struct blk_stats, discards) },
	{ "zeroes", offsetof(struct blk_stats, zeroes) },
	{ "read_bytes", offsetof(struct blk_stats, read_bytes) },
	{ "write_bytes", offsetof(struct blk_stats, write_bytes) },
	{ "bounced", offsetof(struct blk_stats, bounced) },
	{ "errors", offsetof(struct blk_stats, errors) },
	{ "kept", offsetof(struct blk_stats, kept) },
	{ "throttled", offsetof(struct blk_stats, throttled) },
};

const char *blk_queue_counter(const struct blk_queue *q, unsigned i, uint64_t *value)
{
	const char *base = (const char *)&q->stats;

	if (i >= ARRAY_SIZE(counters))
		return NULL;
	*value = atomic_load_explicit((const _Atomic uint64_t *)(const void *)(base + counters[i].at),
				      memory_order_relaxed);
	return counters[i].name;
}
