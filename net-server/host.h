/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of the host's interface follows the driver: how many of its queues take part, and which offloads it may use. The
 * main thread's.
 *
 * Each change takes the one lock of all of the host's interfaces and waits for the kernel's readers, so there are only so
 * many a second: of those that commands ask for, and of those that rings ask for, which begin and end to run, each for
 * itself, so that neither can keep the other waiting. What is to be used is there before: a pair takes part from when its
 * queue is attached until before it is detached, and none does while frames may come as the driver does not take them.
 */
#ifndef HOST_H
#define HOST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend.h"
#include "quota.h"

struct port;
struct loop;
struct loop_timer;

enum host_pace { HOST_RINGS, HOST_COMMANDS, HOST_PACES };

struct host {
	_Atomic uint64_t pace[HOST_PACES][QUOTA_WORDS];
	struct loop_timer *later;       /* host_follow goes on */
	int8_t attached[NET_PAIRS_MAX]; /* 1 or 0; -1: not known */
	uint64_t offloads;              /* that were asked for last */
	bool asked;                     /* they were */
};

void host_open(struct port *port);

/* Once there is a loop. 0 or -errno. */
int host_attach(struct port *port, struct loop *loop);
void host_detach(struct port *port);

/* The driver is another, or its rings began or ended to run: does what that changes, or will as soon as it may. */
void host_follow(struct port *port);

/* For n pairs to take part, or for these offloads: so many changes. */
unsigned host_pairs_cost(const struct port *port, unsigned n);
unsigned host_offloads_cost(const struct port *port, uint64_t offloads);

/* A command asks for so many changes: 0, which counts them, or the nanoseconds until it may be obeyed. */
uint64_t host_command_wait(struct port *port, unsigned changes, uint64_t now_ns);

/* Has the driver's pairs, or its offloads, be in force, now. 0 or the backend's -errno. */
int host_set_pairs(struct port *port);
int host_set_offloads(struct port *port);

#endif
