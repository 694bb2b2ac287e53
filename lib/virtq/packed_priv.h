/* SPDX-License-Identifier: Apache-2.0 */
/* What the packed ring and its recovery share: descriptor flags and event suppression (§2.8.1, §2.8.10). */
#ifndef VIRTQ_PACKED_PRIV_H
#define VIRTQ_PACKED_PRIV_H

#include <stdbool.h>
#include <stdint.h>

enum { DESC_AVAIL = 1 << 7, DESC_USED = 1 << 15 };
enum { RING_EVENT_ENABLE = 0, RING_EVENT_DISABLE = 1, RING_EVENT_DESC = 2 };

/* What AVAIL and USED are in a descriptor that the driver made available on a lap with that wrap bit. */
static inline uint16_t packed_avail_flags(bool wrap)
{
	return wrap ? DESC_AVAIL : DESC_USED;
}

#endif
