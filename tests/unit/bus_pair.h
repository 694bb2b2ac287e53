/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of a control bus on one loop, and a peer that speaks the wire by hand: what the bus's tests begin with. */
#ifndef UNIT_BUS_PAIR_H
#define UNIT_BUS_PAIR_H

#include <criterion/criterion.h>

#include "bus.h"
#include "clock.h"

struct end {
	struct bus *bus;
	int ups, downs, malformed;
	int messages;
	uint64_t ids[64]; /* of the requests received */
	struct bus_msg last;
	bool silent;         /* doesn't answer */
	struct bus *closing; /* closed by the message handler */
	int downs_at_last;   /* downs when the last message came */
};

/* The loop, the folder and path of the supervisor's socket, and both ends. */
extern struct loop *loop;
extern char dir[64], path[96];
extern struct end sup, child;
extern const struct bus_ops bus_pair_ops; /* their argument is the struct end */

/* The supervisor's end, for a child that is expected; no child yet. */
void bus_pair_open(pid_t expected);
/* The child's end. */
void bus_pair_dial(void);
void bus_pair_close(void);
struct bus_counters bus_pair_counters(struct bus *bus);

/* Runs the loop until cond holds; fails the test after ten seconds. */
#define RUN_UNTIL(cond)                                                                                      \
	do {                                                                                                 \
		uint64_t end_ = clock_ns() + 10 * NS_PER_S;                                                  \
		while (!(cond)) {                                                                            \
			cr_assert_lt(clock_ns(), end_, "waited in vain for " #cond);                         \
			loop_run_once(loop, 2 * (int64_t)NS_PER_MS);                                         \
		}                                                                                            \
	} while (0)

struct result {
	int calls, err;
	enum bus_type type;
	struct bus_msg reply;
};

/* A reply's function, its argument a struct result. */
void bus_pair_reply(void *arg, int err, const struct bus_msg *reply);
/* The supervisor asks the child. */
void bus_pair_ping(uint64_t timeout_ns, struct result *r);

/* A stream to a socket; -1 if nobody listens. */
int raw_connect(const char *to);
/* The other way round: who listens in the supervisor's place, for the child's end to dial. */
int raw_listen(const char *at);
/* The same where bus_pair_open would be: who listens, with the child's end connected by *fd. */
int raw_supervisor(int *fd);
/* What a child may send, as long as it may be. */
struct bus_msg bus_pair_long_event(void);
/* What announces a message of len bytes. */
void raw_head(int fd, uint32_t len);
void raw_send(int fd, const void *data, size_t len);
/* The next message's length. The loop runs until something comes: what the kernel could not take at once leaves later. */
size_t raw_recv(int fd, uint8_t *buf, size_t size);
bool raw_is_closed(int fd);

#endif
