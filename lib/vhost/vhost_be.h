/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The back end's side of a vhost-user connection (QEMU docs/interop/vhost-user.rst): decodes and checks what
 * a front end sends, keeps each ring's addresses and eventfds, and calls the device. Whatever the peer sends,
 * the result is a refusal or a closed connection. The loop's thread only; nothing blocks but mmap.
 */
#ifndef VHOST_BE_H
#define VHOST_BE_H

#include <stdbool.h>
#include <stdint.h>

#include "loop.h"
#include "mem.h"
#include "virtq.h"

struct vhost_be;

/* A ring that is to start: config is complete but for iov_max; the eventfds are the device's from here on
 * (kick is non-blocking; call and err may be -1, and call may change while the ring runs: set_call). */
struct vhost_be_ring {
	struct vq_config config;
	int kick, call, err;
	bool fresh;    /* none of them was ever served */
	uint16_t live; /* rings in the in-flight region that began before, or 0 if this is none of them */
};

struct vhost_be_ops {
	uint64_t features; /* virtio feature bits offered, the ring features among them */
	uint16_t queues;   /* rings, at most */
	uint16_t
	    counted; /* what GET_QUEUE_NUM says, where front ends count something else (net: pairs); 0: queues */

	/* Fills len bytes of configuration space from off, all of it at once or -EINVAL; or -EINPROGRESS, and asked again
	 * after vhost_be_config_ready. Until then no further message is read. */
	int (*get_config)(void *arg, uint32_t off, uint32_t len, uint8_t *buf);
	int (*set_config)(void *arg, uint32_t off, uint32_t len, const uint8_t *buf);

	/* A ring is complete, kicked and enabled: serve it. 0 or -errno (the connection then ends; the
	 * eventfds are the device's all the same). */
	int (*ring_start)(void *arg, unsigned index, const struct vhost_be_ring *ring);
	/* Finish ring's requests and forget it, then call vhost_be_ring_stopped (now or later); until then no
	 * further message is read. */
	void (*ring_stop)(void *arg, unsigned index);
	/* A running ring's call (or err) eventfd was replaced; it is the device's from here on, -1 for none.
	 * The device signals a new call once after it went over to it: what it completed meanwhile was
	 * signalled on the old one, or on none. */
	void (*ring_set_call)(void *arg, unsigned index, int call);
	void (*ring_set_err)(void *arg, unsigned index, int err);
	/* ENABLE 0 or 1 on a started ring: while disabled, requests stay in the ring. */
	void (*ring_enable)(void *arg, unsigned index, bool on);
	/* The memory table, or its dirty log, changed while rings run; take a reference per ring, then
	 * vhost_be_mem_taken (now or later). Until then no further message is read. */
	void (*mem_changed)(void *arg, struct mem *mem);
	/* All rings are stopped and the device is as new (RESET_DEVICE, status 0). */
	void (*reset)(void *arg);
	/* The connection is over: 0 for an ordinary close, -EPROTO with why for a peer that broke the
	 * protocol. The rings that run must be stopped by the device without a call to vhost_be_ring_stopped.
	 * Called once, last; never between ring_stop or mem_changed and its answer. May call vhost_be_free,
	 * which no other of these functions may. */
	void (*closed)(void *arg, int err, const char *why);
};

/* Takes over fd, a connected unix stream socket; if it fails, fd stays the caller's. */
int vhost_be_new(struct loop *loop, int fd, const struct vhost_be_ops *ops, void *arg, struct vhost_be **out);
void vhost_be_free(struct vhost_be *be); /* NULL is ignored */

/* Answers ring_stop: base as vq_base gives it. */
void vhost_be_ring_stopped(struct vhost_be *be, unsigned index, uint32_t base);
/* Answers mem_changed. */
void vhost_be_mem_taken(struct vhost_be *be);
/* What get_config is asked for can be had; ignored if nobody waits for it. */
void vhost_be_config_ready(struct vhost_be *be);

/* Tells the front end that configuration space changed, if it listens. */
int vhost_be_config_changed(struct vhost_be *be);

#endif
