/* SPDX-License-Identifier: Apache-2.0 */
/* What the driver has set up beyond its rings. */
#include "driver.h"

#include <endian.h>
#include <string.h>

#include "log.h"
#include "port.h"
#include "state.h"

#define VERSION 1

#define COMMAND 2 /* bytes of class and number */
#define OFFLOADS                                                                                             \
	(NET_BIT(VIRTIO_NET_F_GUEST_CSUM) | NET_BIT(VIRTIO_NET_F_GUEST_TSO4) |                               \
	 NET_BIT(VIRTIO_NET_F_GUEST_TSO6) | NET_BIT(VIRTIO_NET_F_GUEST_ECN) | NET_BIT(NET_F_GUEST_USO4) |    \
	 NET_BIT(NET_F_GUEST_USO6))

_Static_assert(sizeof(struct driver) <= STATE_RECORD_MAX, "it is saved whole");

static bool accepted(const struct port *port, unsigned feature)
{
	return port->features & port->accepted & NET_BIT(feature);
}

static void save(struct port *port)
{
	int err = state_save(port->state, STATE_DEVICE, &port->driver, sizeof(port->driver));

	if (err)
		log_warn_errno(err, "what the driver set up can't be kept for a successor");
}

/* The address stays what drivers are shown: who shows it may have read it before the one that set it was reset. */
static void reset(struct port *port)
{
	struct driver *d = &port->driver;

	*d = (struct driver) { .version = VERSION, .pairs = 1, .offloads = port->accepted & OFFLOADS };
	filter_reset(&d->filter, port->config.mac, false);
}

/* Takes what a predecessor left if it makes sense: it may have been taken over by then. */
static bool load(struct port *port)
{
	struct driver d;

	if (state_load(port->state, STATE_DEVICE, &d, sizeof(d)) != sizeof(d) || d.version != VERSION)
		return false;
	if (!d.pairs || d.pairs > port->pairs || d.controlled > 1 || !filter_is_sane(&d.filter))
		return false;
	d.offloads &= port->accepted & OFFLOADS;
	port->driver = d;
	if (!memcmp(port->config.mac, d.filter.mac, ETH_ALEN))
		return true;
	memcpy(port->config.mac, d.filter.mac, ETH_ALEN);
	/* The front end has read this process's own. */
	server_config_changed(port->queue[0].server);
	return true;
}

void driver_started(struct port *port, bool live, uint64_t features)
{
	port->accepted = features;
	if (!live || !load(port)) {
		if (live)
			log_warn("what the driver set up is not known any more: it is as at the first start");
		reset(port);
	}
	save(port);
	port_share(port);
	throttle_resume(&port->throttle);
	port_refresh_link(port);
	port_listen(port);
	host_follow(port);
	if (live && port->backend.ops->anew && accepted(port, VIRTIO_NET_F_GUEST_ANNOUNCE))
		port_announce(port);
}

void driver_controlled(struct port *port)
{
	struct driver *d = &port->driver;

	if (d->controlled)
		return;
	d->controlled = 1;
	/* Outside promiscuous mode, tagged frames are kept back but for the VLANs that it names. */
	if (accepted(port, VIRTIO_NET_F_CTRL_VLAN))
		d->filter.modes |= FILTER_VLANS_ON;
	save(port);
	port_share(port);
}

/* ---- commands ---- */

static uint16_t get16(const uint8_t *from)
{
	uint16_t v;

	memcpy(&v, from, sizeof(v));
	return le16toh(v);
}

static uint32_t get32(const uint8_t *from)
{
	uint32_t v;

	memcpy(&v, from, sizeof(v));
	return le32toh(v);
}

static uint64_t get64(const uint8_t *from)
{
	uint64_t v;

	memcpy(&v, from, sizeof(v));
	return le64toh(v);
}

static bool set_mode(struct port *port, uint8_t number, const uint8_t *data, size_t len)
{
	uint32_t *modes = &port->driver.filter.modes, bit = 1U << number;

	(void)len;
	if (data[0] > 1)
		return false;
	*modes = data[0] ? *modes | bit : *modes & ~bit;
	return true;
}

static bool set_table(struct port *port, uint8_t number, const uint8_t *data, size_t len)
{
	uint32_t n_uni, n_multi;
	const uint8_t *multi;

	(void)number;
	n_uni = get32(data);
	if (n_uni > (len - 8) / ETH_ALEN)
		return false;
	multi = data + 4 + (size_t)n_uni * ETH_ALEN;
	n_multi = get32(multi);
	if (n_multi > (len - 8) / ETH_ALEN - n_uni)
		return false;
	filter_set_table(&port->driver.filter, data + 4, n_uni, multi + 4, n_multi);
	return true;
}

static bool set_address(struct port *port, uint8_t number, const uint8_t *data, size_t len)
{
	(void)number;
	(void)len;
	if (data[0] & 1)
		return false;
	memcpy(port->driver.filter.mac, data, ETH_ALEN);
	memcpy(port->config.mac, data, ETH_ALEN);
	/* The front end shows the driver what it read last. */
	server_config_changed(port->queue[0].server);
	return true;
}

