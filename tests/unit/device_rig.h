/* SPDX-License-Identifier: Apache-2.0 */
/* A device of the core on a machine without KVM, behind it a front end that answers when the test says so, and before it
 * a driver. */
#ifndef TESTS_DEVICE_RIG_H
#define TESTS_DEVICE_RIG_H

#include <stdbool.h>
#include <stdint.h>

#include "clock.h"
#include "device.h"
#include "fake_vm.h"
#include "layout.h"
#include "ram.h"
#include "vhost_fe.h"

#include <linux/virtio_config.h>

#define BAR      LAYOUT_MMIO32_START
#define VERSION1 (1ULL << VIRTIO_F_VERSION_1)
#define MQ       (1ULL << 12)
#define LIVE     0xf
#define INFLIGHT (1ULL << 12)
#define DESC     0x10000ULL
#define AVAIL    0x20000ULL
#define USED     0x30000ULL

/* The present front end, and what it was asked. */
struct vhost_fe {
	const struct vhost_fe_ops *ops;
	void *arg;
	int fd;
};
extern struct vhost_fe *fe;
extern struct vhost_fe_info *probing;
extern vhost_fe_done_fn probed, started, reset, config_read;
extern void *done_arg;
extern struct vhost_fe_start last_start;
extern struct vhost_fe_ring last_rings[8];
extern unsigned starts, sets, sets_before_start;
extern uint8_t last_wce;

/* The device, and what it reported. */
extern struct machine m;
extern struct ram *ram;
extern struct device *d;
extern unsigned ups, resumes, downs, hangs, stalls;
extern char reason[128];

extern const uint8_t *device_mac; /* for those without configuration space; may be set before */

/* A device whose back ends hang after so long (0: never); its end. */
void device_set_up(uint64_t hang_timeout_ns);
void device_set_up_kind(const char *kind, uint64_t hang_timeout_ns);
void device_tear_down(void);

/* Answers what the front end was asked. */
void answer(vhost_fe_done_fn *which, int err);

/* A connection; with health words, which it takes over; the answer to its first questions. */
void attach(void);
void attach_with(struct flight *flight);
void probe_answer(uint64_t features, uint64_t protocol_features, uint16_t queues);
void probe_with(uint64_t features, uint64_t protocol_features, uint16_t queues);
void probe(void);
void lose(void);

/* The driver: its status, and all up to DRIVER_OK with queue 0 at these addresses. */
uint8_t status(void);
void set_status(uint8_t value);
extern uint32_t driver_low;  /* features below bit 32 that the driver takes */
extern uint32_t driver_high; /* and from there, beside VERSION_1 */
void drive_features(void);   /* in steps */
void drive_ring(unsigned queue, uint64_t desc, uint64_t avail, uint64_t used);
void drive_ok(void);
void drive(uint64_t desc, uint64_t avail, uint64_t used);
void set_used_idx(uint16_t idx);

/* All of it, until the back end serves the rings. */
void run(void);

/* Runs the core's loop for so long, or until the condition holds. */
void device_run_for(uint64_t ns);
#define DEVICE_DEADLINE (40 * NS_PER_S)
#define DEVICE_UNTIL(condition)                                                                              \
	do {                                                                                                 \
		uint64_t end_ = clock_ns() + DEVICE_DEADLINE;                                                \
		while (!(condition)) {                                                                       \
			cr_assert(clock_ns() < end_, "deadline: %s", #condition);                            \
			cr_assert_eq(loop_run_once(m.loop, 20 * (int64_t)NS_PER_MS), 0);                     \
		}                                                                                            \
	} while (0)

#endif
