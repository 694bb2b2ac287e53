/* SPDX-License-Identifier: Apache-2.0 */
/* The supervisor's end of a control bus, for a server of the rig. Whatever fails here fails the test. */
#ifndef SUPERVISE_H
#define SUPERVISE_H

#include "bus.h"
#include "rig.h"

#define SUPERVISOR_RECOVERIES_MAX 4

struct supervisor {
	struct rig *rig;
	char dir[64], socket[80]; /* dir: for the server's --bus */
	struct loop *loop;
	struct bus *bus;
	bool hello, ready, ready_first;
	unsigned nrecovered;
	struct bus_msg recovered;                             /* the last of them */
	struct bus_msg recoveries[SUPERVISOR_RECOVERIES_MAX]; /* the first ones */
	struct bus_msg first;
	unsigned nio_errors;
	char io_error[BUS_TEXT_MAX];
	/* The last answer. */
	bool answered;
	int err;
	struct bus_msg *reply;
};

/* Listens; then waits for the rig's server, which was started meanwhile. */
void supervisor_open(struct supervisor *s);
void supervisor_expect(struct supervisor *s, struct rig *rig);
void supervisor_close(struct supervisor *s);

/* Sends a request; until the answer is there nothing else is to be expected. */
void supervisor_ask(struct supervisor *s, const struct bus_msg *msg);
void supervisor_ask_for(struct supervisor *s, enum bus_type type);
void supervisor_ask_ok(struct supervisor *s, enum bus_type type);

/* Sets a property: 0, or the error that came back, with its words in *why (may be NULL). */
int supervisor_set(struct supervisor *s, const char *key, const char *value, const char **why);

/* A counter of the server. */
uint64_t supervisor_stat(struct supervisor *s, const char *name);

/* Runs both loops until the condition holds, or fails at the deadline. */
#define supervisor_until(s, condition)                                                                       \
	do {                                                                                                 \
		uint64_t limit_ = clock_ns() + RIG_DEADLINE_S * NS_PER_S;                                    \
		while (!(condition)) {                                                                       \
			cr_assert(clock_ns() < limit_, "deadline: %s", #condition);                          \
			loop_run_once((s)->loop, (int64_t)(5 * NS_PER_MS));                                  \
			loop_run_once((s)->rig->loop, 0);                                                    \
		}                                                                                            \
	} while (0)

#endif
