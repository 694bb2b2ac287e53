/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processes of a supervisor that died. Theory of operation: a child's fields say how things stood after the last turn
 * of that supervisor's loop, the keeper what processes there are. What happened in between is told from that: a process
 * that the fields don't know was just started, one that the keeper doesn't have was just reaped, and a spare whose
 * socket the keeper doesn't hold was just being given to the core. Those of the first and last kind are killed at once,
 * since nobody depends on them or can tell whether anybody does, and nobody takes their place before they have ended,
 * which takes a while in the middle of slow I/O and holds up nothing else; a death is a death whoever saw it. From there on
 * everything goes its usual way, with each process saying HELLO and READY once more. Processes are told apart by the
 * keeper's numbers and reached by pidfds, never by their ids, which others may have by now.
 */
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "clean.h"
#include "clock.h"
#include "fd.h"

static void close_all(struct keeper_found *found)
{
	clean_fd(&found->pidfd);
	clean_fd(&found->anchor);
	found->pidfd = found->anchor = -1;
	for (size_t i = 0; i < KEEPER_HELD_MAX; i++) {
		clean_fd(&found->held[i]);
		found->held[i] = -1;
	}
}

/* A predecessor started it, or gave it away, as the last thing that it did. */
static void strand(struct child *c, struct keeper_found *found)
{
	c->pid = c->started_pid = found->pid;
	c->serial = found->serial;
	c->state = CHILD_IDLE;
	c->stray = true;
	say_info("%s: process %d is ended, it is not known what became of it", c->id, (int)c->pid);
	child_keep_remains(c, take_fd(&found->pidfd));
	if (child_remains(c))
		keeper_kill(c->keeper, c->index);
	close_all(found);
}

/*
 * It goes by its anchor's number yet, and nothing of its anchor's waits to be read: what tells its own may have been read by a
 * predecessor that died of it, so it is not known whom the bus is to let in.
 */
static bool is_nameless(const struct child *c, const struct keeper_found *found)
{
	struct pollfd anchor = { .fd = found->anchor, .events = POLLIN };

	return c->state == CHILD_STARTING && found->anchor >= 0 && c->pid == found->pid &&
	       poll(&anchor, 1, 0) == 0;
}

int child_claim(struct child *c, bool unless_given, struct keeper_found *found, bool *lost)
{
	bool known = c->state != CHILD_IDLE;
	int err = keeper_fetch(c->keeper, c->index, found);
	bool same = !err && known && found->serial == c->serial, nameless;

	*lost = false;
	if (err)
		return err;
	if (found->pidfd < 0) {
		close_all(found);
		*lost = known;
		c->state = CHILD_IDLE;
	} else if (!known || (same && unless_given && found->held[KEEPER_HELD_FRONT] < 0 &&
			      c->state != CHILD_STOPPING)) {
		strand(c, found);
	} else {
		nameless = !same || is_nameless(c, found);
		if (!same)
			c->pid = found->pid;
		err = child_adopt(c, found);
		if (!err && nameless)
			child_kill(c, "its supervisor died as it started it");
	}
	return err;
}

void child_lost(struct child *c, bool by_order)
{
	const struct child_death death = { .by_order = by_order, .code = CLD_KILLED, .status = SIGKILL };

	c->times.noticed = c->times.reaped = clock_ns();
	c->ops->died(c->arg, c, &death);
}
