/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What becomes of a request that the host refuses: it is reported to the driver, or kept and carried on later, after a pause
 * or when a person has made room. What is kept is in flight to everybody else, so a successor has it, too.
 *
 * A failed flush is always reported: the kernel has dropped what it could not write, and another one would succeed
 * without it.
 */
#ifndef ONERROR_H
#define ONERROR_H

#include <stdbool.h>
#include <stdint.h>

struct blk_queue;
struct disk;
struct request;

enum on_error {
	ON_ERROR_REPORT,
	ON_ERROR_STOP,   /* kept; the supervisor is told, and says when to try again */
	ON_ERROR_ENOSPC, /* the same where there was no room, else reported */
	ON_ERROR_RETRY,  /* kept and tried again, after pauses that grow */
};

/* -EINVAL if there is no such word. */
int onerror_parse(const char *word, enum on_error *to);

/* Whether some are kept until somebody else says when to go on. */
bool onerror_waits_for_order(enum on_error policy);

/* ---- main thread ---- */

/* That it is time to try again; all queues will within 100 ms. */
void onerror_retry(struct disk *disk);

/* A queue's part, before its thread runs and after. */
void onerror_open(struct blk_queue *q);
void onerror_close(struct blk_queue *q);

/* ---- the queue's thread ---- */

/* What it has registered with its thread's loop. */
int onerror_attach(struct blk_queue *q);
void onerror_detach(struct blk_queue *q);

/* r failed with err and is answered now, unless it is kept: true. */
bool onerror_keep(struct request *r, int err);

/* Carries on what was kept, if it is time to. True if anything was done. */
bool onerror_service(struct blk_queue *q);

/* They are a successor's. */
void onerror_forget(struct blk_queue *q);

/* Nothing may be kept: what can be given back is, when nothing else is under way; the rest is tried a last time. */
void onerror_release(struct blk_queue *q);

#endif
