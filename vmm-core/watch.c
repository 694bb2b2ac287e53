/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation. While anything is outstanding or moves, a timer looks at all rings several times in a time-out.
 * A ring stalls from the first look at which it owes something and its used position stands where it stood at the
 * look before. After half the time-out it is kicked, in case a notification was lost, and the passes that its thread had
 * made by then are noted. After the whole of it,
 *
 *    passes stand still                            it does not even look at its ring: hung
 *    passes move, storage holds nothing            it looks and does nothing: hung
 *    passes move, storage holds some of it         slow storage: kicked and judged again, every half time-out
 *    passes move, an order keeps it from taking    drained, or about to stop: the same
 *    ... or another queue's trial does             the same; where somebody before it keeps it back, by his words
 *    there are no health words                     nobody can tell: said once, left alone
 *
 * A machine whose vCPUs are paused asks for nothing new, and what it asked for is completed without it. Time counts
 * only as far as we were there to see it: a look that comes late (because all of the machine was stopped, or the host
 * was) counts for no more than twice the time that was planned.
 *
 * With nothing outstanding there is no such timer. Each ring's kick eventfd is watched instead, until the first kick, so
 * an idle machine is not looked at and a stall is still noticed from its beginning. Only a device that has disabled kicks is
 * looked at every second meanwhile; the others every ten, should one go wrong without being asked for anything. The
 * order is that of any sleeper: watch, then look once more.
 *
 * A guest may write what it likes into its rings. It can make its own back end look hung, have it replaced, and be
 * left without; nothing else follows from it.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "clean.h"
#include "clock.h"
#include "flight.h"
#include "kick.h"
#include "loop.h"
#include "num.h"
#include "watch_priv.h"

#define LOOKS          8 /* in one time-out */
#define INTERVAL_MIN   (10 * NS_PER_MS)
#define INTERVAL_MAX   NS_PER_S
#define DEAF_INTERVAL  NS_PER_S        /* nothing is outstanding, but no kick may tell of what comes */
#define SLEEP_INTERVAL (10 * NS_PER_S) /* nothing is outstanding */
#define SOONEST        NS_PER_MS
#define IDLE_WAKES     4 /* kicks without a request that we follow before we look by the timer alone */

struct ring {
	struct watch_target *target;
	struct watch_ring at;
	struct loop_fd *kick_watch;
	bool armed; /* a kick wakes us */
	unsigned idle_wakes;
	uint32_t pos; /* where used stood at the last look */
	bool owes;    /* requests were outstanding */
	bool moved;   /* used had moved since the look before */
	bool odd;     /* the ring was wrong: kicked, so that a back end whose driver is to blame can say so */
	bool said;    /* the stall is in the log */
	uint64_t stalled_ns; /* seen so far */
	uint64_t judge_ns;   /* of the stall, when it is judged; 0: not kicked yet */
	uint64_t passes;     /* at the kick */
	uint64_t before;     /* ... of who may keep its requests back */
};

struct watch_target {
	struct watch *watch;
	struct watch_target *prev, *next;
	uint64_t timeout_ns;
	const struct watch_ops *ops;
	void *arg;
	uint64_t look; /* the last look that it was part of */
	bool reported;
	unsigned n;
	struct ring rings[];
};

struct watch {
	struct loop *loop;
	struct loop_timer *timer;
	struct watch_target *targets;
	uint64_t last_ns, planned_ns;
	struct watch_stats stats;
};

/* ---- judging ---- */

static unsigned index_of(const struct ring *r)
{
	return (unsigned)(r - r->target->rings);
}

static uint64_t passes(const struct ring *r)
{
	return r->at.health ? flight_get(&r->at.health->passes) : 0;
}

static void kick(struct ring *r)
{
	r->passes = passes(r);
	r->before = r->at.before ? flight_get(&r->at.before->passes) : 0;
	r->target->watch->stats.kicks++;
	kick_offer(r->at.kick);
}

static void begin_again(struct ring *r)
{
	r->stalled_ns = r->judge_ns = 0;
	r->said = false;
}

/* As long as its requests are held back from it: who holds them looks, or not. */
static bool is_kept_back(const struct ring *r)
{
	return r->at.before && flight_get(&r->at.before->resting) == FLIGHT_KEPT_BACK;
}

/* The reason why a stalled ring counts as hung, or NULL. */
static const char *hung(const struct ring *r)
{
	const struct flight_queue *h = r->at.health;
	bool kept = is_kept_back(r);

	if (kept && flight_get(&r->at.before->passes) != r->before)
		return NULL;
	if (kept || passes(r) == r->passes)
		return "it does not look at its ring, though it was kicked";
	if (flight_get(&h->held) == 0 && flight_get(&h->resting) == 0)
		return "it looks at its ring and completes nothing, though its storage holds no request";
	return NULL;
}

