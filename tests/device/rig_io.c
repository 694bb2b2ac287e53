/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to a blk-server under test, and what is on its disk. */
#include <criterion/criterion.h>
#include <poll.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <string.h>

#include "clock.h"
#include "fd.h"
#include "rig.h"
#include "rig_priv.h"

/* ---- requests ---- */

uint64_t rig_alloc(struct rig *rig, uint64_t len, uint64_t align)
{
	uint64_t gpa = guest_alloc(&rig->guest, len, align);

	cr_assert(gpa, "guest memory is used up");
	return gpa;
}

uint8_t *rig_ptr(struct rig *rig, uint64_t gpa)
{
	uint8_t *p = guest_ptr(&rig->guest, gpa, 1);

	cr_assert_not_null(p);
	return p;
}

int rig_stage(struct rig *rig, unsigned queue, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len)
{
	struct rig_queue *q = &rig->queue[queue];
	struct virtio_blk_outhdr header = { .type = type, .sector = sector };
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	bool indirect = rig->options.ring_features & RING_F_INDIRECT;
	struct ring_buf bufs[3];
	unsigned n = 0;
	uint64_t at;
	int slot = 0, id;

	while (slot < RIG_SLOTS && q->slot_used[slot])
		slot++;
	cr_assert(slot < RIG_SLOTS, "too many requests at once");
	at = q->headers + (uint64_t)slot * HEADER_STEP;
	memcpy(rig_ptr(rig, at), &header, sizeof(header));
	*rig_ptr(rig, at + STATUS_AT) = 0xff;
	bufs[n++] = (struct ring_buf) { .gpa = at, .len = sizeof(header) };
	if (len)
		bufs[n++] = (struct ring_buf) { .gpa = gpa, .len = len, .write = in };
	bufs[n++] = (struct ring_buf) { .gpa = at + STATUS_AT, .len = 1, .write = true };
	id = ring_add(&q->ring, bufs, n, indirect);
	cr_assert(id >= 0 && id < RIG_SIZE, "ring_add: %d", id);
	q->slot_used[slot] = true;
	q->slot_of[id] = slot;
	return slot;
}

void rig_publish(struct rig *rig, unsigned queue)
{
	struct rig_queue *q = &rig->queue[queue];

	if (ring_publish(&q->ring))
		cr_assert_eq(fd_event_set(q->kick), 0);
}

int rig_add(struct rig *rig, unsigned queue, uint32_t type, uint64_t sector, uint64_t gpa, uint32_t len)
{
	int slot = rig_stage(rig, queue, type, sector, gpa, len);

	rig_publish(rig, queue);
	return slot;
}

bool rig_get(struct rig *rig, unsigned queue, struct rig_done *done)
{
	struct rig_queue *q = &rig->queue[queue];
	uint16_t id;
	int n = ring_get(&q->ring, &id, &done->len);

	cr_assert(n >= 0, "a completion that nobody waits for");
	if (!n)
		return false;
	done->slot = q->slot_of[id];
	cr_assert(done->slot >= 0);
	q->slot_of[id] = -1;
	q->slot_used[done->slot] = false;
	done->status = *rig_ptr(rig, q->headers + (uint64_t)done->slot * HEADER_STEP + STATUS_AT);
	return true;
}

/* A completion, or calls are enabled and it will be signalled. */
static bool get_or_arm(struct rig *rig, unsigned queue, struct rig_done *done)
{
	return rig_get(rig, queue, done) ||
	       (ring_enable_calls(&rig->queue[queue].ring) && rig_get(rig, queue, done));
}

struct rig_done rig_wait(struct rig *rig, unsigned queue)
{
	struct rig_done done;

	rig_until(rig, get_or_arm(rig, queue, &done));
	return done;
}

struct rig_done rig_request(struct rig *rig, unsigned queue, uint32_t type, uint64_t sector, uint64_t gpa,
			    uint32_t len)
{
	rig_add(rig, queue, type, sector, gpa, len);
	return rig_wait(rig, queue);
}

int64_t rig_raw(struct rig *rig, unsigned queue, const struct ring_buf *bufs, unsigned n)
{
	struct rig_queue *q = &rig->queue[queue];
	struct pollfd err = { .fd = q->err, .events = POLLIN };
	uint32_t len = 0;
	uint16_t id;
	int got = 0;

	cr_assert(ring_add(&q->ring, bufs, n, rig->options.ring_features & RING_F_INDIRECT) >= 0);
	rig_publish(rig, queue);
	ring_enable_calls(&q->ring);
	rig_until(rig, (got = ring_get(&q->ring, &id, &len)) || poll(&err, 1, 0) == 1);
	cr_assert(got >= 0);
	return got ? (int64_t)len : -1;
}

/* ---- contents ---- */

void rig_read_image(struct rig *rig, uint64_t off, uint8_t *buf, uint32_t len)
{
	char line[512];
	int fd;

	if (!rig->options.make) {
		cr_assert_eq(fd_pread_full(rig->image_fd, buf, len, (off_t)off), 0);
		return;
	}
	snprintf(line, sizeof(line), "qemu-img convert -U -f qcow2 -O raw '%s' '%s/copy'", rig->image,
		 rig->dir);
	cr_assert(off || system(line) == 0, "%s", line);
	snprintf(line, sizeof(line), "%s/copy", rig->dir);
	fd = open(line, O_RDONLY | O_CLOEXEC);
	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_pread_full(fd, buf, len, (off_t)off), 0);
	close(fd);
}

void rig_judge_image(struct rig *rig)
{
	char line[512];
	int status;

	snprintf(line, sizeof(line), "qemu-img check -U -q -f qcow2 '%s' >'%s/copy' 2>&1", rig->image,
		 rig->dir);
	status = system(line);
	cr_assert(WIFEXITED(status));
	status = WEXITSTATUS(status);
	if (status && status != 3) { /* leaks alone */
		snprintf(line, sizeof(line), "head -20 '%s/copy' | sed 's/^/# /' >&2", rig->dir);
		status = system(line);
		cr_assert_fail("qemu-img check finds more than leaks");
	}
}

static uint64_t word(uint64_t off, uint64_t seed)
{
	uint64_t v = off * 0x9e3779b97f4a7c15ULL + seed * 0xd1b54a32d192ed03ULL + 1;

	v ^= v >> 29;
	return v * 0xbf58476d1ce4e5b9ULL;
}

void rig_fill(uint8_t *buf, uint64_t off, uint32_t len, uint64_t seed)
{
	for (uint32_t i = 0; i + 8 <= len; i += 8) {
		uint64_t v = word(off + i, seed);

		memcpy(buf + i, &v, sizeof(v));
	}
}

bool rig_check(const uint8_t *buf, uint64_t off, uint32_t len, uint64_t seed)
{
	for (uint32_t i = 0; i + 8 <= len; i += 8) {
		uint64_t v = word(off + i, seed);

		if (memcmp(buf + i, &v, sizeof(v)))
			return false;
	}
	return true;
}
