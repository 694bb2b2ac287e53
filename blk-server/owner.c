/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that owns a qcow2 image's tables. */
#include "owner.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "chain.h"
#include "clock.h"
#include "crash.h"
#include "lock.h"
#include "log.h"
#include "num.h"
#include "request.h"
#include "thread.h"

#define REOPEN_NS NS_PER_S /* between two attempts to open an image that can't be */

/* What another thread has the owner do. */
struct call {
	struct call *next;
	void (*fn)(struct owner *o, struct call *call);
	uint64_t bytes;
	int result;
	const char *why;
	sem_t *done; /* NULL: nobody waits */
};

/* A queue as the owner knows it. */
struct user {
	struct blk_queue *queue;
	bool on;              /* its ring is served; the queue's thread's */
	_Atomic bool opening; /* ... or will be, once the image is open */
	struct call call;     /* that its ring is */
};

struct owner {
	struct disk *disk;
	struct chain chain;
	struct qcow2 *_Atomic image;

	sem_t wanted, named;
	struct lock lock;
	struct request *first GUARDED_BY(lock), *last GUARDED_BY(lock);
	struct call *calls GUARDED_BY(lock), *last_call GUARDED_BY(lock);
	bool stopping GUARDED_BY(lock);
	struct user user[QCOW2_READERS_MAX];
	unsigned nusers;

	_Atomic bool kicked;
	bool running;
	pthread_t thread;
	struct loop_bh opened; /* the main loop's: has the queues look at their rings */
	unsigned rings;        /* that are on; the owner's, like all that follows */
	int open_err;          /* why the image is not open */
	uint64_t open_ns;      /* when that was tried last */
	uint8_t *buffer;       /* BOUNCE_BYTES */
};

int owner_open(struct disk *disk, uint64_t *bytes)
{
	struct owner *o = calloc(1, sizeof(*o));
	int err;

	if (!o)
		return -ENOMEM;
	disk->owner = o;
	o->disk = disk;
	lock_init(&o->lock);
	sem_init(&o->wanted, 0, 0);
	sem_init(&o->named, 0, 0);
	err = chain_open(&o->chain, disk);
	o->buffer = aligned_alloc(4096, BOUNCE_BYTES);
	if (!o->buffer)
		return -ENOMEM;
	madvise(o->buffer, BOUNCE_BYTES, MADV_DONTDUMP); /* guest data passes through */
	return err ? err : owner_look(o, bytes);
}

int owner_look(struct owner *o, uint64_t *bytes)
{
	struct qcow2 *image;
	int err = chain_image(&o->chain, true, &image);

	if (err)
		return err;
	*bytes = qcow2_size(image);
	o->disk->cluster = qcow2_cluster(image);
	return qcow2_close(image);
}

void owner_close(struct disk *disk)
{
	struct owner *o = disk->owner;

	if (!o)
		return;
	owner_stop(o);
	/* Rings were served to the last moment. Whoever serves them now may have changed the tables since. */
	qcow2_abandon(atomic_load(&o->image));
	chain_close(&o->chain);
	lock_destroy(&o->lock);
	sem_destroy(&o->wanted);
	sem_destroy(&o->named);
	free(o->buffer);
	free(o);
	disk->owner = NULL;
}

struct qcow2 *owner_image(const struct owner *o)
{
	return atomic_load_explicit(&o->image, memory_order_acquire);
}

int owner_fd(const struct owner *o, unsigned layer)
{
	return o->chain.fd[layer];
}

/* ---- requests ---- */

/* Copies n bytes into the front of r's vectors; the queue's thread marks them as written. */
static void copy_in(const struct request *r, const uint8_t *buf, uint32_t len)
{
	for (const struct iovec *v = r->iov; len; v++) {
		uint32_t n = (uint32_t)MIN(v->iov_len, len);

		memcpy(v->iov_base, buf, n);
		buf += n;
		len -= n;
	}
}

/* Loads what a read needs to be mapped; what can't be mapped is read. */
static void do_read(struct owner *o, struct qcow2 *image, struct request *r)
{
	uint32_t n = MIN(r->left, BOUNCE_BYTES);
	struct qcow2_extent e;

	r->result = qcow2_load(image, r->off, r->left);
	if (r->result)
		return;
	qcow2_map(image, r->off, r->left, false, &e);
	if (e.kind != QCOW2_ASK && r->asked != r->off)
		return;
	/* As far as the end of its cluster, if there is more of it to be mapped. */
	n = (uint32_t)MIN(n, qcow2_cluster(image) - r->off % qcow2_cluster(image));
	r->result = qcow2_read(image, r->off, o->buffer, n);
	if (r->result)
		return;
	copy_in(r, o->buffer, n);
	r->carried = n;
}

/* A write whose tables were pushed out of the cache before its queue came to see them. */
static void do_write(struct owner *o, struct qcow2 *image, struct request *r)
{
	uint32_t n = MIN(r->left, BOUNCE_BYTES);

	transfer_copy_out(r, o->buffer, n);
	r->result = qcow2_write(image, r->off, o->buffer, n);
	if (!r->result && r->io.dsync)
		r->result = disk_flush(o->disk);
	if (!r->result)
		r->carried = n;
}

