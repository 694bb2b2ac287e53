/* SPDX-License-Identifier: Apache-2.0 */
/* Which frames the driver wants to have (virtio 1.2 §5.1.6.5.1 to §5.1.6.5.3): by address and by VLAN. */
#ifndef FILTER_H
#define FILTER_H

#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FILTER_ADDRESSES 64 /* that are kept apart; with more, all of that kind pass */
#define FILTER_VLAN_MAX  4096
#define FILTER_LOOK      18 /* bytes of a frame that a decision needs: Ethernet header and VLAN tag */

/* Bits 0 to 5 are the commands of §5.1.6.5.1 by their numbers. */
enum filter_mode {
	FILTER_PROMISC = 1 << VIRTIO_NET_CTRL_RX_PROMISC,
	FILTER_ALLMULTI = 1 << VIRTIO_NET_CTRL_RX_ALLMULTI,
	FILTER_ALLUNI = 1 << VIRTIO_NET_CTRL_RX_ALLUNI,
	FILTER_NOMULTI = 1 << VIRTIO_NET_CTRL_RX_NOMULTI,
	FILTER_NOUNI = 1 << VIRTIO_NET_CTRL_RX_NOUNI,
	FILTER_NOBCAST = 1 << VIRTIO_NET_CTRL_RX_NOBCAST,
	FILTER_UNI_MANY = 1 << 6,   /* more unicast addresses than are kept */
	FILTER_MULTI_MANY = 1 << 7, /* more of the others */
	FILTER_VLANS_ON = 1 << 8,   /* only the VLANs of the table; untagged frames pass */
};

struct filter {
	uint8_t mac[ETH_ALEN];
	uint8_t n_uni, n_multi;
	uint32_t modes;                              /* bits of enum filter_mode */
	uint8_t address[FILTER_ADDRESSES][ETH_ALEN]; /* n_uni unicast ones, then n_multi others */
	uint64_t vlan[FILTER_VLAN_MAX / 64];
};

/* As a driver finds a device: all frames pass until it says otherwise. vlans: afterwards only those VLANs that it names. */
void filter_reset(struct filter *f, const uint8_t *mac, bool vlans);

/* True if the frame passes, of which head holds len bytes, at most FILTER_LOOK. */
bool filter_passes(const struct filter *f, const uint8_t *head, size_t len);

/* All frames pass: promiscuous mode goes before all else, VLANs too (§5.1.6.5.1). A bridge in the guest names none. */
static inline bool filter_is_open(const struct filter *f)
{
	return f->modes & FILTER_PROMISC;
}

/* The two tables of MAC_TABLE_SET, n_uni and n_multi addresses; any number. */
void filter_set_table(struct filter *f, const uint8_t *uni, uint32_t n_uni, const uint8_t *multi,
		      uint32_t n_multi);

/* -EINVAL if there is no such VLAN. */
int filter_set_vlan(struct filter *f, unsigned vlan, bool on);

/* Whether one that was saved is one that could have come about here. */
bool filter_is_sane(const struct filter *f);

#endif
