/* SPDX-License-Identifier: Apache-2.0 */
/* A qcow2 image's files: its own, which the disk opened, and those below it. */
#ifndef CHAIN_H
#define CHAIN_H

#include <stdatomic.h>
#include <stdbool.h>

#include "qcow2.h"

struct disk;

struct chain {
	struct disk *disk;
	struct qcow2_backing backing[QCOW2_CHAIN_MAX];
	int fd[QCOW2_CHAIN_MAX]; /* the first is the disk's */
	_Atomic unsigned hurry;  /* not 0: opening the image for writing is called off, with -ECANCELED */
	bool opening;            /* the thread's that uses the image */
};

/* Opens the backing files. 0, or -errno having logged why. */
int chain_open(struct chain *c, struct disk *disk);
void chain_close(struct chain *c);

/* Opens the image, and repairs it if it must be and may be. 0, or -errno having logged why. */
int chain_image(struct chain *c, bool readonly, struct qcow2 **out);

#endif
