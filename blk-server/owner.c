/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that owns a qcow2 image's tables. */
#include "owner.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crash.h"
#include "lock.h"
#include "log.h"
#include "num.h"
#include "request.h"
#include "thread.h"

/* What another thread waits for the owner to do. */
struct call {
	struct call *next;
	void (*fn)(struct owner *o, struct call *call);
	uint64_t bytes;
	int result;
	const char *why;
	sem_t done;
};

struct owner {
	struct disk *disk;
	struct qcow2_options options;
	struct qcow2_backing backing[QCOW2_CHAIN_MAX];
	int fd[QCOW2_CHAIN_MAX]; /* of the chain; the first is the disk's */
	struct qcow2 *_Atomic image;

	sem_t wanted, named;
	struct lock lock; /* guards the next five */
	struct request *first, *last;
	struct call *calls;
	bool stopping;
	struct blk_queue *queue[QCOW2_READERS_MAX];
	unsigned nqueues;

	_Atomic bool kicked;
	bool running;
	pthread_t thread;
	unsigned rings;  /* that are on; the owner's, like all that follows */
	uint8_t *buffer; /* BOUNCE_BYTES */
};

/* ---- the files ---- */

static int file_sync(void *arg)
{
	struct owner *o = arg;
	int err;

	CRASH_POINT("qcow2 flush before");
	err = disk_flush(o->disk);
	CRASH_POINT("qcow2 flush after");
	return err;
}

static int64_t file_read(void *arg, void *buf, size_t len, uint64_t off)
{
	return qcow2_fd_ops.read(((struct owner *)arg)->fd, buf, len, off);
}

static int file_write(void *arg, const void *buf, size_t len, uint64_t off)
{
	int err;

	CRASH_POINT("qcow2 write before");
	err = qcow2_fd_ops.write(((struct owner *)arg)->fd, buf, len, off);
	CRASH_POINT("qcow2 write after");
	return err;
}

static int file_zero(void *arg, uint64_t off, uint64_t len)
{
	return qcow2_fd_ops.zero(((struct owner *)arg)->fd, off, len);
}

static int file_size(void *arg, uint64_t *bytes)
{
	return qcow2_fd_ops.size(((struct owner *)arg)->fd, bytes);
}

/* The image's own file: a flush of it that failed once fails for ever, whoever makes it. */
static const struct qcow2_file_ops file_ops = {
	.read = file_read,
	.write = file_write,
	.sync = file_sync,
	.zero = file_zero,
	.size = file_size,
};

static int open_image(struct owner *o, bool readonly, struct qcow2 **out)
{
	struct qcow2_file file = { .ops = &file_ops, .arg = o };
	struct qcow2_options options = o->options;
	char why[256];
	int err;

	options.readonly = readonly;
	err = qcow2_open(&file, &options, out, why, sizeof(why));
	if (err)
		log_error("image %s can't be used as qcow2: %s", o->disk->name, why);
	return err;
}

/* "raw:FILE", "qcow2:FILE", or FILE, whose format the header above names. */
static const char *split_format(const char *value, enum qcow2_format *format)
{
	*format = !strncmp(value, "raw:", 4)     ? QCOW2_FORMAT_RAW
		  : !strncmp(value, "qcow2:", 6) ? QCOW2_FORMAT_QCOW2
						 : QCOW2_FORMAT_HEADER;
	return *format == QCOW2_FORMAT_HEADER ? value : strchr(value, ':') + 1;
}

