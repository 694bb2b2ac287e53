/* SPDX-License-Identifier: Apache-2.0 */
/* The watch's inside: what it reads off a ring (watch_ring.c) and what it makes of it (watch.c). */
#ifndef CORE_WATCH_PRIV_H
#define CORE_WATCH_PRIV_H

#include "watch.h"

struct watch_sample {
	uint32_t pos;      /* where used stands: its index; packed, both positions of the region */
	bool owes;         /* requests are outstanding */
	const char *wrong; /* what no sane ring holds, or NULL */
};

struct watch_sample watch_look(const struct watch_ring *at);

/* Whether the driver, if it makes a request available now, kicks. Only meant for a ring that stands at pos and owes nothing. */
bool watch_hears_kicks(const struct watch_ring *at, uint32_t pos);

/* Whether a used element of a split ring that is new names no descriptor of the ring. That it names one that is not
 * outstanding, only the driver can know. */
bool watch_names_none(const struct watch_ring *at, uint32_t before, uint32_t now);

#endif
