/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads, writes and flushes through the engine. Vectors that are aligned as direct I/O needs it go to the kernel as
 * the guest gave them; others pass through a bounce buffer, one buffer's worth at a time. Whatever comes back
 * short is continued from there, by the same way as it began.
 *
 * A raw image is one part; of a qcow2 image each part that is contiguous in one file moves by itself.
 */
#include <errno.h>
#include <string.h>

#include "crash.h"
#include "log.h"
#include "num.h"
#include "onerror.h"
#include "owner.h"
#include "request.h"
#include "slow.h"

/* ---- vectors ---- */

void transfer_copy_out(const struct request *r, uint8_t *buf, uint32_t len)
{
	for (const struct iovec *v = r->iov; len; v++) {
		uint32_t n = (uint32_t)MIN(v->iov_len, len);

		memcpy(buf, v->iov_base, n);
		buf += n;
		len -= n;
	}
}

static void copy_in(const struct request *r, const uint8_t *buf, uint32_t len)
{
	for (const struct iovec *v = r->iov; len; v++) {
		uint32_t n = (uint32_t)MIN(v->iov_len, len);

		memcpy(v->iov_base, buf, n);
		buf += n;
		len -= n;
	}
}

static void mark_dirty(const struct mem *mem, const struct request *r, uint32_t len)
{
	for (const struct iovec *v = r->iov; len; v++) {
		uint32_t n = (uint32_t)MIN(v->iov_len, len);

		mem_dirty_ptr(mem, v->iov_base, n);
		len -= n;
	}
}

void transfer_consume(struct request *r, uint32_t n)
{
	r->off += n;
	r->left -= n;
	r->done += n;
	while (n) {
		uint32_t part = (uint32_t)MIN(r->iov->iov_len, n);

		n -= part;
		r->iov->iov_base = (uint8_t *)r->iov->iov_base + part;
		r->iov->iov_len -= part;
		if (!r->iov->iov_len) {
			r->iov++;
			r->niov--;
		}
	}
}

/* Has io be the front of r's vectors that carries the part, whose last one is made to end with it. */
static void cut_vectors(struct request *r)
{
	uint32_t n = r->part;

	r->io.iov = r->iov;
	r->io.niov = r->niov;
	r->cut = 0;
	if (n == r->left)
		return;
	for (unsigned i = 0;; i++) {
		if (r->iov[i].iov_len < n) {
			n -= (uint32_t)r->iov[i].iov_len;
			continue;
		}
		r->io.niov = i + 1;
		r->cut = (uint32_t)r->iov[i].iov_len - n;
		r->iov[i].iov_len = n;
		return;
	}
}

static void mend_vectors(struct request *r)
{
	if (r->cut)
		r->io.iov[r->io.niov - 1].iov_len += r->cut;
	r->cut = 0;
}

static bool is_aligned(const struct request *r)
{
	const struct disk *disk = r->queue->disk;
	uint64_t mem = 0, io = r->at;

	for (unsigned i = 0; i < r->io.niov; i++) {
		mem |= (uintptr_t)r->iov[i].iov_base;
		io |= r->iov[i].iov_len;
	}
	return !(mem & (disk->mem_align - 1)) && !(io & (disk->io_align - 1));
}

/* ---- starting ---- */

static void stage(struct request *r)
{
	struct blk_queue *q = r->queue;

	q->disk->engine->stage(q->engine, &r->io);
	q->staged = true;
}

static void fail(struct request *r, int err)
{
	static const char *const names[] = { [REQUEST_READ] = "read", [REQUEST_WRITE] = "write" };

	log_warn_limited("a %s at byte %llu, %u bytes before its end, failed: %s", names[r->kind],
			 (unsigned long long)r->off, r->left, strerrordesc_np(-err));
	if (onerror_keep(r, err))
		return;
	request_finish(r, VIRTIO_BLK_S_IOERR);
}

