/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio-net driver for the bare guest: one pair of split rings with event index and indirect descriptors, mergeable
 * receive buffers, and the header of offloads (virtio 1.2 §5.1). Frames are sent from where they lie; what was received
 * may be sent on without a copy.
 */
#ifndef PAYLOAD_NET_H
#define PAYLOAD_NET_H

#include "ring.h"

#define NET_RING   RING_SIZE /* descriptors of each ring; buffers; frames that may be under way to the device */
#define NET_BUFFER 4096      /* bytes of a receive buffer */
#define NET_PARTS  20        /* buffers of one frame at most: 64 KiB and a bit */
#define NET_HEADER 12

#define NET_F_CSUM       (1ull << 0)
#define NET_F_GUEST_CSUM (1ull << 1)
#define NET_F_MAC        (1ull << 5)
#define NET_F_GUEST_TSO4 (1ull << 7)
#define NET_F_HOST_TSO4  (1ull << 11)
#define NET_F_MRG_RXBUF  (1ull << 15)
#define NET_F_STATUS     (1ull << 16)

#define NET_NEEDS_CSUM 1
#define NET_GSO_TCPV4  1

struct net_header {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};

struct net_part {
	void *at;
	uint32_t len;
};

/* A frame with its header in front, in one part or several. What was received has its buffers' numbers with it. */
struct net_frame {
	struct net_part part[NET_PARTS];
	uint8_t buffer[NET_PARTS];
	unsigned parts;
	uint32_t len; /* without the header */
	bool received;
};

/* Finds the first network function, negotiates all of the above that it offers, and gives it all receive buffers.
 * With irq, MSI-X vector 0 tells of received frames. */
bool net_start(struct vdev *d, bool irq);

/* Puts a frame into the transmit ring: false if that is full. A received frame's buffers go back by themselves. */
bool net_send(const struct net_frame *f);
/* Takes back what the device has sent; how many frames. */
unsigned net_reclaim(void);
unsigned net_under_way(void);

/* The next received frame: 1, 0 if there is none, -1 if the device spoiled the ring. It is the caller's until it is
 * sent or dropped. */
int net_receive(struct net_frame *f);
void net_drop(const struct net_frame *f);

/* Shows the device what was put into either ring since, and notifies it if it asked for that. */
void net_publish(void);
/* Sleeps until a frame is there or an interrupt comes. */
void net_sleep(void);

/* ---- what the guest does with it (net-run.c) ---- */

struct net_options {
	bool irq, tso;
	uint32_t size;    /* of the frames sent, in bytes */
	uint32_t seconds; /* 0: the host says when */
};

void net_transmit(struct vdev *d, const struct net_options *o);
void net_count(struct vdev *d, const struct net_options *o);
void net_echo(struct vdev *d, const struct net_options *o);

#endif
