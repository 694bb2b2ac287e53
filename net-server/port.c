/* SPDX-License-Identifier: Apache-2.0 */
/* The network port: opening, configuration space, what the driver and the supervisor set up. */
#include "port.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "count.h"
#include "log.h"
#include "state.h"

/* Words of the device's state. */
#define WORD_LINK_DOWN 0 /* 1 if the supervisor said so */
#define WORD_THROTTLE  8
_Static_assert(WORD_THROTTLE + THROTTLE_WORDS <= STATE_WORDS, "there are so many");

/* ---- opening ---- */

static int open_backend(struct port *port)
{
	struct backend *b = &port->backend;

	unsigned given = !!port->tap + !!port->tap_fds + !!port->stream + (port->packet_fd >= 0) +
			 (port->stream_fd >= 0) + (port->listen_fd >= 0);

	if (given != 1) {
		log_error(
		    "give --tap NAME, --tap-fd N, --user, --packet-fd N, --stream PATH, --stream-fd N or "
		    "--listen-fd N, one of them");
		return -EINVAL;
	}
	b->listener = -1;
	b->pairs = port->pairs;
	for (unsigned i = 0; i < NET_PAIRS_MAX; i++)
		b->fd[i] = -1;
	if (port->tap)
		return backend_open_tap(b, port->tap);
	if (port->tap_fds)
		return backend_open_tap_fds(b, port->tap_fds);
	if (port->stream)
		return backend_open_stream(b, port->stream);
	if (port->stream_fd >= 0)
		return backend_open_stream_fd(b, port->stream_fd);
	if (port->listen_fd >= 0)
		return backend_open_listen_fd(b, port->listen_fd);
	return backend_open_packet(b, port->packet_fd);
}

/* One that nobody else has, of those that anyone may use. */
static int make_mac(struct port *port)
{
	if (!port->mac_given) {
		if (getrandom(port->mac, ETH_ALEN, 0) != ETH_ALEN)
			return -errno;
		port->mac[0] = (uint8_t)((port->mac[0] & ~1U) | 2U);
	}
	memcpy(port->config.mac, port->mac, ETH_ALEN);
	return 0;
}

static void set_features(struct port *port)
{
	port->features = NET_BIT(VIRTIO_NET_F_MAC) | NET_BIT(VIRTIO_NET_F_STATUS) |
			 NET_BIT(VIRTIO_NET_F_MRG_RXBUF) | NET_BIT(VIRTIO_NET_F_CTRL_VQ) |
			 NET_BIT(VIRTIO_NET_F_CTRL_RX) | NET_BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) |
			 NET_BIT(VIRTIO_NET_F_CTRL_VLAN) | NET_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |
			 NET_BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) | NET_BIT(NET_F_NOTF_COAL) |
			 port->backend.features;
	if (port->backend.features & NET_BIT(VIRTIO_NET_F_GUEST_CSUM))
		port->features |= NET_BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
	if (port->mtu)
		port->features |= NET_BIT(VIRTIO_NET_F_MTU);
	if (port->pairs > 1)
		port->features |= NET_BIT(VIRTIO_NET_F_MQ);
}

void port_wake(struct port *port)
{
	for (unsigned i = 0; i < port->pairs; i++)
		server_poke(port->pair[i].rx.server);
}

/* True if that changed anything. */
static bool set_link(struct port *port, bool up)
{
	uint16_t status = le16toh(port->config.status), was = status;

	status = (uint16_t)(up ? status | VIRTIO_NET_S_LINK_UP : status & ~VIRTIO_NET_S_LINK_UP);
	port->config.status = htole16(status);
	atomic_store(&port->shared.link, up);
	return status != was;
}

/* The same once the pairs are there, which look at their rings only while it is up. */
static bool change_link(struct port *port, bool up)
{
	bool changed = set_link(port, up);

	port_wake(port);
	return changed;
}

