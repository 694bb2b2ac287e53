/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls that are held back, since the driver would rather be called seldom: completions are shown at once, the call comes
 * when there are enough of them or some time after the first one that wanted it. A call that is due is never forgotten,
 * whatever the driver's event index says by then: it may have been passed.
 */
#include "clock.h"
#include "server_priv.h"

static void on_timer(void *arg)
{
	struct server_queue *q = arg;

	if (q->coalesce.due)
		queue_signal(q);
}

int coalesce_init(struct server_queue *q)
{
	return loop_add_timer(q->loop, on_timer, q, &q->coalesce.timer);
}

void coalesce_fini(struct server_queue *q)
{
	loop_del_timer(q->coalesce.timer);
	q->coalesce.timer = NULL;
}

void coalesce_over(struct server_queue *q)
{
	struct coalesce *c = &q->coalesce;

	if (c->due)
		loop_disarm_timer(c->timer);
	c->due = false;
	c->shown = 0;
}

bool coalesce_hold(struct server_queue *q, unsigned shown, bool wanted)
{
	struct coalesce *c = &q->coalesce;

	if (!c->ns)
		return !wanted;
	c->shown += shown;
	if (!wanted && !c->due) {
		c->shown = 0;
		return true;
	}
	if (c->shown >= c->enough)
		return false;
	if (!c->due)
		loop_arm_timer(c->timer, clock_ns() + c->ns);
	c->due = true;
	return true;
}

void server_coalesce(struct server_queue *q, uint32_t enough, uint32_t us)
{
	q->coalesce.enough = enough;
	q->coalesce.ns = us * NS_PER_US;
	if (q->coalesce.due)
		queue_signal(q);
}