static void say_once(struct ring *r, const char *reason)
{
	struct watch_target *t = r->target;

	if (!r->said)
		t->ops->stalled(t->arg, index_of(r), r->stalled_ns, reason);
	r->said = true;
}

/* ... and why it does not. */
static const char *why_not(const struct ring *r)
{
	uint64_t resting = flight_get(&r->at.health->resting);

	if (is_kept_back(r) || resting == FLIGHT_KEPT_BACK)
		return "it waits while a request of another queue is tried";
	return resting ? "it was ordered to rest" : r->at.slow ? r->at.slow : "its storage is slow";
}

/* True if its user was told, and the target may be gone. */
static bool judge(struct ring *r)
{
	struct watch_target *t = r->target;
	const char *reason;

	r->judge_ns = r->stalled_ns + t->timeout_ns / 2;
	if (!r->at.health) {
		say_once(r, "there are no health words, so nobody can tell why");
		return false;
	}
	reason = hung(r);
	if (reason) {
		t->reported = true;
		t->ops->hung(t->arg, index_of(r), r->stalled_ns, reason);
		return true;
	}
	kick(r);
	say_once(r, why_not(r));
	return false;
}

static bool tell_broken(struct ring *r, const char *wrong)
{
	struct watch_target *t = r->target;

	t->reported = true;
	t->ops->broken(t->arg, index_of(r), wrong);
	return true;
}

/* A wrong ring is given one interval, in which a back end that was kicked says if its driver is to blame. */
static bool judge_odd(struct ring *r, const char *wrong)
{
	if (r->odd)
		return tell_broken(r, wrong);
	r->odd = true;
	kick(r);
	return false;
}

static bool look_ring(struct ring *r, uint64_t passed_ns)
{
	struct watch_sample s = watch_look(&r->at);
	bool owed = r->owes;

	if (s.wrong)
		return judge_odd(r, s.wrong);
	if (!r->at.packed && watch_names_none(&r->at, r->pos, s.pos))
		return tell_broken(r, "its used ring names descriptors that do not exist");
	r->odd = false;
	r->moved = s.pos != r->pos;
	r->owes = s.owes;
	r->pos = s.pos;
	if (!owed || !s.owes || r->moved) {
		begin_again(r);
		return false;
	}
	r->stalled_ns += passed_ns;
	if (!r->judge_ns && r->stalled_ns >= r->target->timeout_ns / 2) {
		r->judge_ns = r->target->timeout_ns;
		kick(r);
		return false;
	}
	return r->judge_ns && r->stalled_ns >= r->judge_ns && judge(r);
}

static bool look_target(struct watch_target *t, uint64_t passed_ns)
{
	for (unsigned i = 0; i < t->n && !t->reported; i++)
		if (t->rings[i].at.size && look_ring(&t->rings[i], passed_ns))
			return true;
	return false;
}

/* ---- when to look again ---- */

static uint64_t interval(const struct watch_target *t)
{
	return MAX(MIN(t->timeout_ns / LOOKS, INTERVAL_MAX), INTERVAL_MIN);
}

/* The next look at a ring that owes something, or did until now. */
static uint64_t busy_wait(const struct ring *r)
{
	uint64_t goal = r->judge_ns ? r->judge_ns : r->target->timeout_ns / 2;
	uint64_t left = goal > r->stalled_ns ? goal - r->stalled_ns : 0;

	return MAX(MIN(interval(r->target), r->owes ? left : UINT64_MAX), SOONEST);
}

/* Has the next kick wake us; false if a request came before that. */
static bool doze(struct ring *r)
{
	struct watch_sample s;

	if (!r->armed && loop_mod_fd(r->kick_watch, EPOLLIN | EPOLLET) == 0) {
		r->armed = true;
		r->idle_wakes = 0;
	}
	s = watch_look(&r->at);
	r->owes = s.owes;
	return !s.owes && !s.wrong;
}

static void disarm(struct ring *r)
{
	loop_mod_fd(r->kick_watch, 0);
	r->armed = false;
}

static uint64_t wait_of(struct ring *r)
{
	if (r->odd || r->owes || r->moved)
		return busy_wait(r);
	if (r->idle_wakes >= IDLE_WAKES)
		return DEAF_INTERVAL;
	if (!doze(r))
		return busy_wait(r);
	return r->armed && watch_hears_kicks(&r->at, r->pos) ? SLEEP_INTERVAL : DEAF_INTERVAL;
}