static bool wants_link(const struct port *port)
{
	return atomic_load(port->link_word) != 1 && !atomic_load(&port->shared.lost);
}

int port_open(struct port *port, const struct server_settings *settings, uint64_t *features)
{
	int err;

	port->id = settings->id;
	port->pairs = settings->queues;
	port->state = settings->state;
	if (port->pairs > NET_PAIRS_MAX) {
		log_error("--queues %u: must be at most %d", port->pairs, NET_PAIRS_MAX);
		return -EINVAL;
	}
	err = open_backend(port);
	if (err)
		return err;
	err = make_mac(port);
	if (err) {
		log_error_errno(err, "no MAC address can be made up");
		port->backend.ops->close(&port->backend);
		return err;
	}
	lock_init(&port->shared.lock);
	atomic_store(&port->shared.connection, -1);
	atomic_store(&port->shared.lost, port->listen_fd >= 0 || port->backend.gone);
	port->link_word = &state_words(port->state)[WORD_LINK_DOWN];
	set_link(port, wants_link(port));
	port->config.max_virtqueue_pairs = htole16((uint16_t)port->pairs);
	port->config.mtu = htole16(port->mtu);
	throttle_open(&port->throttle, &state_words(port->state)[WORD_THROTTLE]);
	host_open(port);
	set_features(port);
	*features = port->features;
	return 0;
}

void port_close(struct port *port)
{
	port->backend.ops->close(&port->backend);
	lock_destroy(&port->shared.lock);
}

static void tell_gone(struct port *port);
static void on_lost(void *arg);
static void on_joined(void *arg);
static void on_rings(void *arg);

/* What a ring is; the control ring comes behind the pairs that the driver knows of. */
static enum ring_role role_of(const struct port *port, unsigned index, uint64_t features)
{
	unsigned control = features & NET_BIT(VIRTIO_NET_F_MQ) ? 2 * port->pairs : 2;

	if (index == control && (features & NET_BIT(VIRTIO_NET_F_CTRL_VQ)))
		return RING_CONTROL;
	if (index == 2 * port->pairs)
		return RING_UNUSED;
	return index % 2 ? RING_TX : RING_RX;
}

/* What the main thread has of the port. */
static int open_main(struct port *port, struct loop *loop)
{
	int err;

	loop_bh_init(&port->lost, loop, on_lost, port);
	loop_bh_init(&port->rings, loop, on_rings, port);
	loop_bh_init(&port->joined, loop, on_joined, port);
	err = host_attach(port, loop);
	if (!err)
		err = control_open(&port->control, port, loop);
	if (!err && port->backend.gone)
		tell_gone(port);
	return err || port->backend.listener < 0 ? err : port_listen_open(port, loop);
}

static void close_main(struct port *port)
{
	loop_bh_cancel(&port->lost);
	loop_bh_cancel(&port->rings);
	loop_bh_cancel(&port->joined);
	host_detach(port);
	port_listen_close(port);
	control_close(&port->control);
}

int port_open_queue(struct port *port, struct net_queue *queue, struct server_queue *server)
{
	unsigned index = server_index(server);
	int err = 0;

	queue->port = port;
	queue->server = server;
	queue->role = RING_UNUSED;
	if (index == 0) {
		err = open_main(port, server_main_loop(server));
		if (err)
			return err;
	}
	if (index == 2 * port->pairs)
		return 0;
	queue->pair = &port->pair[index / 2];
	if (index % 2) {
		queue->pair->tx.server = server;
		tx_open(&queue->pair->tx, port, index / 2);
		return 0;
	}
	queue->pair->rx.server = server;
	pair_open(queue->pair, port, index / 2);
	return rx_open(&queue->pair->rx, port, index / 2);
}

int port_attach(struct net_queue *queue)
{
	unsigned index = server_index(queue->server);
	int err;

	/* Which queue it is depends on the driver. */
	control_attach(&queue->port->control, queue->server);
	if (!queue->pair)
		return 0;
	if (index % 2)
		return tx_attach(&queue->pair->tx, server_loop(queue->server));
	err = rx_attach(&queue->pair->rx, server_loop(queue->server));
	return err ? err : pair_attach(queue->pair);
}

