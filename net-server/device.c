/* SPDX-License-Identifier: Apache-2.0 */
/* A network port as lib/server has it: its options, its rings, what is done with each. */
#include <errno.h>
#include <net/if.h>
#include <string.h>

#include "log.h"
#include "mtu.h"
#include "num.h"
#include "parse.h"
#include "port.h"
#include "syscalls.h"

_Static_assert(2 * NET_PAIRS_MAX + 1 <= SERVER_QUEUES_MAX, "each pair has its rings, and one is for control");

/* ---- options ---- */

static int set_tap(void *dev, const char *value)
{
	((struct port *)dev)->tap = value;
	return *value && strlen(value) < IFNAMSIZ ? 0 : -EINVAL;
}

static int set_tap_fd(void *dev, const char *value)
{
	((struct port *)dev)->tap_fds = value;
	return *value ? 0 : -EINVAL;
}

static int set_packet_fd(void *dev, const char *value)
{
	return option_fd(value, &((struct port *)dev)->packet_fd);
}

static int set_stream(void *dev, const char *value)
{
	((struct port *)dev)->stream = value;
	return *value ? 0 : -EINVAL;
}

static int set_stream_fd(void *dev, const char *value)
{
	return option_fd(value, &((struct port *)dev)->stream_fd);
}

static int set_listen_fd(void *dev, const char *value)
{
	return option_fd(value, &((struct port *)dev)->listen_fd);
}

static int set_user(void *dev, const char *value)
{
	(void)value;
	((struct port *)dev)->user.on = true;
	return 0;
}

static int set_hostfwd(void *dev, const char *value)
{
	return user_add(&((struct port *)dev)->user, "--hostfwd", value);
}

/* One that is given once. */
static int add_once(void *dev, const char *option, const char *value)
{
	int err = user_add(&((struct port *)dev)->user, option, value);

	return err < 0 ? err : 0;
}

static int set_restrict(void *dev, const char *value)
{
	return add_once(dev, "--restrict", value);
}

static int set_net(void *dev, const char *value)
{
	((struct port *)dev)->user.net = value;
	return add_once(dev, "--net", value);
}

static int set_dns(void *dev, const char *value)
{
	return add_once(dev, "--dns", value);
}

static int set_ipv6(void *dev, const char *value)
{
	return add_once(dev, "--ipv6", value);
}

static int set_hostname(void *dev, const char *value)
{
	return add_once(dev, "--hostname", value);
}

static int set_allow(void *dev, const char *value)
{
	return user_add(&((struct port *)dev)->user, "--allow", value);
}

static int set_mac(void *dev, const char *value)
{
	struct port *port = dev;

	port->mac_given = true;
	return parse_mac(value, port->mac);
}

static int set_mtu(void *dev, const char *value)
{
	uint64_t mtu;
	int err = parse_u64(value, 68, 65535, &mtu);

	if (!err)
		((struct port *)dev)->mtu = (uint16_t)mtu;
	return err;
}

static int set_rx_bytes(void *dev, const char *value)
{
	return throttle_parse(&((struct port *)dev)->throttle, "rx-bytes", value);
}

static int set_rx_packets(void *dev, const char *value)
{
	return throttle_parse(&((struct port *)dev)->throttle, "rx-packets", value);
}

static int set_tx_bytes(void *dev, const char *value)
{
	return throttle_parse(&((struct port *)dev)->throttle, "tx-bytes", value);
}

static int set_tx_packets(void *dev, const char *value)
{
	return throttle_parse(&((struct port *)dev)->throttle, "tx-packets", value);
}

static const struct server_option options[] = {
	{ "tap", "NAME", "Be the other end of this tap, made if there is none.",
	  "the name of a network interface", set_tap },
	{ "tap-fd", "N[,N...]", "Use these inherited queues of a tap, one for each of ours.",
	  "descriptors from 3 to 1023", set_tap_fd },
	{ "packet-fd", "N", "Exchange frames as datagrams on this inherited socket.",
	  "a descriptor from 3 to 1023", set_packet_fd },
	{ "stream", "PATH", "Exchange frames as QEMU and passt do, connecting to this unix socket.",
	  "the path of a unix socket", set_stream },
	{ "stream-fd", "N", "The same on this inherited, connected socket.", "a descriptor from 3 to 1023",
	  set_stream_fd },
	{ "listen-fd", "N", "The same with who connects to this inherited, listening socket, one at a time.",
	  "a descriptor from 3 to 1023", set_listen_fd },
	{ "user", NULL, "Use the host's network without privileges, through a net-user beside this.", NULL,
	  set_user },
	{ "hostfwd", "RULE", "With --user: tcp|udp:[ADDR]:PORT-[GUESTADDR]:PORT.", "few enough",
	  set_hostfwd },
	{ "restrict", "on|off", "With --user: let the guest talk to allowed destinations only (off).",
	  "few enough", set_restrict },
	{ "allow", "DEST", "With --user: a destination, CIDR[:PORT[-PORT]][/tcp|udp].", "few enough",
	  set_allow },
	{ "net", "CIDR", "With --user: the network of the guest (10.0.2.0/24).", "few enough", set_net },
	{ "dns", "ADDR", "With --user: where in it the host's name server is (its third address).",
	  "few enough", set_dns },
	{ "ipv6", "on|off", "With --user: offer IPv6, too (off).", "few enough", set_ipv6 },
	{ "hostname", "NAME", "With --user: the name that DHCP gives the guest.", "few enough",
	  set_hostname },
	{ "mac", "ADDRESS", "The guest's MAC address (a random one).",
	  "six bytes as 02:00:00:00:00:01, not those of a group", set_mac },
	{ "mtu", "N", "Tell the driver to use this MTU.", "a number from 68 to 65535", set_mtu },
	{ "rx-bytes", "RATE[/BURST]", "Let the guest receive this many bytes a second (0: any).", QUOTA_PAIR,
	  set_rx_bytes },
	{ "rx-packets", "RATE[/BURST]", "Let it receive this many frames a second (0: any).", QUOTA_PAIR,
	  set_rx_packets },
	{ "tx-bytes", "RATE[/BURST]", "Let it send this many bytes a second (0: any).", QUOTA_PAIR,
	  set_tx_bytes },
	{ "tx-packets", "RATE[/BURST]", "Let it send this many frames a second (0: any).", QUOTA_PAIR,
	  set_tx_packets },
	{ .name = NULL },
};

