/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a request asks for (virtio 1.2 §5.2.6): header, data, status byte. Where the descriptors' boundaries lie
 * means nothing; the header may be split, the status byte is the last byte of the writable part.
 */
#include "request.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "crash.h"
#include "flight.h"
#include "log.h"
#include "num.h"
#include "slow.h"

/* A chain as it is taken apart: what is left of its readable and writable vectors. */
struct parts {
	struct iovec *out, *in;
	unsigned out_num, in_num;
	uint32_t out_len, in_len;
};

static struct request *take_free(struct blk_queue *q, uint16_t head)
{
	struct request *r = q->free;

	q->free = r->next;
	atomic_store_explicit(&q->active, atomic_load_explicit(&q->active, memory_order_relaxed) + 1,
			      memory_order_relaxed);
	r->head = head;
	r->io.fd = -1;
	r->asked = UINT64_MAX;
	r->niov = 0;
	r->left = r->done = r->result = 0;
	r->plain_write = r->tried = r->final = false;
	r->seq = q->seq++;
	q->releasing = false;
	r->io.dsync = false;
	return r;
}

static void put_free(struct request *r)
{
	struct blk_queue *q = r->queue;

	r->next = q->free;
	q->free = r;
	atomic_store_explicit(&q->active, atomic_load_explicit(&q->active, memory_order_relaxed) - 1,
			      memory_order_release);
}

void request_finish(struct request *r, uint8_t status)
{
	struct blk_queue *q = r->queue;
	const struct mem *mem = server_mem(q->server);
	bool filled = r->kind == REQUEST_READ;

	if (r->tried && status == VIRTIO_BLK_S_OK)
		q->pause_ns = 0; /* the trouble is over */
	if (status != VIRTIO_BLK_S_OK) {
		blk_count(&q->stats.errors, 1);
		disk_tell_flush(q->disk);
	}
	if (r->plain_write)
		gate_leave(q->disk->gate);
	CRASH_POINT("status before");
	*(volatile uint8_t *)r->status = status;
	CRASH_POINT("status after");
	if (mem_logging(mem))
		mem_dirty_ptr(mem, r->status, 1);
	server_push(q->server, r->head, filled ? r->done + 1 : 1, status);
	CRASH_POINT("push after");
	put_free(r);
}

/* A device may be unable to discard, or to discard this range, which loses nothing and is no error of the medium. */
uint8_t request_status(const struct request *r, int err)
{
	if (r->kind == REQUEST_DISCARD && (err == -EOPNOTSUPP || err == -EINVAL))
		return VIRTIO_BLK_S_UNSUPP;
	return err ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
}

