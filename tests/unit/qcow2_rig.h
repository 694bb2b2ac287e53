/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 images for tests: made and judged by QEMU's tools, opened by lib/qcow2. Whatever fails here fails the test. */
#ifndef QCOW2_RIG_H
#define QCOW2_RIG_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qcow2.h"

#define RIG_BYTES ((6U << 20) + 3 * 512) /* of the disks: no multiple of a cluster */

struct rig_kind {
	const char *name;
	const char *options; /* of qemu-img create -o */
	const char *
	    backing; /* "raw", "qcow2", or NULL; "short" and "long": raw, of another size than the disk; "flat": of one byte all over */
};

extern const struct rig_kind rig_kinds[]; /* ended by one without a name */

/* Skips the test if QEMU's tools are not there; else goes to a folder of its own. */
void rig_begin(void);

/* Runs a line of shell. */
void rig_sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int rig_sh_status(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Makes image "disk" of a kind, and the files below it, "base" and so on, with content in them. */
void rig_make(const struct rig_kind *kind);

/* Has QEMU write to "disk" in all of its ways. */
void rig_fill(unsigned seed);

struct rig_image {
	int fd[QCOW2_CHAIN_MAX];
	struct qcow2_backing backing[QCOW2_CHAIN_MAX];
	struct qcow2_options options;
	struct qcow2 *image;
	char why[256];
};

/* Opens "disk" with what rig_make put below it; the caller may have set options. 0 or -errno with image->why. */
int rig_try_open(struct rig_image *image, const char *file, bool backing);
void rig_open(struct rig_image *image, const struct rig_kind *kind);
void rig_close(struct rig_image *image);

/* The whole disk, read by the owner's side or as the fast side maps it, in buffers of the caller's. */
void rig_read_all(struct rig_image *image, uint8_t *buf, uint64_t bytes);
void rig_map_all(struct rig_image *image, uint8_t *buf, uint64_t bytes);

/* The disk as QEMU reads it. */
void rig_qemu_reads(const char *file, uint8_t *buf, uint64_t bytes);

/* qemu-img check finds nothing; with leaks: nothing worse. */
void rig_qemu_checks(const char *file, bool leaks);

#endif
