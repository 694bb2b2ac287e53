/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The back end's shared memory: guest RAM, the dirty log and the in-flight region.
 *
 * A change of the table while rings run is a conversation with the device: it gets the new table, moves each
 * ring to it in the ring's own thread, and says so; only then is the old table put and the peer answered. The
 * same conversation follows a switch of logging, so that every access made after the answer is logged.
 */
#include "vhost_be_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "inflight.h"
#include "num.h"

/* ---- guest RAM ---- */

void be_mem_free(struct vhost_be *be)
{
	be_inflight_drop(be);
	mem_put(be->old_mem);
	mem_put(be->mem);
	if (be->log_fd >= 0)
		close(be->log_fd);
}

/* Shared memory is a file: not a pipe, a socket, a directory or a device, which mmap may take as well. */
static bool is_file(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

static struct mem_region to_region(const struct vhost_region *r)
{
	return (struct mem_region) {
		.gpa = r->gpa, .size = r->size, .user_addr = r->user_addr, .mmap_offset = r->mmap_offset
	};
}

static bool logging(const struct vhost_be *be)
{
	return (be->features & VHOST_F_LOG_ALL) && be->log_fd >= 0;
}

/* No ring uses the old table any more; what the message at hand ends with. */
static int after_mem(struct vhost_be *be)
{
	mem_put(be->old_mem);
	be->old_mem = NULL;
	if (be->in.msg.hdr.request != VHOST_SET_LOG_BASE)
		return BE_OK;
	be_reply(be, &be->in.msg, sizeof(uint64_t))->u64 = 0;
	return BE_REPLY;
}

/* Lets running rings go over to the table; nothing to wait for if there are none. */
static int tell_device(struct vhost_be *be)
{
	bool running = false;

	for (unsigned i = 0; i < be->ops->queues; i++)
		running |= be->rings[i].state == RING_RUNNING;
	if (!running)
		return after_mem(be);
	be->wait = BE_MEM;
	be->after_wait = after_mem;
	be->ops->mem_changed(be->arg, be->mem);
	return BE_WAIT;
}

/* Puts a new table, whose reference is be's, in the place of the old one. */
static int replace_mem(struct vhost_be *be, struct mem *mem)
{
	be->old_mem = be->mem;
	be->mem = mem;
	return tell_device(be);
}

/* A table made from nothing: unlike those made from another, it has no log yet. */
static int new_mem(struct vhost_be *be, const struct mem_region *regions, const int *fds, unsigned n)
{
	struct mem *mem;
	int err = mem_new(regions, fds, n, &mem);

	if (err)
		return be_refuse(be, err, "memory that can't be mapped");
	err = logging(be) ? mem_set_log(mem, be->log_fd, be->log_offset, be->log_size) : 0;
	if (err) {
		mem_put(mem);
		return be_refuse(be, err, "a dirty log that can't be mapped");
	}
	return replace_mem(be, mem);
}

int be_set_mem_table(struct vhost_be *be, struct vhost_msg *msg)
{
	const struct vhost_mem_table *t = &msg->payload.table;
	struct mem_region regions[VHOST_TABLE_REGIONS];

	if (t->n == 0 || t->n > VHOST_TABLE_REGIONS || msg->n_fds != t->n ||
	    msg->hdr.size != offsetof(struct vhost_mem_table, regions) + t->n * sizeof(t->regions[0]))
		return be_refuse(be, -EINVAL, "a memory table that contradicts itself");
	for (unsigned i = 0; i < t->n; i++) {
		regions[i] = to_region(&t->regions[i]);
		if (!is_file(msg->fds[i]))
			return be_refuse(be, -EINVAL, "memory that is no file");
	}
	return new_mem(be, regions, msg->fds, t->n);
}

int be_add_mem_reg(struct vhost_be *be, struct vhost_msg *msg)
{
	struct mem_region region = to_region(&msg->payload.reg.region);
	struct mem *mem;
	int err;

	if (!is_file(msg->fds[0]))
		return be_refuse(be, -EINVAL, "memory that is no file");
	if (!be->mem)
		return new_mem(be, &region, msg->fds, 1);
	err = mem_with_region(be->mem, &region, msg->fds[0], &mem);
	if (err)
		return be_refuse(be, err, "a memory region that can't be added");
	return replace_mem(be, mem);
}

int be_rem_mem_reg(struct vhost_be *be, struct vhost_msg *msg)
{
	struct mem_region region = to_region(&msg->payload.reg.region);
	struct mem *mem;

	if (!be->mem || mem_without_region(be->mem, &region, &mem) < 0)
		return be_refuse(be, -EINVAL, "a memory region that can't be removed");
	return replace_mem(be, mem);
}

/* ---- the dirty log ---- */

int be_apply_log(struct vhost_be *be)
{
	struct mem *mem;
	int err;

	if (!be->mem)
		return after_mem(be);
	err = logging(be) ? mem_with_log(be->mem, be->log_fd, be->log_offset, be->log_size, &mem)
			  : mem_with_log(be->mem, -1, 0, 0, &mem);
	if (err)
		return be_refuse(be, err, "a dirty log that can't be mapped");
	return replace_mem(be, mem);
}

int be_set_log_base(struct vhost_be *be, struct vhost_msg *msg)
{
	const struct vhost_log *log = &msg->payload.log;
	uint64_t end;
	struct stat st;

	if (fstat(msg->fds[0], &st) < 0 || !S_ISREG(st.st_mode) || log->size == 0 ||
	    !num_add(log->offset, log->size, &end) || end > (uint64_t)st.st_size)
		return be_refuse(be, -EINVAL, "a dirty log that does not fit its file");
	if (be->log_fd >= 0)
		close(be->log_fd);
	be->log_fd = take_fd(&msg->fds[0]);
	be->log_size = log->size;
	be->log_offset = log->offset;
	return logging(be) ? be_apply_log(be) : after_mem(be);
}

/* ---- the in-flight region ---- */

void be_inflight_drop(struct vhost_be *be)
{
	if (be->inflight)
		munmap(be->inflight, be->inflight_len);
	be->inflight = NULL;
}

static bool is_packed(const struct vhost_be *be)
{
	return be->features & VHOST_VIRTIO_F_RING_PACKED;
}

/* The number and size of the queues, and so the bytes that the region needs; false if they are impossible. */
static bool inflight_bytes(const struct vhost_be *be, const struct vhost_inflight *d, uint64_t *bytes)
{
	return d->queues > 0 && d->queues <= be->ops->queues && d->queue_size > 0 &&
	       d->queue_size <= VQ_SIZE_MAX &&
	       num_mul(d->queues, inflight_queue_bytes(d->queue_size, is_packed(be)), bytes);
}

int be_get_inflight(struct vhost_be *be, struct vhost_msg *msg)
{
	struct vhost_inflight want = msg->payload.inflight, *d;
	uint64_t bytes;
	int fd;

	if (!inflight_bytes(be, &want, &bytes))
		return be_refuse(be, -EINVAL, "an in-flight region for impossible queues");
	fd = fd_sealed_memfd("vhost-inflight", bytes);
	if (fd < 0)
		return be_refuse(be, fd, "no memory for an in-flight region");
	d = &be_reply(be, msg, sizeof(*d))->inflight;
	*d = (struct vhost_inflight) { .size = bytes, .queues = want.queues, .queue_size = want.queue_size };
	be->out.msg.fds[0] = fd;
	be->out.msg.n_fds = 1;
	return BE_REPLY;
}

int be_set_inflight(struct vhost_be *be, struct vhost_msg *msg)
{
	const struct vhost_inflight *d = &msg->payload.inflight;
	uint64_t bytes, end;
	struct stat st;
	void *map;

	if (be_rings_live(be))
		return be_refuse(be, -EBUSY, "an in-flight region while rings run");
	if (!inflight_bytes(be, d, &bytes) || d->size < bytes || d->offset % sizeof(uint64_t))
		return be_refuse(be, -EINVAL, "an in-flight region that does not hold its queues");
	if (fstat(msg->fds[0], &st) < 0 || !S_ISREG(st.st_mode) || !num_add(d->offset, d->size, &end) ||
	    end > (uint64_t)st.st_size)
		return be_refuse(be, -EINVAL, "an in-flight region that does not fit its file");
	/* A front end that shrank it under us would kill us. */
	if (fd_check_unshrinkable(msg->fds[0]) < 0)
		return be_refuse(be, -EPERM, "an in-flight region that could shrink");
	map = mmap(NULL, end, PROT_READ | PROT_WRITE, MAP_SHARED, msg->fds[0], 0);
	if (map == MAP_FAILED)
		return be_refuse(be, -errno, "an in-flight region that can't be mapped");
	be_inflight_drop(be);
	be->inflight = map;
	be->inflight_len = end;
	be->inflight_desc = *d;
	return BE_OK;
}

/* The index from which a fresh part of a live ring counts. */
static int first_index(struct vhost_be *be, const struct be_ring *r, uint16_t *index)
{
	const uint16_t *used;

	if (is_packed(be)) {
		*index = (uint16_t)r->base;
		return 0;
	}
	used = mem_at_user(be->mem, r->used, 2 * sizeof(*used)); /* flags, idx */
	if (!used || r->used % sizeof(*used))
		return be_refuse(be, -EFAULT, "a used ring outside memory");
	*index = __atomic_load_n(&used[1], __ATOMIC_RELAXED);
	return 0;
}

/* Part index of the region, for rings as large as it says. */
static void *part_at(const struct vhost_be *be, unsigned index)
{
	const struct vhost_inflight *d = &be->inflight_desc;

	return (char *)be->inflight + d->offset + index * inflight_queue_bytes(d->queue_size, is_packed(be));
}

uint16_t be_inflight_live(const struct vhost_be *be, unsigned index)
{
	const struct vhost_inflight *d = &be->inflight_desc;
	uint16_t live = 0;
	uint64_t bytes;

	if (!be->inflight || !inflight_bytes(be, d, &bytes) || bytes > d->size)
		return 0;
	if (index >= d->queues || inflight_is_blank(part_at(be, index)))
		return 0;
	for (unsigned i = 0; i < d->queues; i++)
		live = (uint16_t)(live + !inflight_is_blank(part_at(be, i)));
	return live;
}

bool be_inflight_fresh(const struct vhost_be *be)
{
	const struct vhost_inflight *d = &be->inflight_desc;
	bool packed = be->features & VHOST_VIRTIO_F_RING_PACKED;
	uint64_t bytes;

	if (!be->inflight || !inflight_bytes(be, d, &bytes) || bytes > d->size)
		return true;
	for (unsigned i = 0; i < d->queues; i++)
		if (!inflight_is_fresh(part_at(be, i), d->queue_size, packed))
			return false;
	return true;
}

int be_inflight_part(struct vhost_be *be, unsigned index, const struct be_ring *r, void **part)
{
	const struct vhost_inflight *d = &be->inflight_desc;
	uint64_t bytes;
	uint16_t first;
	int err;

	*part = NULL;
	if (!be->inflight || index >= d->queues)
		return 0;
	/* Again, because features that came after the region may have changed the ring's kind. */
	if (r->size > d->queue_size || !inflight_bytes(be, d, &bytes) || bytes > d->size)
		return be_refuse(be, -EINVAL, "a ring larger than its part of the in-flight region");
	*part = part_at(be, index);
	if (!inflight_is_blank(*part))
		return 0;
	err = first_index(be, r, &first);
	if (!err)
		inflight_init(*part, r->size, is_packed(be), first);
	return err;
}