static void do_ranges(struct owner *o, struct qcow2 *image, struct request *r)
{
	for (unsigned i = 0; i < r->nranges && !r->result; i++) {
		const struct range *range = &r->ranges[i];

		if (!range->len)
			continue;
		r->result = r->kind == REQUEST_DISCARD
				? qcow2_discard(image, range->off, range->len)
				: qcow2_zero(image, range->off, range->len, range->unmap);
	}
	if (!r->result && r->io.dsync)
		r->result = disk_flush(o->disk);
}

/* Once somebody writes durably to where he finds a cluster, its entry must be durable, too, whoever asked for it. */
static int write_through(const struct owner *o, struct qcow2 *image, const struct request *first)
{
	bool on = atomic_load(&o->disk->write_through);

	for (const struct request *r = first; r; r = r->next)
		on |= r->io.dsync;
	return qcow2_write_through(image, on);
}

/* Tries to open the image for rings that are on. */
static void open_image(struct owner *o)
{
	struct qcow2 *image = NULL;

	o->open_err = chain_image(&o->chain, !disk_takes_writes(o->disk), &image);
	o->open_ns = clock_ns();
	if (!o->open_err)
		atomic_store_explicit(&o->image, image, memory_order_release);
}

/* What was in the way when the rings came on, may be over: no room for a repair, or somebody in a hurry. */
static struct qcow2 *get_image(struct owner *o)
{
	if (!atomic_load(&o->image) &&
	    (o->open_err == -ECANCELED || (o->rings && clock_ns() - o->open_ns >= REOPEN_NS)))
		open_image(o);
	return atomic_load_explicit(&o->image, memory_order_relaxed);
}

/* Has them come again with the next that is posted. */
static void put_back(struct owner *o, struct request *first)
{
	struct request *last = first;

	while (last->next)
		last = last->next;
	lock_take(&o->lock);
	last->next = o->first;
	if (!o->first)
		o->last = last;
	o->first = first;
	lock_drop(&o->lock);
}

/* First all allocations, made sure of by one flush, then the rest. */
static void do_requests(struct owner *o, struct request *first)
{
	struct qcow2 *image = first ? get_image(o) : atomic_load(&o->image);
	int err;

	/* Who called the opening off waits for something that it has posted, or is about to post. */
	if (first && !image && o->open_err == -ECANCELED) {
		put_back(o, first);
		return;
	}
	err = image ? write_through(o, image, first) : o->open_err ? o->open_err : -EIO;
	for (struct request *r = first; r; r = r->next) {
		r->carried = 0;
		r->result = err;
		if (!err && r->kind == REQUEST_WRITE)
			r->result = qcow2_prepare(image, r->off, r->left);
	}
	if (!err)
		err = qcow2_commit(image);
	for (struct request *r = first, *next; r; r = next) {
		next = r->next;
		if (r->kind == REQUEST_WRITE && !r->result)
			r->result = err;
		if (!r->result && r->kind == REQUEST_READ)
			do_read(o, image, r);
		else if (!r->result && r->kind == REQUEST_WRITE && r->asked == r->off)
			do_write(o, image, r);
		else if (!r->result && r->kind != REQUEST_WRITE)
			do_ranges(o, image, r);
		r->asked = r->off;
		CRASH_POINT("qcow2 answer before");
		loop_bh_post(&r->job.bh);
	}
	if (image)
		qcow2_reclaim(image);
}

static void owner_done(void *arg)
{
	struct request *r = arg;

	r->job.done(r);
}

void owner_ask(struct owner *o, struct request *r)
{
	r->queue->njobs++;
	r->next = NULL;
	loop_bh_init(&r->job.bh, server_loop(r->queue->server), owner_done, r);
	lock_take(&o->lock);
	if (o->first)
		o->last->next = r;
	else
		o->first = r;
	o->last = r;
	lock_drop(&o->lock);
	sem_post(&o->wanted);
}

void owner_moved(struct owner *o)
{
	if (qcow2_wants_reclaim(owner_image(o)) && !atomic_exchange(&o->kicked, true))
		sem_post(&o->wanted);
}

/* ---- calls ---- */

static bool is_busy(const struct owner *o)
{
	for (unsigned i = 0; i < o->nusers; i++)
		if (atomic_load_explicit(&o->user[i].queue->active, memory_order_acquire))
			return true;
	return false;
}

/* Requests that were taken stay with whoever took them, so while there are any, nobody else has served. */
static void ring_on(struct owner *o, struct call *call)
{
	struct user *u = CONTAINER_OF(call, struct user, call);

	if (!o->rings++ && !(atomic_load(&o->image) && is_busy(o))) {
		qcow2_abandon(atomic_exchange(&o->image, NULL));
		open_image(o);
	}
	atomic_store(&u->opening, false);
	loop_bh_post(&o->opened);
}

