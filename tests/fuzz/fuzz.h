/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every fuzz target shares: libFuzzer's entry point, and the input read as a program.
 *
 * An input is a row of operations and their operands. It never ends early: what is read behind its end is 0, so each
 * prefix of an input is one too, and any bytes are.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "num.h"

/* One input; always 0. The same input does the same each time, whatever ran before. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What must hold whatever the input does; a finding if it does not. Stays in every build. */
#define MUST(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);        \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

struct input {
	const uint8_t *at;
	size_t left;
};

static inline uint8_t in_u8(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static inline uint16_t in_u16(struct input *in)
{
	uint16_t low = in_u8(in);

	return (uint16_t)(low | in_u8(in) << 8);
}

static inline uint32_t in_u32(struct input *in)
{
	uint32_t low = in_u16(in);

	return low | (uint32_t)in_u16(in) << 16;
}

static inline uint64_t in_u64(struct input *in)
{
	uint64_t low = in_u32(in);

	return low | (uint64_t)in_u32(in) << 32;
}

/* A number below limit, which is not 0. */
static inline uint32_t in_below(struct input *in, uint32_t limit)
{
	return (limit <= 256 ? in_u8(in) : limit <= 65536 ? in_u16(in) : in_u32(in)) % limit;
}

/* Copies len bytes, zeroes behind the end. */
static inline void in_bytes(struct input *in, void *to, size_t len)
{
	size_t n = MIN(len, in->left);

	if (n)
		memcpy(to, in->at, n);
	if (n < len)
		memset((uint8_t *)to + n, 0, len - n);
	in->at += n;
	in->left -= n;
}

#endif
