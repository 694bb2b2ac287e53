/* SPDX-License-Identifier: Apache-2.0 */
/* How receiving learns of the next frame. */
#include "pace.h"

#include "clock.h"
#include "loop.h"
#include "num.h"

#define UNIT     2048             /* bytes that are as much work as a small frame is by itself, roughly */
#define FAST     256              /* units of work, at ... */
#define UNIT_NS  (4 * NS_PER_US)  /* ... so long for each at most */
#define LOOK_NS  (30 * NS_PER_US) /* and as much again that the kernel's timers are late */
#define STUCK_NS (10 * NS_PER_MS)

int pace_open(struct pace *p, struct loop *loop, void (*fn)(void *arg), void *arg)
{
	*p = (struct pace) { .fast = false };
	return loop_add_timer(loop, fn, arg, &p->timer);
}

void pace_close(struct pace *p)
{
	loop_del_timer(p->timer);
	p->timer = NULL;
}

bool pace_read(struct pace *p, uint32_t len)
{
	p->stuck = false;
	p->work += 1 + len / UNIT;
	if (p->fast || p->work < FAST)
		return false;
	p->fast = true;
	return true;
}

bool pace_empty(struct pace *p)
{
	uint64_t now = clock_ns();
	bool was = p->fast;

	if (p->work * UNIT_NS >= now - p->since)
		p->run = MIN(p->run, FAST) + MIN(p->work, FAST);
	else
		p->run = 0;
	p->since = now;
	p->work = 0;
	p->stuck = false;
	p->fast = p->run >= FAST;
	if (p->fast)
		loop_arm_timer(p->timer, now + LOOK_NS);
	else if (was)
		loop_disarm_timer(p->timer);
	return p->fast != was;
}

void pace_stuck(struct pace *p)
{
	if (!p->fast || p->stuck)
		return;
	p->stuck = true;
	loop_arm_timer(p->timer, clock_ns() + STUCK_NS);
}

bool pace_forget(struct pace *p)
{
	bool was = p->fast;

	loop_disarm_timer(p->timer);
	p->fast = p->stuck = false;
	p->run = p->work = 0;
	return was;
}
