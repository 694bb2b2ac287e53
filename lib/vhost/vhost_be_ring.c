/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The back end's rings: one state machine each (enum ring_state), fed by the SET_VRING messages.
 *
 * A ring is described in any order while it is stopped. The kick descriptor says that the description is
 * complete; the device gets the ring when it is also enabled. From then on only what the specification wants
 * changeable on the fly is: call, err, ENABLE, and an address message that repeats the same addresses (it
 * switches logging of the used ring, which we do whenever the device logs at all).
 */
#include "vhost_be_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clean.h"
#include "fd.h"
#include "num.h"

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void ring_clear(struct be_ring *r)
{
	close_fd(&r->kick);
	close_fd(&r->call);
	close_fd(&r->err);
	*r = (struct be_ring) { .state = RING_STOPPED, .kick = -1, .call = -1, .err = -1 };
}

int be_rings_init(struct vhost_be *be)
{
	be->rings = calloc(be->ops->queues, sizeof(*be->rings));
	if (!be->rings)
		return -ENOMEM;
	for (unsigned i = 0; i < be->ops->queues; i++)
		be->rings[i] = (struct be_ring) { .kick = -1, .call = -1, .err = -1 };
	return 0;
}

void be_rings_free(struct vhost_be *be)
{
	for (unsigned i = 0; be->rings && i < be->ops->queues; i++)
		ring_clear(&be->rings[i]);
	free(be->rings);
}

bool be_rings_live(const struct vhost_be *be)
{
	for (unsigned i = 0; i < be->ops->queues; i++) {
		if (be->rings[i].state != RING_STOPPED)
			return true;
	}
	return false;
}

static struct be_ring *ring_at(struct vhost_be *be, uint64_t index)
{
	if (index < be->ops->queues)
		return &be->rings[index];
	be->why = "a ring that does not exist";
	return NULL;
}

/* The ring if it is one that may still be described. */
static struct be_ring *stopped_ring_at(struct vhost_be *be, uint64_t index)
{
	struct be_ring *r = ring_at(be, index);

	if (!r || r->state == RING_STOPPED)
		return r;
	be->why = "a running ring's set-up";
	return NULL;
}

int be_set_vring_num(struct vhost_be *be, struct vhost_msg *msg)
{
	struct be_ring *r = stopped_ring_at(be, msg->payload.state.index);
	uint32_t size = msg->payload.state.num;

	if (!r)
		return -EINVAL;
	if (size == 0 || size > VQ_SIZE_MAX)
		return be_refuse(be, -EINVAL, "a ring size of zero or above the limit");
	/* Only a packed ring may have any other size, and whether it is one is known for good at the kick. */
	if (!num_is_pow2(size) && !(be->ops->features & VHOST_VIRTIO_F_RING_PACKED))
		return be_refuse(be, -EINVAL, "a ring size that is no power of two");
	r->size = (uint16_t)size;
	return BE_OK;
}

int be_set_vring_addr(struct vhost_be *be, struct vhost_msg *msg)
{
	const struct vhost_addr *a = &msg->payload.addr;
	struct be_ring *r = ring_at(be, a->index);

	if (!r)
		return -EINVAL;
	if (r->state != RING_STOPPED && (r->desc != a->desc || r->avail != a->avail || r->used != a->used))
		return be_refuse(be, -EBUSY, "a running ring's addresses");
	r->desc = a->desc;
	r->avail = a->avail;
	r->used = a->used;
	r->have_addr = true;
	return BE_OK;
}

int be_set_vring_base(struct vhost_be *be, struct vhost_msg *msg)
{
	struct be_ring *r = stopped_ring_at(be, msg->payload.state.index);

	if (!r)
		return -EINVAL;
	r->base = msg->payload.state.num;
	return BE_OK;
}

/*
 * Takes the eventfd of SET_VRING_KICK, _CALL and _ERR; *fd is -1 if the message says that there is none. The
 * descriptors are made non-blocking, whoever else holds them: a peer that never reads its end must not be
 * able to stop us by a full counter.
 */
