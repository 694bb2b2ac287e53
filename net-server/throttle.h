/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rate limits of a port, one for each direction, for all its pairs together. Rates come as options and may be changed
 * while the port runs. Their numbers and levels are in memory that outlives the process (lib/base/quota): a restart neither
 * fills a bucket nor forgets a change.
 */
#ifndef THROTTLE_H
#define THROTTLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "quota.h"

enum throttle_way { THROTTLE_RX, THROTTLE_TX, THROTTLE_WAYS };

#define THROTTLE_WORDS (THROTTLE_WAYS * QUOTA_WORDS) /* of the device's state */

struct throttle {
	uint64_t given[THROTTLE_WAYS][QUOTA_KEYS]; /* as options say */
	_Atomic uint64_t *words[THROTTLE_WAYS];
};

/* Takes "RATE" or "RATE/BURST" as the option "rx-bytes", "rx-packets", "tx-bytes" or "tx-packets". 0, -ENOENT for another key,
 * -EINVAL or -ERANGE for the value. Before throttle_open. */
int throttle_parse(struct throttle *t, const char *key, const char *value);

/* The limits are the options', or what they were changed to before a predecessor died. */
void throttle_open(struct throttle *t, _Atomic uint64_t *words);

/* The predecessor is gone: no more is to be paid off than it can have taken, whatever it wrote. */
void throttle_resume(struct throttle *t);

/* As throttle_parse, in force at once, and kept. */
int throttle_set(struct throttle *t, const char *key, const char *value);

/* A frame's place in line; zeroes at first. Its owner's. */
struct throttle_turn {
	bool taken;
	uint32_t bytes;
	struct quota_turn at;
};

/* Any thread: 0 if it is the turn of a frame of so many bytes, or when to ask again, by clock_ns. */
uint64_t throttle_wait(struct throttle *t, enum throttle_way way, struct throttle_turn *turn, uint32_t bytes);

/* It passed; or it does not after all, and those who come now have what it took. */
void throttle_passed(struct throttle_turn *turn);
void throttle_leave(struct throttle *t, enum throttle_way way, struct throttle_turn *turn);

#endif
