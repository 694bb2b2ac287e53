/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processes of a supervisor that died. Theory of operation: a child's fields say how things stood after the last turn
 * of that supervisor's loop, the keeper what processes there are. What happened in between is told from that: a process
 * that the fields don't know was just started, one that the keeper doesn't have was just reaped, and a spare whose
 * socket the keeper doesn't hold was just being given to the core. Those of the first and last kind are ended at once,
 * since nobody depends on them or can tell whether anybody does; a death is a death whoever saw it. From there on
 * everything goes its usual way, with each process saying HELLO and READY once more. Processes are told apart by the
 * keeper's numbers and reached by pidfds, never by their ids, which others may have by now.
 */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "clean.h"
#include "clock.h"

static void close_all(struct keeper_found *found)
{
	clean_fd(&found->pidfd);
	found->pidfd = -1;
	for (size_t i = 0; i < KEEPER_HELD_MAX; i++) {
		clean_fd(&found->held[i]);
		found->held[i] = -1;
	}
}

int child_claim(struct child *c, bool unless_given, struct keeper_found *found, bool *lost)
{
	int err = keeper_fetch(c->keeper, c->index, found), code, status;
	bool known = c->state != CHILD_IDLE;
	bool same = !err && known && found->pidfd >= 0 && found->serial == c->serial;

	*lost = false;
	if (err)
		return err;
	if (same && !(unless_given && found->held[KEEPER_HELD_FRONT] < 0 && c->state != CHILD_STOPPING))
		return child_adopt(c, found);
	if (found->pidfd >= 0) {
		keeper_kill(c->keeper, c->index);
		err = keeper_reap(c->keeper, c->index, &code, &status);
	}
	close_all(found);
	*lost = known && !(same && unless_given);
	c->state = CHILD_IDLE;
	return err;
}

void child_lost(struct child *c, bool by_order)
{
	const struct child_death death = { .by_order = by_order, .code = CLD_KILLED, .status = SIGKILL };

	c->times.noticed = c->times.reaped = clock_ns();
	c->ops->died(c->arg, c, &death);
}
