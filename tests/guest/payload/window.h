/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Windows in which the bare guest counts what it does. The host says 'b' on the serial line to begin one, 'e' to end it,
 * which prints what happened in it, and 'q' to quit; each is answered by '!' and the byte. With seconds there is one
 * window of that length, and nothing is read.
 */
#ifndef PAYLOAD_WINDOW_H
#define PAYLOAD_WINDOW_H

#include "hw.h"

struct window {
	uint32_t seconds;          /* 0: the host says when */
	void (*clear)(void);       /* what was counted */
	void (*tell)(uint64_t us); /* prints it */
	uint64_t khz, begun, looked;
	bool running, quit;
};

/* Measures the clock and says "!ready"; a window of a fixed length begins. */
void window_open(struct window *w);

/* Now and then looks what the host says, or whether the time is over: true if it did look. */
bool window_look(struct window *w);

#endif
