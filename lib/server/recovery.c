/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the start on rings of a predecessor comes to, for the supervisor's timeline: how many requests were taken up
 * again, when all of them were, and when the driver saw the first completion.
 *
 * Each queue keeps its part on its own thread, at no cost once it is over, and hands it to the main loop, which tells
 * the supervisor when the parts of all rings are there. How many rings that will be, the in-flight region says.
 */
#include "clock.h"
#include "num.h"
#include "server_priv.h"

static void report(struct server_queue *q)
{
	q->recovery.state = RECOVERY_OVER;
	loop_bh_post(&q->recovery.report);
}

/* Main loop: a queue's part is complete. */
static void on_report(void *arg)
{
	struct server_queue *q = arg;
	const struct recovery *part = &q->recovery;
	struct recovery_sum *sum = &q->export->recovery;

	sum->resubmitted += part->resubmitted;
	sum->poisoned += part->poisoned;
	sum->replayed_ns = MAX(sum->replayed_ns, part->replayed_ns);
	if (part->first_ns && (!sum->first_ns || part->first_ns < sum->first_ns))
		sum->first_ns = part->first_ns;
	if (++sum->reported == sum->rings)
		control_recovered(q->export);
}

/* ---- one trial at a time (virtq.h: struct vq_trials) ---- */

/* Nothing that belongs to those who waited tells them. */
static void on_trial_over(void *arg)
{
	struct server *s = arg;

	for (unsigned i = 0; i < s->rings; i++)
		queue_look_again(&s->queue[i]);
}

static void tell_trial_over(void *arg)
{
	loop_bh_post(&((struct server *)arg)->trial_over);
}

void recovery_open(struct server *s)
{
	loop_bh_init(&s->trial_over, s->main, on_trial_over, s);
	s->trials = (struct vq_trials) { .over = tell_trial_over, .arg = s };
}

void recovery_close(struct server *s)
{
	loop_bh_cancel(&s->trial_over);
}

/* ---- a queue's part ---- */

void recovery_init(struct server_queue *q)
{
	loop_bh_init(&q->recovery.report, q->server->main, on_report, q);
}

void recovery_fini(struct server_queue *q)
{
	loop_bh_cancel(&q->recovery.report);
}

void recovery_expect(struct export *e, unsigned rings)
{
	if (e->recovery.rings || !rings)
		return;
	e->recovery = (struct recovery_sum) { .rings = rings, .start_ns = clock_ns() };
}

void recovery_forget(struct export *e)
{
	e->recovered = false;
	for (unsigned i = 0; i < e->rings; i++)
		loop_bh_cancel(&e->queue[i].recovery.report);
	e->recovery = (struct recovery_sum) { 0 };
}

void recovery_begin(struct server_queue *q)
{
	struct recovery *r = &q->recovery;

	r->state = RECOVERY_REPLAY;
	r->left = vq_resubmits(q->vq);
	r->resubmitted = r->poisoned = 0;
	r->replayed_ns = r->first_ns = 0;
	/* Buffers are taken when something comes, and that may be never. */
	if (!r->left || q->buffers)
		report(q);
}

void recovery_took(struct server_queue *q, const struct vq_chain *chain)
{
	flight_note(&q->flight, FLIGHT_AGAIN, chain->head, chain->deaths, 0);
	if (q->recovery.state == RECOVERY_OVER)
		return; /* the main loop's by now */
	q->recovery.resubmitted++;
	q->recovery.left -= q->recovery.left > 0;
}

void recovery_pass(struct server_queue *q, bool shown)
{
	struct recovery *r = &q->recovery;

	if (shown && !r->first_ns)
		r->first_ns = clock_ns();
	if (r->state == RECOVERY_REPLAY && !r->left) {
		r->state = RECOVERY_FIRST;
		r->replayed_ns = clock_ns();
	}
	if (r->state == RECOVERY_FIRST && r->first_ns)
		report(q);
}

void recovery_end(struct server_queue *q)
{
	if (q->recovery.state != RECOVERY_OVER)
		report(q);
}
