/* SPDX-License-Identifier: Apache-2.0 */
/* The end of the guest: whoever sees it first posts the reason, and the main loop's handler learns it once. */
#ifndef CORE_END_H
#define CORE_END_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "loop.h"

enum end_reason {
	END_NONE,     /* the guest lives */
	END_POWEROFF, /* it powered itself off (ACPI S5) */
	END_RESET,    /* it asked for a reset: keyboard controller, 0xcf9, ACPI reset register, port 0x92 */
	END_PANIC,    /* its kernel reported a panic */
	END_TRIPLE_FAULT, /* a processor shut down; PCs reset then */
	END_DEBUG_EXIT,   /* it wrote to the debug-exit port; value is what it wrote */
	END_KVM_ERROR,    /* KVM could not go on; value is the exit reason or the errno */
};

struct end {
	_Atomic uint64_t state; /* reason in the low half, value in the high one; 0 until posted */
	struct loop_bh bh;
};

/* fn(arg) runs once on the loop's thread after the first end_post. */
void end_init(struct end *end, struct loop *loop, void (*fn)(void *arg), void *arg);

/* The first post counts, later ones are ignored. Any thread, never blocks. */
void end_post(struct end *end, enum end_reason reason, uint32_t value);

/* Any thread. */
enum end_reason end_reason(const struct end *end);
uint32_t end_value(const struct end *end);

/* "poweroff", "reset", ... for logs. */
const char *end_name(enum end_reason reason);

#endif