static void close_image(struct owner *o)
{
	int err = qcow2_close(atomic_exchange(&o->image, NULL));

	if (err)
		log_warn_errno(err, "image %s: reserved clusters could not be given back", o->disk->name);
}

/* While some of what was taken is not done, the image stays open, and whoever waits for its end comes again. */
static void ring_off(struct owner *o, struct call *call)
{
	o->rings -= (unsigned)call->bytes;
	atomic_fetch_sub(&o->chain.hurry, 1);
	if (!o->rings && !is_busy(o))
		close_image(o);
	else if (o->rings && o->open_err == -ECANCELED && !atomic_load(&o->image))
		open_image(o); /* it was called off for this one's sake */
}

static void settle(struct owner *o, struct call *call)
{
	struct qcow2 *image = atomic_load(&o->image);

	call->result = image ? qcow2_write_through(image, atomic_load(&o->disk->write_through)) : 0;
}

static void resize(struct owner *o, struct call *call)
{
	struct qcow2 *image = atomic_load(&o->image);

	call->result = image ? qcow2_resize(image, call->bytes, &call->why) : -ENODEV;
}

static void post_call(struct owner *o, struct call *call)
{
	call->next = NULL;
	lock_take(&o->lock);
	if (o->calls)
		o->last_call->next = call;
	else
		o->calls = call;
	o->last_call = call;
	lock_drop(&o->lock);
	sem_post(&o->wanted);
}

static void do_call(struct owner *o, struct call *call)
{
	sem_t done;

	if (!o->running)
		return;
	sem_init(&done, 0, 0);
	call->done = &done;
	post_call(o, call);
	while (sem_wait(&done) < 0)
		continue;
	sem_destroy(&done);
}

void owner_ring(struct owner *o, unsigned user, bool on)
{
	struct user *u = &o->user[user];
	struct call off = { .fn = ring_off, .bytes = u->on };

	if (on && !u->on) {
		u->on = true;
		u->call = (struct call) { .fn = ring_on };
		atomic_store(&u->opening, true);
		post_call(o, &u->call);
	} else if (!on) {
		u->on = false;
		atomic_fetch_add(&o->chain.hurry, 1);
		do_call(o, &off);
	}
}

bool owner_is_opening(const struct owner *o, unsigned user)
{
	return atomic_load_explicit(&o->user[user].opening, memory_order_acquire);
}

int owner_settle(struct owner *o)
{
	struct call call = { .fn = settle };

	if (owner_image(o))
		do_call(o, &call);
	return call.result;
}

int owner_resize(struct owner *o, uint64_t bytes, const char **why)
{
	struct call call = { .fn = resize, .bytes = bytes };

	if (!owner_image(o)) {
		*why = "it is not open, or being repaired";
		return -EBUSY;
	}
	do_call(o, &call);
	*why = call.why;
	return call.result;
}

/* ---- the thread ---- */

static void *owner_main(void *arg)
{
	struct owner *o = arg;

	thread_set_name("tables");
	sem_post(&o->named);
	for (;;) {
		struct request *first;
		struct call *calls;
		bool stopping;

		while (sem_wait(&o->wanted) < 0)
			continue;
		atomic_store(&o->kicked, false);
		lock_take(&o->lock);
		first = o->first;
		o->first = NULL;
		calls = o->calls;
		o->calls = NULL;
		stopping = o->stopping;
		lock_drop(&o->lock);
		if (stopping)
			return NULL;
		for (struct call *next; calls; calls = next) {
			sem_t *done = calls->done;

			next = calls->next;
			calls->fn(o, calls); /* it is its caller's again after that */
			if (done)
				sem_post(done);
		}
		do_requests(o, first);
	}
}

/* The main loop's. A queue may be moving between threads, so it is found there. */
static void on_opened(void *arg)
{
	struct owner *o = arg;

	for (unsigned i = 0; i < o->nusers; i++)
		server_poke(o->user[i].queue->server);
}

int owner_start(struct owner *o, struct blk_queue *q, unsigned *reader)
{
	sigset_t all, old;
	int err = 0;

	lock_take(&o->lock);
	*reader = o->nusers;
	o->user[o->nusers++].queue = q;
	lock_drop(&o->lock);
	if (o->running)
		return 0;
	loop_bh_init(&o->opened, server_main_loop(q->server), on_opened, o);
	sigfillset(&all);
	sigdelset(&all, SIGSYS); /* that one is for the thread that it is about */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&o->thread, NULL, owner_main, o);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	o->running = !err;
	/* The narrow filter that comes soon does not let it name itself. */
	while (o->running && sem_wait(&o->named) < 0)
		continue;
	return -err;
}

void owner_stop(struct owner *o)
{
	if (!o->running)
		return;
	lock_take(&o->lock);
	o->stopping = true;
	lock_drop(&o->lock);
	atomic_fetch_add(&o->chain.hurry, 1);
	sem_post(&o->wanted);
	pthread_join(o->thread, NULL);
	o->running = false;
	loop_bh_cancel(&o->opened);
}
