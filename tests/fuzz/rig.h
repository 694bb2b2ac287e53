/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device of lib/server with its real queues, in this process and on one loop that stands still (still.h), and the driver's
 * side of its rings in guest memory. No process, thread, socket or bus: what those would say to a queue is said by orders.
 */
#ifndef FUZZ_RIG_H
#define FUZZ_RIG_H

#include "fuzz.h"
#include "ring.h"
#include "server.h"
#include "still.h"

#define RIG_RINGS  5
#define RIG_SIZE   16  /* descriptors of each ring */
#define RIG_PASSES 200 /* of the loop, which has nothing left to do then */
#define RIG_DATA                                                                                             \
	0x40000U /* guest-physical address of what is not rings: two regions that adjoin, one apart */
#define RIG_BYTES  0x10000U /* in each region */
#define RIG_APART  0x100000U
#define RIG_LOGGED 1 /* of the tables: with a dirty log; 0 without */
#define RIG_TABLES 2

struct rig {
	struct loop *loop;
	void *dev;
	struct state *state; /* outlives it as the in-flight regions do */
	const struct server_device *device;
	unsigned rings;
	uint64_t features;
	bool tracked; /* there is an in-flight region, and so a life after death */
	bool honest;  /* the driver has done nothing that none should: what it gave must come back */
	struct ring ring[RIG_RINGS];
	bool up[RIG_RINGS];       /* the ring was started and not stopped */
	bool stopping[RIG_RINGS]; /* it is to be */
	uint32_t base[RIG_RINGS]; /* of a ring that was stopped */
	bool based[RIG_RINGS];
	int kick[RIG_RINGS];
	uint8_t *region[RIG_RINGS]; /* in-flight, each of its very size */
};

/* Memory and what else lasts from one input to the next; to be called each time. */
void rig_reset(struct rig *r, const struct server_device *device, void *dev);

/* The process: opens the device, makes so many queues (sets of rings). features is what the driver accepts of
 * what is offered. The device says what its options would. */
void rig_boot(struct rig *r, unsigned queues, unsigned rings, uint64_t features);

/* It dies, between two passes of its loop. */
void rig_die(struct rig *r);

/* The end of an input. */
void rig_end(struct rig *r);

/* The driver's rings: all of them laid out anew, empty. */
void rig_lay_out(struct rig *r);

/* What the driver accepts of the rings' features, by three bits of the input; with all that a device may have. */
uint64_t rig_features(uint8_t how);

/* Starts ring i, if its memory makes sense to the device: true. With the first one the device begins. live: it was served
 * before, and a predecessor died. */
bool rig_start(struct rig *r, unsigned i, bool live);

/* Stops it; it may take until requests are done. hand_over: as a process that ends in order does, for a successor. */
void rig_stop(struct rig *r, unsigned i, bool hand_over);

/* Enables or disables it; drains it, or lets it go on. */
void rig_enable(struct rig *r, unsigned i, bool on);
void rig_drain(struct rig *r, unsigned i, bool on);

/* Has another I/O thread serve a set of rings: another in name, as there is one loop. */
void rig_move(struct rig *r, unsigned set);

/* All rings, empty, as they begin; after a death, those that were; all, with nothing in the way of what they hold. An honest
 * driver's do start. */
void rig_start_all(struct rig *r);
void rig_start_again(struct rig *r, const bool *was);
void rig_let_go(struct rig *r);

/* Shows the device what was added to the rings, apart from those in skip, a bit each, and kicks. */
void rig_kick(struct rig *r, unsigned skip);

/* Takes what came back; each at least so many bytes written. */
void rig_collect(struct rig *r, uint32_t least);

/* In one of the first rings, as the input says: a chain that is no request, of lengths and addresses that may be none; or something
 * else where a descriptor or an entry of the ring is, taken or not. The driver is no longer honest. */
void rig_any_chain(struct rig *r, unsigned rings, struct input *in);
void rig_write_over(struct rig *r, unsigned rings, struct input *in);

/* Another table of the same memory: one of RIG_TABLES. */
void rig_set_mem(struct rig *r, unsigned i, unsigned table);

/* The driver's own view of len bytes of guest memory, or NULL. */
uint8_t *rig_ptr(struct rig *r, uint64_t gpa, uint64_t len);

/* The device's, of bytes within one region. */
const uint8_t *rig_device_ptr(uint64_t gpa, uint64_t len);

/* Puts bytes there, if it is guest memory. */
void rig_put(struct rig *r, uint64_t gpa, const void *from, uint32_t len);

/* Whether these bytes lie within one region as the device has it mapped. */
bool rig_is_ram(const void *at, size_t len);

#endif
