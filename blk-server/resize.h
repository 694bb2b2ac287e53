/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk's size while it is served. It only ever grows: what lies within it stays reachable to requests under way, and
 * no guest can be told in time that a part of its disk is gone. The main thread's.
 */
#ifndef RESIZE_H
#define RESIZE_H

#include <stddef.h>
#include <stdint.h>

struct disk;
struct loop;

/* What is wanted, and who hears of it if it takes its time: done gets what resize_set would have returned, from the loop. */
struct resize {
	char value[32]; /* "30G", or "image": what the image has now */
	struct loop *loop;
	void (*done)(void *arg, int result, const char *why);
	void *arg;
};

/* Makes the disk as large as it says. An image file that is shorter grows; 1, or 0 if nothing was to be done, or -errno with
 * a line in why. -EINPROGRESS: there is no other until that is done. */
int resize_set(struct disk *disk, const struct resize *what, char *why, size_t size);

/* Takes the size that the image has now, as it may have grown since it was opened. */
void resize_look(struct disk *disk);

#endif
