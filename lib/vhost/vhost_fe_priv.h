/* SPDX-License-Identifier: Apache-2.0 */
/* The front end's insides, shared by vhost_fe.c (connection and queue) and vhost_fe_ops.c (conversations). */
#ifndef VHOST_FE_PRIV_H
#define VHOST_FE_PRIV_H

#include "vhost_fe.h"
#include "vhost_msg.h"

struct fe_op;

/* A request, waiting its turn or on the wire. reply (NULL for a plain acknowledgement) looks at an answer of
 * the right request and size; it may add further requests to the operation; -errno ends the operation. */
struct fe_req {
	struct fe_req *next;
	struct vhost_msg msg;          /* with descriptors of its own, closed when the request is over */
	uint32_t reply_min, reply_max; /* payload of an answer; both 0 with reply NULL: an acknowledgement */
	bool answers;                  /* it has an answer of its own, with or without REPLY_ACK */
	bool sent;                     /* it waits for its answer, or for those before it */
	bool plain;                    /* it is not acknowledged even with REPLY_ACK */
	int (*reply)(struct vhost_fe *fe, struct fe_op *op, const struct vhost_msg *answer);
};

/* What a user asked for: requests in order, then one callback. */
struct fe_op {
	struct fe_op *next;
	struct fe_req *first, *last;
	int err;
	vhost_fe_done_fn done;
	vhost_fe_u64_fn done_u64;
	void *arg;
	uint64_t value;             /* for done_u64 */
	struct vhost_fe_info *info; /* probe */
	uint32_t config_len;        /* probe */
	uint8_t *config;            /* get_config: where to; NULL otherwise */
};

/* A ring as it was started, for the dirty log and for a reset. */
struct fe_ring {
	bool started;
	struct vhost_addr addr;
};

enum fe_state {
	FE_OPEN,    /* requests are sent and answered */
	FE_FAILED,  /* over; the bottom half still has to say so */
	FE_REPORTED /* the user knows and will free it; nothing is done any more */
};

struct vhost_fe {
	struct loop *loop;
	int fd, backend_fd; /* backend_fd: our end of the BACKEND_REQ channel, -1: none */
	struct loop_fd *watch, *backend_watch;
	struct loop_timer *timer;
	struct loop_bh report; /* callbacks are made from here, never from within the user's calls */
	uint64_t timeout_ns;
	const struct vhost_fe_ops *ops;
	void *arg;
	bool reporting, freed; /* freed by a callback: the bottom half that made it frees the memory */

	enum fe_state state;
	int err;
	const char *why;
	bool config_changed;

	struct fe_op *ops_first, *ops_last; /* the first one is on the wire */
	struct fe_req *sending;             /* it is partly sent; NULL: none is */
	struct fe_op *done_first, *done_last;
	struct vhost_transfer in, out, backend_in;

	uint64_t features, protocol; /* offered; agreed on */
	bool probed, logging;
	uint64_t driver_features;
	struct fe_ring rings[VHOST_FE_QUEUES_MAX];
};

/* vhost_fe.c */
void fe_op_free(struct fe_op *op);

/* The connection is over, which is reported soon: every operation that is queued ends with err. */
void fe_fail(struct vhost_fe *fe, int err, const char *why);

/* Adds a request with size bytes of payload, zeroed, to op. NULL: out of memory, and op->err says so. */
struct fe_req *fe_add(struct fe_op *op, uint32_t request, size_t size);
struct fe_req *fe_add_u64(struct fe_op *op, uint32_t request, uint64_t value);
/* Gives the request a duplicate of fd. */
void fe_add_fd(struct fe_op *op, struct fe_req *req, int fd);
/* Makes the request one with an answer of its own. NULL as req is ignored, as by the others. */
void fe_answer(struct fe_req *req, uint32_t min, uint32_t max,
	       int (*reply)(struct vhost_fe *fe, struct fe_op *op, const struct vhost_msg *answer));

/* Queues the operation, or if it has an error already, lets it report that in its turn. */
void fe_submit(struct vhost_fe *fe, struct fe_op *op);

/* Starts to listen on the BACKEND_REQ channel, which fe takes over. */
int fe_listen(struct vhost_fe *fe, int fd);

static inline bool fe_has(const struct vhost_fe *fe, uint64_t feature)
{
	return fe->protocol & feature;
}

#endif