void port_detach(struct net_queue *queue)
{
	if (!queue->pair)
		return;
	if (server_index(queue->server) % 2) {
		tx_detach(&queue->pair->tx);
		return;
	}
	pair_detach(queue->pair);
	rx_detach(&queue->pair->rx);
}

void port_close_queue(struct net_queue *queue)
{
	unsigned index = server_index(queue->server);

	if (index == 0)
		close_main(queue->port);
	if (queue->pair && index % 2 == 0)
		rx_close(&queue->pair->rx);
}

/* ---- configuration space ---- */

int port_get_config(const struct port *port, uint32_t off, uint32_t len, uint8_t *buf)
{
	const uint8_t *config = (const uint8_t *)&port->config;
	uint64_t end;

	if (!num_add(off, len, &end))
		return -EINVAL;
	for (uint64_t i = off; i < end; i++)
		buf[i - off] = i < sizeof(port->config) ? config[i] : 0;
	return 0;
}

void port_refresh_link(struct port *port)
{
	if (change_link(port, wants_link(port)))
		server_config_changed(port->queue[0].server);
}

/* For good, for our successors, too. The supervisor is told, and by each of them. */
static void tell_gone(struct port *port)
{
	char text[64];

	snprintf(text, sizeof(text), "%s is gone", port->backend.name);
	log_error("%s; the link is down", text);
	server_io_error(port->queue[0].server, text);
}

static void on_lost(void *arg)
{
	struct port *port = arg;

	/* Its successor gets another connection. */
	if (port->stream_fd >= 0) {
		log_error("%s: the other end is gone: ending", port->backend.name);
		_exit(1);
	}
	if (port->backend.ops->once)
		tell_gone(port);
	else
		log_limited(LOG_LEVEL_ERROR, PEER_LINES, "%s: the other end is gone; the link is down",
			    port->backend.name);
	if (change_link(port, false))
		server_config_changed(port->queue[0].server);
	port_listen_next(port);
}

static void on_joined(void *arg)
{
	struct port *port = arg;

	log_limited(LOG_LEVEL_INFO, PEER_LINES, "%s: somebody connected", port->backend.name);
	if (wants_link(port) && change_link(port, true))
		port_announce(port);
}

void port_joined(struct port *port)
{
	atomic_store(&port->shared.lost, false);
	loop_bh_post(&port->joined);
}

void port_lost(struct port *port)
{
	if (atomic_exchange(&port->shared.lost, true))
		return;
	atomic_store(&port->shared.link, false);
	loop_bh_post(&port->lost);
}

static int set_link_by(struct port *port, const char *value, char *why, size_t size)
{
	bool up = !strcmp(value, "up");

	if (!up && strcmp(value, "down")) {
		snprintf(why, size, "link must be up or down");
		return -EINVAL;
	}
	atomic_store(port->link_word, up ? 0 : 1);
	if (up && atomic_load(&port->shared.lost)) {
		if (port->backend.ops->once)
			snprintf(why, size, "%s is gone", port->backend.name);
		else
			snprintf(why, size, "nobody is at the other end");
		return -ENOTCONN;
	}
	return change_link(port, up);
}

/* Asks the driver to make itself known to the network, as after a move to another. */
static int announce(struct port *port, const char *value, char *why, size_t size)
{
	if (strcmp(value, "on")) {
		snprintf(why, size, "announce must be on");
		return -EINVAL;
	}
	if (!(port->accepted & NET_BIT(VIRTIO_NET_F_GUEST_ANNOUNCE))) {
		snprintf(why, size, "the guest's driver can't");
		return -EOPNOTSUPP;
	}
	port->config.status |= htole16(VIRTIO_NET_S_ANNOUNCE);
	return 1;
}

