/* SPDX-License-Identifier: Apache-2.0 */
/* The back end's insides, shared by vhost_be.c (connection), vhost_be_ring.c and vhost_be_mem.c (messages). */
#ifndef VHOST_BE_PRIV_H
#define VHOST_BE_PRIV_H

#include "vhost_be.h"
#include "vhost_msg.h"

enum ring_state {
	RING_STOPPED, /* being described: every setter is allowed. A kick descriptor ends it: KICKED */
	RING_KICKED,  /* complete, waits for ENABLE: call, err and ENABLE only. Ends in RUNNING, or STOPPED */
	RING_RUNNING, /* the device serves it: as KICKED. GET_VRING_BASE or a reset ends it: STOPPING */
	RING_STOPPING, /* the device finishes its requests; no message is read until it has: STOPPED */
};

struct be_ring {
	enum ring_state state;
	bool enabled;   /* by SET_VRING_ENABLE, or because nobody negotiated that there is such a message */
	bool have_addr; /* SET_VRING_ADDR was seen */
	uint16_t size;  /* 0: not told yet */
	uint32_t base;  /* SET_VRING_BASE, or where the device stopped */
	uint64_t desc, avail, used;
	int kick, call, err; /* -1: none, or the device's by now */
};

/* What the connection waits for before it reads the next message. */
enum be_wait {
	BE_READING,  /* nothing: messages are read */
	BE_REPLYING, /* the socket to take the reply in out */
	BE_STOPPING, /* the device to stop rings_stopping rings, then after_wait goes on */
	BE_MEM,      /* the device to take the new memory table; then the same */
	BE_CONFIG,   /* the device to have its configuration space; then the same */
	BE_DEAD,     /* nothing any more: closed was called or is about to be */
};

struct vhost_be {
	struct loop *loop;
	struct loop_fd *watch;
	int fd;
	const struct vhost_be_ops *ops;
	void *arg;
	struct loop_bh resume; /* goes on after the device answered */

	enum be_wait wait;
	struct vhost_transfer in, out;
	const char *why;    /* of the refusal that a handler is about to return */
	bool device_failed; /* ... and it is the device's, so that the connection ends */

	bool have_features;
	uint64_t features, protocol;
	uint64_t status;
	int backend_req; /* -1: none */

	struct mem *mem, *old_mem; /* NULL before SET_MEM_TABLE or ADD_MEM_REG */
	int log_fd;                /* -1: none */
	uint64_t log_size, log_offset;
	void *inflight; /* the mapping, from the start of its file; NULL: none */
	size_t inflight_len;
	struct vhost_inflight inflight_desc;

	unsigned rings_stopping;
	int (*after_wait)(struct vhost_be *be); /* what a wait for the device ends with, as a handler does */
	struct be_ring *rings;                  /* ops->queues of them */
};

/* What a handler returns: one of these, or -errno with be->why for a refusal. */
enum {
	BE_OK,    /* done; acknowledge if that was asked for */
	BE_REPLY, /* out holds the reply */
	BE_WAIT,  /* be->wait tells for what; it goes on with be->after_wait */
};

typedef int (*be_handler)(struct vhost_be *be, struct vhost_msg *msg);

/* Refuses the message at hand: return be_refuse(be, -EINVAL, "..."). */
static inline int be_refuse(struct vhost_be *be, int err, const char *why)
{
	be->why = why;
	return err;
}

/* Prepares a reply to msg with size bytes of payload, zeroed, for the handler to fill in. */
union vhost_payload *be_reply(struct vhost_be *be, const struct vhost_msg *msg, size_t size);

/* True if a protocol feature was agreed on. */
static inline bool be_has(const struct vhost_be *be, uint64_t feature)
{
	return be->protocol & feature;
}

/* vhost_be_ring.c */
int be_rings_init(struct vhost_be *be);
void be_rings_free(struct vhost_be *be);
bool be_rings_live(const struct vhost_be *be); /* a ring is more than STOPPED */
int be_set_vring_num(struct vhost_be *be, struct vhost_msg *msg);
int be_set_vring_addr(struct vhost_be *be, struct vhost_msg *msg);
int be_set_vring_base(struct vhost_be *be, struct vhost_msg *msg);
int be_get_vring_base(struct vhost_be *be, struct vhost_msg *msg);
int be_set_vring_kick(struct vhost_be *be, struct vhost_msg *msg);
int be_set_vring_call(struct vhost_be *be, struct vhost_msg *msg);
int be_set_vring_err(struct vhost_be *be, struct vhost_msg *msg);
int be_set_vring_enable(struct vhost_be *be, struct vhost_msg *msg);
int be_set_status(struct vhost_be *be, struct vhost_msg *msg);
int be_reset_device(struct vhost_be *be, struct vhost_msg *msg);

/* vhost_be_mem.c */
void be_mem_free(struct vhost_be *be);
void be_inflight_drop(struct vhost_be *be);
int be_set_mem_table(struct vhost_be *be, struct vhost_msg *msg);
int be_add_mem_reg(struct vhost_be *be, struct vhost_msg *msg);
int be_rem_mem_reg(struct vhost_be *be, struct vhost_msg *msg);
int be_set_log_base(struct vhost_be *be, struct vhost_msg *msg);
int be_get_inflight(struct vhost_be *be, struct vhost_msg *msg);
int be_set_inflight(struct vhost_be *be, struct vhost_msg *msg);
/* Starts or stops logging as the features now say. */
int be_apply_log(struct vhost_be *be);
/* The part of the in-flight region that is ring's, made fit for it if it is blank; *part NULL without a
 * region. */
int be_inflight_part(struct vhost_be *be, unsigned index, const struct be_ring *ring, void **part);
/* How many parts of the region are not blank if part index is among them, else 0; before be_inflight_part. */
uint16_t be_inflight_live(const struct vhost_be *be, unsigned index);

/* Whether no request was ever marked in the region, or there is none. */
bool be_inflight_fresh(const struct vhost_be *be);

#endif
