/* SPDX-License-Identifier: Apache-2.0 */
/* A queue of the disk, as main.c gives it to lib/server; server.h says what each function is for. */
#ifndef BLK_QUEUE_H
#define BLK_QUEUE_H

#include <stdbool.h>

#include "disk.h"
#include "server.h"

struct blk_queue;

int blk_queue_open(struct disk *disk, struct server_queue *server, struct blk_queue **out);
void blk_queue_close(struct blk_queue *q);

/* Registers with its thread's loop what is to be watched, and takes that back. */
int blk_queue_attach(struct blk_queue *q);
void blk_queue_detach(struct blk_queue *q);

bool blk_queue_service(struct blk_queue *q);
/* Its ring is served from now on, or is not any more. */
void blk_queue_ring(struct blk_queue *q, bool on);
bool blk_queue_has_room(const struct blk_queue *q);
unsigned blk_queue_held(const struct blk_queue *q);
uint64_t blk_queue_since(const struct blk_queue *q);
void blk_queue_release(struct blk_queue *q);
unsigned blk_queue_parked(const struct blk_queue *q);
void blk_queue_forget(struct blk_queue *q);
bool blk_queue_pending(const struct blk_queue *q);

/* The queue's i-th counter: its name, and *value; NULL past the last. Any thread. */
const char *blk_queue_counter(const struct blk_queue *q, unsigned i, uint64_t *value);

#endif