/* Moves the next part of r by a buffer, or has it wait for one. */
static void start_bounced(struct request *r)
{
	struct blk_queue *q = r->queue;
	uint32_t align = q->disk->io_align, n = MIN(r->part, BOUNCE_BYTES);
	struct iovec *v = &q->bounce_iov[r - q->requests];

	if (!q->nbounce_free) {
		r->next = NULL;
		*q->waiting_end = r;
		q->waiting_end = &r->next;
		return;
	}
	blk_count(&q->stats.bounced, 1);
	r->bounce = q->bounce_free[--q->nbounce_free];
	r->lead = (uint32_t)(r->at & (align - 1));
	r->carried = n;
	if (r->kind == REQUEST_WRITE)
		transfer_copy_out(r, r->bounce, n); /* no lead: unaligned writes don't come here */
	*v = (struct iovec) { .iov_base = r->bounce, .iov_len = num_align_up(r->lead + n, align) };
	r->io.iov = v;
	r->io.niov = 1;
	r->io.off = r->at - r->lead;
	stage(r);
}

/* A write of less than whole blocks. */
static void start_unaligned(struct request *r)
{
	if (!r->queue->disk->gate) {
		fail(r, -EINVAL); /* what is left after the kernel wrote part of a sector */
		return;
	}
	if (r->plain_write)
		gate_leave(r->queue->disk->gate);
	r->plain_write = false;
	slow_start(r);
}

static void start_part(struct request *r)
{
	cut_vectors(r);
	if (!is_aligned(r)) {
		mend_vectors(r);
		start_bounced(r);
		return;
	}
	r->bounce = NULL;
	r->io.off = r->at;
	stage(r);
}

static bool take_all(struct request *r)
{
	r->at = r->off;
	r->part = r->left;
	return true;
}

/* What r reads next are n zeroes. */
static void read_zeroes(struct request *r, uint32_t n)
{
	const struct mem *mem = server_mem(r->queue->server);
	uint32_t left = n;

	if (mem_logging(mem))
		mark_dirty(mem, r, n);
	for (const struct iovec *v = r->iov; left; v++) {
		uint32_t part = (uint32_t)MIN(v->iov_len, left);

		memset(v->iov_base, 0, part);
		left -= part;
	}
	blk_count(&r->queue->stats.read_bytes, n);
	transfer_consume(r, n);
}

/* Finds r's next part in a qcow2 image. False: there is none, or the owner was asked. */
static bool map_part(struct request *r)
{
	struct owner *o = r->queue->disk->owner;
	struct qcow2 *image = owner_image(o);
	struct qcow2_extent e;

	if (!image) {
		owner_ask(o, r); /* who may open it by now, and else says why not */
		return false;
	}
	r->token = qcow2_enter(image, r->queue->reader);
	do {
		qcow2_map(image, r->off, r->left, r->kind == REQUEST_WRITE, &e);
		if (e.kind == QCOW2_ZERO)
			read_zeroes(r, (uint32_t)e.len);
	} while (e.kind == QCOW2_ZERO && r->left);
	if (e.kind == QCOW2_DATA) {
		r->at = e.off;
		r->part = (uint32_t)e.len;
		r->io.fd = owner_fd(o, e.layer);
		r->entered = true;
		return true;
	}
	qcow2_leave(image, r->queue->reader, r->token);
	if (e.kind == QCOW2_ASK)
		owner_ask(o, r);
	else
		request_finish(r, VIRTIO_BLK_S_OK);
	return false;
}

void transfer_answered(struct request *r)
{
	const struct mem *mem = server_mem(r->queue->server);

	if (r->result) {
		fail(r, r->result);
		return;
	}
	if (r->carried) {
		if (r->kind == REQUEST_READ && mem_logging(mem))
			mark_dirty(mem, r, r->carried);
		blk_count(r->kind == REQUEST_READ ? &r->queue->stats.read_bytes
						  : &r->queue->stats.write_bytes,
			  r->carried);
		transfer_consume(r, r->carried);
	}
	if (r->left)
		transfer_start(r);
	else
		request_finish(r, VIRTIO_BLK_S_OK);
}

