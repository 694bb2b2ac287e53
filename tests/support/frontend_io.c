/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tests' front end: virtio-blk requests. A slot is a header, a status byte and a buffer in guest memory;
 * slots are as many as the ring has descriptors.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "fd.h"
#include "frontend_priv.h"
#include "num.h"

uint64_t frontend_queue_bytes(const struct frontend_options *o)
{
	/* Rings and their alignment, indirect tables, headers, buffers. */
	return num_align_up(o->queue_size * (16U + 2 + 8 + RING_TABLE_MAX * 16U + SLOT_HEAD_BYTES), 4096) +
	       5 * 4096 + (uint64_t)o->queue_size * o->io_max;
}

static void on_call(void *arg, uint32_t events)
{
	struct frontend_queue *q = arg;
	uint64_t count;

	(void)events;
	if (read(q->call, &count, sizeof(count)) == sizeof(count))
		q->f->called = true;
}

int frontend_queue_init(struct frontend *f, struct frontend_queue *q)
{
	const uint16_t n = f->options.queue_size;
	int err = ring_init(&q->ring, &f->guest, n, f->features);

	if (err)
		return err;
	q->ready = true;
	q->heads = guest_alloc(&f->guest, (uint64_t)n * SLOT_HEAD_BYTES, 64);
	q->data = guest_alloc(&f->guest, (uint64_t)n * f->options.io_max, 4096);
	q->slots = calloc(n, sizeof(*q->slots));
	q->slot_of = calloc(n, sizeof(*q->slot_of));
	if (!q->heads || !q->data || !q->slots || !q->slot_of)
		return -ENOMEM;
	q->heads_ptr = guest_ptr(&f->guest, q->heads, (uint64_t)n * SLOT_HEAD_BYTES);
	q->data_ptr = guest_ptr(&f->guest, q->data, (uint64_t)n * f->options.io_max);
	for (int i = 0; i < n; i++)
		q->slots[i].next = i + 1 < n ? i + 1 : -1;
	q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->kick < 0 || q->call < 0)
		return -errno;
	ring_disable_calls(&q->ring);
	return loop_add_fd(f->loop, q->call, EPOLLIN, on_call, q, &q->watch);
}

void frontend_queue_free(struct frontend *f, struct frontend_queue *q)
{
	(void)f;
	loop_del_fd(q->watch);
	if (q->ready)
		ring_free(&q->ring);
	if (q->kick >= 0)
		close(q->kick);
	if (q->call >= 0)
		close(q->call);
	free(q->slots);
	free(q->slot_of);
}

/* ---- one by one ---- */

int frontend_take(struct frontend *f, unsigned queue)
{
	struct frontend_queue *q = &f->queues[queue];
	int slot = q->free_slot;

	if (slot < 0)
		return -EBUSY;
	q->free_slot = q->slots[slot].next;
	q->slots[slot].state = SLOT_TAKEN;
	return slot;
}

void frontend_release(struct frontend *f, unsigned queue, int slot)
{
	struct frontend_queue *q = &f->queues[queue];

	q->slots[slot].state = SLOT_FREE;
	q->slots[slot].next = q->free_slot;
	q->free_slot = slot;
}

uint8_t *frontend_data(struct frontend *f, unsigned queue, int slot)
{
	return f->queues[queue].data_ptr + (size_t)slot * f->options.io_max;
}

static bool device_writes(uint32_t type)
{
	return type == BLK_IN || type == BLK_GET_ID;
}

