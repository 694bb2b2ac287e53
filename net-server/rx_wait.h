/* SPDX-License-Identifier: Apache-2.0 */
/* A frame that was read and waits, for the limit or for buffers: struct rx's held. One at most, on rx's thread. */
#ifndef RX_WAIT_H
#define RX_WAIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "rx.h"

/* The frame of len bytes that was just read waits: so much of it is placed in the buffers that are there, the rest stands in
 * the spill area. needs: features, for what of it is unfinished. paid: the limit lets it pass. */
void rx_wait(struct rx *rx, uint32_t len, uint32_t placed, uint64_t needs, bool paid);

/* Asks the limit for a frame of len bytes, header included; false: not yet, and the timer will run the queue. */
bool rx_wait_pay(struct rx *rx, uint32_t len);

/* False: it goes on waiting. Else there are buffers for all of it, and it is the caller's to deliver before rx_wait_end; or it
 * was dropped, and is held no more. */
bool rx_wait_over(struct rx *rx);
void rx_wait_end(struct rx *rx);

/* The buffers are about to be given back: what of it is placed there goes to the spill area, which has room for any. */
void rx_wait_unplace(struct rx *rx);

/* Drops it, if there is one, for this reason; the limit has nothing in its line either. */
void rx_wait_drop(struct rx *rx, _Atomic uint64_t *why);

#endif