void request_flushed(struct request *r, int err)
{
	if (err)
		server_fail(r->queue->server, r->head);
	request_finish(r, err ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

/* ---- vectors ---- */

/* Copies n bytes from the front of vectors to buf and drops them; the caller knows that they are there. */
static void pull(struct iovec **iov, unsigned *num, uint8_t *buf, uint32_t n)
{
	while (n) {
		uint32_t part = (uint32_t)MIN((*iov)->iov_len, n);

		memcpy(buf, (*iov)->iov_base, part);
		buf += part;
		n -= part;
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + part;
		(*iov)->iov_len -= part;
		if (!(*iov)->iov_len) {
			++*iov;
			--*num;
		}
	}
}

/* Takes the last byte off the writable vectors. */
static uint8_t *split_status(struct parts *p)
{
	struct iovec *last = &p->in[p->in_num - 1];

	p->in_len--;
	if (--last->iov_len == 0)
		p->in_num--;
	return (uint8_t *)last->iov_base + last->iov_len;
}

static void keep_vectors(struct request *r, const struct iovec *iov, unsigned num)
{
	r->iov = num <= INLINE_IOV ? r->inline_iov : r->big_iov;
	memcpy(r->iov, iov, num * sizeof(*iov));
	r->niov = num;
}

/* ---- limits ---- */

void request_carry_out(struct request *r)
{
	if (r->kind == REQUEST_READ || r->kind == REQUEST_WRITE || r->kind == REQUEST_FLUSH)
		transfer_start(r);
	else if (r->queue->disk->engine->ranges)
		transfer_ranges(r);
	else
		slow_start(r);
}

/*
 * What limits count. Zeroes are data that the guest need not send: the host may have to write each, and without their cost
 * they were the way around a limit. A discard moves nothing and costs operations alone, one for each range, as much as
 * the host is asked to do.
 */
static uint64_t bytes_of(const struct request *r)
{
	uint64_t bytes = 0;

	if (r->kind == REQUEST_READ || r->kind == REQUEST_WRITE)
		return r->left;
	for (unsigned i = 0; r->kind == REQUEST_ZERO && i < r->nranges; i++)
		bytes += r->ranges[i].len;
	return bytes;
}

static uint64_t ops_of(const struct request *r)
{
	return r->kind == REQUEST_DISCARD || r->kind == REQUEST_ZERO ? r->nranges : 1;
}

bool request_give_back(struct request *r)
{
	/* What a predecessor had taken stands nowhere in the ring any more. */
	if (r->again || !server_try_unpop(r->queue->server, r->head))
		return false;
	put_free(r);
	return true;
}

/* Carries r out if the limits let it through, or keeps it until then, and what is in the ring behind it. */
static void admit(struct request *r)
{
	struct blk_queue *q = r->queue;
	uint64_t at = throttle_enter(&q->disk->throttle, &q->turn, bytes_of(r), ops_of(r));

	if (!at) {
		request_carry_out(r);
		return;
	}
	blk_count(&q->stats.throttled, 1);
	q->throttled = r;
	loop_arm_timer(q->throttle_timer, at);
}

bool request_unthrottle(struct blk_queue *q)
{
	struct request *r = q->throttled;
	uint64_t at;

	if (!r || server_rests(q->server))
		return false;
	at = throttle_wait(&q->disk->throttle, &q->turn);
	if (at) {
		loop_arm_timer(q->throttle_timer, at);
		return false;
	}
	q->throttled = NULL;
	loop_disarm_timer(q->throttle_timer);
	server_take_up(q->server, r->head);
	request_carry_out(r);
	server_lay_down(q->server);
	return true;
}

void request_release(struct blk_queue *q)
{
	struct request *r = q->throttled;

	if (!r)
		return;
	q->throttled = NULL;
	loop_disarm_timer(q->throttle_timer);
	if (request_give_back(r)) {
		throttle_leave(&q->disk->throttle, &q->turn);
		return;
	}
	throttle_exceed(&q->disk->throttle, &q->turn);
	request_carry_out(r);
}

void request_forget(struct blk_queue *q)
{
	struct request *r = q->throttled;

	if (!r)
		return;
	q->throttled = NULL;
	loop_disarm_timer(q->throttle_timer);
	throttle_leave(&q->disk->throttle, &q->turn);
	request_drop(r);
}

void request_drop(struct request *r)
{
	put_free(r);
}

/* ---- the types ---- */

/* sectors from sector on, as bytes in *off; false if any of them is outside the disk. */
static bool in_disk(const struct disk *disk, uint64_t sector, uint64_t len, uint64_t *off)
{
	uint64_t end;

	return num_mul(sector, SECTOR, off) && num_add(*off, len, &end) && end <= disk_bytes(disk);
}

static void start_transfer(struct request *r, uint64_t sector, uint32_t len, const struct iovec *iov,
			   unsigned num)
{
	if (len % SECTOR || !in_disk(r->queue->disk, sector, len, &r->off)) {
		request_finish(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	r->left = len;
	if (!len) {
		request_finish(r, VIRTIO_BLK_S_OK);
		return;
	}
	keep_vectors(r, iov, num);
	admit(r);
}

static void start_read(struct request *r, struct parts *p, uint64_t sector)
{
	r->kind = REQUEST_READ;
	blk_count(&r->queue->stats.reads, 1);
	start_transfer(r, sector, p->in_len, p->in, p->in_num);
}

static void start_write(struct request *r, struct parts *p, uint64_t sector)
{
	struct blk_queue *q = r->queue;

	r->kind = REQUEST_WRITE;
	blk_count(&q->stats.writes, 1);
	if (!disk_takes_writes(q->disk)) {
		request_finish(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	r->io.dsync = q->dsync;
	start_transfer(r, sector, p->out_len, p->out, p->out_num);
}

static void start_flush(struct request *r, struct parts *p, uint64_t sector)
{
	(void)p;
	(void)sector;
	r->kind = REQUEST_FLUSH;
	blk_count(&r->queue->stats.flushes, 1);
	transfer_start(r);
}

static void start_get_id(struct request *r, struct parts *p, uint64_t sector)
{
	const char *serial = r->queue->disk->serial;
	const struct mem *mem = server_mem(r->queue->server);

	(void)sector;
	r->kind = REQUEST_READ; /* as far as what was written is concerned */
	for (unsigned i = 0; i < p->in_num && r->done < VIRTIO_BLK_ID_BYTES; i++) {
		uint32_t n = (uint32_t)MIN(p->in[i].iov_len, VIRTIO_BLK_ID_BYTES - r->done);

		memcpy(p->in[i].iov_base, serial + r->done, n);
		if (mem_logging(mem))
			mem_dirty_ptr(mem, p->in[i].iov_base, n);
		r->done += n;
	}
	request_finish(r, VIRTIO_BLK_S_OK);
}

/* Reads and checks the ranges of a discard or write-zeroes; the status of one that is wrong, else S_OK. */
static uint8_t read_ranges(struct request *r, struct parts *p)
{
	struct virtio_blk_discard_write_zeroes raw;
	unsigned n = p->out_len / sizeof(raw);

	if (!n || p->out_len % sizeof(raw) || n > DISK_RANGES)
		return VIRTIO_BLK_S_IOERR;
	for (r->nranges = 0; r->nranges < n; r->nranges++) {
		struct range *range = &r->ranges[r->nranges];
		uint32_t flags, sectors;

		pull(&p->out, &p->out_num, (uint8_t *)&raw, sizeof(raw));
		flags = le32toh(raw.flags);
		sectors = le32toh(raw.num_sectors);
		if (flags & ~(r->kind == REQUEST_ZERO ? (uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0))
			return VIRTIO_BLK_S_UNSUPP;
		range->unmap = flags;
		range->len = (uint64_t)sectors * SECTOR;
		if (sectors > DISK_RANGE_MAX ||
		    !in_disk(r->queue->disk, le64toh(raw.sector), range->len, &range->off))
			return VIRTIO_BLK_S_IOERR;
	}
	return VIRTIO_BLK_S_OK;
}

static void start_ranges(struct request *r, struct parts *p)
{
	uint8_t status = disk_takes_writes(r->queue->disk) ? read_ranges(r, p) : VIRTIO_BLK_S_IOERR;

	r->io.dsync = r->queue->dsync;
	if (status == VIRTIO_BLK_S_OK)
		admit(r);
	else
		request_finish(r, status);
}

static void start_discard(struct request *r, struct parts *p, uint64_t sector)
{
	(void)sector;
	r->kind = REQUEST_DISCARD;
	blk_count(&r->queue->stats.discards, 1);
	if (r->queue->disk->can_discard || !disk_takes_writes(r->queue->disk))
		start_ranges(r, p);
	else
		request_finish(r, VIRTIO_BLK_S_UNSUPP);
}

static void start_zero(struct request *r, struct parts *p, uint64_t sector)
{
	(void)sector;
	r->kind = REQUEST_ZERO;
	blk_count(&r->queue->stats.zeroes, 1);
	if (r->queue->disk->can_zero || !disk_takes_writes(r->queue->disk))
		start_ranges(r, p);
	else
		request_finish(r, VIRTIO_BLK_S_UNSUPP);
}

static void (*const starts[])(struct request *r, struct parts *p, uint64_t sector) = {
	[VIRTIO_BLK_T_IN] = start_read,         [VIRTIO_BLK_T_OUT] = start_write,
	[VIRTIO_BLK_T_FLUSH] = start_flush,     [VIRTIO_BLK_T_GET_ID] = start_get_id,
	[VIRTIO_BLK_T_DISCARD] = start_discard, [VIRTIO_BLK_T_WRITE_ZEROES] = start_zero,
};

/* Servers died of it: another is not given the chance. Said again by each that dies before the driver was told. */
static void give_up(struct request *r, unsigned deaths, uint32_t type, uint64_t sector)
{
	log_warn_limited(
	    "a request that %u servers died with is answered with an error: type %u, sector %llu", deaths,
	    type, (unsigned long long)sector);
	server_poisoned(r->queue->server, r->head);
	request_finish(r, VIRTIO_BLK_S_IOERR);
}

/* A flush that failed under a predecessor, which died before it could say so. The kernel tells of lost data once. */
static void fail_again(struct request *r)
{
	request_flushed(r, disk_flushed(r->queue->disk, -EIO));
}

void request_start(struct blk_queue *q, struct vq_chain *chain)
{
	struct parts p = { .out = chain->iov,
			   .in = chain->iov + chain->out_num,
			   .out_num = chain->out_num,
			   .in_num = chain->in_num,
			   .out_len = chain->out_len,
			   .in_len = chain->in_len };
	struct virtio_blk_outhdr header;
	struct request *r;
	uint32_t type;

	if (!p.in_len) {
		server_break(q->server, "a request has no room for the status byte");
		return;
	}
	r = take_free(q, chain->head);
	r->again = chain->resubmitted;
	r->kind = REQUEST_FLUSH; /* nothing filled so far */
	r->status = split_status(&p);
	if (p.out_len < sizeof(header)) {
		request_finish(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	pull(&p.out, &p.out_num, (uint8_t *)&header, sizeof(header));
	p.out_len -= (uint32_t)sizeof(header);
	type = le32toh(header.type);
	flight_request(server_flight(q->server), type, le64toh(header.sector), chain->head,
		       MAX(p.out_len, p.in_len));
	if (chain->failed) {
		fail_again(r);
		return;
	}
	if (chain->poisoned) {
		give_up(r, chain->deaths, type, le64toh(header.sector));
		return;
	}
	CRASH_POINT_AT("poison", le64toh(header.sector));
	if (type < ARRAY_SIZE(starts) && starts[type])
		starts[type](r, &p, le64toh(header.sector));
	else
		request_finish(r, VIRTIO_BLK_S_UNSUPP);
}