static int take_eventfd(struct vhost_be *be, struct vhost_msg *msg, int *fd)
{
	bool none = msg->payload.u64 & VHOST_VRING_NOFD;
	struct stat st;

	*fd = -1;
	if ((msg->payload.u64 & ~(VHOST_VRING_INDEX | VHOST_VRING_NOFD)) || msg->n_fds != (none ? 0 : 1))
		return be_refuse(be, -EINVAL, "a ring's descriptor message that contradicts itself");
	if (none)
		return 0;
	/* An eventfd is an anonymous inode, which has no type; files, pipes and sockets have one. */
	if (fstat(msg->fds[0], &st) < 0 || (st.st_mode & S_IFMT) || fd_set_nonblock(msg->fds[0], true) < 0)
		return be_refuse(be, -EINVAL, "a ring's descriptor that is no eventfd");
	*fd = take_fd(&msg->fds[0]);
	return 0;
}

static int check_complete(struct vhost_be *be, const struct be_ring *r)
{
	bool packed = be->features & VHOST_VIRTIO_F_RING_PACKED;

	if (!be->have_features)
		return be_refuse(be, -EINVAL, "a ring started before the features were set");
	if (!be->mem)
		return be_refuse(be, -EINVAL, "a ring started without memory");
	if (!r->size || !r->have_addr)
		return be_refuse(be, -EINVAL, "a ring started without size or addresses");
	if (!packed && !num_is_pow2(r->size))
		return be_refuse(be, -EINVAL, "a split ring whose size is no power of two");
	return 0;
}

static int hand_over(struct vhost_be *be, unsigned index)
{
	struct be_ring *r = &be->rings[index];
	struct vhost_be_ring ring = {
		.config = { .mem = be->mem,
			    .features = be->features & ~(VHOST_F_LOG_ALL | VHOST_F_PROTOCOL_FEATURES),
			    .size = r->size,
			    .desc = r->desc,
			    .avail = r->avail,
			    .used = r->used,
			    .base = r->base,
			    .log_used = true },
	};
	int err;

	ring.live = be_inflight_live(be, index);
	ring.fresh = be_inflight_fresh(be);
	err = be_inflight_part(be, index, r, &ring.config.inflight);
	if (err)
		return err;
	ring.kick = take_fd(&r->kick);
	ring.call = take_fd(&r->call);
	ring.err = take_fd(&r->err);
	r->state = RING_RUNNING;
	be->why = "the device can't serve the ring";
	err = be->ops->ring_start(be->arg, index, &ring);
	be->device_failed = err < 0;
	return err;
}

/* Gives the ring to the device if it is complete and enabled. */
static int ring_advance(struct vhost_be *be, unsigned index)
{
	struct be_ring *r = &be->rings[index];
	int err;

	if (r->state != RING_KICKED || !r->enabled)
		return BE_OK;
	err = check_complete(be, r);
	if (!err)
		err = hand_over(be, index);
	if (err) {
		r->state = RING_STOPPED;
		close_fd(&r->kick);
	}
	return err;
}

int be_set_vring_kick(struct vhost_be *be, struct vhost_msg *msg)
{
	unsigned index = msg->payload.u64 & VHOST_VRING_INDEX;
	struct be_ring *r = stopped_ring_at(be, index);
	int err, fd;

	if (!r)
		return -EINVAL;
	err = take_eventfd(be, msg, &fd);
	if (err)
		return err;
	if (fd < 0)
		return be_refuse(be, -EOPNOTSUPP, "a ring without a kick descriptor, to be polled for ever");
	r->kick = fd;
	r->state = RING_KICKED;
	return ring_advance(be, index);
}

