/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk's size while it is served. It only ever grows: what lies within it stays reachable to requests under way, and
 * no guest can be told in time that a part of its disk is gone. The main thread's.
 */
#ifndef RESIZE_H
#define RESIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop.h"

struct disk;

/* What is wanted, and who hears of it if it takes its time: done gets what resize_set would have returned, from the loop. */
struct resize {
	char value[32]; /* "30G", or "image": what the image has now */
	struct loop *loop;
	struct loop_pool *pool; /* for calls that block */
	void (*done)(void *arg, int result, const char *why);
	void *arg;

	/* While it is under way; resize.c's. */
	bool busy;
	struct loop_job job;
	int result;
	uint64_t bytes; /* that the disk is to have */
	char why[160];
};

/* Makes the disk as large as it says. An image file that is shorter grows; 1, or 0 if nothing was to be done, or -errno with
 * a line in why. -EINPROGRESS: it is under way; another one is refused until that is done. Blocks not once a driver has seen
 * the disk. */
int resize_set(struct disk *disk, const struct resize *what, char *why, size_t size);

/* Takes the size that the image has now, as it may have grown since it was opened. */
void resize_look(struct disk *disk);

#endif
