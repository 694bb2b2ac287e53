/* SPDX-License-Identifier: Apache-2.0 */
/* The pvpanic port: reading tells which events it takes, writing reports one. Only a panic that ends the guest is taken. */
#include "end.h"
#include "smallports.h"

#define PVPANIC_PANICKED 0x01

static uint64_t pvpanic_read(void *owner, uint64_t off, unsigned size)
{
	(void)owner;
	(void)off;
	(void)size;
	return PVPANIC_PANICKED;
}

static void pvpanic_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	(void)off;
	(void)size;
	if (value & PVPANIC_PANICKED)
		end_post(owner, END_PANIC, 0);
}

const struct space_ops pvpanic_ops = { .read = pvpanic_read, .write = pvpanic_write, .max = 1 };
