/* SPDX-License-Identifier: Apache-2.0 */
/* The image of fuzz-qcow2: a file in memory with one below it, and what the disk should hold. */
#ifndef QCOW2_IMAGE_H
#define QCOW2_IMAGE_H

#include "fuzz.h"
#include "qcow2.h"

#define FILE_MAX    (6U << 20)
#define SECTOR      512U
#define SECTORS_MAX 4096U /* of the disk */
#define CALL_MAX    200000U
#define ANY         256 /* a sector that may hold anything */

struct image_file {
	uint8_t *data;
	uint64_t bytes;
	uint64_t top; /* all behind it is zeroes */
	bool device;
	unsigned accesses; /* of the call that is under way */
	unsigned refuse;   /* the change, counted down, that is refused; 0: none */
	int err;
	bool refused;
};

struct world {
	struct qcow2 *image;
	bool honest;             /* nobody wrote over the image */
	bool lost;               /* something may have leaked */
	bool has_base, snapshot; /* a file below, and a snapshot of the beginning */
	bool through;
	unsigned token[4]; /* what readers have under way */
	uint64_t sectors, first_sectors;
	uint16_t holds[SECTORS_MAX], at_first[SECTORS_MAX]; /* the byte that a sector is full of, or ANY */
};

extern struct image_file image_top, image_base;
extern struct world world;

/* lib/qcow2's view of an image_file. It aborts when one call takes more accesses than any may. */
extern const struct qcow2_file_ops image_ops;

/* A sound image in image_top, of a shape that the input says; world then says what it holds. */
void image_make(struct input *in);

/* Writes the low bytes of value, big-endian. */
void image_put(uint64_t off, uint64_t value, unsigned bytes);

#endif