static const struct {
	const char *key;
	int (*set)(struct port *port, const char *value, char *why, size_t size);
} keys[] = {
	{ "link", set_link_by },
	{ "announce", announce },
};

int port_set(struct port *port, const char *key, const char *value, char *why, size_t size)
{
	int err;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (!strcmp(key, keys[i].key))
			return keys[i].set(port, value, why, size);
	err = throttle_set(&port->throttle, key, value);
	if (!err)
		port_wake(port);
	if (err == -ENOENT)
		snprintf(why, size, "a network device has no %s", key);
	else if (err)
		snprintf(why, size, "%s must be " QUOTA_PAIR, key);
	return err == -ENOENT ? -EINVAL : err;
}

/* ---- the driver ---- */

void port_announce(struct port *port)
{
	if (port->accepted & NET_BIT(VIRTIO_NET_F_GUEST_ANNOUNCE))
		port->config.status |= htole16(VIRTIO_NET_S_ANNOUNCE);
	server_config_changed(port->queue[0].server);
}

void port_share(struct port *port)
{
	struct port_shared *shared = &port->shared;

	lock_take(&shared->lock);
	shared->filter = port->driver.filter;
	shared->rx = port->driver.rx;
	shared->tx = port->driver.tx;
	shared->offloads = port->driver.offloads;
	lock_drop(&shared->lock);
	atomic_fetch_add_explicit(&shared->changes, 1, memory_order_release);
}

/* Main thread: rings began or ended to run. */
static void on_rings(void *arg)
{
	struct port *port = arg;

	if (atomic_load(&port->shared.control))
		driver_controlled(port);
	host_follow(port);
}

void port_ring(struct net_queue *queue, bool on)
{
	struct port *port = queue->port;

	if (on)
		queue->role = role_of(port, server_index(queue->server), server_features(queue->server));
	switch (queue->role) {
	case RING_RX:
		rx_ring(&queue->pair->rx, on);
		pair_watch(queue->pair);
		atomic_store(&port->shared.runs[queue->pair->index], on);
		break;
	case RING_TX:
		tx_ring(&queue->pair->tx, on);
		pair_watch(queue->pair);
		break;
	case RING_CONTROL:
		control_ring(&port->control, queue->server, on);
		atomic_store(&port->shared.control, on);
		break;
	case RING_UNUSED:
		break;
	}
	loop_bh_post(&port->rings);
}

/* ---- counters ---- */

static const struct {
	const char *name;
	size_t at;
} counters[] = {
#define RX(name, field)                                                                                      \
	{                                                                                                    \
		name, offsetof(struct pair, rx.stats.field)                                                  \
	}
#define TX(name, field)                                                                                      \
	{                                                                                                    \
		name, offsetof(struct pair, tx.stats.field)                                                  \
	}
	RX("rx_packets", packets),     RX("rx_bytes", bytes),         RX("rx_spilled", spilled),
	RX("rx_too_large", too_large), RX("rx_too_short", too_short), RX("rx_filtered", filtered),
	RX("rx_link_down", link_down), RX("rx_no_buffer", no_buffer), RX("rx_errors", errors),
	RX("rx_limited", limited),     TX("tx_packets", packets),     TX("tx_bytes", bytes),
	TX("tx_resent", resent),       TX("tx_blocked", blocked),     TX("tx_malformed", malformed),
	TX("tx_poisoned", poisoned),   TX("tx_link_down", link_down), TX("tx_errors", errors),
	TX("tx_limited", limited),
#undef RX
#undef TX
};

void port_stats(const struct port *port, server_stat_fn add, void *arg)
{
	for (size_t c = 0; c < ARRAY_SIZE(counters); c++) {
		uint64_t sum = 0;

		for (unsigned i = 0; i < port->pairs; i++) {
			const char *base = (const char *)&port->pair[i];

			sum += count_get((const _Atomic uint64_t *)(const void *)(base + counters[c].at));
		}
		add(arg, counters[c].name, sum);
	}
}
