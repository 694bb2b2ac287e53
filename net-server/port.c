/* SPDX-License-Identifier: Apache-2.0 */
/* The network port: opening, configuration space, what the driver and the supervisor set up. */
#include "port.h"

#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "count.h"
#include "log.h"

/* ---- opening ---- */

static int open_backend(struct port *port)
{
	struct backend *b = &port->backend;

	if (!port->tap + !port->tap_fds + (port->packet_fd < 0) != 2) {
		log_error("give --tap NAME, --tap-fd N or --packet-fd N, one of them");
		return -EINVAL;
	}
	b->pairs = port->pairs;
	for (unsigned i = 0; i < NET_PAIRS_MAX; i++)
		b->fd[i] = -1;
	if (port->tap)
		return backend_open_tap(b, port->tap);
	if (port->tap_fds)
		return backend_open_tap_fds(b, port->tap_fds);
	return backend_open_packet(b, port->packet_fd);
}

/* One that nobody else has, of those that anyone may use. */
static int make_mac(struct port *port)
{
	if (port->mac_given)
		return 0;
	if (getrandom(port->config.mac, ETH_ALEN, 0) != ETH_ALEN)
		return -errno;
	port->config.mac[0] = (uint8_t)((port->config.mac[0] & ~1U) | 2U);
	return 0;
}

static void set_features(struct port *port)
{
	port->features = NET_BIT(VIRTIO_NET_F_MAC) | NET_BIT(VIRTIO_NET_F_STATUS) |
			 NET_BIT(VIRTIO_NET_F_MRG_RXBUF) | port->backend.features;
	if (port->mtu)
		port->features |= NET_BIT(VIRTIO_NET_F_MTU);
	if (port->pairs > 1)
		port->features |= NET_BIT(VIRTIO_NET_F_MQ);
}

int port_open(struct port *port, const struct server_settings *settings, uint64_t *features)
{
	int err;

	port->id = settings->id;
	port->pairs = settings->queues;
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
		port_close(port);
		return err;
	}
	lock_init(&port->shared.lock);
	port->config.status = htole16(VIRTIO_NET_S_LINK_UP);
	port->config.max_virtqueue_pairs = htole16((uint16_t)port->pairs);
	port->config.mtu = htole16(port->mtu);
	atomic_store(&port->shared.link, true);
	set_features(port);
	*features = port->features;
	return 0;
}

void port_close(struct port *port)
{
	if (port->backend.ops)
		port->backend.ops->close(&port->backend);
}

static void on_lost(void *arg);

int port_open_queue(struct port *port, struct net_queue *queue, struct server_queue *server)
{
	unsigned index = server_index(server);
	int err;

	queue->port = port;
	queue->server = server;
	if (index == 2 * port->pairs) {
		queue->role = RING_CONTROL;
		return 0;
	}
	queue->pair = &port->pair[index / 2];
	if (index % 2) {
		queue->role = RING_TX;
		queue->pair->tx.server = server;
		tx_open(&queue->pair->tx, port, index / 2);
		return 0;
	}
	if (!index)
		loop_bh_init(&port->lost, server_main_loop(server), on_lost, port);
	queue->role = RING_RX;
	queue->pair->rx.server = server;
	err = rx_open(&queue->pair->rx, port, index / 2);
	return err ? err : pair_open(queue->pair, port, index / 2, server_loop(server));
}

void port_close_queue(struct net_queue *queue)
{
	if (queue->role != RING_RX)
		return;
	if (!server_index(queue->server))
		loop_bh_cancel(&queue->port->lost);
	pair_close(queue->pair);
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

/* True if that changed anything. */
static bool set_link(struct port *port, bool up)
{
	uint16_t status = le16toh(port->config.status), was = status;

	status = (uint16_t)(up ? status | VIRTIO_NET_S_LINK_UP : status & ~VIRTIO_NET_S_LINK_UP);
	port->config.status = htole16(status);
	atomic_store(&port->shared.link, up);
	return status != was;
}

static void on_lost(void *arg)
{
	struct port *port = arg;

	log_error("%s: the other end is gone; the link is down", port->backend.name);
	if (set_link(port, false))
		server_config_changed(port->queue[0].server);
}

void port_lost(struct port *port)
{
	if (atomic_exchange(&port->shared.lost, true))
		return;
	atomic_store(&port->shared.link, false);
	loop_bh_post(&port->lost);
}

int port_set(struct port *port, const char *key, const char *value, char *why, size_t size)
{
	bool up = !strcmp(value, "up");

	if (strcmp(key, "link")) {
		snprintf(why, size, "a network device has link, and no %s", key);
		return -EINVAL;
	}
	if (!up && strcmp(value, "down")) {
		snprintf(why, size, "link must be up or down");
		return -EINVAL;
	}
	if (up && atomic_load(&port->shared.lost)) {
		snprintf(why, size, "the other end is gone");
		return -ENOTCONN;
	}
	return set_link(port, up);
}

/* ---- the driver ---- */

static void share_filter(struct port *port, const struct filter *filter)
{
	lock_take(&port->shared.lock);
	port->shared.filter = *filter;
	lock_drop(&port->shared.lock);
	atomic_fetch_add_explicit(&port->shared.changes, 1, memory_order_release);
}

void port_copy_filter(struct port *port, struct filter *filter, uint32_t *seen)
{
	*seen = atomic_load_explicit(&port->shared.changes, memory_order_acquire);
	lock_take(&port->shared.lock);
	*filter = port->shared.filter;
	lock_drop(&port->shared.lock);
}

void port_started(struct port *port, bool live, uint64_t features)
{
	struct backend *b = &port->backend;
	struct filter filter;
	int err = 0;

	(void)live;
	port->driver = features;
	filter_reset(&filter, port->config.mac, false);
	share_filter(port, &filter);
	if (b->ops->set_offload)
		err = b->ops->set_offload(b, features);
	if (err)
		log_warn_errno(err, "%s: the driver's offloads can't be set", b->name);
}

void port_ring(struct net_queue *queue, bool on)
{
	if (queue->role == RING_RX)
		rx_ring(&queue->pair->rx, on);
	else if (queue->role == RING_TX)
		tx_ring(&queue->pair->tx, on);
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
	TX("tx_packets", packets),     TX("tx_bytes", bytes),         TX("tx_resent", resent),
	TX("tx_blocked", blocked),     TX("tx_malformed", malformed), TX("tx_poisoned", poisoned),
	TX("tx_link_down", link_down), TX("tx_errors", errors),
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
