/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the driver has set up beyond its rings: by commands of the control ring (virtio 1.2 §5.1.6.5), which come one at a
 * time, and by the rings that it runs. All of it is the main thread's, and is saved after each change, so that a successor
 * goes on with it.
 */
#ifndef DRIVER_H
#define DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filter.h"

struct port;

/* Calls to be held back: enough completions, or so many microseconds. */
struct driver_coalesce {
	uint32_t enough, us;
};

/* As it is saved: no pointers, no bools, as any bytes may come back. */
struct driver {
	uint32_t version;
	uint16_t pairs; /* that it wants to use */
	uint16_t
	    controlled; /* 1: its control ring says how many, and what passes; else the rings that run do */
	uint64_t offloads; /* of the features, those by which it takes unfinished frames now */
	struct driver_coalesce rx, tx;
	struct filter filter;
};

/* The first ring is about to start: live, where a predecessor had left things, or as at the first start. */
void driver_started(struct port *port, bool live, uint64_t features);

/* The control ring runs. */
void driver_controlled(struct port *port);

/* The nanoseconds until a command may be obeyed, as it changes the host's interface and too many did of late; 0: now, which
 * is then counted. */
uint64_t driver_command_wait(struct port *port, const uint8_t *command, size_t len, uint64_t now_ns);

/* A command: class, number and what follows. Whether it was obeyed. */
bool driver_command(struct port *port, const uint8_t *command, size_t len);

#endif
