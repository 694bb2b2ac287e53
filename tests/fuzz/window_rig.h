/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A window between a driver and a server in this process: the rig's queues in front of it, whose device it is (rig.h); behind it
 * a server that is played (window_server.c); and over it who keeps account of what it may do (window_account.c).
 */
#ifndef FUZZ_WINDOW_RIG_H
#define FUZZ_WINDOW_RIG_H

#include "rig.h"
#include "window.h"

#define WINDOW_LANES 2

extern struct rig rig;
extern struct window window;

/* ---- window_account.c: what was granted, and what became of it ---- */

/* At each of these moments, and when the server is kicked, somebody else may act in the middle of a pass: a request was taken, is in the
 * window and not in its ring yet, was answered. The target's. */
void window_moment(void);

/* An input begins; so does another process, with memory in its window that was never used. */
void account_reset(void);
void account_new_process(void);

/* None of the lane's requests is under way any more, and nobody answers them. */
void account_forget(unsigned lane);

/* The driver writes data. */
void account_put(uint64_t gpa, const void *from, uint32_t len);

/* Nothing was written but what had to be; looks if anything was answered, or anyway. */
void account_check(bool anyway);

/* Where the server may write of a request that has this slot, and what it reads. */
struct account_parts {
	struct outring_part part[OUTRING_PARTS];
	unsigned n;
};

/* Rings were given up, for the driver's sake or the server's. */
extern bool account_broken;

/* ---- window_server.c: what the device's server does ---- */

/* It may be left for what it did: it wrote what it should not, refused, or is gone. */
extern bool server_strange;

/* Begins, with features as how says. */
void server_begin(uint8_t how);

/* What the driver is offered, as the window asks at first. */
void server_ask(uint64_t *features);

/* The window gave it a request, or began its ring anew. */
void server_given(unsigned lane, uint16_t slot, const struct account_parts *parts);
void server_ring(unsigned lane);

/* It completes one of those that it has; false: it has none. */
bool server_use(struct input *in, unsigned lane);

/* It says, or writes, what it likes. */
void server_answer(struct input *in);
void server_scribble(struct input *in);
void server_put_used(struct input *in);
void server_call(struct input *in);
void server_say(struct input *in);

/* It answers all that it was asked and completes all that it has; true if there was anything. No kick may be missing then. */
bool server_do_all(void);

#endif
