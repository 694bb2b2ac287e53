/* SPDX-License-Identifier: Apache-2.0 */
/* What remains of a process that is dead for its owner, or is to be: it is watched until its end, then reaped. */
#include <sys/epoll.h>

#include "child.h"
#include "clean.h"
#include "clock.h"

#define REPORT_AFTER_NS (200 * NS_PER_MS)

void child_bury(struct child *c)
{
	int code, status, err;

	if (c->remains < 0)
		return;
	loop_del_fd(TAKE_PTR(c->remains_watch));
	clean_fd(&c->remains);
	c->remains = -1;
	c->stray = false;
	err = keeper_reap(c->keeper, c->index, &code, &status);
	if (err)
		say_error_errno(err, "%s: process %d can't be reaped", c->id, (int)c->pid);
}

static void on_vanished(void *arg, uint32_t events)
{
	struct child *c = arg;

	(void)events;
	child_bury(c);
	if (*c->report)
		loop_arm_timer(c->report_timer, clock_ns() + REPORT_AFTER_NS);
	if (c->ops->vanished)
		c->ops->vanished(c->arg, c);
}

void child_keep_remains(struct child *c, int pidfd)
{
	c->remains = pidfd;
	if (loop_add_fd(c->loop, c->remains, EPOLLIN, on_vanished, c, &c->remains_watch)) {
		keeper_kill(c->keeper, c->index);
		child_bury(c);
	}
}
