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

/* Makes the disk as large as value says ("30G", or "image": what the image has now). An image file that is shorter grows;
 * 1, or 0 if nothing was to be done, or -errno with a line in why. */
int resize_set(struct disk *disk, const char *value, char *why, size_t size);

/* Takes the size that the image has now, as it may have grown since it was opened. */
void resize_look(struct disk *disk);

#endif
