/* SPDX-License-Identifier: Apache-2.0 */
/* Which frames the driver wants to have. */
#include "filter.h"

#include <errno.h>
#include <string.h>

#include "num.h"

void filter_reset(struct filter *f, const uint8_t *mac, bool vlans)
{
	*f = (struct filter) { .modes = FILTER_PROMISC | (vlans ? FILTER_VLANS_ON : 0) };
	memcpy(f->mac, mac, ETH_ALEN);
}

static bool is_in(const uint8_t (*table)[ETH_ALEN], unsigned n, const uint8_t *address)
{
	for (unsigned i = 0; i < n; i++)
		if (!memcmp(table[i], address, ETH_ALEN))
			return true;
	return false;
}

static bool address_passes(const struct filter *f, const uint8_t *to)
{
	static const uint8_t broadcast[ETH_ALEN] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	if (!memcmp(to, broadcast, ETH_ALEN))
		return !(f->modes & FILTER_NOBCAST);
	if (to[0] & 1)
		return !(f->modes & FILTER_NOMULTI) && (f->modes & (FILTER_ALLMULTI | FILTER_MULTI_MANY) ||
							is_in(f->address + f->n_uni, f->n_multi, to));
	return !(f->modes & FILTER_NOUNI) &&
	       (f->modes & (FILTER_ALLUNI | FILTER_UNI_MANY) || !memcmp(to, f->mac, ETH_ALEN) ||
		is_in(f->address, f->n_uni, to));
}

bool filter_passes(const struct filter *f, const uint8_t *head, size_t len)
{
	if (len < ETH_HLEN)
		return false;
	if (filter_is_open(f))
		return true;
	if (f->modes & FILTER_VLANS_ON && len >= FILTER_LOOK && (head[12] << 8 | head[13]) == ETH_P_8021Q) {
		unsigned vlan = (head[14] << 8 | head[15]) & (FILTER_VLAN_MAX - 1);

		/* Number 0 stands for none. */
		if (vlan && !(f->vlan[vlan / 64] >> vlan % 64 & 1))
			return false;
	}
	return address_passes(f, head);
}

void filter_set_table(struct filter *f, const uint8_t *uni, uint32_t n_uni, const uint8_t *multi,
		      uint32_t n_multi)
{
	bool uni_fits = n_uni <= FILTER_ADDRESSES, multi_fits;

	f->n_uni = uni_fits ? (uint8_t)n_uni : 0;
	multi_fits = n_multi <= (uint32_t)FILTER_ADDRESSES - f->n_uni;
	f->n_multi = multi_fits ? (uint8_t)n_multi : 0;
	f->modes &= ~(uint32_t)(FILTER_UNI_MANY | FILTER_MULTI_MANY);
	f->modes |= (uni_fits ? 0 : FILTER_UNI_MANY) | (multi_fits ? 0 : FILTER_MULTI_MANY);
	if (f->n_uni)
		memcpy(f->address, uni, (size_t)f->n_uni * ETH_ALEN);
	if (f->n_multi)
		memcpy(f->address + f->n_uni, multi, (size_t)f->n_multi * ETH_ALEN);
}

int filter_set_vlan(struct filter *f, unsigned vlan, bool on)
{
	uint64_t bit = 1ULL << vlan % 64;

	if (vlan >= FILTER_VLAN_MAX)
		return -EINVAL;
	if (on)
		f->vlan[vlan / 64] |= bit;
	else
		f->vlan[vlan / 64] &= ~bit;
	return 0;
}

bool filter_is_sane(const struct filter *f)
{
	return f->n_uni <= FILTER_ADDRESSES && f->n_multi <= FILTER_ADDRESSES - f->n_uni;
}
