/* SPDX-License-Identifier: Apache-2.0 */
/* The legacy devices of a PC that Linux expects, made and placed together; each model is in a file of its own. */
#ifndef CORE_CHIPSET_H
#define CORE_CHIPSET_H

#include <stdbool.h>
#include <stdint.h>

struct chipset;
struct end;
struct loop;
struct space;
struct vm;

struct chipset_args {
	struct vm *vm;
	struct loop *loop; /* the main loop, which serves the console */
	struct space *pio;
	struct end *end;
	int console_fd; /* non-blocking, stays the caller's; -1: output is dropped, there is no input */
	bool test_devices;
};

/* Main loop's thread. -errno if a port is already taken or memory is short. */
int chipset_new(const struct chipset_args *args, struct chipset **out);
void chipset_free(struct chipset *chipset); /* vCPUs must be stopped; NULL is ignored */

/* Presses the ACPI power button. Any thread. */
void chipset_power_button(struct chipset *chipset);

/* Bytes of console output that are not written yet; and a call of fn(arg) on the main loop once there are none
 * (at once, from the call itself, if there are none now, or the console is gone). */
uint32_t chipset_console_pending(struct chipset *chipset);
void chipset_console_drain(struct chipset *chipset, void (*fn)(void *arg), void *arg);

#endif
