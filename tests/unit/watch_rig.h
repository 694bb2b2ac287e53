/* SPDX-License-Identifier: Apache-2.0 */
/* A ring made by hand, its back end, and vmm-core's watch over it. */
#ifndef TESTS_UNIT_WATCH_RIG_H
#define TESTS_UNIT_WATCH_RIG_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "clock.h"
#include "flight.h"
#include "loop.h"
#include "watch.h"

#define WATCH_RIG_SIZE     16
#define WATCH_RIG_TIMEOUT  (160 * NS_PER_MS)
#define WATCH_RIG_DEADLINE (40 * NS_PER_S)

extern struct watch_rig {
	struct loop *loop;
	struct watch *watch;
	struct watch_target *target;
	struct {
		uint16_t avail[3 + WATCH_RIG_SIZE];
		uint16_t used[3 + 4 * WATCH_RIG_SIZE] __attribute__((aligned(4)));
	} ring __attribute__((aligned(16)));
	struct vring_packed_desc descs[WATCH_RIG_SIZE] __attribute__((aligned(16)));
	uint16_t driver_event[2], device_event[2];
	struct flight *flight;
	struct flight_ring health;
	int kick_fd;
	unsigned kicks; /* that reached the back end */
	bool runs;      /* the back end looks at its ring when it is kicked */
	unsigned hung, broken, stalled;
	uint64_t stalled_ns;
	char reason[128];
	bool hurry; /* sleeps of many seconds are cut short, and noted */
	uint64_t long_ns;
} watch_rig;

/* They count what they are told in watch_rig. */
extern const struct watch_ops watch_rig_ops;

void watch_rig_open(void);
void watch_rig_close(void);

/* The split ring; watched; any one watched. */
struct watch_ring watch_rig_split(void);
void watch_rig_add_split(void);
void watch_rig_add(const struct watch_ring *r);

/* The back end passed over its ring; its storage holds so many requests. */
void watch_rig_passes(void);
void watch_rig_hold(uint64_t n);

/* The driver makes a request available, and kicks; the back end completes it. */
void watch_rig_request(void);
void watch_rig_complete(void);

/* A pass of the loop, and then one of the back end, if it is alive. */
void watch_rig_turn(uint64_t ns);
/* How often the watch has looked. */
uint64_t watch_rig_looks(void);
/* Runs for so many looks. */
void watch_rig_run_looks(unsigned n);
/* Runs until nothing but a kick would wake the watch soon: it found the ring idle twice. */
void watch_rig_fall_asleep(void);
/* Asleep: looked at neither soon nor every second. */
void watch_rig_is_left_alone(void);

#define WATCH_RIG_UNTIL(condition)                                                                           \
	do {                                                                                                 \
		uint64_t end_ = clock_ns() + WATCH_RIG_DEADLINE;                                             \
		while (!(condition)) {                                                                       \
			cr_assert(clock_ns() < end_, "deadline: %s", #condition);                            \
			watch_rig_turn(20 * NS_PER_MS);                                                      \
		}                                                                                            \
	} while (0)

#endif
