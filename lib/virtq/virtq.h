/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device's side of a virtqueue (virtio 1.2 §2.6 to §2.8), split or packed, with indirect descriptors,
 * event index, batched publication of used entries and in-flight tracking. A queue is private to the thread
 * of the loop that serves it. Each descriptor is read from shared memory once, into locals, and checked
 * there; what a driver does wrong is an error to the caller, after which the queue is broken until it is made
 * anew.
 */
#ifndef VIRTQ_H
#define VIRTQ_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "mem.h"

#define VQ_SIZE_MAX 32768

struct vq;

/*
 * Requests that are tried (vq_pop) go one at a time over all queues that share this, whatever threads these are on: a process
 * dies of one request, and all that are tried at that moment are suspected of it. Zeroed but for over and arg; outlives the
 * queues.
 */
struct vq_trials {
	_Atomic bool busy; /* one is tried */
	/* That is over, and queues that had to wait for it may take. On the thread of the queue that had it, also in vq_free. */
	void (*over)(void *arg);
	void *arg;
};

struct vq_config {
	struct mem *mem;   /* the queue takes a reference of its own */
	uint64_t features; /* negotiated virtio feature bits: RING_PACKED, INDIRECT_DESC, EVENT_IDX */
	uint16_t size;     /* descriptors: a power of two for a split ring */
	uint64_t desc;     /* user addresses of the front end, as in VHOST_USER_SET_VRING_ADDR */
	uint64_t avail;    /* split: available ring; packed: driver event suppression */
	uint64_t used;     /* split: used ring; packed: device event suppression */
	uint32_t base;     /* VHOST_USER_SET_VRING_BASE; not used when inflight is given and not blank */
	void *inflight;    /* this queue's part of the in-flight region, writable, or NULL */
	uint16_t iov_max;  /* vectors the caller can take per chain; longer chains are -E2BIG */
	bool log_used;     /* mark used-ring writes in the dirty log */
	bool buffers;      /* entries are buffers that may wait for ever, so none is tried alone (vq_pop) */
	struct vq_trials *trials; /* shared with other queues, or NULL */
};

/*
 * Makes a queue and, if an in-flight region is given, does the recovery that the specification prescribes:
 * finishes the last batch, and lists what is to be resubmitted, in counter order, before anything new. A blank
 * region is initialised: split, from used.idx of the live ring, where the queue then goes on; packed, from base.
 * -EINVAL: size, alignment or addresses are wrong, or rings overlap; -EPROTO: the in-flight region
 * contradicts itself.
 */
int vq_new(const struct vq_config *config, struct vq **out);
void vq_free(struct vq *vq);

/* A request: readable vectors first, then writable ones. */
struct vq_chain {
	uint16_t head;     /* split: head descriptor; packed: slot of a private table. For vq_push */
	uint16_t out_num;  /* iov[0 .. out_num) are readable by the device */
	uint16_t in_num;   /* iov[out_num .. out_num + in_num) are writable by it */
	bool resubmitted;  /* it was in flight when an earlier process died */
	bool poisoned;     /* processes died of it: to be answered with an error, not to be tried again */
	bool failed;       /* it failed (vq_fail) and was not answered: to be answered with an error */
	uint8_t deaths;    /* processes that it has outlived, at most 7 */
	uint32_t out_len;  /* bytes */
	uint32_t in_len;   /* bytes */
	struct iovec *iov; /* the caller's, iov_max vectors */
};

/*
 * Takes the next request and marks it in flight: first those to be resubmitted, then the ring's. 1 with
 * *chain filled, 0 if there is none, -errno if the driver broke the ring: -EINVAL (order, flags, length 0, a
 * writable before a readable descriptor), -EFAULT (an address outside RAM), -ELOOP (a chain longer than the
 * ring), -E2BIG (more vectors than iov_max), -ERANGE (head or index out of range), -EALREADY (a head that is
 * in flight), -ENOTCONN (broken before).
 *
 * The request is in hand from then on, until vq_lay_down, the next vq_pop or vq_take_up. If the process dies, the one
 * in hand is suspected of it; inflight_priv.h says how the culprit is found. For that, a request which outlived two
 * deaths is handed out when no other is in flight, and until it is published there is none; and none of its kind of other
 * queues (vq_config.trials).
 */
int vq_pop(struct vq *vq, struct vq_chain *chain);

/*
 * Gives a request back that was popped and not pushed, for the next vq_pop. Of those popped it must be the last one, so
 * that it goes back to where it was in the ring. -ESTALE if another one stands there (it was not the last one, or the
 * driver rewrote it): the request then stays the caller's. One that was resubmitted never fails.
 */
int vq_unpop(struct vq *vq, uint16_t head);

/* The caller goes on working on a request that it has; and it works on none. */
void vq_take_up(struct vq *vq, uint16_t head);
void vq_lay_down(struct vq *vq);

/* The request failed in a way that trying it again could hide. Should the process die before the driver sees the
 * answer, its successor is told (vq_chain.failed). */
void vq_fail(struct vq *vq, uint16_t head);

/* Nothing of it is taken or will be, though something is there, while a request of another queue is tried. */
bool vq_is_kept_back(const struct vq *vq);

/* The ring is given up: nothing is taken any more (-ENOTCONN), and what is tried keeps no other queue back. */
void vq_break(struct vq *vq);

/* True if there is an in-flight region, in which a successor finds what was not completed. */
bool vq_is_tracked(const struct vq *vq);

/* The process ends in order, and what is in flight is its successor's: it has outlived no death by that. The last call
 * before vq_free. */
void vq_hand_over(struct vq *vq);

/* Stages the completion of a request, in any order: written bytes of its writable part were filled (clamped
 * to it). Nothing is visible to the driver before vq_publish. */
void vq_push(struct vq *vq, uint16_t head, uint32_t written);

/* Makes all staged completions visible at once (§2.7.8, §2.8.22), updates the in-flight region in the
 * prescribed order, and returns whether the driver wants a notification: the first time always, since the last
 * one of a process that died may have got lost. Never signals itself. False if nothing was staged. */
bool vq_publish(struct vq *vq);

/* Asks the driver to stop, or to start again, sending kicks. vq_enable_kicks returns true if requests arrived
 * meanwhile, which the caller then serves; it contains the barrier that closes the lost wake-up. */
void vq_disable_kicks(struct vq *vq);
bool vq_enable_kicks(struct vq *vq);

/* Of the ring, in descriptors: no more requests than that can be in it. */
uint16_t vq_size(const struct vq *vq);

/* True if the ring holds a request that was not taken; a peek, for polling. */
bool vq_has_avail(const struct vq *vq);

/* Requests taken and not yet published; those that wait to be resubmitted were not taken yet. */
uint16_t vq_in_flight(const struct vq *vq);

/* Requests of an earlier process that are still to be taken again. */
uint16_t vq_resubmits(const struct vq *vq);

/* What VHOST_USER_GET_VRING_BASE returns; meaningful when nothing is in flight. Packed: with the used index
 * above. */
uint32_t vq_base(const struct vq *vq);

/* Replaces the memory table (regions were added or removed); ring pointers are looked up again. The vectors of
 * requests in flight still point into the old one: the caller holds a reference to it until they are finished.
 * -EFAULT: the rings are no longer there and the queue is broken; requests in flight are pushed and published
 * as ever, but nobody sees it. */
int vq_set_mem(struct vq *vq, struct mem *mem);

#endif