static bool set_vlan(struct port *port, uint8_t number, const uint8_t *data, size_t len)
{
	(void)len;
	return filter_set_vlan(&port->driver.filter, get16(data), number == VIRTIO_NET_CTRL_VLAN_ADD) == 0;
}

static bool announced(struct port *port, uint8_t number, const uint8_t *data, size_t len)
{
	(void)number;
	(void)data;
	(void)len;
	/* A front end that isn't told would never see it set again. */
	if (port->config.status & htole16(VIRTIO_NET_S_ANNOUNCE))
		server_config_changed(port->queue[0].server);
	port->config.status &= (uint16_t)~htole16(VIRTIO_NET_S_ANNOUNCE);
	return true;
}

static bool use_pairs(struct port *port, uint8_t number, const uint8_t *data, size_t len)
{
	uint16_t pairs = get16(data), was = port->driver.pairs;

	(void)number;
	(void)len;
	if (!pairs || pairs > port->pairs)
		return false;
	port->driver.pairs = pairs;
	if (!host_set_pairs(port))
		return true;
	port->driver.pairs = was;
	host_set_pairs(port);
	return false;
}

static unsigned pairs_cost(const struct port *port, const uint8_t *data)
{
	return host_pairs_cost(port, get16(data));
}

static unsigned offloads_cost(const struct port *port, const uint8_t *data)
{
	return host_offloads_cost(port, get64(data));
}

static bool use_offloads(struct port *port, uint8_t number, const uint8_t *data, size_t len)
{
	uint64_t offloads = get64(data), was = port->driver.offloads;

	(void)number;
	(void)len;
	if (offloads & ~(port->accepted & OFFLOADS))
		return false;
	port->driver.offloads = offloads;
	if (!host_set_offloads(port))
		return true;
	port->driver.offloads = was;
	host_set_offloads(port);
	return false;
}

static bool set_coalesce(struct port *port, uint8_t number, const uint8_t *data, size_t len)
{
	struct driver_coalesce *c = number == NET_CTRL_NOTF_COAL_TX_SET ? &port->driver.tx : &port->driver.rx;

	(void)len;
	*c = (struct driver_coalesce) { .enough = get32(data), .us = get32(data + 4) };
	return true;
}

/* Commands by class and number: with which feature they may come, and the bytes that follow, at least. */
static const struct command {
	uint8_t class, first, last; /* numbers */
	uint8_t feature, least;
	bool more; /* than that may follow */
	bool (*run)(struct port *port, uint8_t number, const uint8_t *data, size_t len);
	unsigned (*cost)(const struct port *port, const uint8_t *data); /* changes of the host; NULL: none */
} commands[] = {
	{ VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, VIRTIO_NET_CTRL_RX_ALLMULTI, VIRTIO_NET_F_CTRL_RX,
	  1, false, set_mode, NULL },
	{ VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLUNI, VIRTIO_NET_CTRL_RX_NOBCAST,
	  VIRTIO_NET_F_CTRL_RX_EXTRA, 1, false, set_mode, NULL },
	{ VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_CTRL_MAC_TABLE_SET,
	  VIRTIO_NET_F_CTRL_RX, 8, true, set_table, NULL },
	{ VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_CTRL_MAC_ADDR_SET,
	  VIRTIO_NET_F_CTRL_MAC_ADDR, ETH_ALEN, false, set_address, NULL },
	{ VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, VIRTIO_NET_CTRL_VLAN_DEL, VIRTIO_NET_F_CTRL_VLAN, 2,
	  false, set_vlan, NULL },
	{ VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_CTRL_ANNOUNCE_ACK,
	  VIRTIO_NET_F_GUEST_ANNOUNCE, 0, false, announced, NULL },
	{ VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
	  VIRTIO_NET_F_MQ, 2, false, use_pairs, pairs_cost },
	{ VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET,
	  VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, 8, false, use_offloads,
	  offloads_cost },
	{ NET_CTRL_NOTF_COAL, NET_CTRL_NOTF_COAL_TX_SET, NET_CTRL_NOTF_COAL_RX_SET, NET_F_NOTF_COAL, 8, false,
	  set_coalesce, NULL },
};

/* What it is; NULL if it is none, or not one that was agreed on, or of another length. */
static const struct command *find(const struct port *port, const uint8_t *command, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands) && len >= COMMAND; i++) {
		const struct command *c = &commands[i];
		size_t rest = len - COMMAND;

		if (c->class != command[0] || command[1] < c->first || command[1] > c->last)
			continue;
		if (!accepted(port, c->feature) || rest < c->least || (rest > c->least && !c->more))
			return NULL;
		return c;
	}
	return NULL;
}

uint64_t driver_command_wait(struct port *port, const uint8_t *command, size_t len, uint64_t now_ns)
{
	const struct command *c = find(port, command, len);

	return c && c->cost ? host_command_wait(port, c->cost(port, command + COMMAND), now_ns) : 0;
}

bool driver_command(struct port *port, const uint8_t *command, size_t len)
{
	const struct command *c = find(port, command, len);

	if (!c || !c->run(port, command[1], command + COMMAND, len - COMMAND))
		return false;
	save(port);
	port_share(port);
	return true;
}
