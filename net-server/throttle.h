/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rate limits of a port, one for each direction, for all its pairs together. Rates come as options and may be changed
 * while the port runs; rates that were changed and the levels of the buckets outlive the process.
 */
#ifndef THROTTLE_H
#define THROTTLE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "limit.h"

#define THROTTLE_WORDS (2 * LIMIT_WORDS + 9) /* of the device's state */

struct throttle {
	struct limit rx, tx; /* any thread takes */
	/* The main thread's. */
	struct limit_rates rx_rates, tx_rates;
	_Atomic uint64_t *words;
};

/* Takes "RATE" or "RATE/BURST" as the value of "rx-bytes", "rx-packets", "tx-bytes" or "tx-packets". 0, -ENOENT for another
 * key, -EINVAL or -ERANGE for the value. Without effect before throttle_open. */
int throttle_parse(struct throttle *t, const char *key, const char *value);

/* Puts the limits into force: the options', or what they were changed to before a predecessor died. */
void throttle_open(struct throttle *t, _Atomic uint64_t *words);
void throttle_close(struct throttle *t);

/* The predecessor is gone: goes on with its rates and levels. */
void throttle_resume(struct throttle *t);

/* As throttle_parse, in force at once, and kept. */
int throttle_set(struct throttle *t, const char *key, const char *value);

#endif