static void plan(struct watch *w)
{
	uint64_t wait = UINT64_MAX;

	for (struct watch_target *t = w->targets; t; t = t->next)
		for (unsigned i = 0; i < t->n && !t->reported; i++)
			if (t->rings[i].at.size)
				wait = MIN(wait, wait_of(&t->rings[i]));
	if (wait == UINT64_MAX) {
		loop_disarm_timer(w->timer);
		return;
	}
	w->planned_ns = wait;
	loop_arm_timer(w->timer, w->last_ns + wait);
}

static void look(struct watch *w)
{
	uint64_t now = clock_ns(), passed = MIN(now - w->last_ns, 2 * w->planned_ns);
	struct watch_target *t = w->targets;

	w->last_ns = now;
	w->stats.looks++;
	while (t) {
		if (t->look == w->stats.looks) {
			t = t->next;
			continue;
		}
		t->look = w->stats.looks;
		/* Whoever was told may have removed any target, this one among them. */
		if (look_target(t, passed))
			t = w->targets;
	}
	plan(w);
}

static void on_timer(void *arg)
{
	struct watch *w = arg;

	for (struct watch_target *t = w->targets; t; t = t->next)
		for (unsigned i = 0; i < t->n; i++)
			if (!t->rings[i].armed)
				t->rings[i].idle_wakes = 0;
	look(w);
}

/*
 * A kick on a ring that was idle. The first event after arming may be a kick of long ago, as its counter is
 * nobody's to clear; and a guest may kick without end. So a few are looked into, and then only the timer counts.
 */
static void on_kick(void *arg, uint32_t events)
{
	struct ring *r = arg;
	struct watch_sample s = watch_look(&r->at);

	(void)events;
	if (!s.owes && !s.wrong && s.pos == r->pos) {
		if (++r->idle_wakes >= IDLE_WAKES) {
			disarm(r);
			plan(r->target->watch);
		}
		return;
	}
	disarm(r);
	look(r->target->watch);
}

/* ---- life ---- */

int watch_new(struct loop *loop, struct watch **out)
{
	CLEAN_FREE struct watch *w = calloc(1, sizeof(*w));
	int r = w ? loop_add_timer(loop, on_timer, w, &w->timer) : -ENOMEM;

	if (r < 0)
		return r;
	w->loop = loop;
	*out = TAKE_PTR(w);
	return 0;
}

void watch_free(struct watch *w)
{
	if (!w)
		return;
	loop_del_timer(w->timer);
	free(w);
}

static void free_target(struct watch_target *t)
{
	for (unsigned i = 0; i < t->n; i++)
		loop_del_fd(t->rings[i].kick_watch);
	free(t);
}

static int fill(struct watch_target *t, const struct watch_ring *rings)
{
	int r = 0;

	for (unsigned i = 0; i < t->n && r == 0; i++) {
		struct ring *ring = &t->rings[i];

		ring->target = t;
		ring->at = rings[i];
		if (!ring->at.size)
			continue;
		ring->pos = watch_look(&ring->at).pos;
		ring->moved = true;
		r = loop_add_fd(t->watch->loop, ring->at.kick, 0, on_kick, ring, &ring->kick_watch);
	}
	return r;
}

int watch_add(struct watch *w, uint64_t timeout_ns, const struct watch_ring *rings, unsigned n,
	      const struct watch_ops *ops, void *arg, struct watch_target **out)
{
	struct watch_target *t = calloc(1, sizeof(*t) + n * sizeof(t->rings[0]));
	int r;

	if (!t)
		return -ENOMEM;
	t->watch = w;
	t->timeout_ns = timeout_ns;
	t->ops = ops;
	t->arg = arg;
	t->n = n;
	r = fill(t, rings);
	if (r < 0) {
		free_target(t);
		return r;
	}
	if (!w->targets)
		w->last_ns = clock_ns();
	t->next = w->targets;
	if (t->next)
		t->next->prev = t;
	w->targets = t;
	*out = t;
	plan(w);
	return 0;
}

void watch_remove(struct watch_target *t)
{
	struct watch *w;

	if (!t)
		return;
	w = t->watch;
	if (t->prev)
		t->prev->next = t->next;
	else
		w->targets = t->next;
	if (t->next)
		t->next->prev = t->prev;
	free_target(t);
	if (!w->targets)
		loop_disarm_timer(w->timer);
}

void watch_get_stats(const struct watch *w, struct watch_stats *out)
{
	*out = w->stats;
}
