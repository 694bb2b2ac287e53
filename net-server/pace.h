/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How receiving learns of the next frame: from the backend's descriptor, or, while frames come fast, by looking.
 *
 * A descriptor that is watched costs for each frame that the host queues, even while frames are being read: whoever sends
 * it calls into epoll, and each one is an edge, which ends a sleep or a pass. While frames come fast nobody has to be told
 * of them. The descriptor is not watched then; what is there is read in one go, and when there is nothing left, receiving
 * looks again a moment later, in which many frames gather. Nor is the thread to poll meanwhile. Fast is an average of
 * several gigabits or of hundreds of thousands of frames a second, kept up for longer than that moment: a single message,
 * or an answer that somebody waits for, is told of at once, as ever.
 *
 * Nothing is missed: to watch a descriptor again is to be told of what is there already.
 */
#ifndef PACE_H
#define PACE_H

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct loop_timer;

struct pace {
	struct loop_timer *timer;
	bool fast;      /* the descriptor is not watched */
	bool stuck;     /* the timer runs for what frames wait for */
	uint64_t since; /* when there was no frame the last time */
	uint32_t work;  /* of the frames read since then */
	uint32_t run;   /* of those before, as far back as they were fast */
};

/* It is not fast yet. fn(arg) is called a moment after pace_empty or pace_stuck if it is fast, on the loop's thread.
 * 0 or -errno. */
int pace_open(struct pace *p, struct loop *loop, void (*fn)(void *arg), void *arg);
void pace_close(struct pace *p);

/* Each of these returns true if whether the descriptor is to be watched changed. */

/* A frame of len bytes was read. */
bool pace_read(struct pace *p, uint32_t len);

/* There is no frame now. */
bool pace_empty(struct pace *p);

/* Frames may wait, but can't be read, for want of buffers for example. If that lasts, so that the timer finds it stuck
 * still, nothing is fast about it. */
void pace_stuck(struct pace *p);

/* From now on it is not fast. */
bool pace_forget(struct pace *p);

#endif
