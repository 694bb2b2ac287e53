/* SPDX-License-Identifier: Apache-2.0 */
/* The debug-exit port of test machines: a write ends the guest; who started it exits with the value * 2 + 1. */
#include "end.h"
#include "smallports.h"

static uint64_t debugexit_read(void *owner, uint64_t off, unsigned size)
{
	(void)owner;
	(void)off;
	(void)size;
	return 0;
}

static void debugexit_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	if (off == 0)
		end_post(owner, END_DEBUG_EXIT, (uint32_t)value);
	(void)size;
}

const struct space_ops debugexit_ops = { .read = debugexit_read, .write = debugexit_write, .max = 4 };
