/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receiving: frames of the backend into the driver's buffers (virtio 1.2 §5.1.6.3 and §5.1.6.4). One thread's.
 *
 * Frames are read straight into guest memory, so buffers are taken before it is known whether there is a frame; those
 * that were not needed are kept for the next one, and given back only if somebody waits for it (rx_release).
 */
#ifndef RX_H
#define RX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "filter.h"
#include "pace.h"
#include "throttle.h"

struct loop;
struct loop_timer;
struct port;
struct server_queue;

/* A chain of the driver's that was taken. */
struct rx_buf {
	uint32_t at; /* its first vector */
	uint32_t len;
	uint16_t head;
};

/* Written by the queue's thread, read by any. */
struct rx_stats {
	_Atomic uint64_t packets, bytes;
	_Atomic uint64_t
	    spilled; /* frames that were larger than what was offered for them, and so copied in part */
	_Atomic uint64_t
	    too_large; /* dropped: larger than the driver's buffer, or than a ring full of them */
	_Atomic uint64_t too_short; /* dropped: no frame */
	_Atomic uint64_t filtered;  /* dropped: the driver does not want them, or not so unfinished */
	_Atomic uint64_t link_down; /* dropped */
	_Atomic uint64_t no_buffer; /* dropped: its ring stopped while it waited for buffers */
	_Atomic uint64_t limited;   /* frames that a limit delayed */
	_Atomic uint64_t errors;    /* of the backend */
};

struct rx {
	struct port *port;
	struct server_queue *server;
	unsigned pair;
	bool on;        /* its ring is there */
	bool mergeable; /* a frame may be spread over several chains */
	bool legacy;    /* the driver's header is not ours */
	bool readable;  /* the backend may have a frame */
	bool gone;      /* it will never have one again */
	struct pace pace;
	uint64_t looked; /* when it was last asked without a reason */

	/* buf[first .. end), oldest first; their vectors lie one after another, up to iov_end. */
	struct rx_buf *buf;
	struct iovec *iov;
	uint32_t first, end, iov_end;
	uint64_t room; /* bytes: chains may name the same memory many times, so more than 4 GiB */

	uint32_t want;        /* bytes to offer for a frame */
	uint32_t peak, since; /* the largest of so many frames */
	uint32_t
	    held; /* bytes of a frame that waits for buffers: the first held_at are in those that are there */
	uint32_t held_at;
	uint64_t held_needs; /* features, for what of it is unfinished */
	struct throttle_turn turn;
	bool paid;    /* the limit lets it pass */
	bool limited; /* ... or will when the timer says so */
	struct loop_timer *timer;
	uint8_t *spill; /* what a frame is more than what was offered for it */

	struct filter filter;
	uint64_t offloads; /* features by which the driver takes unfinished frames now */
	uint32_t seen;     /* of port_shared.changes */
	struct rx_stats stats;
};

int rx_open(struct rx *rx, struct port *port, unsigned pair);
int rx_attach(struct rx *rx, struct loop *loop);
void rx_detach(struct rx *rx);
void rx_close(struct rx *rx);

void rx_ring(struct rx *rx, bool on);
bool rx_service(struct rx *rx);

/* The backend's other end is gone; what it left is read if the driver has buffers for it, else lost with the link. */
void rx_hung_up(struct rx *rx);
bool rx_has_room(const struct rx *rx);
bool rx_pending(const struct rx *rx);
void rx_release(struct rx *rx);

/* 1 while frames come so fast that they are looked for now and then: no descriptor has to be watched for them, and the
 * thread is not to poll. */
unsigned rx_held(const struct rx *rx);

#endif
