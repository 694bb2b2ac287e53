/* SPDX-License-Identifier: Apache-2.0 */
/* The messages of the control bus as C structures; proto/README.md says who sends which, when, and what may
 * come back. */
#ifndef BUS_MSG_H
#define BUS_MSG_H

#include <stdbool.h>
#include <stdint.h>

#define BUS_PROTOCOL  7
#define BUS_NAME_MAX  32  /* bytes of a device or counter name, its NUL included */
#define BUS_TEXT_MAX  512 /* bytes of a text, its NUL included */
#define BUS_STATS_MAX 128 /* counters in one reply */
#define BUS_LOOPS_MAX 32  /* loops of one process */

enum bus_type {
	BUS_NONE,
	BUS_ERROR,     /* reply: a request failed */
	BUS_OK,        /* reply: done */
	BUS_HELLO,     /* event, child → supervisor: first message of a connection */
	BUS_READY,     /* event, child → supervisor: sandboxed and serving */
	BUS_PING,      /* request, supervisor → child; answered by BUS_OK from the child's main loop */
	BUS_GET_STATS, /* request, supervisor → child; answered by BUS_STATS */
	BUS_STATS,     /* reply: counters */
	BUS_DRAIN,     /* request, supervisor → server: finish what is in flight, take no more; BUS_OK when
			  drained */
	BUS_RESUME,    /* request, supervisor → server: serve again; supervisor → core: run the vCPUs */
	BUS_PAUSE, /* request, supervisor → core: stop the vCPUs; BUS_OK when all are out of the guest */
	BUS_POWER_BUTTON, /* request, supervisor → core: press the ACPI power button */
	BUS_SHUTDOWN,     /* request, supervisor → child: end in order; BUS_OK, then the process exits 0 */
	BUS_DEVICE_UP,    /* event, core → supervisor: a device's handshake is complete */
	BUS_DEVICE_DOWN,  /* event, core → supervisor: its connection was lost or it broke the protocol */
	BUS_GUEST_ENDED,  /* event, core → supervisor: the guest is over; the core waits for BUS_SHUTDOWN */
	BUS_DEVICE_HUNG,  /* event, core → supervisor: the rings make no progress */
	BUS_FAIL_DEVICE,  /* request, supervisor → core: show the guest that a device was given up */
	BUS_RECOVERED,    /* event, server → supervisor: what its start on live rings came to */
	BUS_SET,          /* request, supervisor → server: change a property while it serves */
	BUS_IO_ERROR, /* event, server → supervisor: a request failed and is kept, or a port's tap is gone */
	BUS_GET_LOOPS,  /* request, supervisor → child; answered by BUS_LOOPS */
	BUS_LOOPS,      /* reply: its event loops */
	BUS_MOVE_QUEUE, /* request, supervisor → server: another I/O thread is to serve a queue */
	BUS_PIN,        /* request, supervisor → server: the processors of a thread */
	BUS_TYPE_COUNT
};

enum bus_end {                       /* why a guest ended */
	       BUS_END_POWEROFF = 1, /* ACPI S5 */
	       BUS_END_RESET,        /* reset register, keyboard controller, 0xcf9 */
	       BUS_END_PANIC,        /* the guest said so through pvpanic */
	       BUS_END_CRASH,        /* triple fault, or KVM gave up: text says why */
	       BUS_END_DEBUG_EXIT,   /* --test-devices: code is value × 2 + 1 */
};

/* The name of a type as in bulkhead.proto, or "None". */
const char *bus_type_name(enum bus_type type);

struct bus_stat {
	char name[BUS_NAME_MAX];
	uint64_t value;
};

struct bus_loop {
	char name[BUS_NAME_MAX];
	uint32_t thread; /* its id, as the process sees it */
	uint64_t
	    queues; /* a bit for each queue that it serves; those of several devices follow on each other */
	uint64_t busy_ns, over_ns;       /* of the time since it was last asked, so much it had a processor */
	uint64_t passes, sleeps;         /* times round the loop, and waits in the kernel */
	uint64_t poll_hits, poll_misses; /* polls that found work, and that ended in sleep */
	uint64_t poll_ns, poll_max_ns;   /* the present window, and the largest */
};

struct bus_msg {
	enum bus_type type;
	uint64_t id; /* of a request, or of the request replied to; 0 for an event */
	union {
		struct {
			int err; /* -errno */
			char text[BUS_TEXT_MAX];
		} error;
		struct {
			uint32_t protocol;          /* BUS_PROTOCOL */
			char kind[BUS_NAME_MAX];    /* "core", "blk" */
			char name[BUS_NAME_MAX];    /* "core", "disk0" */
			char version[BUS_NAME_MAX]; /* of the program */
		} hello;
		struct {
			char device[BUS_NAME_MAX]; /* in each message to or from a server: of those that it
						      serves; empty: it serves one */
		} get_stats;
		struct {
			uint32_t count;
			struct bus_stat stat[BUS_STATS_MAX];
		} stats;
		struct {
			char device[BUS_NAME_MAX];
			uint64_t handshake_ns; /* from the descriptor's arrival to here */
			bool resumed;          /* it took over rings that were live */
		} device_up;
		struct {
			char device[BUS_NAME_MAX];
			char reason[BUS_TEXT_MAX];
		} device_down;
		struct {
			enum bus_end end;
			int32_t code;
			char text[BUS_TEXT_MAX];
		} guest_ended;
		struct {
			char device[BUS_NAME_MAX];
			uint32_t queue;
			uint64_t stalled_ns; /* since the last progress */
			char reason[BUS_TEXT_MAX];
		} device_hung;
		struct {
			char device[BUS_NAME_MAX];
		} fail_device;
		struct {
			char device[BUS_NAME_MAX];
			uint32_t resubmitted; /* requests of the predecessor that were taken again */
			uint32_t poisoned;    /* of them, failed instead of tried */
			uint64_t start_ns;    /* CLOCK_MONOTONIC: the first ring started, ... */
			uint64_t replayed_ns; /* ... all resubmitted, ... */
			uint64_t first_ns;    /* ... the first one completed; 0: there was none */
		} recovered;
		struct {
			char device[BUS_NAME_MAX];
			char key[BUS_NAME_MAX];
			char value[BUS_TEXT_MAX];
		} set;
		struct {
			char device[BUS_NAME_MAX];
			char text[BUS_TEXT_MAX]; /* why */
		} io_error;
		struct {
			uint32_t count;
			struct bus_loop loop[BUS_LOOPS_MAX];
		} loops;
		struct {
			char device[BUS_NAME_MAX];
			uint32_t queue;
			char thread[BUS_NAME_MAX];
		} move_queue;
		struct {
			char thread[BUS_NAME_MAX];
			char cpus[BUS_TEXT_MAX];
		} pin;
	};
};

#endif
