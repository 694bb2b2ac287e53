/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a process's main loop turns. It shows in the flight recorder's memory (loop_show): one that sleeps is woken
 * by the kernel as soon as there is something for it, and one that has slept or woken since the last look turns.
 * Neither has to be asked, so an idle process sleeps on. What is awake and has not slept since the last look is busy
 * with one thing, or stuck in it, or does not show what it does: it is pinged. So is one that is not on the bus, which
 * may have lost it for good, and, once a minute, one that does nothing but sleep: it may have been stopped as it slept.
 * That a ring is not served the core sees (vmm-core/watch.c), and a death the pidfd tells, whatever the process says.
 *
 * A server that does not answer is replaced, which costs its guest a moment. The core's end would be the machine's, and
 * one that a busy host gives no processor does not answer either: that is only said.
 */
#include <errno.h>

#include "child.h"
#include "clock.h"
#include "num.h"

#define LOOK_NS     (2 * NS_PER_S)
#define LOOK_MAX_NS (16 * NS_PER_S) /* at one that sleeps all the time */
#define ANSWER_NS   (5 * NS_PER_S)
#define SLEEPS      6 /* looks in a row at one that sleeps, the last of which wakes it: a minute */
#define MISSES      2 /* in a row; one alone may be a supervisor that was itself stopped */

static void look_again(struct child *c, uint64_t in_ns)
{
	c->look_ns = in_ns;
	loop_arm_timer(c->life_timer, clock_ns() + in_ns);
}

static void tell(struct child *c, bool silent)
{
	if (c->silent == silent)
		return;
	c->silent = silent;
	c->ops->silent(c->arg, c, silent);
}

static void lives(struct child *c)
{
	c->missed = 0;
	tell(c, false);
}

static void on_answer(void *arg, int err, const struct bus_msg *reply)
{
	struct child *c = arg;

	(void)reply;
	if (c->state != CHILD_READY || err == -ECANCELED)
		return;
	if (err != -ETIMEDOUT && err != -EPIPE)
		lives(c);
	else if (++c->missed >= MISSES && !c->ops->silent)
		child_kill(c, "it does not answer");
	else if (c->missed == MISSES)
		tell(c, true);
	look_again(c, LOOK_NS);
}

void child_life_look(void *arg)
{
	struct child *c = arg;
	const struct bus_msg ping = { .type = BUS_PING };
	uint64_t before = c->turns;
	bool asleep, turned;

	if (c->state != CHILD_READY)
		return;
	c->turns = c->flight ? flight_get(&flight_main(c->flight)->turns) : 0;
	turned = c->turns != before;
	asleep = c->turns % 2 && !turned;
	c->sleeps = asleep ? c->sleeps + 1 : 0;
	if (bus_is_connected(c->bus) && (turned || (asleep && c->sleeps < SLEEPS))) {
		lives(c);
		look_again(c, asleep ? MIN(2 * c->look_ns, LOOK_MAX_NS) : LOOK_NS);
		return;
	}
	c->sleeps = 0;
	if (bus_request(c->bus, &ping, ANSWER_NS, on_answer, c))
		on_answer(c, -EPIPE, NULL);
}

void child_life_watch(struct child *c)
{
	look_again(c, LOOK_NS);
}
