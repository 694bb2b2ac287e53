/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front end's side of a vhost-user connection (QEMU docs/interop/vhost-user.rst): what vmm-core, the
 * tests and the benchmarks use to drive a device process. Asynchronous: requests are queued, sent in order,
 * acknowledged (REPLY_ACK on every setter) within a deadline, and report through callbacks; nothing here
 * blocks. The loop's thread only.
 */
#ifndef VHOST_FE_H
#define VHOST_FE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop.h"
#include "mem.h"

#define VHOST_FE_QUEUES_MAX 256
#define VHOST_FE_CONFIG_MAX 256 /* bytes of device configuration space, the protocol's bound */

struct vhost_fe;

struct vhost_fe_ops {
	/* The connection is over: -EPIPE (closed by the peer), -EPROTO (it broke the protocol), -ETIMEDOUT
	 * (it missed a deadline), -errno. The front end is dead: free it. Called once, never from within a
	 * call of the user's. */
	void (*lost)(void *arg, int err, const char *why);
	/* The back end says that its configuration space changed (BACKEND_REQ CONFIG_CHANGE_MSG). May be
	 * NULL. */
	void (*config_changed)(void *arg);
};

/* Takes over fd, a connected unix stream socket (it stays the caller's if this fails). timeout_ns is the
 * deadline of every single request. */
int vhost_fe_new(struct loop *loop, int fd, uint64_t timeout_ns, const struct vhost_fe_ops *ops, void *arg,
		 struct vhost_fe **out);
/* Closes the socket; callbacks that are pending are not called. NULL is ignored. */
void vhost_fe_free(struct vhost_fe *fe);

/* What a back end offers. */
struct vhost_fe_info {
	uint64_t features;          /* virtio feature bits */
	uint64_t protocol_features; /* those agreed on */
	uint32_t queues;            /* at most */
	uint32_t mem_slots;         /* at most; 0 if it can't tell */
	uint32_t config_len;
	uint8_t config[VHOST_FE_CONFIG_MAX];
};

/*
 * err as in lost, or a back end's refusal (-EREMOTEIO), or -EOPNOTSUPP, -EINVAL for what was not agreed on. When
 * the connection is lost, every operation that is under way is first called back with the same err, then
 * lost; only if there is no memory for an operation itself (-ENOMEM) lost is all that comes.
 */
typedef void (*vhost_fe_done_fn)(void *arg, int err);
typedef void (*vhost_fe_u64_fn)(void *arg, int err, uint64_t value);

/*
 * First conversation: owner, features, protocol features, queue number, slots, config_len bytes of
 * configuration (0: none), BACKEND_REQ channel. *info (the caller's, valid until done) is filled when done is
 * called with 0.
 */
void vhost_fe_probe(struct vhost_fe *fe, uint32_t config_len, struct vhost_fe_info *info,
		    vhost_fe_done_fn done, void *arg);

struct vhost_fe_ring {
	uint16_t size;
	uint64_t desc, avail, used; /* user addresses, in terms of mem_region.user_addr */
	uint64_t used_gpa;          /* for the dirty log; with log set */
	uint32_t base;
	int kick, call, err; /* eventfds, the caller's; err may be -1 */
};

struct vhost_fe_start {
	uint64_t features;                /* acknowledged by the driver */
	const struct mem_region *regions; /* with fds, n_regions each */
	const int *fds;
	unsigned n_regions;
	int inflight_fd; /* -1: none */
	uint64_t inflight_size;
	uint16_t inflight_queues, inflight_queue_size;
	const struct vhost_fe_ring *rings; /* rings[i] is queue i; size 0: not used */
	unsigned n_rings;
};

/*
 * Brings the device to work: SET_FEATURES, memory, in-flight region, every ring with base, call, err and
 * kick, ENABLE, SET_STATUS. Everything is copied and duplicated before it returns. done once all is
 * acknowledged.
 */
int vhost_fe_start(struct vhost_fe *fe, const struct vhost_fe_start *start, vhost_fe_done_fn done, void *arg);

/* Stops ring index; the back end has finished its requests when done comes with the base (GET_VRING_BASE). */
void vhost_fe_stop_ring(struct vhost_fe *fe, unsigned index, vhost_fe_u64_fn done, void *arg);

/* Stops all rings, then SET_STATUS 0 and RESET_DEVICE if agreed on. */
void vhost_fe_reset(struct vhost_fe *fe, vhost_fe_done_fn done, void *arg);

/* Reads configuration space again into buf (the caller's, valid until done), writes some of it. */
void vhost_fe_get_config(struct vhost_fe *fe, uint32_t off, uint32_t len, uint8_t *buf, vhost_fe_done_fn done,
			 void *arg);
void vhost_fe_set_config(struct vhost_fe *fe, uint32_t off, uint32_t len, const uint8_t *buf,
			 vhost_fe_done_fn done, void *arg);

/* Starts or (fd < 0) ends dirty logging: SET_LOG_BASE, F_LOG_ALL in the features. */
void vhost_fe_set_log(struct vhost_fe *fe, int fd, uint64_t size, vhost_fe_done_fn done, void *arg);

void vhost_fe_add_region(struct vhost_fe *fe, const struct mem_region *region, int fd, vhost_fe_done_fn done,
			 void *arg);
void vhost_fe_remove_region(struct vhost_fe *fe, const struct mem_region *region, vhost_fe_done_fn done,
			    void *arg);

#endif
