/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The in-flight region (vhost-user specification, "Inflight I/O tracking"): which requests a back end has
 * fetched and not yet finished, in shared memory that outlives it. The front end makes and seals it; the back
 * end writes it as it works and reads it after a crash; neither trusts what stands in it.
 */
#ifndef VIRTQ_INFLIGHT_H
#define VIRTQ_INFLIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes for one queue of size descriptors, rounded to 64, and so the stride between queues. */
size_t inflight_queue_bytes(uint16_t size, bool packed);

/*
 * Makes a queue's part fit for a ring that is about to start with nothing in flight: zeroed, version 1,
 * desc_num, and for split rings used_idx as it stands in the live ring, with a batch head that names no
 * descriptor, so that a fresh region over a live ring never clears request 0. For packed rings base is the
 * starting index with its wrap bit 15.
 */
void inflight_init(void *queue, uint16_t size, bool packed, uint16_t base);

/*
 * For a watcher of a packed ring, whose positions stand nowhere else: where the back end goes on writing used
 * descriptors (index, wrap bit in bit 15), as of the last batch that was finished (*old) and as of the present one; two
 * values that differ only while a batch is being shown. The back end may have written anything there.
 */
void inflight_packed_used(const void *queue, uint16_t *used, uint16_t *old);

/* True if the part was never initialised (all zero header). */
bool inflight_is_blank(const void *queue);

/* True if no request was ever marked in the part, blank or not. */
bool inflight_is_fresh(const void *queue, uint16_t size, bool packed);

#endif
