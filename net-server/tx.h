/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sending: the driver's frames to the backend (virtio 1.2 §5.1.6.2), straight out of guest memory. One thread's. Frames
 * leave in the ring's order, so one that the backend does not take now is kept and holds up the rest.
 */
#ifndef TX_H
#define TX_H

#include <linux/virtio_net.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "backend.h"
#include "throttle.h"

struct loop;
struct loop_timer;
struct port;
struct server_queue;

struct tx_stats {
	_Atomic uint64_t packets, bytes;
	_Atomic uint64_t resent;    /* that a predecessor may have sent before it died */
	_Atomic uint64_t blocked;   /* times that the backend took no more */
	_Atomic uint64_t malformed; /* dropped: no frame, or a header that asks for what was not agreed on */
	_Atomic uint64_t poisoned;  /* dropped: servers died of it */
	_Atomic uint64_t link_down; /* dropped */
	_Atomic uint64_t limited;   /* frames that a limit delayed */
	_Atomic uint64_t errors;    /* dropped: the backend refused it */
};

struct tx {
	struct port *port;
	struct server_queue *server;
	unsigned pair;
	bool on;
	bool legacy;  /* the driver's header is not ours */
	bool blocked; /* the backend takes nothing; EPOLLOUT ends it */
	bool limited; /* so does the limit; the timer ends it */
	struct loop_timer *timer;
	uint64_t features;
	uint32_t seen; /* of port_shared.changes */

	/* The chain in hand. */
	bool have;
	uint16_t head;
	uint32_t len; /* of the frame */
	int at, n;    /* vectors to send: iov[at .. at + n), the header's copy first */
	struct throttle_turn turn;
	struct virtio_net_hdr_v1 header;
	struct iovec iov[NET_IOV + 1];

	struct tx_stats stats;
};

void tx_open(struct tx *tx, struct port *port, unsigned pair);
int tx_attach(struct tx *tx, struct loop *loop);
void tx_detach(struct tx *tx);
void tx_ring(struct tx *tx, bool on);
bool tx_service(struct tx *tx);
bool tx_has_room(const struct tx *tx);
unsigned tx_held(const struct tx *tx);
void tx_release(struct tx *tx);

#endif
