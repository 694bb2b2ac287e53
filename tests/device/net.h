/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A net-server under test: the rig with a backend whose other end the test has, and a driver that posts buffers and sends
 * frames. Frames of the test carry an EtherType of their own, so that what a host's interface says by itself is passed
 * over. Whatever fails here fails the test.
 */
#ifndef NET_H
#define NET_H

#include <linux/virtio_net.h>

#include "rig.h"

#define NET_ETHERTYPE 0x88b5 /* for local experiments */
#define NET_HEADER    12
#define NET_BYTES     65600 /* more than any frame and its header */

enum net_kind { NET_PACKET, NET_TAP, NET_STREAM, NET_LISTEN };

struct net_options {
	enum net_kind kind;
	struct rig_options rig; /* net is filled in */
	bool control;
	int state_fd;   /* 0: none */
	int stream_end; /* of NET_STREAM: a connection to somebody else, instead of the test; 0: none */
};

struct net_buffer {
	uint64_t gpa;
	uint32_t len;
};

struct net {
	struct rig rig;
	struct rig_net backend;
	enum net_kind kind;
	bool any; /* frames of others are taken too */
	int peer; /* what is written here the guest receives, and the reverse */
	char name[16];
	uint8_t stream[1 << 17]; /* what was read of one and is no whole frame yet */
	uint32_t stream_len;
	uint64_t header; /* of frames to be sent: zeroes, unless a test writes there */
	uint64_t frame;  /* room for one of them */
	uint64_t memory; /* for buffers to be posted */
	uint32_t used;   /* bytes of it */
	struct net_buffer posted[RIG_QUEUES_MAX][RIG_SIZE]; /* by ring id */
	unsigned n_posted[RIG_QUEUES_MAX];
};

/* Starts a server. The net is the caller's, of static storage. Skips the test where there can be no tap. */
void net_start(struct net *n, const struct net_options *options);
void net_stop(struct net *n);

/* Takes the interface away from under a server on a tap. */
void net_delete_tap(struct net *n);

/* ---- the test's end ---- */

/* A frame whose bytes the number says; its length is at least 18. */
void net_fill(uint8_t *frame, uint32_t len, uint32_t number);
bool net_check(const uint8_t *frame, uint32_t len, uint32_t number);

void net_peer_send(struct net *n, const uint8_t *frame, uint32_t len);

/* The next frame of ours, for which it waits: its length. */
uint32_t net_peer_receive(struct net *n, uint8_t *frame);

/* True if there is none. */
bool net_peer_is_quiet(struct net *n);

/* ---- the driver's ---- */

/* Posts a chain of buffers of these lengths. */
void net_post(struct net *n, unsigned pair, const uint32_t *lens, unsigned count);

/* Posts so many single buffers of len bytes each, and kicks. */
void net_post_many(struct net *n, unsigned pair, uint32_t len, unsigned count);
void net_kick(struct net *n, unsigned ring);

struct net_frame {
	struct virtio_net_hdr_v1 header;
	uint32_t len; /* of the frame, without header */
	unsigned buffers;
	uint32_t used[64]; /* used.len of each */
	uint8_t bytes[NET_BYTES];
};

/* The next frame of ours that was received, for which it waits. Checks num_buffers and used.len. */
void net_receive(struct net *n, unsigned pair, struct net_frame *f);

/* True if there is one now. */
bool net_try_receive(struct net *n, unsigned pair, struct net_frame *f);

/* Sends n->frame, cut into pieces of these lengths, header included (NULL: header and frame), and waits until it is used;
 * used.len. -1 if the server gave the ring up. */
int64_t net_send(struct net *n, unsigned pair, uint32_t len, const uint32_t *cuts, unsigned n_cuts);

/* A command on the control ring: the answer. The ring is there with net_options.control. */
uint8_t net_command(struct net *n, uint8_t class, uint8_t number, const void *data, uint32_t len);

/* It still serves, both ways: passes over what it received before. */
void net_serves(struct net *n);

/* The same as net_send, and returns its id at once. */
int net_send_start(struct net *n, unsigned pair, uint32_t len);

#endif
