/* SPDX-License-Identifier: Apache-2.0 */
/* A queue of the disk, as main.c gives it to lib/server; server.h says what each function is for. */
#ifndef QUEUE_H
#define QUEUE_H

#include <stdbool.h>

#include "disk.h"
#include "server.h"

struct blk_queue;

int queue_open(struct disk *disk, struct server_queue *server, struct blk_queue **out);
void queue_close(struct blk_queue *q);
bool queue_service(struct blk_queue *q);
bool queue_has_room(const struct blk_queue *q);
bool queue_pending(const struct blk_queue *q);

/* The queue's i-th counter: its name, and *value; NULL past the last. Any thread. */
const char *queue_counter(const struct blk_queue *q, unsigned i, uint64_t *value);

#endif