int frontend_submit(struct frontend *f, unsigned queue, int slot, uint32_t type, uint64_t sector,
		    uint32_t len)
{
	struct frontend_queue *q = &f->queues[queue];
	uint64_t head = q->heads + (uint64_t)slot * SLOT_HEAD_BYTES;
	uint8_t *ptr = q->heads_ptr + (size_t)slot * SLOT_HEAD_BYTES;
	const uint32_t words[2] = { type, 0 };
	struct ring_buf bufs[3] = { { .gpa = head, .len = BLK_HEADER_BYTES } };
	unsigned n = 1;
	int id;

	if (len > f->options.io_max || q->slots[slot].state != SLOT_TAKEN)
		return -EINVAL;
	memcpy(ptr, words, sizeof(words));
	memcpy(ptr + 8, &sector, sizeof(sector));
	ptr[BLK_HEADER_BYTES] = BLK_PENDING;
	if (len)
		bufs[n++] = (struct ring_buf) { .gpa = q->data + (uint64_t)slot * f->options.io_max,
						.len = len,
						.write = device_writes(type) };
	bufs[n++] = (struct ring_buf) { .gpa = head + BLK_HEADER_BYTES, .len = 1, .write = true };
	id = ring_add(&q->ring, bufs, n, f->features & RING_F_INDIRECT);
	if (id < 0)
		return id;
	q->slot_of[id] = slot;
	q->slots[slot].state = SLOT_SUBMITTED;
	q->in_flight++;
	return 0;
}

void frontend_kick(struct frontend *f, unsigned queue, bool force)
{
	struct frontend_queue *q = &f->queues[queue];

	if (ring_publish(&q->ring) || force)
		fd_event_set(q->kick);
}

int frontend_poll(struct frontend *f, unsigned queue, struct frontend_done *done)
{
	struct frontend_queue *q = &f->queues[queue];
	uint16_t id;
	int got = ring_get(&q->ring, &id, &done->written);

	if (got <= 0)
		return got;
	done->slot = q->slot_of[id];
	if (q->slots[done->slot].state != SLOT_SUBMITTED)
		return -EPROTO;
	q->slots[done->slot].state = SLOT_DONE;
	q->in_flight--;
	done->status = q->heads_ptr[(size_t)done->slot * SLOT_HEAD_BYTES + BLK_HEADER_BYTES];
	return 1;
}

unsigned frontend_in_flight(const struct frontend *f, unsigned queue)
{
	return f->queues[queue].in_flight;
}

/* ---- sleeping ---- */

static bool arm_calls(struct frontend *f)
{
	bool arrived = false;

	for (unsigned i = 0; i < f->options.queues; i++)
		arrived |= ring_enable_calls(&f->queues[i].ring);
	return arrived;
}

int frontend_wait(struct frontend *f, uint64_t timeout_ns)
{
	uint64_t end = clock_ns() + timeout_ns;
	bool arrived = arm_calls(f);
	int err = 0;

	f->called = false;
	while (!arrived && !f->called && !f->ended && !err) {
		uint64_t now = clock_ns();

		if (now >= end)
			break;
		err = loop_run_once(f->loop, (int64_t)(end - now));
	}
	for (unsigned i = 0; i < f->options.queues; i++)
		ring_disable_calls(&f->queues[i].ring);
	if (arrived || f->called)
		return 1;
	return f->ended ? f->lost : err;
}

int frontend_io(struct frontend *f, unsigned queue, uint32_t type, uint64_t sector, void *data, uint32_t len)
{
	uint64_t end = clock_ns() + FRONTEND_WAIT_NS;
	struct frontend_done done;
	int slot = frontend_take(f, queue), got = slot < 0 ? slot : 0;

	if (got)
		return got;
	if (len <= f->options.io_max && !device_writes(type) && data)
		memcpy(frontend_data(f, queue, slot), data, len);
	got = frontend_submit(f, queue, slot, type, sector, len);
	if (got) {
		frontend_release(f, queue, slot);
		return got;
	}
	frontend_kick(f, queue, false);
	while ((got = frontend_poll(f, queue, &done)) == 0) {
		if (clock_ns() >= end)
			return -ETIMEDOUT;
		got = frontend_wait(f, end - clock_ns());
		if (got < 0)
			return got;
	}
	if (got < 0)
		return got;
	if (device_writes(type) && data)
		memcpy(data, frontend_data(f, queue, slot), len);
	frontend_release(f, queue, slot);
	return done.status;
}
