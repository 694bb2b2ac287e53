/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of one virtqueue in one process: what the virtqueue tests begin with. */
#ifndef UNIT_QUEUE_H
#define UNIT_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "inflight.h"
#include "ring.h"
#include "virtq.h"

#define QUEUE_VECTORS 64
#define QUEUE_DATA    4096 /* bytes at data */

struct queue {
	struct guest guest;
	struct ring ring;
	struct mem *mem;
	struct vq_config config; /* may be changed before queue_restart */
	struct vq *vq;
	struct vq_chain chain; /* of the last queue_pop */
	struct iovec iov[QUEUE_VECTORS];
	uint64_t data; /* guest-physical address of a page to point descriptors at */
};

/* All of these fail the test rather than return an error. */
void queue_open(struct queue *q, uint16_t size, uint64_t features);
void queue_close(struct queue *q);
/* Gives the ring an in-flight region, blank, in guest memory, and makes the device's side anew with it. */
void queue_track(struct queue *q);
/* Drops the device's side as a crash does and makes it anew. */
void queue_restart(struct queue *q);

/* The same as queue_restart, for what is to be refused: -errno. */
int queue_try(struct queue *q);

/* A request of a readable and a writable part, published; its head or id. */
int queue_add(struct queue *q, bool indirect);
/* vq_pop into q->chain. */
int queue_pop(struct queue *q);
/* Takes the one completion there must be; its length. */
uint32_t queue_get(struct queue *q, int id);
/* Add, pop, push, publish, get, for times requests. */
void queue_cycle(struct queue *q, unsigned times);

#endif
