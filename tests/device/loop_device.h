/* SPDX-License-Identifier: Apache-2.0 */
/* A block device for a test. */
#ifndef LOOP_DEVICE_H
#define LOOP_DEVICE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Opens a loop device with blocks of this size; ends the test where there can be none. It is detached at once, so it goes
 * with its last user, however the test ends: until a server has it, that is the descriptor that comes back.
 */
int loop_device(char *device, size_t size, unsigned block, uint64_t bytes);

#endif
