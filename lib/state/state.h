/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of one device that outlives its process: what the driver set up beyond its rings, what the supervisor set, and
 * levels that must not be filled up by a restart. Made by the supervisor, one for each device, and mapped by whichever
 * process serves the device; two may have it mapped, and one at a time writes.
 *
 * A process may be killed between any two instructions and have been taken over before: a successor finds the record that
 * was saved last or the one before it, never a mixture, and believes nothing that stands in it.
 */
#ifndef STATE_H
#define STATE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define STATE_BYTES      32768U /* of it all */
#define STATE_RECORD_MAX 3584   /* bytes */
#define STATE_WORDS      64
#define STATE_AREA       12288 /* bytes */

/* Two records, each replaced by itself: the device's own, and lib/server's of any device. */
enum state_record { STATE_DEVICE, STATE_SERVER, STATE_RECORDS };

struct state;

/* The memory, empty: a sealed memfd. The descriptor or -errno. */
int state_create(void);

/* Maps memory whose descriptor comes from another process. -EINVAL if it is none by its size, -EPERM if it could shrink
 * under us. fd stays the caller's. */
int state_map(int fd, struct state **out);

/* Memory that nobody else sees, for a process that was given none. -errno. */
int state_alloc(struct state **out);

/* Unmaps. NULL is ignored. */
void state_free(struct state *s);

/* Replaces a record; -E2BIG if it is too long. Any thread; no system call. */
int state_save(struct state *s, enum state_record which, const void *data, size_t len);

/* Copies a record, at most max bytes: its whole length, -ENOENT if none was saved, -EPROTO if what stands there can be
 * none. Any thread. */
ssize_t state_load(struct state *s, enum state_record which, void *buf, size_t max);

/* STATE_WORDS words, 0 at first, for what changes so often that each has to stand for itself. What a word means, and who
 * may write it, is the device's affair. */
_Atomic uint64_t *state_words(struct state *s);

/* STATE_AREA bytes more of that kind, aligned for anything. */
void *state_area(struct state *s);

#endif