static int open_backing(struct owner *o, unsigned i)
{
	struct disk *disk = o->disk;
	const char *path = split_format(disk->backing[i], &o->backing[i].format);
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
	struct stat st;
	int fd = disk->backing_fd[i], err = 0, flags;

	if (fd < 0)
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		err = -errno;
	o->fd[i + 1] = fd;
	if (!err && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		err = -EINVAL;
	/* Others may read it too, but nobody may write to it. A descriptor's lock is its sender's. */
	if (!err && disk->backing_fd[i] < 0 && fcntl(fd, F_OFD_SETLK, &lock) < 0)
		err = -errno;
	if (!err && ((flags = fcntl(fd, F_GETFL, 0)) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0))
		err = -errno;
	if (!err &&
	    fcntl(fd, F_SETFL, (flags & ~(O_NONBLOCK | O_DIRECT)) | (disk->buffered ? 0 : O_DIRECT)) < 0)
		err = -errno;
	if (err)
		log_error_errno(err, "backing file %s", disk->backing[i]);
	o->backing[i].file = (struct qcow2_file) { .ops = &qcow2_fd_ops, .arg = &o->fd[i + 1] };
	return err;
}

int owner_open(struct disk *disk, uint64_t *bytes)
{
	struct owner *o = calloc(1, sizeof(*o));
	int err = 0;

	if (!o)
		return -ENOMEM;
	disk->owner = o;
	o->disk = disk;
	lock_init(&o->lock);
	sem_init(&o->wanted, 0, 0);
	sem_init(&o->named, 0, 0);
	for (unsigned i = 0; i < QCOW2_CHAIN_MAX; i++)
		o->fd[i] = -1;
	o->fd[0] = disk->fd;
	o->options = (struct qcow2_options) { .device = disk->is_device,
					      .cache_bytes = (size_t)disk->cache_bytes,
					      .backing = o->backing,
					      .nbacking = disk->nbacking };
	o->buffer = aligned_alloc(4096, BOUNCE_BYTES);
	if (!o->buffer)
		err = -ENOMEM;
	else
		madvise(o->buffer, BOUNCE_BYTES, MADV_DONTDUMP); /* guest data passes through */
	for (unsigned i = 0; i < disk->nbacking && !err; i++)
		err = open_backing(o, i);
	return err ? err : owner_look(o, bytes);
}

int owner_look(struct owner *o, uint64_t *bytes)
{
	struct qcow2 *image;
	int err = open_image(o, true, &image);

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
	if (o->running) {
		lock_take(&o->lock);
		o->stopping = true;
		lock_drop(&o->lock);
		sem_post(&o->wanted);
		pthread_join(o->thread, NULL);
	}
	/* Rings were served to the last moment. Whoever serves them now may have changed the tables since. */
	qcow2_abandon(atomic_load(&o->image));
	for (unsigned i = 1; i < QCOW2_CHAIN_MAX; i++)
		if (o->fd[i] >= 0)
			close(o->fd[i]);
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
	return o->fd[layer];
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

/* First all allocations, made sure of by one flush, then the rest. */
static void do_requests(struct owner *o, struct request *first)
{
	struct qcow2 *image = atomic_load_explicit(&o->image, memory_order_relaxed);
	int err = image ? write_through(o, image, first) : -EIO;

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
	for (unsigned i = 0; i < o->nqueues; i++)
		if (atomic_load_explicit(&o->queue[i]->active, memory_order_acquire))
			return true;
	return false;
}

/* Requests that were taken stay with whoever took them, so while there are any, nobody else has served. */
static void ring_on(struct owner *o, struct call *call)
{
	struct qcow2 *image = NULL;

	(void)call;
	if (o->rings++ || (atomic_load(&o->image) && is_busy(o)))
		return;
	qcow2_abandon(atomic_exchange(&o->image, NULL));
	if (!open_image(o, !disk_takes_writes(o->disk), &image))
		atomic_store_explicit(&o->image, image, memory_order_release);
}

static void ring_off(struct owner *o, struct call *call)
{
	int err;

	(void)call;
	if (!o->rings || --o->rings || is_busy(o))
		return;
	err = qcow2_close(atomic_exchange(&o->image, NULL));
	if (err)
		log_warn_errno(err, "image %s: reserved clusters could not be given back", o->disk->name);
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

static void do_call(struct owner *o, struct call *call)
{
	sem_init(&call->done, 0, 0);
	lock_take(&o->lock);
	call->next = o->calls;
	o->calls = call;
	lock_drop(&o->lock);
	sem_post(&o->wanted);
	while (sem_wait(&call->done) < 0)
		continue;
	sem_destroy(&call->done);
}

void owner_ring(struct owner *o, bool on)
{
	struct call call = { .fn = on ? ring_on : ring_off };

	do_call(o, &call);
}

int owner_settle(struct owner *o)
{
	struct call call = { .fn = settle };

	do_call(o, &call);
	return call.result;
}

int owner_resize(struct owner *o, uint64_t bytes, const char **why)
{
	struct call call = { .fn = resize, .bytes = bytes };

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
			next = calls->next;
			calls->fn(o, calls);
			sem_post(&calls->done); /* it is its caller's again from here on */
		}
		do_requests(o, first);
	}
}

int owner_start(struct owner *o, struct blk_queue *q, unsigned *reader)
{
	sigset_t all, old;
	int err = 0;

	lock_take(&o->lock);
	*reader = o->nqueues;
	o->queue[o->nqueues++] = q;
	lock_drop(&o->lock);
	if (o->running)
		return 0;
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
