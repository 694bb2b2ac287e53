/* SPDX-License-Identifier: Apache-2.0 */
/* What frames are made of: numbers and sums as they are on the wire, and the mark by which the bare guest and its other end
 * (tap-load) know their own. */
#ifndef PAYLOAD_FRAME_H
#define PAYLOAD_FRAME_H

#include <stddef.h>
#include <stdint.h>

/* In front of the payload of each frame that is counted. */
struct __attribute__((packed)) frame_mark {
	uint32_t mark; /* FRAME_MARK */
	uint64_t sequence;
};

#define FRAME_MARK 0x42756c6bu

static inline void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* The sum of RFC 1071 of what is there and of an earlier one; a header has its complement. */
static inline uint16_t sum16(const uint8_t *at, size_t len, uint32_t sum)
{
	for (size_t i = 0; i < len; i++)
		sum += i & 1 ? at[i] : (uint32_t)at[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

#endif