/* ---- the device ---- */

static int net_open(void *dev, const struct server_settings *settings, uint64_t *features)
{
	struct port *port = dev;

	if (port->user.count && !port->user.on) {
		log_error("%s needs --user", port->user.word[0]);
		return -EINVAL;
	}
	if (port->user.on && (port->packet_fd >= 0 || port->tap || port->tap_fds || port->stream ||
			      port->stream_fd >= 0 || port->listen_fd >= 0)) {
		log_error("--user: must be the only other end");
		return -EINVAL;
	}
	if (port->user.on) {
		port->mtu = port->mtu ? port->mtu : MTU_USER;
		port->packet_fd = user_start(&port->user, settings->id, settings->sandbox, port->mtu);
		if (port->packet_fd < 0)
			return port->packet_fd;
	}
	return port_open(port, settings, features);
}

static void net_close(void *dev)
{
	port_close(dev);
}

static int net_get_config(void *dev, uint32_t off, uint32_t len, uint8_t *buf)
{
	return port_get_config(dev, off, len, buf);
}

static int net_open_queue(void *dev, struct server_queue *server, void **state)
{
	struct net_queue *q = &((struct port *)dev)->queue[server_index(server)];

	*state = q;
	return port_open_queue(dev, q, server);
}

static void net_close_queue(void *state)
{
	port_close_queue(state);
}

static int net_attach(void *state)
{
	return port_attach(state);
}

static void net_detach(void *state)
{
	port_detach(state);
}

/* Only receive rings are. */
static void net_poked(void *state)
{
	const struct net_queue *queue = state;

	pair_poked(queue->pair);
}

static void net_started(void *dev, bool live, uint64_t features)
{
	driver_started(dev, live, features);
}

static void net_ring(void *state, bool on)
{
	port_ring(state, on);
}

static bool net_service(void *state)
{
	struct net_queue *q = state;

	switch (q->role) {
	case RING_RX:
		return rx_service(&q->pair->rx);
	case RING_TX:
		return tx_service(&q->pair->tx);
	case RING_CONTROL:
		return control_service(&q->port->control);
	case RING_UNUSED:
		break;
	}
	return false;
}

static bool net_has_room(void *state)
{
	struct net_queue *q = state;

	switch (q->role) {
	case RING_RX:
		return rx_has_room(&q->pair->rx);
	case RING_TX:
		return tx_has_room(&q->pair->tx);
	case RING_CONTROL:
		return control_has_room(&q->port->control);
	case RING_UNUSED:
		break;
	}
	return false;
}

static unsigned net_held(void *state)
{
	const struct net_queue *q = state;

	if (q->role == RING_RX)
		return rx_held(&q->pair->rx);
	if (q->role == RING_TX)
		return tx_held(&q->pair->tx);
	return q->role == RING_CONTROL && control_held(&q->port->control);
}

static bool net_pending(void *state)
{
	const struct net_queue *q = state;

	return q->role == RING_RX && rx_pending(&q->pair->rx);
}

static void net_release(void *state)
{
	struct net_queue *q = state;

	if (q->role == RING_RX)
		rx_release(&q->pair->rx);
	else if (q->role == RING_TX)
		tx_release(&q->pair->tx);
	else if (q->role == RING_CONTROL)
		control_release(&q->port->control);
}

static int net_set(void *dev, const char *key, const char *value, char *why, size_t size)
{
	return port_set(dev, key, value, why, size);
}

static void net_stats(void *dev, server_stat_fn add, void *arg)
{
	port_stats(dev, add, arg);
}

const struct server_device net_device = {
	.program = "net-server",
	.kind = "net",
	.summary = "serve a virtio network device over vhost-user",
	.options = options,
	.iov_max = NET_IOV,
	.rings_per_queue = 2,
	.buffer_rings = 1, /* of each pair the first one */
	.control_ring = true,
	.stage_one = net_stage_one,
	.steady = net_steady,
	.io = net_io,
	.open = net_open,
	.close = net_close,
	.get_config = net_get_config,
	.queue_open = net_open_queue,
	.queue_close = net_close_queue,
	.attach = net_attach,
	.detach = net_detach,
	.poked = net_poked,
	.started = net_started,
	.ring = net_ring,
	.service = net_service,
	.has_room = net_has_room,
	.held = net_held,
	.pending = net_pending,
	.release = net_release,
	.set = net_set,
	.stats = net_stats,
};
