/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network port: its backend, its pairs of rings, its configuration space and what the driver has set up.
 *
 * What is fixed once the port is open is read by all threads. Configuration space and the driver's set-up are the main
 * thread's; of them the I/O threads get what they need in struct port_shared.
 */
#ifndef PORT_H
#define PORT_H

#include <stdatomic.h>

#include "backend.h"
#include "control.h"
#include "driver.h"
#include "host.h"
#include "lock.h"
#include "loop.h"
#include "num.h"
#include "rx.h"
#include "server.h"
#include "throttle.h"
#include "tx.h"
#include "user.h"

#define PORT_LEGACY "a driver of before virtio 1.0, without merged buffers"

struct port;

/* A receive ring, its transmit ring, and the backend's descriptor, all of one thread. */
struct pair {
	struct port *port;
	unsigned index;
	struct loop_fd *watch; /* NULL: there is no descriptor yet */
	struct rx rx;
	struct tx tx;
};

/* What the main thread tells the I/O threads, and they it. */
struct port_shared {
	struct lock lock;
	struct filter filter GUARDED_BY(lock);
	struct driver_coalesce rx GUARDED_BY(lock);
	struct driver_coalesce tx GUARDED_BY(lock);
	uint64_t offloads GUARDED_BY(lock); /* of struct driver */
	_Atomic uint32_t changes;           /* of all these */
	_Atomic unsigned pairs;             /* that take part */
	_Atomic bool runs[NET_PAIRS_MAX];   /* the pair's receive ring does */
	_Atomic bool control;               /* the control ring runs */
	_Atomic int connection;             /* that the first pair is to go on with; -1: none */
	_Atomic bool link;                  /* up */
	_Atomic bool lost;                  /* the other end is gone, and so is the link for good */
};

/* What a ring is, which its index and the driver's features say. */
enum ring_role { RING_RX, RING_TX, RING_CONTROL, RING_UNUSED };

struct net_queue {
	struct port *port;
	struct server_queue *server;
	struct pair *pair; /* NULL for the last ring */
	enum ring_role role;
};

struct port {
	/* Options. */
	const char *tap, *tap_fds;
	const char *stream;
	struct user user;
	int packet_fd, stream_fd, listen_fd; /* -1: none */
	uint8_t mac[ETH_ALEN];
	bool mac_given;
	uint16_t mtu; /* 0: not said */

	const char *id;
	unsigned pairs;
	uint64_t features; /* offered */
	struct backend backend;
	struct pair pair[NET_PAIRS_MAX];
	struct net_queue queue[2 * NET_PAIRS_MAX + 1];
	struct control control;
	struct throttle throttle;
	struct port_shared shared;

	/* The main thread's. */
	struct virtio_net_config config;
	struct state *state;
	struct driver driver;
	struct host host;
	uint64_t accepted;           /* features, by the driver */
	_Atomic uint64_t *link_word; /* in port.state */
	struct loop_bh lost, rings, joined;
	struct loop_fd *listen_watch; /* one connection is taken at a time, and the next not before */
	bool listens;                 /* for the first one, since the driver is there */
	uint64_t listen_at;
	struct loop_timer *listen_timer;
};

/* What net-server is (device.c); its device is a struct port. */
extern const struct server_device net_device;

/* Opens the backend and says what the port offers. Logs why not. 0 or -errno. */
int port_open(struct port *port, const struct server_settings *settings, uint64_t *features);
void port_close(struct port *port);

/* One ring, before its thread runs. */
int port_open_queue(struct port *port, struct net_queue *queue, struct server_queue *server);
void port_close_queue(struct net_queue *queue);

/* What it has registered with its thread's loop. */
int port_attach(struct net_queue *queue);
void port_detach(struct net_queue *queue);

int port_get_config(const struct port *port, uint32_t off, uint32_t len, uint8_t *buf);

int port_set(struct port *port, const char *key, const char *value, char *why, size_t size);

void port_stats(const struct port *port, server_stat_fn add, void *arg);

/* The driver's ring is there, or was forgotten: its queue's thread. */
void port_ring(struct net_queue *queue, bool on);

/* The backend's other end is gone for good: the link goes down. Any thread. */
void port_lost(struct port *port);

/* The header is of NET_HDR_BYTES since virtio 1.0, before that only with merged buffers. */
static inline bool port_header_is_ours(uint64_t features)
{
	return features & (NET_BIT(32 /* VERSION_1 */) | NET_BIT(VIRTIO_NET_F_MRG_RXBUF));
}

/* The link as the supervisor wants it, which may have changed since this process was opened as a spare. Main thread. */
void port_refresh_link(struct port *port);

/* A limit, the link or the number of pairs changed: whatever waits for it looks again. Main thread. */
void port_wake(struct port *port);

/* Asks the driver to make itself known to the network. Main thread. */
void port_announce(struct port *port);

/* Gives the I/O threads what they need of the driver's set-up. Main thread. */
void port_share(struct port *port);

/* What changed since *seen. */
static inline bool port_has_changed(struct port *port, uint32_t *seen)
{
	uint32_t now = atomic_load_explicit(&port->shared.changes, memory_order_acquire);
	bool changed = now != *seen;

	*seen = now;
	return changed;
}

/* The pair has gone on with another connection: the link comes up. Any thread. */
void port_joined(struct port *port);

/* ---- who connects: port_listen.c; main thread ---- */

int port_listen_open(struct port *port, struct loop *loop);
void port_listen_close(struct port *port);

/* Whoever connects is served from now on. */
void port_listen(struct port *port);

/* The connection is gone: the next one may come. */
void port_listen_next(struct port *port);

/* ---- pairs: pair.c; their own thread but for open and close ---- */

void pair_open(struct pair *pair, struct port *port, unsigned index);

/* Registers it with its thread's loop, and takes that back. */
int pair_attach(struct pair *pair);
void pair_detach(struct pair *pair);

/* Something changed: another connection is there, in port_shared, or what it waits for may be. */
void pair_poked(struct pair *pair);

/* Watches the descriptor as the rings need it: frames to be received, and room if sending waits for it. */
void pair_watch(struct pair *pair);

#endif
