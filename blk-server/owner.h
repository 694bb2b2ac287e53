/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread that owns a qcow2 image's tables (lib/qcow2). Queues map by themselves what they can, and post the requests that
 * they can't: clusters to be allocated, tables to be loaded, compressed data, discards and zeroes. It takes all that have
 * come meanwhile at once, so that one flush does for all, and posts each back to its queue's loop.
 *
 * The image is open from when a ring starts until the last one stops: a spare, or a server that another has taken over
 * from, must not hold what the other changes.
 */
#ifndef OWNER_H
#define OWNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qcow2.h"

struct blk_queue;
struct disk;
struct owner;
struct request;

/* Opens the backing files and examines the image, whose descriptor is open. *bytes: of the virtual disk. Logs why not. */
int owner_open(struct disk *disk, uint64_t *bytes);
void owner_close(struct disk *disk);

/* Starts the thread, unless it runs, and makes the queue known; returns its number for qcow2_enter. 0 or -errno. */
int owner_start(struct owner *o, struct blk_queue *q, unsigned *reader);

/* Ends the thread; nobody asks for anything any more. */
void owner_stop(struct owner *o);

/*
 * The ring of the queue with this number is served from now on, or is not any more; its thread. On: the image is opened
 * meanwhile, and may have to be repaired, which takes its time; the queue takes nothing until then, and the server is poked.
 * Off: blocks, until nothing is done to the image any more if that was the last ring, and nothing is taken; said once more
 * where something was.
 */
void owner_ring(struct owner *o, unsigned number, bool on);
bool owner_is_opening(const struct owner *o, unsigned number);

/* The image; NULL if it could not be opened, of which the log tells. Any thread whose ring is on. */
struct qcow2 *owner_image(const struct owner *o);

/* The descriptor of a file of the chain. */
int owner_fd(const struct owner *o, unsigned layer);

/* Has the owner get on with r, which comes back on its queue's thread, with r->result and r->carried set: bytes that
 * were moved already. */
void owner_ask(struct owner *o, struct request *r);

/* Something that moved data has ended: if clusters wait for that, has them given back. */
void owner_moved(struct owner *o);

/* The driver chose write-through, and the disk says so: what the tables say by now is made stable. Blocks. */
int owner_settle(struct owner *o);

/* Grows the virtual disk. Blocks; not on the owner's thread. *why is NULL, or says more than the error. */
int owner_resize(struct owner *o, uint64_t bytes, const char **why);
/* The virtual disk's size as the image's header has it now, while no ring is served. 0 or -errno. */
int owner_look(struct owner *o, uint64_t *bytes);

#endif
