/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue of the device: takes requests from the driver's ring, has what the driver wrote for the device copied into the
 * window, hands them on in a ring there, and gives back what the device's server made of them. Its thread's, but for
 * lane_prepare, and for what the calls of lib/server say.
 */
#ifndef WINDOW_LANE_H
#define WINDOW_LANE_H

#include <sys/uio.h>

#include "arena.h"
#include "outring.h"
#include "server.h"

#define LANE_IOV 1024 /* vectors of a request: more than any server of ours takes */

struct loop_fd;
struct share;
struct window;

/* A request that the device's server has, or one that waits for room. */
struct lane_slot {
	bool busy;
	uint16_t head;              /* in the driver's ring */
	uint16_t in_num;            /* vectors that the device writes */
	uint16_t out_stub, in_stub; /* bytes of the first and the last vector that lie in the small place */
	uint32_t in_len, in_at;     /* bytes; where they begin in the pages, but for the stub's */
	uint32_t first, pages;
	struct iovec *in; /* LANE_IOV, in guest memory */
	int next;         /* of the free ones; -1 */
};

struct lane_stats {
	_Atomic uint64_t into, out_of, waits; /* bytes; requests that had to wait for room */
};

struct lane {
	struct window *window;
	struct server_queue *queue;
	unsigned index;
	int kick, call, err; /* eventfds to and from the device's server */
	struct loop_fd *watch, *err_watch;
	uint8_t *pages;
	struct arena arena;
	struct outring ring;
	struct lane_slot slot[OUTRING_SLOTS];
	int free;       /* the first free slot; -1 */
	unsigned taken; /* requests of the driver that are not answered */
	bool on;        /* the driver's ring is there */
	bool
	    dead; /* the server has given its ring up, and the driver's was with it; until both are made anew */
	bool asked;   /* the driver, or who watches it, kicked */
	bool waiting; /* chain has no room yet; nothing else is taken meanwhile */
	struct vq_chain chain;
	struct iovec iov[LANE_IOV];
	struct iovec *vectors; /* of all slots */
	struct lane_stats stats;
};

/* Makes what a queue needs for its life, in a zeroed *l: 0 or -errno, and lane_close in either case. Main thread. */
int lane_open(struct lane *l, struct window *w, struct server_queue *queue);
void lane_close(struct lane *l);

/* Makes its ring in the window anew. The main thread, while the driver's is not served. */
void lane_prepare(struct lane *l, bool event_idx);

/* What lib/server asks of a queue (server.h: struct server_device), with the lane as its state; none blocks. */
int lane_attach(struct lane *l);
void lane_detach(struct lane *l);
void lane_set_ring(struct lane *l, bool on);
void lane_kicked(struct lane *l);
bool lane_service(struct lane *l);
bool lane_has_room(const struct lane *l);
bool lane_pending(struct lane *l);
void lane_forget(struct lane *l);

#endif