/* A call or err eventfd: the device's at once if the ring runs, else kept for its start. */
static int replace_eventfd(struct vhost_be *be, struct vhost_msg *msg, bool is_call)
{
	unsigned index = msg->payload.u64 & VHOST_VRING_INDEX;
	struct be_ring *r = ring_at(be, index);
	int err, fd, *slot;

	if (!r)
		return -EINVAL;
	err = take_eventfd(be, msg, &fd);
	if (err)
		return err;
	if (r->state == RING_RUNNING) {
		(is_call ? be->ops->ring_set_call : be->ops->ring_set_err)(be->arg, index, fd);
		return BE_OK;
	}
	slot = is_call ? &r->call : &r->err;
	close_fd(slot);
	*slot = fd;
	return BE_OK;
}

int be_set_vring_call(struct vhost_be *be, struct vhost_msg *msg)
{
	return replace_eventfd(be, msg, true);
}

int be_set_vring_err(struct vhost_be *be, struct vhost_msg *msg)
{
	return replace_eventfd(be, msg, false);
}

int be_set_vring_enable(struct vhost_be *be, struct vhost_msg *msg)
{
	unsigned index = msg->payload.state.index;
	struct be_ring *r = ring_at(be, index);
	bool on = msg->payload.state.num;

	if (!r)
		return -EINVAL;
	if (msg->payload.state.num > 1)
		return be_refuse(be, -EINVAL, "a ring to be neither enabled nor disabled");
	if (r->enabled == on)
		return BE_OK;
	r->enabled = on;
	if (r->state == RING_RUNNING)
		be->ops->ring_enable(be->arg, index, on);
	return ring_advance(be, index);
}

/* ---- stopping ---- */

/* Has the device stop every running ring from first to last, then goes on with after, at once if there is
 * none. */
static int stop_rings(struct vhost_be *be, unsigned first, unsigned last, int (*after)(struct vhost_be *be))
{
	be->rings_stopping = 0;
	for (unsigned i = first; i <= last; i++) {
		struct be_ring *r = &be->rings[i];

		if (r->state == RING_KICKED) {
			close_fd(&r->kick);
			r->state = RING_STOPPED;
		}
		be->rings_stopping += r->state == RING_RUNNING;
	}
	if (!be->rings_stopping)
		return after(be);
	be->wait = BE_STOPPING;
	be->after_wait = after;
	for (unsigned i = first; i <= last; i++) {
		if (be->rings[i].state != RING_RUNNING)
			continue;
		be->rings[i].state = RING_STOPPING;
		be->ops->ring_stop(be->arg, i);
	}
	return BE_WAIT;
}

static int after_get_vring_base(struct vhost_be *be)
{
	const struct vhost_msg *msg = &be->in.msg;
	struct vhost_state *s = &be_reply(be, msg, sizeof(*s))->state;

	s->index = msg->payload.state.index;
	s->num = be->rings[s->index].base;
	return BE_REPLY;
}

int be_get_vring_base(struct vhost_be *be, struct vhost_msg *msg)
{
	unsigned index = msg->payload.state.index;

	if (!ring_at(be, index))
		return -EINVAL;
	return stop_rings(be, index, index, after_get_vring_base);
}

/* Back to the state after the protocol features were agreed on; memory and descriptors for calls stay. */
static int after_reset(struct vhost_be *be)
{
	for (unsigned i = 0; i < be->ops->queues; i++) {
		struct be_ring *r = &be->rings[i];

		*r = (struct be_ring) { .state = RING_STOPPED, .kick = -1, .call = r->call, .err = r->err };
	}
	be_inflight_drop(be);
	be->have_features = false;
	be->features &= VHOST_F_LOG_ALL;
	be->status = 0;
	be->ops->reset(be->arg);
	return BE_OK;
}

int be_reset_device(struct vhost_be *be, struct vhost_msg *msg)
{
	(void)msg;
	return stop_rings(be, 0, be->ops->queues - 1u, after_reset);
}

int be_set_status(struct vhost_be *be, struct vhost_msg *msg)
{
	if (msg->payload.u64 > UINT8_MAX)
		return be_refuse(be, -EINVAL, "a device status of more than eight bits");
	if (msg->payload.u64 == 0)
		return be_reset_device(be, msg);
	be->status = msg->payload.u64;
	return BE_OK;
}
