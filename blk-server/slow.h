/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that a worker carries out with blocking calls, and the gate that keeps writes of parts of blocks from
 * undoing others.
 *
 * Where direct I/O needs blocks larger than a sector, a write that is not aligned to them must read a block, change a
 * part and write it all. While that happens no other write may be under way on the disk, or its data could be
 * overwritten with what was read before. The gate counts the plain writes that run; a slow request waits until
 * there are none, and those that come after it wait behind it. Disks with 512-byte blocks have no gate.
 */
#ifndef SLOW_H
#define SLOW_H

#include <stdbool.h>

struct disk;
struct gate;
struct request;

int gate_new(struct disk *disk, struct gate **out);
void gate_free(struct gate *gate); /* NULL is ignored */

/* Asks to run r as a plain write, which the caller then does if true comes back and ends with gate_leave. False:
 * a slow request is in the way, and r is carried out as one, after it. */
bool gate_enter(struct gate *gate, struct request *r);
void gate_leave(struct gate *gate);

/* Once per request, when it is made. */
void slow_prepare(struct request *r);

/* Carries r out on a worker: a discard, write-zeroes or flush, or (with a gate) an unaligned write. Of a qcow2 image all
 * but flushes go to the owner (owner.h), and what is left of a read or write too. */
void slow_start(struct request *r);

#endif
