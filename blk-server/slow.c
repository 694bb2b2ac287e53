/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that a worker carries out with blocking calls; the order of things is in slow.h. */
#include "slow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fd.h"
#include "lock.h"
#include "num.h"
#include "onerror.h"
#include "owner.h"
#include "request.h"

#define BUFFER_BYTES (BOUNCE_BYTES + BOUNCE_SLACK)

struct gate {
	struct lock lock;
	unsigned plain GUARDED_BY(lock); /* plain writes that run */
	struct request *active GUARDED_BY(lock);
	struct request *waiting GUARDED_BY(lock);
	struct request *waiting_last GUARDED_BY(lock);
	uint8_t *buffer; /* active's */
};

int gate_new(struct disk *disk, struct gate **out)
{
	struct gate *g = calloc(1, sizeof(*g));

	(void)disk;
	if (!g)
		return -ENOMEM;
	g->buffer = aligned_alloc(4096, BUFFER_BYTES);
	if (!g->buffer) {
		free(g);
		return -ENOMEM;
	}
	madvise(g->buffer, BUFFER_BYTES, MADV_DONTDUMP); /* guest data passes through */
	lock_init(&g->lock);
	*out = g;
	return 0;
}

void gate_free(struct gate *g)
{
	if (!g)
		return;
	lock_destroy(&g->lock);
	free(g->buffer);
	free(g);
}

static void submit(struct request *r)
{
	loop_pool_submit(server_pool(r->queue->server), server_loop(r->queue->server), &r->job);
}

static void wait_in(struct gate *g, struct request *r) REQUIRES(g->lock)
{
	r->next = NULL;
	if (g->waiting)
		g->waiting_last->next = r;
	else
		g->waiting = r;
	g->waiting_last = r;
}

/* Makes the first that waits active if nothing is in its way; the caller submits what comes back. */
static struct request *admit(struct gate *g) REQUIRES(g->lock)
{
	struct request *r = g->waiting;

	if (!r || g->active || g->plain)
		return NULL;
	g->waiting = r->next;
	g->active = r;
	return r;
}

bool gate_enter(struct gate *g, struct request *r)
{
	bool free_way;

	lock_take(&g->lock);
	free_way = !g->active && !g->waiting;
	if (free_way)
		g->plain++;
	else
		wait_in(g, r);
	lock_drop(&g->lock);
	r->queue->njobs += !free_way;
	return free_way;
}

void gate_leave(struct gate *g)
{
	struct request *next;

	lock_take(&g->lock);
	g->plain--;
	next = admit(g);
	lock_drop(&g->lock);
	if (next)
		submit(next);
}

/* ---- on a worker ---- */

static int read_block(const struct disk *disk, uint8_t *buf, uint64_t off)
{
	return fd_pread_full(disk->fd, buf, disk->io_align, (off_t)off);
}

/* Writes the next n bytes of r, whatever their alignment: reads the blocks at both ends first. */
static int write_part(struct request *r, uint8_t *buf, uint32_t n)
{
	const struct disk *disk = r->queue->disk;
	uint64_t start = num_align_down(r->off, disk->io_align);
	uint64_t end = num_align_up(r->off + n, disk->io_align), last = end - disk->io_align;
	int err = 0;

	if (start != r->off)
		err = read_block(disk, buf, start);
	if (!err && end != r->off + n && (last != start || start == r->off))
		err = read_block(disk, buf + (last - start), last);
	if (err)
		return err;
	transfer_copy_out(r, buf + (r->off - start), n);
	return fd_pwrite_full(disk->fd, buf, end - start, (off_t)start);
}

static int slow_write(struct request *r)
{
	int err = 0;

	while (r->left && !err) {
		uint32_t n = MIN(r->left, BOUNCE_BYTES);

		err = write_part(r, r->queue->disk->gate->buffer, n);
		if (!err)
			transfer_consume(r, n);
	}
	if (!err && r->io.dsync)
		err = disk_flush(r->queue->disk);
	return err;
}

/* Zeroes n bytes within one block: reads it, and writes it back. */
static int zero_part(const struct disk *disk, uint64_t off, uint64_t n)
{
	uint64_t start = num_align_down(off, disk->io_align);
	uint8_t *buf = disk->gate->buffer;
	int err = read_block(disk, buf, start);

	if (err)
		return err;
	memset(buf + (off - start), 0, n);
	return fd_pwrite_full(disk->fd, buf, disk->io_align, (off_t)start);
}

/* Zeroes any range: whole blocks as the disk does it best, and the parts of blocks at its ends. */
static int slow_zero(const struct disk *disk, const struct range *range)
{
	uint64_t off = range->off, left = range->len;
	int err = 0;

	if (!disk->gate)
		return disk_zero(disk, off, left, range->unmap);
	while (left && !err) {
		uint64_t in = off % disk->io_align, n = MIN(disk->io_align - in, left);

		if (in || left < disk->io_align) {
			err = zero_part(disk, off, n);
		} else {
			n = num_align_down(left, disk->io_align);
			err = disk_zero(disk, off, n, range->unmap);
		}
		off += n;
		left -= n;
	}
	return err;
}

/* The ranges were read and checked by request.c. */
static int slow_ranges(struct request *r)
{
	struct disk *disk = r->queue->disk;
	int err = 0;

	for (unsigned i = 0; i < r->nranges && !err; i++) {
		const struct range *range = &r->ranges[i];

		err = r->kind == REQUEST_DISCARD ? disk_discard(disk, range->off, range->len)
						 : slow_zero(disk, range);
	}
	if (!err && r->io.dsync)
		err = disk_flush(disk);
	return err;
}

static void work(void *arg)
{
	struct request *r = arg;

	if (r->kind == REQUEST_FLUSH)
		r->result = disk_flush(r->queue->disk);
	else if (r->kind == REQUEST_WRITE)
		r->result = slow_write(r);
	else
		r->result = slow_ranges(r);
}

/* ---- back on the queue's thread ---- */

static void done(void *arg)
{
	struct request *r = arg, *next = NULL;
	struct server_queue *server = r->queue->server;
	struct gate *g = r->queue->disk->gate;

	if (g) {
		lock_take(&g->lock);
		if (g->active == r) {
			g->active = NULL;
			next = admit(g);
		}
		lock_drop(&g->lock);
	}
	if (next)
		submit(next);
	r->queue->njobs--;
	if (r->kind == REQUEST_FLUSH)
		request_flushed(r, r->result);
	else if (r->kind == REQUEST_READ || (r->kind == REQUEST_WRITE && !g))
		transfer_answered(r);
	else if (!r->result || !onerror_keep(r, r->result))
		request_finish(r, request_status(r, r->result));
	server_run(server);
}

void slow_prepare(struct request *r)
{
	r->job.work = work;
	r->job.done = done;
	r->job.arg = r;
}

void slow_start(struct request *r)
{
	struct gate *g = r->queue->disk->gate;

	if (r->queue->disk->owner && r->kind != REQUEST_FLUSH) {
		owner_ask(r->queue->disk->owner, r);
		return;
	}
	r->queue->njobs++;
	if (g && r->kind != REQUEST_FLUSH) {
		lock_take(&g->lock);
		wait_in(g, r);
		r = admit(g);
		lock_drop(&g->lock);
	}
	if (r)
		submit(r);
}
