/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IPv4 fragments of the guest, put together before libslirp sees them: its own code for that was the way in of
 * CVE-2019-14378 and CVE-2020-1983, keeps as many fragments as a guest likes to send, and is never reached. And only a
 * whole packet tells its ports to the policy.
 */
#ifndef NET_USER_REASM_H
#define NET_USER_REASM_H

#include "frame.h"

#define REASM_SLOTS 16 /* packets that may be incomplete at a time; one more takes the place of the oldest */

struct reasm;

enum reasm_result {
	REASM_WAIT, /* kept */
	REASM_DROP, /* the fragment, and its packet with it, makes no sense: overlaps, too long, cut at an odd place */
	REASM_DONE, /* *whole is the packet as one frame, valid until the next call */
};

int reasm_new(struct reasm **out);
void reasm_free(struct reasm *r);

/* Adds a FRAME_FRAGMENT at clock_ns() now_ns. *evicted is the number of incomplete packets that were given up. */
enum reasm_result reasm_add(struct reasm *r, const struct frame *f, uint64_t now_ns, struct frame *whole,
			    unsigned *evicted);

#endif