void transfer_start(struct request *r)
{
	struct disk *disk = r->queue->disk;

	if (r->kind == REQUEST_FLUSH) {
		r->io.op = ENGINE_FSYNC;
		stage(r);
		return;
	}
	r->io.op = r->kind == REQUEST_READ ? ENGINE_READ : ENGINE_WRITE;
	if (r->kind == REQUEST_WRITE) {
		if ((r->off | r->left) & (disk->io_align - 1)) {
			start_unaligned(r);
			return;
		}
		if (disk->gate && !r->plain_write && !(r->plain_write = gate_enter(disk->gate, r)))
			return;
	}
	if (disk->owner ? map_part(r) : take_all(r))
		start_part(r);
}

/* ---- finishing ---- */

/* Gives r's bounce buffer back, to the next that waits for one. */
static void put_bounce(struct request *r)
{
	struct blk_queue *q = r->queue;
	struct request *next = q->waiting;

	q->bounce_free[q->nbounce_free++] = r->bounce;
	r->bounce = NULL;
	if (!next)
		return;
	q->waiting = next->next;
	if (!q->waiting)
		q->waiting_end = &q->waiting;
	start_bounced(next);
}

/* Without a connection the flush was not made, and a later one may be; that is no loss of data. */
static bool is_outage(const struct request *r)
{
	return r->queue->disk->nbd && r->io.res == -ENOTCONN;
}

static void flush_done(struct request *r)
{
	if (is_outage(r)) {
		if (!onerror_keep(r, -ENOTCONN))
			request_finish(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (!r->queue->disk->nbd && (r->io.res == -EINVAL || r->io.res == -EOPNOTSUPP)) {
		slow_start(r); /* no asynchronous fsync on this file system */
		return;
	}
	r->io.res = CRASH_RESULT("flush", r->io.res);
	request_flushed(r, disk_flushed(r->queue->disk, r->io.res));
}

/* ---- ranges ---- */

/* The first that is left goes first; result counts those that are done. */
void transfer_ranges(struct request *r)
{
	const struct range *range = &r->ranges[r->result];

	while ((unsigned)r->result < r->nranges && !range->len) {
		range++;
		r->result++;
	}
	if ((unsigned)r->result == r->nranges) {
		request_finish(r, VIRTIO_BLK_S_OK);
		return;
	}
	r->io.op = r->kind == REQUEST_DISCARD ? ENGINE_DISCARD : ENGINE_ZERO;
	r->io.off = range->off;
	r->io.len = range->len;
	r->io.unmap = range->unmap;
	stage(r);
}

static void range_done(struct request *r)
{
	if (r->io.res >= 0) {
		r->result++;
		transfer_ranges(r);
	} else if (!onerror_keep(r, (int)r->io.res)) {
		request_finish(r, request_status(r, (int)r->io.res));
	}
}

void transfer_done(struct request *r)
{
	struct blk_queue *q = r->queue;
	const struct mem *mem = server_mem(q->server);
	int64_t n = r->io.res;

	if (r->kind == REQUEST_FLUSH) {
		flush_done(r);
		return;
	}
	if (r->kind == REQUEST_DISCARD || r->kind == REQUEST_ZERO) {
		range_done(r);
		return;
	}
	if (r->entered) {
		qcow2_leave(owner_image(q->disk->owner), q->reader, r->token);
		owner_moved(q->disk->owner);
		r->entered = false;
	}
	mend_vectors(r);
	if (r->bounce) {
		n = n < 0 ? n : MAX(MIN(n - r->lead, r->carried), 0);
		if (r->kind == REQUEST_READ && n > 0)
			copy_in(r, r->bounce + r->lead, (uint32_t)n);
		put_bounce(r);
	}
	if (n == -EINTR)
		n = 0; /* nothing was moved: once more */
	else if (n <= 0) {
		fail(r, n ? (int)n : -ENODATA); /* the image ends here: it was truncated */
		return;
	}
	if (r->kind == REQUEST_READ && mem_logging(mem))
		mark_dirty(mem, r, (uint32_t)n);
	blk_count(r->kind == REQUEST_READ ? &q->stats.read_bytes : &q->stats.write_bytes, (uint64_t)n);
	transfer_consume(r, (uint32_t)n);
	if (r->left)
		transfer_start(r);
	else
		request_finish(r, VIRTIO_BLK_S_OK);
}
