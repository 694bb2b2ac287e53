/* SPDX-License-Identifier: Apache-2.0 */
/* An NBD server of somebody else's and our nbd-dial, for a blk-server whose disk is its export. */
#ifndef DEVICE_NBD_H
#define DEVICE_NBD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "rig.h"

#define NBD_WORDS_MAX 24

struct dial_question;
struct fake;

struct nbd {
	char dir[80], image[96], socket[96], uri[140];
	const char *argv[NBD_WORDS_MAX]; /* of the server */
	struct fake *fake;               /* NULL: a program serves */
	pid_t pid;
	pid_t dial;
	int dial_pidfd;
	int answer_to;      /* nbd_dial_hear's */
	struct rig_nbd rig; /* for rig_options.nbd */
};

/* Makes the image, and names the socket; nbd_start does it for one that is all zeroes. */
void nbd_make(struct nbd *n);

/* Makes an image, starts the server on it (nbdkit, qemu-nbd; further words up to NULL) and nbd-dial, and fills in what a rig
 * needs. Skips the test where the program is not installed or libnbd was not there. */
void nbd_start(struct nbd *n, struct rig_options *options, const char *const *words);

/* The same with a server of ours that misbehaves (nbd_fake.h). */
void nbd_start_fake(struct nbd *n, struct rig_options *options, struct fake *fake);

/* The words of the usual servers, with the image's and socket's names where IMAGE and SOCKET stand. */
extern const char *const nbd_kit[], *const nbd_qemu[], *const nbd_qemu_one[];

/* Kills the server; starts it again, and returns when it listens. */
void nbd_kill(struct nbd *n);
void nbd_up(struct nbd *n);

/* Starts it again if it died by itself: nbdkit before 1.33.10 may, by an assertion of its own, when a connection is ended that
 * it has several answers for. */
void nbd_revive(struct nbd *n);

/* A connection to it. */
int nbd_connect(const struct nbd *n);

/* Starts nbd-dial anew after kill. */
void nbd_dial_kill(struct nbd *n);
void nbd_dial_start(struct nbd *n);

/* In its place while there is none: takes a question that wants an answer, if there is one; then gives that, a connection,
 * which is closed here, or -errno. */
bool nbd_dial_hear(struct nbd *n, struct dial_question *q);
void nbd_dial_say(struct nbd *n, const struct dial_question *q, int fd);

/* Which connection it keeps for a link, by its socket's number; 0: none. */
ino_t nbd_kept(struct nbd *n, unsigned slot);

void nbd_stop(struct nbd *n);

#endif
