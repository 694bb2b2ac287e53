/* SPDX-License-Identifier: Apache-2.0 */
/* What of a keyboard controller is left when there is no keyboard: the reset line, on port 0x64 and on port 0x92. */
#include "end.h"
#include "smallports.h"

#define COMMAND_PULSE_RESET 0xfe
#define PORT_A_RESET        0x01
#define PORT_A_A20          0x02 /* A20 is always on */

/* Data and status read 0: nothing to fetch, and never busy, so that who waits before a command does not wait. */
static uint64_t i8042_read(void *owner, uint64_t off, unsigned size)
{
	(void)owner;
	(void)off;
	(void)size;
	return 0;
}

static void i8042_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	(void)off;
	(void)size;
	if (value == COMMAND_PULSE_RESET)
		end_post(owner, END_RESET, 0);
}

const struct space_ops i8042_ops = { .read = i8042_read, .write = i8042_write, .max = 1 };

/* The data port: no keyboard takes the byte. */
static void data_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	(void)owner;
	(void)off;
	(void)size;
	(void)value;
}

const struct space_ops i8042_data_ops = { .read = i8042_read, .write = data_write, .max = 1 };

static uint64_t port_a_read(void *owner, uint64_t off, unsigned size)
{
	(void)owner;
	(void)off;
	(void)size;
	return PORT_A_A20;
}

static void port_a_write(void *owner, uint64_t off, unsigned size, uint64_t value)
{
	(void)off;
	(void)size;
	if (value & PORT_A_RESET)
		end_post(owner, END_RESET, 0);
}

const struct space_ops port_a_ops = { .read = port_a_read, .write = port_a_write, .max = 1 };
