/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `bulkhead image` has a process of its own do, since an image is somebody else's work: the command opens and locks the
 * file, splits off this process, which is confined before it reads the first byte, and prints what that says, in records of
 * one size. It believes none of them more than that they are shown.
 */
#ifndef SUPERVISOR_IMAGE_WORK_H
#define SUPERVISOR_IMAGE_WORK_H

#include <stdbool.h>
#include <sys/types.h>

#include "qcow2.h"

enum image_said {
	IMAGE_SNAPSHOT, /* there is this one */
	IMAGE_DONE,     /* that was all */
	IMAGE_ABSENT,   /* there is no such snapshot */
	IMAGE_REFUSED,  /* nothing was changed; why says why */
	IMAGE_FAILED,   /* the same in the middle of it */
};

#define IMAGE_WHY_MAX 256

struct image_record {
	enum image_said said;
	struct qcow2_snapshot snapshot;
	char why[IMAGE_WHY_MAX];
};

struct image_job {
	int fd; /* of the image, locked */
	bool device;
	bool sandbox;
	const char *revert; /* a snapshot's id or name; NULL: they are listed, and nothing is written */
};

/* Starts the process; *from is where its records come from, to end-of-file. 0 or -errno with the step in *what. */
int image_work_start(const struct image_job *job, pid_t *pid, int *from, const char **what);

#endif
