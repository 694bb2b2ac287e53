/* SPDX-License-Identifier: Apache-2.0 */
/* The process: one disk, its server's connection, its queues. */
#ifndef WINDOW_H
#define WINDOW_H

#include "back.h"
#include "lane.h"
#include "share.h"

struct window {
	const char *server; /* the path of its socket; NULL: back.fd */
	uint64_t bytes;
	bool supervised;
	struct share share;
	struct back back;
	struct lane *lane[SERVER_QUEUES_MAX];
	unsigned lanes;
	_Atomic unsigned on;  /* rings of the driver's that are there */
	struct loop_bh rings; /* the main loop's: there is none any more, or the first one */
	_Atomic bool up;      /* the server serves the rings in the window */
	_Atomic bool lost;    /* it is gone */
};

extern const struct server_option window_options[];
extern const struct server_device window_device;

/* What it is when nobody said anything. */
void window_init(struct window *w);

/* A ring of the driver's is there, or gone. Its thread. */
void window_count_ring(struct window *w, bool on);

#endif
