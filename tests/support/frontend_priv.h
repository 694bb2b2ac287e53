/* SPDX-License-Identifier: Apache-2.0 */
/* The front end's insides, shared by frontend.c (connection) and frontend_io.c (requests). */
#ifndef SUPPORT_FRONTEND_PRIV_H
#define SUPPORT_FRONTEND_PRIV_H

#include "frontend.h"
#include "loop.h"

#define BLK_HEADER_BYTES 16
#define SLOT_HEAD_BYTES  32 /* the request's header, then its status byte, then nothing */

struct frontend_slot {
	enum { SLOT_FREE, SLOT_TAKEN, SLOT_SUBMITTED, SLOT_DONE } state;
	int next; /* of the free ones, -1: none */
};

struct frontend_queue {
	struct frontend *f;
	struct ring ring;
	bool ready;     /* the ring was made */
	int kick, call; /* -1: none yet */
	struct loop_fd *watch;
	uint64_t heads, data; /* guest-physical: queue_size headers, as many buffers */
	uint8_t *heads_ptr, *data_ptr;
	struct frontend_slot *slots; /* queue_size */
	int *slot_of;                /* by descriptor head or id */
	int free_slot;
	unsigned in_flight;
};

struct frontend {
	struct frontend_options options;
	struct loop *loop;
	struct vhost_fe *fe;
	struct vhost_fe_info info;
	int lost;
	bool ended, called; /* lost is set; a call eventfd was signalled */
	struct guest guest;
	uint64_t features; /* of the rings, once they are made */
	int inflight_fd;
	uint8_t *inflight;
	size_t inflight_stride;
	struct frontend_queue *queues;
};

int frontend_queue_init(struct frontend *f, struct frontend_queue *q);
void frontend_queue_free(struct frontend *f, struct frontend_queue *q);
uint64_t frontend_queue_bytes(const struct frontend_options *o);

#endif
